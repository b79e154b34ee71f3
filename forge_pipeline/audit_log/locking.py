"""A lock between processes on a file beside the log: flock on POSIX, msvcrt.locking on Windows.

The operating system drops it when its holder ends, however that ends. Where neither
exists, or the file system refuses locks, writing is refused: two writers without a
lock would fork the chain.

The Windows half runs in the tests against a stand-in for `msvcrt` that keeps the rules of
its documentation; on a Windows machine it has not been run.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from forge_pipeline.errors import EvidenceError

_POLL = 0.01  # seconds between tries where the operating system does not wait by itself
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK))


class Locks(Protocol):
    """What an operating system offers for one open file."""

    def lock(self, fd: int, *, shared: bool) -> None:
        """Wait for the lock; raises OSError where there are no locks."""

    def unlock(self, fd: int) -> None: ...


class PosixLocks:
    """flock(2): readers share, a writer waits for all; the kernel wakes whoever waits."""

    def __init__(self, fcntl: ModuleType) -> None:
        self._fcntl: Any = fcntl

    def lock(self, fd: int, *, shared: bool) -> None:
        self._fcntl.flock(fd, self._fcntl.LOCK_SH if shared else self._fcntl.LOCK_EX)

    def unlock(self, fd: int) -> None:
        self._fcntl.flock(fd, self._fcntl.LOCK_UN)


class WindowsLocks:
    """msvcrt.locking on the file's first byte, which need not exist. There is no shared lock: readers take turns.

    LK_NBLCK in a loop, because LK_LOCK gives up after ten tries. Windows says EACCES where
    another process holds the lock.
    """

    def __init__(self, msvcrt: ModuleType, sleep: Callable[[float], None] = time.sleep) -> None:
        self._msvcrt: Any = msvcrt
        self._sleep = sleep

    def lock(self, fd: int, *, shared: bool) -> None:
        while True:
            os.lseek(fd, 0, os.SEEK_SET)  # the region begins where the file stands
            try:
                self._msvcrt.locking(fd, self._msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if error.errno not in _HELD:
                    raise
                self._sleep(_POLL)
            else:
                return

    def unlock(self, fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        self._msvcrt.locking(fd, self._msvcrt.LK_UNLCK, 1)


def system_locks() -> Locks:
    """The locks of the operating system that this runs on."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        return WindowsLocks(msvcrt)
    return PosixLocks(fcntl)


_LOCKS = system_locks()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` against every other writer and reader; waits as long as it takes.

    Raises:
        EvidenceError: The lock file cannot be opened or the file system has no locks.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise EvidenceError(
            error.errno, f"cannot open the audit log's lock file: {error.strerror}", str(path)
        ) from error
    try:
        _LOCKS.lock(fd, shared=False)
    except OSError as error:
        _release(fd)
        raise EvidenceError(
            error.errno, "this file system gives no locks; keep the audit log on a local disk", str(path)
        ) from error
    try:
        yield
    finally:
        _release(fd)


@contextmanager
def shared_if_possible(path: Path) -> Iterator[None]:
    """Hold off writers while reading; without a lock where there is no lock file, as in a bundle."""
    fd = None
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        _LOCKS.lock(fd, shared=True)
    try:
        yield
    finally:
        if fd is not None:
            _release(fd)


def _release(fd: int) -> None:
    """Unlock and close; what fails here cannot undo what was done under the lock."""
    with suppress(OSError):
        _LOCKS.unlock(fd)
    with suppress(OSError):
        os.close(fd)
