"""CSV and TSV at Arrow's speed, where Arrow reads exactly what the careful reader reads.

`data.readers.delimited` is the careful reader. A file is cut into ranges only when every
quote in it stands where RFC 4180 allows one, lines end with a line feed, the header names
its columns and there are no NUL bytes: then all readers agree about it, but for rows of
another width than the header's, which send their range to the csv module.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from forge_pipeline.data.columns import Row
from forge_pipeline.errors import DataError

_BOM = b"\xef\xbb\xbf"
_QUOTE, _LINE_FEED, _RETURN = 0x22, 0x0A, 0x0D
_LONGEST_HEADER = 1 << 20  # bytes
_LONGEST_RECORD = 64 << 20  # bytes; a longer one is perhaps a quote that is never closed


def delimited_ranges(path: Path, target: int) -> list[tuple[int, int]] | None:
    """Byte ranges of whole records, of about `target` bytes each; None where the careful reader is needed.

    The file is read once, at memory speed. The header is in no range.
    """
    with path.open("rb") as file:
        header = _header(file, _delimiter(path))
        if header is None:
            return None
        start = file.tell()
        ranges: list[tuple[int, int]] = []
        rest, before, is_empty = b"", b"\n", True
        while True:
            piece = file.read(target)
            data = rest + piece
            if not data:
                return None if is_empty else ranges  # the careful reader says that there are no rows
            end = _well_formed_end(before + data, _delimiter(path), last=not piece)
            if end is None or (not end and (not piece or len(data) > _LONGEST_RECORD)):
                return None
            if end:
                ranges.append((start, start + end))
                before = data[end - 1 : end]
                is_empty = is_empty and not data[:end].strip(b"\r\n")
            start, rest = start + end, data[end:]


def _delimiter(path: Path) -> bytes:
    return b"\t" if path.suffix.casefold() == ".tsv" else b","


def _header(file: io.BufferedReader, delimiter: bytes) -> list[str] | None:
    """The names of the columns, where they stand in one line and are such as the careful reader takes."""
    line = file.readline(_LONGEST_HEADER)
    bare = line.removeprefix(_BOM)
    if delimiter not in bare or bare.lower().startswith(b"sep=") or b"\0" in line or b"\r" in bare.rstrip(b"\r\n"):
        return None
    try:
        (names,) = csv.reader([bare.decode()], delimiter=delimiter.decode(), strict=True)
    except (csv.Error, ValueError):
        return None
    is_header = len(set(names)) == len(names) and all(name.strip() for name in names)
    return names if is_header else None


def _well_formed_end(data: bytes, delimiter: bytes, *, last: bool) -> int | None:
    """Where, after the first byte, the last whole record ends; None if a byte stands where no quote or NUL should.

    Args:
        data: One byte (what stands before the record), and then text that begins with a record.
        delimiter: Between fields.
        last: Whether the file ends here.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    if not octets.all():
        return None
    returns = np.flatnonzero(octets == _RETURN)
    following = octets[np.minimum(returns + 1, len(octets) - 1)]
    if (following != _LINE_FEED)[: len(returns) - (not last and data.endswith(b"\r"))].any():
        return None
    feeds = np.flatnonzero(octets == _LINE_FEED)
    quotes = np.flatnonzero(octets == _QUOTE)
    quoted_before = np.searchsorted(quotes, feeds) & 1  # an odd number of quotes before it: inside a field
    ends = feeds[(quoted_before == 0) & (feeds > 0)]
    end = int(ends[-1]) if len(ends) else 0
    if last and len(quotes) & 1:
        return None
    if last and end < len(octets) - 1:
        end = len(octets) - 1
    quotes = quotes[quotes <= end]
    if not _quotes_fit(octets, quotes, end, delimiter[0]):
        return None
    return end


def _quotes_fit(octets: npt.NDArray[np.uint8], quotes: npt.NDArray[np.int64], end: int, delimiter: int) -> bool:
    """Whether fields open after, and close before, a delimiter, a line's end, or (an escaped quote) each other."""
    opening, closing = quotes[::2], quotes[1::2]
    if len(opening) != len(closing):
        return False
    before = octets[opening - 1]
    fits = (before == delimiter) | (before == _LINE_FEED) | (before == _QUOTE)
    fits[1:] &= (before[1:] != _QUOTE) | (closing[:-1] == opening[1:] - 1)
    if len(opening) and before[0] == _QUOTE:
        return False
    after = octets[np.minimum(closing + 1, len(octets) - 1)]
    at_end = closing == end
    ends = (after == delimiter) | (after == _LINE_FEED) | (after == _RETURN) | (after == _QUOTE) | at_end
    return bool(fits.all() and ends.all())


def delimited_table(path: Path, start: int, stop: int) -> tuple[pa.Table | None, tuple[Row, ...], int]:
    """The records of one range: as a table, or, where a record has another width, as rows and the number of such.

    Raises:
        DataError: The file is not UTF-8, or has changed since its ranges were found.
    """
    delimiter = _delimiter(path)
    with path.open("rb") as file:
        header = _header(file, delimiter)
        file.seek(start)
        data = file.read(stop - start)
    if header is None:
        raise DataError(f"{path}: its header has changed while it was being read")
    try:
        return _arrow_table(data, header, delimiter), (), 0
    except pa.ArrowException:
        pass
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {start + error.start} (0x{data[error.start]:02x}) is not UTF-8. "
            "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    records = list(_records(text, delimiter.decode()))
    rows = tuple(dict(zip(header, fields, strict=True)) for fields in records if len(fields) == len(header))
    return None, rows, len(records) - len(rows)


def _arrow_table(data: bytes, header: list[str], delimiter: bytes) -> pa.Table:
    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(use_threads=False, column_names=header, block_size=len(data) + 1),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=b'"' in data),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        ),
    )


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    return (fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if fields)
