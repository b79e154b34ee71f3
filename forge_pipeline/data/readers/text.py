"""Text files as lines or as chunks of text: UTF-8, with or without its byte order mark, and nothing else."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from forge_pipeline.data.compression import opened
from forge_pipeline.data.readers import row
from forge_pipeline.errors import DataError

CHUNK = 1 << 20  # bytes
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines without their line feed, with their numbers; None for one longer than `row.LONGEST_ROW`.

    Only a line feed ends a line: U+2028 may stand inside JSON text. The byte order mark is taken off.

    Raises:
        DataError: The file begins like UTF-16.
    """
    with opened(path) as file:
        number, size = 1, 0  # of the line that is not complete yet
        kept: list[bytes] = []
        chunk = _after_mark(file.read(CHUNK), path)
        while chunk:
            first, *others = chunk.split(b"\n")
            size += len(first)
            kept = [*kept, first] if size <= row.LONGEST_ROW else []
            if others:
                yield number, b"".join(kept) if size <= row.LONGEST_ROW else None
                last = others.pop()
                yield from enumerate(others, start=number + 1)
                number += 1 + len(others)
                kept, size = [last], len(last)
            chunk = file.read(CHUNK)
        if size:
            yield number, b"".join(kept) if size <= row.LONGEST_ROW else None


def decoded(raw: bytes, path: Path, line: int) -> str:
    """The text of `raw`, which begins on `line` of the file.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, line + raw.count(b"\n", 0, error.start), raw[error.start]) from error


def text_chunks(path: Path) -> Iterator[str]:
    """The text of the file in pieces of about `CHUNK` bytes.

    Raises:
        DataError: A byte is not UTF-8; its line is named.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(path) as file:
        chunk = _after_mark(file.read(CHUNK), path)
        try:
            while chunk:
                yield decoder.decode(chunk)
                chunk = file.read(CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise encoding_error(path) from error


def head(path: Path) -> str:
    """The first `CHUNK` bytes as text, for a look at the layout; what is not UTF-8 is replaced."""
    with opened(path) as file:
        return _after_mark(file.read(CHUNK), path).decode(errors="replace")


def whole_text(path: Path, most: int) -> str:
    """The text of the file, of at most `most` bytes.

    Raises:
        DataError: It is longer, or not UTF-8.
    """
    return decoded(whole_bytes(path, most).removeprefix(codecs.BOM_UTF8), path, 1)


def whole_bytes(path: Path, most: int) -> bytes:
    """The bytes of the file, of which there are at most `most`.

    Raises:
        DataError: There are more.
    """
    with opened(path) as file:
        data = file.read(most + 1)
        while len(data) <= most and (chunk := file.read(most + 1 - len(data))):
            data += chunk
    if len(data) > most:
        raise DataError(f"{path}: larger than {most // 2**20} MiB, the most for a file of this kind; split it")
    _after_mark(data[:4], path)
    return data


def encoding_error(path: Path) -> DataError:
    """Finds the first byte that is not UTF-8 and names its line."""
    for number, raw in lines(path):
        if raw is None:
            continue
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return _not_utf8(path, number, raw[error.start])
    return DataError(f"{path}: not UTF-8. Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8")


def _not_utf8(path: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"{path}: line {line}: byte 0x{byte:02x} is not UTF-8. "
        "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8"
    )


def _after_mark(first: bytes, path: Path) -> bytes:
    if first.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: line 1 begins like UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8")
    return first.removeprefix(codecs.BOM_UTF8)
