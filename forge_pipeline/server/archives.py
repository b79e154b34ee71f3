"""Bytes that leave the server: a file, or a directory as a ZIP, each the one that its digest names.

Nothing is sent before every byte was read once and found to be what the digest says; what was found is remembered
for as long as the files' system facts stay the same, change time included, so a range of a large file costs no
second reading. While a whole file or directory is sent it is hashed again, and the last piece is held back until
the digest is right: a reader never gets a complete reply with other bytes. Memory holds one piece.
"""

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest

_PIECE = 1 << 20  # bytes
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a ZIP can say
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3
_REMEMBERED = 4096  # files and directories

Facts = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `stop` (not included) of a file of `size` bytes."""

    start: int
    stop: int
    size: int


class Verifier:
    """Says whether files and directories are what their digests say. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, Digest], tuple[Facts, Manifest]] = {}

    def check(self, path: Path, digest: Digest) -> Manifest:
        """Read a file or a whole directory, unless it was read before and has not been touched since.

        Returns:
            The directory's manifest; of a file an empty one.

        Raises:
            IntegrityError: It is not what `digest` says, or is gone.
        """
        try:
            facts = _facts(path)
            with self._lock:
                known = self._known.get((path, digest))
            if known is not None and known[0] == facts:
                return known[1]
            manifest = Manifest.of_directory(path) if path.is_dir() else Manifest(())
            found = manifest.digest if path.is_dir() else Digest.of_file(path)
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error}; expected {digest}") from error
        if found != digest:
            raise IntegrityError(f"{path} was changed after it was stored: expected {digest}, found {found}")
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[path, digest] = facts, manifest
        return manifest


def file_pieces(path: Path, digest: Digest, span: Span | None = None) -> Iterator[bytes]:
    """The bytes of a verified file, or a span of them.

    Raises:
        IntegrityError: While it was read it turned out, or became, another file; the last piece was not given.
    """
    with path.open("rb") as file:
        before, hasher, held = _stamp(os.fstat(file.fileno())), hashlib.sha256(), b""
        left = span.stop - span.start if span else -1
        file.seek(span.start if span else 0)
        while left and (piece := file.read(min(_PIECE, left) if span else _PIECE)):
            left -= len(piece) if span else 0
            hasher.update(piece)
            if held:
                yield held
            held = piece
        whole = span is None or span.stop - span.start == span.size
        if (whole and hasher.hexdigest() != digest.hex) or _stamp(os.fstat(file.fileno())) != before:
            raise IntegrityError(f"{path} was changed while it was sent; expected {digest}")
        yield held


def zip_pieces(directory: Path, manifest: Manifest, folder: str) -> Iterator[bytes]:
    """A verified directory as a ZIP under `folder/`: sorted, stored, dated 1980-01-01; equal content, equal bytes.

    Raises:
        IntegrityError: A file is not what `manifest` says any more; the archive's end was not given.
        OSError: A file is gone.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for entry in manifest.entries:
            info = zipfile.ZipInfo(f"{folder}/{entry.path}", _FIXED_DATE)
            info.external_attr, info.create_system, info.file_size = _REGULAR_FILE, _UNIX, entry.size
            with archive.open(info, "w") as member:
                # The whole archive ends with its directory, which is written after all files were read to their ends.
                for piece in file_pieces(directory / entry.path, entry.digest):
                    member.write(piece)
                    yield from sink.taken()
    yield from sink.taken()


class _Sink:
    """A file that can only be written, emptied as it fills. zipfile then writes sizes behind each file's bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing is held."""

    def taken(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        if pieces:
            yield b"".join(pieces)


def _facts(path: Path) -> Facts:
    """What the system says of a file, or of all entries of a directory: a change of a byte changes one of them."""
    if not path.is_dir():
        return (("", *_stamp(path.stat())),)
    found = [(str(each.relative_to(path)), *_stamp(each.lstat())) for each in path.rglob("*")]
    return tuple(sorted(found))


def _stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
