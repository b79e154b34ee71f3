"""Write a file, or publish a directory, all at once or not at all.

Write aside on the same file system, fsync, rename, fsync the parent. A reader sees
the old state or the new one; after a crash, what was acknowledged is there.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by a file holding `data`.

    Raises:
        OSError: Nothing was replaced; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


@contextmanager
def publishing(destination: Path) -> Iterator[Path]:
    """Yield an empty staging directory that becomes `destination` when the block ends well.

    If the block raises, the staging directory is removed and `destination` is untouched.

    Raises:
        FileExistsError: `destination` exists and is not an empty directory.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} already exists and is never overwritten; choose another directory")
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    os.chmod(staging, 0o755)
    try:
        yield staging
        publish_directory(staging, destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def publish_directory(staging: Path, destination: Path) -> None:
    """Make the finished `staging` directory visible as `destination` (same file system)."""
    for parent, _, files in os.walk(staging):
        for name in files:
            _fsync(Path(parent, name))
        fsync_directory(Path(parent))
    os.replace(staging, destination)
    fsync_directory(destination.parent)


def fsync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` durable. Windows has no such call."""
    if os.name == "posix":
        _fsync(directory)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
