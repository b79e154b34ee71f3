"""A lock between processes on a file beside the log: flock on POSIX, msvcrt.locking on Windows.

The operating system drops it when its holder ends, however that ends. Where neither
exists, or the file system refuses locks, writing is refused: two writers without a
lock would fork the chain.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forge_pipeline.errors import EvidenceError

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, *, shared: bool) -> None:
        while True:  # LK_NBLCK, because LK_LOCK gives up after ten tries
            try:
                os.lseek(fd, 0, os.SEEK_SET)
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
                return
            except PermissionError:
                time.sleep(0.01)

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(fd: int, *, shared: bool) -> None:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


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
        _lock(fd, shared=False)
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
        _lock(fd, shared=True)
    try:
        yield
    finally:
        if fd is not None:
            _release(fd)


def _release(fd: int) -> None:
    """Unlock and close; what fails here cannot undo what was done under the lock."""
    with suppress(OSError):
        _unlock(fd)
    with suppress(OSError):
        os.close(fd)
