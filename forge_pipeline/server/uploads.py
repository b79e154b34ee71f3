"""Receive a multipart file: straight to disk, counted as it comes, under a name of our choosing.

Memory holds one network chunk. A body that grows past the limit is refused; up to
`_DRAIN` bytes more are read and dropped first, so that an ordinary client sees the
refusal and not a broken connection.
"""

import os
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from forge_pipeline.server.errors import RequestError, TooLargeError

_DRAIN = 64 * 2**20
_SUFFIX = ".jsonl"
_MAX_STEM = 100  # characters


@dataclass(frozen=True)
class Received:
    """A file that came whole. `path` lies in the folder it was received into; the caller moves or removes it."""

    path: Path
    filename: str
    size: int


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes = b""
    value: bytes = b""
    is_file: bool = False


class _FileParts:
    """Parser callbacks: bytes of the part named `file` go to `sink`, all else is dropped."""

    def __init__(self, sink: int, limit: int) -> None:
        self._sink, self._limit, self._part = sink, limit, _Part()
        self.filename: str | None = None
        self.size = 0
        self.overflow = False

    def on_part_begin(self) -> None:
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def on_header_end(self) -> None:
        self._part.headers[self._part.name.lower()] = self._part.value
        self._part.name = self._part.value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if options.get(b"name") != b"file" or b"filename" not in options:
            return
        if self.filename is not None:
            raise RequestError("The form has more than one part named 'file'; send one file a request")
        self._part.is_file = True
        self.filename = options[b"filename"].decode("utf-8", errors="replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._part.is_file or self.overflow:
            return
        self.size += end - start
        if self.size > self._limit:
            self.overflow = True
            return
        _write(self._sink, data[start:end])


async def receive_file(content_type: str, stream: AsyncIterator[bytes], folder: Path, *, limit: int) -> Received:
    """Write the form's part named `file` into a new file in `folder`.

    Raises:
        RequestError: Not multipart, malformed, no such part, or an empty file.
        TooLargeError: The file has more than `limit` bytes.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RequestError("Send multipart/form-data with the JSONL file in the part named 'file'")
    folder.mkdir(parents=True, exist_ok=True)
    sink, name = tempfile.mkstemp(prefix=".incoming.", dir=folder)
    try:
        parts = _FileParts(sink, limit)
        await _parse(parts, options[b"boundary"], stream)
        if parts.overflow:
            raise TooLargeError(f"The file is larger than {limit} bytes, the limit of this server")
        if parts.filename is None:
            raise RequestError("The form has no file in a part named 'file'")
        if not parts.size:
            raise RequestError("The file is empty")
        os.fsync(sink)
        return Received(Path(name), parts.filename, parts.size)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(sink)


async def _parse(parts: _FileParts, boundary: bytes, stream: AsyncIterator[bytes]) -> None:
    names = (
        "on_part_begin",
        "on_header_field",
        "on_header_value",
        "on_header_end",
        "on_headers_finished",
        "on_part_data",
    )
    finished = False

    def on_end() -> None:
        nonlocal finished
        finished = True

    dropped = 0
    try:
        parser = MultipartParser(boundary, {name: getattr(parts, name) for name in names} | {"on_end": on_end})  # type: ignore[arg-type]
        async for chunk in stream:
            if parts.overflow:
                dropped += len(chunk)
                if dropped > _DRAIN:
                    return
                continue
            parser.write(chunk)
        if not parts.overflow:
            parser.finalize()
    except FormParserError as error:
        raise RequestError(f"The multipart body is malformed: {error}") from error
    if not finished and not parts.overflow:
        raise RequestError("The multipart body ends before its last boundary; the upload was cut off")


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


def stored_name(filename: str) -> str:
    """A plain file name for an uploaded file: no folder, no leading dot, at most 106 characters, ends in ``.jsonl``.

    Raises:
        RequestError: Nothing usable is left, or the extension is another one.
    """
    if "\0" in filename:
        raise RequestError("The file name holds a NUL character")
    base = filename.replace("\\", "/").rsplit("/", 1)[-1]
    if not base.lower().endswith(_SUFFIX):
        raise RequestError(
            f"The file name must end in {_SUFFIX}; found {base[-40:]!r}. Datasets are JSON Lines in UTF-8"
        )
    stem = re.sub(r"[^\w.-]+", "_", base[: -len(_SUFFIX)], flags=re.ASCII).lstrip(".")[:_MAX_STEM].rstrip(".")
    if not stem.strip("_-"):
        stem = "dataset"
    return stem + _SUFFIX


def place(received: Path, folder: Path, name: str) -> Path:
    """Give a received file its name in `folder`, or the first free ``name-2``, ``name-3``; never replace a file."""
    stem = name.removesuffix(_SUFFIX)
    attempt = 1
    while True:
        destination = folder / (name if attempt == 1 else f"{stem}-{attempt}{_SUFFIX}")
        try:
            os.link(received, destination)
        except FileExistsError:
            attempt += 1
            continue
        received.unlink()
        destination.chmod(0o644)
        return destination
