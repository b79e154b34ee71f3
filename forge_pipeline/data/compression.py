"""Bytes of a file, decompressed where its name ends in .gz, .zst, .bz2 or .xz.

Decompression streams: memory does not depend on what the bytes unpack to. A file that is
cut off, damaged or of another format raises `DataError` at the read that meets the fault.
Several compressed members (frames) in one file are read one after another, as the tools do.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from forge_pipeline.errors import DataError


def compression_suffixes() -> list[str]:
    """The endings of compressed files."""
    return list(_OPENERS)


def without_compression(name: str) -> tuple[str, str]:
    """`name` in lower case without the ending of compressed files, and that ending or ``""``."""
    lower = name.casefold()
    suffix = next((suffix for suffix in _OPENERS if lower.endswith(suffix)), "")
    return lower.removesuffix(suffix), suffix


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content as a binary stream.

    Raises:
        DataError: While reading: the compressed bytes are cut off, damaged or of another format.
    """
    _, suffix = without_compression(path.name)
    if not suffix:
        with path.open("rb") as file:
            yield file
        return
    with _OPENERS[suffix](path) as packed, _Unpacked(packed, path, suffix) as stream:
        yield cast(IO[bytes], stream)


def _zstandard(path: Path) -> Any:
    # Arrow's own decoder, which, unlike the `zstandard` package, notices a file that is cut off.
    return pa.input_stream(str(path), compression="zstd")


_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".zst": _zstandard, ".bz2": bz2.open, ".xz": lzma.open}
_TOOLS = {".gz": "gzip", ".zst": "Zstandard", ".bz2": "bzip2", ".xz": "xz"}


class _Unpacked(io.RawIOBase):
    """The decompressed bytes; what goes wrong with them is told as a `DataError` that names the file."""

    def __init__(self, packed: Any, path: Path, suffix: str) -> None:
        self._packed, self._path, self._suffix = packed, path, suffix

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return bytes(self._packed.read() if size is None or size < 0 else self._packed.read(size))
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the format's
            raise DataError(
                f"{self._path}: not a whole {_TOOLS[self._suffix]} file ({error}); fetch or compress it again"
            ) from error

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
