"""Files of what takes long to make and little time to load: machine code, tables of characters and words.

They lie in ``__pycache__`` beside this file or, where that cannot be written, in the user's
cache directory; ``NUMBA_CACHE_DIR`` names another one. The name of a file says all that decided
what is in it, so that nothing is ever out of date; who finds half a file, or a changed one,
takes it for none and makes it anew.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]

_HERE = Path(__file__).parent
_MAGIC = b"forge kept file 1\n"
_START = 64  # bytes: the magic and SHA-256 of the rest, filled up so that arrays behind them begin where numbers may


def read_kept(name: str) -> Bytes | None:
    """What `write_kept` wrote under this name, in memory of its own; None where there is nothing that is whole."""
    for directory in _directories():
        try:
            content = np.fromfile(directory / name, dtype=np.uint8)
        except OSError:
            continue
        body = content[_START:]
        if content[:_START].tobytes() == _head(body):
            return body
    return None


def write_kept(name: str, body: bytes) -> None:
    """Keep `body` where that is possible."""
    content = _head(np.frombuffer(body, dtype=np.uint8)) + body
    for directory in _directories():
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            fd, aside = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                os.chmod(aside, 0o644)  # others who run this installation may read it
                os.replace(aside, directory / name)
            except BaseException:
                Path(aside).unlink(missing_ok=True)
                raise
            return


def kept_files() -> list[Path]:
    """Every file that `write_kept` wrote, in each directory where they may lie; in order."""
    found = []
    for directory in _directories():
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            with contextlib.suppress(OSError), path.open("rb") as file:  # a folder cannot be opened
                if file.read(len(_MAGIC)) == _MAGIC:
                    found.append(path)
    return found


def _head(body: Bytes) -> bytes:
    return (_MAGIC + hashlib.sha256(body.data).digest()).ljust(_START, b"\0")


def _directories() -> Iterator[Path]:
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(named)
        return
    yield _HERE / "__pycache__"
    try:
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forge-pipeline"
    except RuntimeError:  # nobody's process has no home
        return
