"""The answers so far: appended to a file and made durable as they come, so that a killed run loses none.

A kill may cut the last line short; a line counts once its line feed is there. One run
writes at a time: a second is refused, by a lock that the operating system drops when its
holder ends, however that ends.
"""

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import atomic
from forge_pipeline.synthetic.rows import Row, as_lines, row_in, rows_by_request


class Journal:
    """Rows by request digest, in memory and in the file `path`.

    Args:
        path: The unfinished file. It need not exist.
        finished: A file that an earlier run finished, whose rows count as answered.
        wanted: Digests of the recipe's requests.

    Raises:
        ConfigError: One of the files holds something else, which writing would destroy.
    """

    def __init__(self, path: Path, finished: Path | None, wanted: Collection[str]) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        for file in (finished, path):
            if file is not None:
                self.rows |= _rows_of(file, whole=file == finished, wanted=frozenset(wanted))

    @contextmanager
    def writing(self) -> Iterator["Journal"]:
        """Hold the file open for `append`."""
        # Written anew, without the torn line that a kill may have left.
        atomic.write_file(self.path, as_lines(self.rows.values()))
        with self.path.open("ab") as self._file:
            yield self

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows, and return when they are on the disk."""
        new = list(rows)
        if not new:
            return
        self._file.write(as_lines(new))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows |= {row["synthetic"]["request_digest"]: row for row in new}

    @property
    def kept(self) -> int:
        """Answers in the file, the one that an interruption may have come upon included."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def remove(self) -> None:
        """Delete the file, because its rows stand in a finished one."""
        self.path.unlink(missing_ok=True)


def _rows_of(path: Path, *, whole: bool, wanted: frozenset[str]) -> dict[str, Row]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    if not whole:
        lines = lines[:-1]  # what follows the last line feed
    rows = [row_in(line) for line in lines if line.strip()]
    found = {digest: each for row in rows if row for digest, each in rows_by_request(row)}
    strangers = sum(row is None or row["synthetic"]["request_digest"] not in wanted for row in rows)
    if strangers:
        raise ConfigError(
            f"synthetic.output_file: {path} holds {strangers} row(s) that this recipe does not ask for, and is "
            "never overwritten; choose another output_file or move it away"
        )
    return found


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold `path` against every other run, by a lock file beside it that is gone afterwards.

    Raises:
        ConfigError: Another run holds it.
        OSError: The lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    fd = _locked(lock)
    if fd is None:
        raise ConfigError(
            f"synthetic.output_file: another run is writing {path}; wait until it has ended, or choose another file"
        )
    try:
        yield
    finally:
        # Removed while it is held; who has opened it meanwhile sees that it is no longer the file of this name.
        with suppress(OSError):
            lock.unlink()
        os.close(fd)


def _locked(lock: Path) -> int | None:
    """An open file that holds the lock; None if somebody else does."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock_now(fd)
            if os.path.samestat(os.fstat(fd), os.stat(lock)):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:  # removed between opening and locking
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


if sys.platform == "win32":
    import msvcrt

    def _lock_now(fd: int) -> None:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error

else:
    import fcntl

    def _lock_now(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
