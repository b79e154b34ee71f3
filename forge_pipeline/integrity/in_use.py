"""Who uses something that could be deleted: a shared lock on a file beside it, until the process ends.

    hold(entry)              # a reader, before it looks whether `entry` is there
    with unused(entry) as free:
        if free: ...         # nobody holds it, and nobody begins to before the block ends

The lock file is ``.<name>.use``; its time is when the entry was last taken. A lock ends with its process,
however that ends. Where the system has no `flock` (Windows), nothing counts as unused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_held: dict[tuple[int, Path], int] = {}  # of this process: a fork holds what it takes itself


def use_file(entry: Path) -> Path:
    """Where the lock of `entry` lies."""
    return entry.with_name(f".{entry.name}.use")


def hold(entry: Path) -> None:
    """Keep `entry` from being deleted until this process ends. It need not exist yet; its folder is made.

    A cache that cannot be written cannot be cleared by this user either, so nothing is held there.
    """
    fcntl = _fcntl()
    key = (os.getpid(), entry)
    if fcntl is None or key in _held:
        return
    file = use_file(entry)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = _locked(file, fcntl, fcntl.LOCK_SH)
        os.utime(fd)
    except OSError:
        return
    _held[key] = fd


@contextmanager
def unused(entry: Path) -> Iterator[bool]:
    """Whether nobody holds `entry`; if so, it stays that way until the block ends, and the lock file goes with it."""
    fcntl = _fcntl()
    if fcntl is None:
        yield False
        return
    file = use_file(entry)
    try:
        fd = _locked(file, fcntl, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
        if not entry.exists():
            file.unlink(missing_ok=True)
    finally:
        os.close(fd)


def is_held(entry: Path) -> bool:
    """Whether a process uses `entry` now. Asking makes no lock file."""
    fcntl = _fcntl()
    try:
        fd = os.open(use_file(entry), os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _locked(file: Path, fcntl: ModuleType, how: int) -> int:
    """The lock file, open and locked; again if it was deleted while we waited for the lock."""
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, how)
            if file.exists() and os.fstat(fd).st_ino == file.stat().st_ino:
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl
