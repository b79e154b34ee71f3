"""Data files record by record, broken records included, and the same files without some of their records.

Reading for training may skip a record that it cannot use; looking for a person may not. So a line that is no JSON is
a record here too, its text searched as it stands. Law: for JSONL, JSON, CSV and TSV, plain or compressed, the records
that stay are the bytes that they were, and ``without(file, {})`` has the content of the file. Parquet and Arrow files
are written anew, with their schema, row groups (batches) and compression.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.columns import json_columns
from forge_pipeline.data.compression import opened, without_compression
from forge_pipeline.errors import DataError

_BATCH = 512  # rows
_SPACE = re.compile(r"[\s,]*")
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        index: Its place among the records, from 0.
        line: The line it begins on, from 1; in Parquet and Arrow files the row.
        values: Its values; the text as it stands where it cannot be parsed.
        is_header: Whether it names the columns, and so cannot be taken out.
    """

    index: int
    line: int
    values: Any
    is_header: bool = False


def is_readable(path: Path) -> bool:
    """Whether `records` knows files of this name."""
    return _format(path) is not None


def records(path: Path) -> Iterator[Record]:
    """The records of a file, in order.

    Raises:
        DataError: It is broken as a whole, or of a kind that `is_readable` does not know.
        OSError: It cannot be read.
    """
    form = _format(path)
    if form is None:
        raise DataError(f"{path}: cannot be read record by record; expected {', '.join(_FORMATS)}")
    try:
        yield from form[0](path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise _as_data_error(path, error) from error


def write_without(path: Path, dropped: Collection[int], target: Path) -> None:
    """Write `path` without the records of these indices as `target`, compressed as `path` is.

    Raises:
        DataError: As for `records`.
        OSError: It could not be written.
    """
    form = _format(path)
    if form is None:
        raise DataError(
            f"{path}: records cannot be taken out of a file of this kind; remove the file, or the passage, by hand"
        )
    try:
        form[1](path, frozenset(dropped), target)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise _as_data_error(path, error) from error


def _as_data_error(path: Path, error: Exception) -> Exception:
    """What Arrow says of damaged bytes, some of it as an OSError, names the file; what the disk says stays."""
    if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
        return error
    return DataError(f"{path}: not readable: {error}")


def cells(values: Any, column: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a record with the name of its column (``messages[2].content``); keys and numbers are texts too."""
    if isinstance(values, str):
        yield column, values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield column, str(key)
            yield from cells(value, f"{column}.{key}" if column else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from cells(value, f"{column}[{number}]")
    elif isinstance(values, bytes):
        yield column, values.decode("utf-8", "replace")
    elif values is not None and not isinstance(values, bool):
        yield column, str(values)


# --- lines and JSON values ----------------------------------------------------------------------------------------


def _line_records(path: Path) -> Iterator[Record]:
    if _is_array(path):
        yield from _value_records(path)
        return
    index = 0
    for number, raw in enumerate(_raw_lines(path), start=1):
        if raw.strip():
            yield _of_line(index, number, raw)
            index += 1


def _of_line(index: int, number: int, raw: bytes) -> Record:
    text = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Record(index, number, text)
    return Record(index, number, values)


def _write_lines(path: Path, dropped: frozenset[int], target: Path) -> None:
    if _is_array(path):
        _write_values(path, dropped, target)
        return
    with _packing(path, target) as out:
        index = 0
        for raw in _raw_lines(path):
            if not raw.strip():
                out.write(raw)
                continue
            if index not in dropped:
                out.write(raw)
            index += 1


def _raw_lines(path: Path) -> Iterator[bytes]:
    with opened(path) as file:
        yield from file if isinstance(file, io.BufferedIOBase) else io.BufferedReader(cast(io.RawIOBase, file))


def _is_array(path: Path) -> bool:
    """Whether a .jsonl file is in truth one JSON array, or values over several lines."""
    with opened(path) as file:
        head = file.read(4096).decode("utf-8-sig", "replace").lstrip()
    return head.startswith("[") and not _is_json(head.partition("\n")[0])


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_records(path: Path) -> Iterator[Record]:
    yield from _line_records(path) if _is_lines(path) else _value_records(path)


def _write_json(path: Path, dropped: frozenset[int], target: Path) -> None:
    (_write_lines if _is_lines(path) else _write_values)(path, dropped, target)


def _is_lines(path: Path) -> bool:
    """Whether the first line of a .json file is a row by itself: then every line is."""
    first = next((raw for raw in _raw_lines(path) if raw.strip()), b"")
    text = first.decode("utf-8-sig", "replace").strip()
    return text.startswith("{") and _is_json(text)


def _value_records(path: Path) -> Iterator[Record]:
    text = _text(path)
    line = counted = 0
    for index, (start, end) in enumerate(_value_spans(text, path)):
        line += text.count("\n", counted, start)
        counted = start
        try:
            values = json.loads(text[start:end])
        except (ValueError, RecursionError):
            values = text[start:end]
        yield Record(index, line + 1, values)


def _write_values(path: Path, dropped: frozenset[int], target: Path) -> None:
    text = _text(path)
    spans = list(_value_spans(text, path))
    pieces: list[str] = [text[: spans[0][0]]] if spans else [text]
    before = None
    for index, (start, end) in enumerate(spans):
        if index not in dropped:
            # What stands between two elements goes with the second: ``[a, b, c]`` without b is ``[a, c]``.
            separator = "" if before is None else text[spans[index - 1][1] : start]
            pieces += [separator, text[start:end]]
            before = index
    if spans:
        pieces.append(text[spans[-1][1] :])
    with _packing(path, target) as out:
        out.write("".join(pieces).encode("utf-8", "surrogateescape"))


def _text(path: Path) -> str:
    with opened(path) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _value_spans(text: str, path: Path) -> Iterator[tuple[int, int]]:
    """Where the elements of the one array, or the values one after another, begin and end."""
    decoder = json.JSONDecoder()
    at = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    is_array = text[at : at + 1] == "["
    at += is_array
    while True:
        match = _SPACE.match(text, at)
        at = match.end() if match else at
        if is_array and at >= len(text):
            raise DataError(f"{path}: the array is never closed; the file was cut off. Repair it, or remove it")
        if at >= len(text) or (is_array and text[at] == "]"):
            return
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise DataError(f"{path}: line {line}: not JSON; repair the file, or remove it") from error
        yield at, end
        at = end


# --- CSV and TSV --------------------------------------------------------------------------------------------------


class _Taken:
    """Lines for `csv.reader`, keeping those that it took for the present record."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.number = 0
        self.lines: list[str] = []

    def __iter__(self) -> "_Taken":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        self.lines.append(line)
        return line

    def take(self) -> str:
        """The text of the record that was read, line ends included."""
        text, self.lines = "".join(self.lines), []
        return text


def _delimited_records(path: Path) -> Iterator[Record]:
    header: list[str] = []
    for index, line, fields, raw in _delimited(path):
        if fields is None or (header and len(fields) != len(header)):
            yield Record(index, line, raw)
        elif not header:
            header = fields
            yield Record(index, line, fields, is_header=True)
        else:
            yield Record(index, line, dict(zip(header, fields, strict=True)))


def _write_delimited(path: Path, dropped: frozenset[int], target: Path) -> None:
    with _packing(path, target) as out:
        for index, _, _, raw in _delimited(path):
            if index not in dropped:
                out.write(raw.encode("utf-8", "surrogateescape"))


def _delimited(path: Path) -> Iterator[tuple[int, int, list[str] | None, str]]:
    """Index, first line, fields (None: not CSV) and text of each record, empty ones among them."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with opened(path) as file:
        lines = _Taken(io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline=""))
        with opened(path) as again:
            head = again.read(65_536).decode("utf-8", "replace").partition("\n")[0]
        reader = csv.reader(lines, delimiter=_delimiter(path, head))
        index = 0
        while True:
            line = lines.number + 1
            fields: list[str] | None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fields = None
            yield index, line, fields, lines.take()
            index += 1


def _delimiter(path: Path, head: str) -> str:
    own = "\t" if ".tsv" in path.name.casefold() else ","
    if head.casefold().startswith("sep=") and len(head.rstrip("\r")) == 5:
        return head[4]
    return own if own in head else max(_DELIMITERS, key=head.count)


# --- Parquet and Arrow --------------------------------------------------------------------------------------------


def _parquet_records(path: Path) -> Iterator[Record]:
    with pq.ParquetFile(path) as file:
        yield from _batch_records(file.iter_batches(_BATCH, columns=_texts(file.schema_arrow)), file.schema_arrow)


def _write_parquet(path: Path, dropped: frozenset[int], target: Path) -> None:
    with pq.ParquetFile(path) as file:
        columns = file.metadata.row_group(0) if file.num_row_groups else None
        packed = columns.column(0).compression if columns and columns.num_columns else "ZSTD"
        first = 0
        with pq.ParquetWriter(target, file.schema_arrow, compression=_codec(packed)) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                kept = _kept(table.num_rows, first, dropped)
                first += table.num_rows
                if kept is not None:
                    table = table.filter(kept)
                if table.num_rows:
                    writer.write_table(table)


def _codec(name: str) -> str:
    return "NONE" if name == "UNCOMPRESSED" else name


def _arrow_records(path: Path) -> Iterator[Record]:
    with _arrow_batches(path) as (schema, batches, _):
        yield from _batch_records((_sound(batch).select(_texts(schema)) for batch in batches), schema)


def _write_arrow(path: Path, dropped: frozenset[int], target: Path) -> None:
    with _arrow_batches(path) as (schema, batches, is_file), target.open("wb") as out:
        first = 0
        with (pa.ipc.new_file if is_file else pa.ipc.new_stream)(out, schema) as writer:
            for batch in map(_sound, batches):
                kept = _kept(batch.num_rows, first, dropped)
                first += batch.num_rows
                writer.write_batch(batch if kept is None else batch.filter(kept))


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose offsets were looked at: in a damaged file they would point anywhere."""
    batch.validate(full=True)
    return batch


@contextmanager
def _arrow_batches(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch], bool]]:
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    # Read, not mapped: a mapped file cannot be replaced on Windows while it is being read.
    with pa.OSFile(str(path)) as source:
        if is_file:
            with pa.ipc.open_file(source) as reader:
                yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches)), True
        else:
            with pa.ipc.open_stream(source) as stream:
                yield stream.schema, iter(stream), False


def _batch_records(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[Record]:
    encoded = json_columns(schema)
    index = 0
    for batch in batches:
        for values in batch.to_pylist():
            for name in encoded:
                if values.get(name) is not None:
                    values[name] = _parsed(values[name])
            yield Record(index, index + 1, values)
            index += 1


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _texts(schema: pa.Schema) -> list[str]:
    """The columns that can hold text. Lists of numbers (token ids) cannot, and are most of a tokenized dataset."""
    return [field.name for field in schema if not _is_numbers(field.type)]


def _is_numbers(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.types.is_primitive(kind.value_type) or _is_numbers(kind.value_type)
    return False


def _kept(rows: int, first: int, dropped: frozenset[int]) -> pa.Array | None:
    """Which of `rows` rows from `first` on stay; None: all of them."""
    mask = [number not in dropped for number in range(first, first + rows)]
    return None if all(mask) else pa.array(mask, pa.bool_())


# --- formats ------------------------------------------------------------------------------------------------------

_Read = Callable[[Path], Iterator[Record]]
_Write = Callable[[Path, frozenset[int], Path], None]
_FORMATS: dict[str, tuple[_Read, _Write]] = {
    ".jsonl": (_line_records, _write_lines),
    ".ndjson": (_line_records, _write_lines),
    ".json": (_json_records, _write_json),
    ".csv": (_delimited_records, _write_delimited),
    ".tsv": (_delimited_records, _write_delimited),
    ".parquet": (_parquet_records, _write_parquet),
    ".arrow": (_arrow_records, _write_arrow),
    ".feather": (_arrow_records, _write_arrow),
}
_BINARY = (".parquet", ".arrow", ".feather")


def _format(path: Path) -> tuple[_Read, _Write] | None:
    name, compression = without_compression(path.name)
    suffix = Path(name).suffix
    return None if compression and suffix in _BINARY else _FORMATS.get(suffix)


@contextmanager
def _packing(like: Path, target: Path) -> Iterator[IO[bytes]]:
    """`target`, open for the bytes of a file that is compressed as `like` is; equal bytes in, equal bytes out."""
    _, suffix = without_compression(like.name)
    with target.open("wb") as file:
        if suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield cast(IO[bytes], packed)
        elif suffix == ".bz2":
            with bz2.BZ2File(file, "wb") as packed_bz2:
                yield cast(IO[bytes], packed_bz2)
        elif suffix == ".xz":
            with lzma.LZMAFile(file, "wb") as packed_xz:
                yield cast(IO[bytes], packed_xz)
        elif suffix == ".zst":
            with pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd") as packed_zst:
                yield cast(IO[bytes], packed_zst)
        else:
            yield file
