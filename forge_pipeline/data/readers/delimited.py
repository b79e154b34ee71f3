"""CSV and TSV: a header of distinct names, then one row a record. Values stay text.

Records are read one at a time; a quoted field may hold line breaks. The delimiter is the
one that the name promises, unless the header has none of it and another delimiter fits
both the header and the first record.
"""

import csv
import io
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from forge_pipeline.data.compression import opened, without_compression
from forge_pipeline.data.readers import row, text
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows, too_long
from forge_pipeline.errors import DataError

_PIECE = 1 << 20  # characters
_SHOWN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_delimited(path: Path) -> Rows:
    """The records under the header; one of another width becomes a `BrokenRow`.

    Raises:
        DataError: The file is not UTF-8, its header is no header, or a quote is never closed.
    """
    # The csv module's limit of 128 KiB a field is process-wide. It is lifted once and stays so: another reader may be
    # in the middle of a file.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter, preamble = _delimiter(path)
    try:
        with opened(path) as file:
            lines = _Lines(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            for _ in range(preamble):
                next(lines)
            yield from _records(lines, delimiter, path)
    except UnicodeDecodeError as error:
        raise text.encoding_error(path) from error


def _records(lines: "_Lines", delimiter: str, path: Path) -> Rows:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _header(reader, lines, path)
    while True:
        line = lines.number + 1
        lines.begin_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLongError as error:
            if error.inside_quotes:
                raise DataError(
                    f"{path}: line {line}: the row that begins here is longer than {row.LONGEST_ROW // 2**20} MiB; "
                    "is a quote that opens in it never closed?"
                ) from error
            yield too_long(line)
            continue
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DataError(f"{path}: line {line}: a quote that opens in this row is never closed") from error
            yield BrokenRow(line, f"not CSV: {error}")
            continue
        if not fields:
            continue
        if len(fields) != len(header):
            yield BrokenRow(line, f"{len(fields)} fields under a header of {len(header)} columns")
        elif lines.has_nul:
            yield BrokenRow(line, "holds NUL bytes; the file was perhaps cut off or copied while being written")
        else:
            yield ReadRow(line, dict(zip(header, fields, strict=True)))


def _header(reader: Iterator[list[str]], lines: "_Lines", path: Path) -> list[str]:
    line = lines.number + 1
    try:
        header = next(reader, [])
    except (csv.Error, _TooLongError) as error:
        raise DataError(f"{path}: line {line}: expected a header, found what is not CSV: {error}") from error
    if not _names_columns(header):
        shown = str(header if len(header) <= 20 else [*header[:20], "..."])[:500]
        raise DataError(f"{path}: line {line}: expected a header with one distinct name a column, found {shown}")
    return header


def _names_columns(header: list[str]) -> bool:
    return bool(header) and len(set(header)) == len(header) and all(name.strip() for name in header)


def _delimiter(path: Path) -> tuple[str, int]:
    """The delimiter, and how many lines stand before the header (a spreadsheet's ``sep=;`` line).

    Raises:
        DataError: The header and the first record speak for different delimiters.
    """
    own = "\t" if without_compression(path.name)[0].endswith(".tsv") else ","
    head = text.head(path)
    first = head.partition("\n")[0].rstrip("\r")
    if first.casefold().startswith("sep=") and len(first) == 5:
        return first[-1], 1
    if own in first:
        return own, 0
    for other in (candidate for candidate in _SHOWN if candidate in first and candidate != own):
        header, record = _first_two(head, other)
        if not _names_columns(header) or len(header) < 2 or len(record) < 2:
            continue  # a column's name, or a sentence, with such a mark in it
        if len(record) == len(header):
            return other, 0
        raise DataError(
            f"{path}: line 1 holds {len(header)} names between {_SHOWN[other]} and the first row {len(record)} fields; "
            f"expected {_SHOWN[own]} in a {Path(without_compression(path.name)[0]).suffix} file. "
            f"Save it with {_SHOWN[own]}, or repair the header"
        )
    return own, 0


def _first_two(head: str, delimiter: str) -> tuple[list[str], list[str]]:
    try:
        found = list(islice((fields for fields in csv.reader(io.StringIO(head), delimiter=delimiter) if fields), 2))
    except csv.Error:
        found = []
    header, record = [*found, [], []][:2]
    return header, record


class _TooLongError(Exception):
    """A record is longer than `row.LONGEST_ROW`. Its line was stepped over.

    Attributes:
        inside_quotes: Whether the line ended inside a quoted field, so that nobody knows where the next row begins.
    """

    def __init__(self, inside_quotes: bool) -> None:
        super().__init__("it is too long")
        self.inside_quotes = inside_quotes


class _Lines:
    """The lines of a file for `csv.reader`, counted. An iterator that can go on after it raised.

    Attributes:
        number: Of the last line, from 1.
        has_nul: Whether the record that was begun last holds a NUL.
    """

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._size = 0  # characters of the record so far
        self.number = 0
        self.has_nul = False

    def begin_record(self) -> None:
        self._size, self.has_nul = 0, False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(row.LONGEST_ROW)
        if not line:
            raise StopIteration
        self.number += 1
        before = self._size
        self._size += len(line)
        if self._size >= row.LONGEST_ROW:
            quotes = line.count('"')
            while not line.endswith(("\n", "\r")) and (line := self._file.readline(_PIECE)):
                quotes += line.count('"')
            raise _TooLongError(before > 0 or quotes % 2 == 1)
        if "\0" in line:
            self.has_nul = True
        return line
