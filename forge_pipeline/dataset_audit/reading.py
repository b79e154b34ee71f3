"""A file or directory -> splits -> shards -> blocks of rows.

A shard is a byte range of a JSONL or CSV file, some row groups of a Parquet file, some
batches of an Arrow file, or a whole file of another kind: small to send to another
process, which reads it there. Reading the shards of a split in order gives every row
once, whoever reads them.

Rows come as Arrow tables where Arrow reads exactly what stands there, and as Python
objects where it does not: a block of JSON lines that Arrow refuses (a broken line, mixed
types, bytes that are not UTF-8) or would change is read line by line, and what is wrong in
it is counted, not raised.
"""

import io
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pa_json

from forge_pipeline.data.columns import Row, json_columns
from forge_pipeline.data.compression import opened, without_compression
from forge_pipeline.data.splits import SPLITS, as_split
from forge_pipeline.dataset_audit.delimited import delimited_ranges, delimited_table
from forge_pipeline.dataset_audit.json_lines import Bytes, ParseLines, Shape, read_lines
from forge_pipeline.dataset_audit.machine_code import loops
from forge_pipeline.dataset_audit.report import REPORT_NAME
from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SHARD_BYTES = 3 << 20  # small enough that memory stays in the processor's caches and is used again
_LARGEST = 2  # times as much at the beginning of a large file
BLOCK_ROWS = 8192
LONGEST_LINE = 256 << 20
"""A line of more bytes is counted as one that cannot be read, and is not held in memory."""

_JSONL = (".jsonl", ".ndjson")
_DELIMITED = (".csv", ".tsv")
_ARROW = (".arrow", ".feather")
_DEEPEST = 250  # levels of nesting that Arrow's reader, which recurses, is given
_SAMPLE_BYTES = 1 << 13  # at least so much, in whole lines, is looked at for the types of columns
_FILE_MAGIC = b"ARROW1"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
# Kinds of files that are taken for metadata where files of other kinds lie beside them.
_MAYBE_METADATA = (".json", ".yaml", ".yml")
_NOT_ROWS = (
    REPORT_NAME,
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "provenance.json",
)


@dataclass(frozen=True)
class Shard:
    """Part of a file.

    `start` and `stop` count bytes (JSONL, CSV, Arrow streams), row groups (Parquet) or record batches (Arrow files);
    -1 means the whole file.
    """

    path: Path
    split: str
    start: int = 0
    stop: int = -1


@dataclass(frozen=True)
class Block:
    """Some consecutive rows, as a table or, where their types do not agree, as Python objects.

    Attributes:
        columns: Names of the columns, in order of first appearance.
        json_columns: Columns of `table` whose strings are JSON text to be decoded.
        parse_errors: Lines or records that could not be read; they are not rows.
        decode_errors: Rows that held bytes which are not UTF-8, read with U+FFFD in their place.
        non_object_rows: Rows that are JSON but no object: they count as rows without columns.
    """

    row_count: int
    columns: tuple[str, ...]
    table: pa.Table | None = None
    rows: tuple[Row, ...] = ()
    json_columns: tuple[str, ...] = ()
    parse_errors: int = 0
    decode_errors: int = 0
    non_object_rows: int = 0


def find_splits(source: Path) -> dict[str, tuple[Path, ...]]:
    """Files by split: train, validation and test first, then others by name.

    A file is one split, ``train`` unless its name says otherwise. In a directory, names (or their folders' names)
    say which split a file belongs to; a file that says nothing is a split of its own, named after it. JSON and YAML
    files that lie beside files of other kinds are metadata. Where the `datasets` library left a ``state.json``, the
    Arrow files that it does not name are its cache, and no data. Links are followed; a folder is read once.

    Raises:
        FileNotFoundError: There is no such file or directory, or no data file in it.
        DataError: A file of a kind that cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(f"source: there is no file or directory {str(source)!r}")
    if source.is_file():
        if not _is_data_file(source):
            raise DataError(f"source: cannot read {source.name!r}; expected {_known_suffixes()}, or compressed text")
        return {as_split(source.name) or "train": (source,)}
    files = sorted(path for path in _files_below(source) if _is_candidate(path.relative_to(source)) and path.is_file())
    rows_only = [path for path in files if path.suffix not in _MAYBE_METADATA]
    files = rows_only or files
    if not files:
        raise FileNotFoundError(f"source: {str(source)!r} holds no data files; expected {_known_suffixes()}")
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(_split_of(path.relative_to(source)), []).append(path)
    order = [*(split for split in SPLITS if split in splits), *sorted(split for split in splits if split not in SPLITS)]
    return {split: tuple(splits[split]) for split in order}


def _files_below(source: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for directory, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        real = os.path.realpath(directory)
        if real in seen:
            folders.clear()  # a link back up, or a second way in
            continue
        seen.add(real)
        named = _named_by_datasets(Path(directory, "state.json")) if "state.json" in names else None
        for name in names:
            if named is None or not name.endswith(_ARROW) or name in named:
                yield Path(directory, name)


def _named_by_datasets(state: Path) -> set[str] | None:
    """The data files that ``Dataset.save_to_disk`` wrote; None where the file is not of its making."""
    try:
        found = json.loads(state.read_bytes())
        return {entry["filename"] for entry in found["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_candidate(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return _is_data_file(relative) and not hidden and relative.name not in _NOT_ROWS


def _is_data_file(path: Path) -> bool:
    """As `data.reading.is_data_file`, whose import costs more than 10 ms: not asked about what is read here."""
    if path.suffix in (*_JSONL, *_DELIMITED, ".parquet", *_ARROW):
        return True
    from forge_pipeline.data.reading import is_data_file

    return is_data_file(path)


def _known_suffixes() -> str:
    from forge_pipeline.data.reading import known_suffixes

    return ", ".join(known_suffixes())


def _split_of(relative: Path) -> str:
    names = [relative.name, *reversed(relative.parent.parts)]
    return next((split for name in names if (split := as_split(name))), relative.name.split(".")[0])


def plan(splits: dict[str, tuple[Path, ...]]) -> list[Shard]:
    """The shards of all files, in reading order. It depends on the files alone."""
    return [shard for split, paths in splits.items() for path in paths for shard in _shards(path, split)]


def _shards(path: Path, split: str) -> Iterator[Shard]:
    kind, compression = _kind(path)
    ranges: Iterable[tuple[int, int]] | None = None
    if kind == ".parquet":
        ranges = _row_group_ranges(path)
    elif kind in _ARROW:
        ranges = _batch_ranges(path)
    elif kind in _JSONL and not compression and not _is_array(path):
        ranges = _line_ranges(path)
    elif kind in _DELIMITED and not compression:
        ranges = delimited_ranges(path, SHARD_BYTES)
    if ranges is None:
        yield Shard(path, split)
    else:
        for start, stop in ranges:
            yield Shard(path, split, start, stop)


def _kind(path: Path) -> tuple[str, str]:
    """The ending that says what the file is, and the ending of its compression or ""."""
    name, compression = without_compression(path.name)
    return Path(name).suffix, compression


def _is_array(path: Path) -> bool:
    with opened(path) as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def read_blocks(shard: Shard, *, compiled: bool = False) -> Iterator[Block]:
    """The rows of a shard, at most `BLOCK_ROWS` in a block of Python objects.

    Args:
        shard: What to read.
        compiled: Whether to use compiled loops where numba is installed: the rows are the same.

    Raises:
        OSError: The file cannot be read.
        DataError: The file is broken as a whole.
    """
    kind, compression = _kind(shard.path)
    if kind == ".parquet":
        yield from _parquet_blocks(shard)
    elif kind in _ARROW:
        yield from _arrow_blocks(shard)
    elif kind in _DELIMITED and shard.stop >= 0:
        yield _delimited_block(shard)
    elif kind in _JSONL and shard.stop >= 0:
        yield _jsonl_block(shard, compiled)
    elif kind in _JSONL and compression and not _is_array(shard.path):
        yield from _compressed_blocks(shard.path, compiled)
    else:
        yield from _row_blocks(shard.path)


def _grouped(sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive items of about `SHARD_BYTES` together."""
    start = stop = total = 0
    for stop, size in enumerate(sizes, start=1):
        total += size
        if total >= SHARD_BYTES:
            yield start, stop
            start, total = stop, 0
    if start < stop:
        yield start, stop


# -- Parquet and Arrow -------------------------------------------------------------------------------------------------


def _row_group_ranges(path: Path) -> list[tuple[int, int]]:
    with _parquet(path) as file:
        metadata = file.metadata
        return list(_grouped(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)))


def _parquet_blocks(shard: Shard) -> Iterator[Block]:
    with _parquet(shard.path) as file:
        encoded = tuple(json_columns(file.schema_arrow))
        groups = list(range(shard.start, shard.stop))
        metadata = [file.metadata.row_group(group) for group in groups]
        size = sum(group.total_byte_size for group in metadata) or 1
        rows = sum(group.num_rows for group in metadata)
        batch_size = max(1, min(rows, rows * SHARD_BYTES // size)) or BLOCK_ROWS
        for batch in file.iter_batches(batch_size=batch_size, row_groups=groups, use_threads=False):
            yield _table_block(pa.Table.from_batches([batch]), encoded)


@contextmanager
def _parquet(path: Path) -> Iterator["pq.ParquetFile"]:
    import pyarrow.parquet as pq  # which takes long, and most files are others

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowException as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error


def _batch_ranges(path: Path) -> list[tuple[int, int]] | None:
    """Batches of an Arrow file, bytes of an Arrow stream; None for a stream with dictionaries, which stays whole."""
    with _arrow(path) as (source, is_file):
        if is_file:
            with pa.ipc.open_file(source) as reader:
                count = reader.num_record_batches
            return list(_grouped([source.size() // max(count, 1)] * count))
        ends: list[int] = []
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type == "dictionary":
                return None
            ends.append(source.tell())
        sizes = [stop - start for start, stop in pairwise(ends)]
        return [(ends[start], ends[stop]) for start, stop in _grouped(sizes)]


def _arrow_blocks(shard: Shard) -> Iterator[Block]:
    with _arrow(shard.path) as (source, is_file):
        if is_file:
            with pa.ipc.open_file(source) as reader:
                schema = reader.schema
                batches = [reader.get_batch(index) for index in range(shard.start, shard.stop)]
        else:
            with pa.ipc.open_stream(source) as stream:
                schema = stream.schema
                batches = list(stream) if shard.stop < 0 else list(_stream_batches(source, schema, shard))
        yield _table_block(pa.Table.from_batches(batches, schema), tuple(json_columns(schema)))


def _stream_batches(source: pa.NativeFile, schema: pa.Schema, shard: Shard) -> Iterator[pa.RecordBatch]:
    source.seek(shard.start)
    while source.tell() < shard.stop:
        yield pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[pa.NativeFile, bool]]:
    """The file, mapped into memory, and whether it is an Arrow file rather than a stream."""
    try:
        with pa.memory_map(str(path)) as source:
            is_file = source.read_at(min(len(_FILE_MAGIC), source.size()), 0) == _FILE_MAGIC
            yield source, is_file
    except (pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: not readable as Arrow: {error}") from error


def _table_block(table: pa.Table, encoded: tuple[str, ...]) -> Block:
    """The table, once it is known that its offsets hold and its strings are UTF-8; files may say otherwise."""
    names = tuple(table.column_names)
    try:
        table.validate(full=True)
        return Block(table.num_rows, names, table, json_columns=encoded)
    except pa.ArrowInvalid:
        raw = table.cast(pa.schema([field.with_type(_as_bytes(field.type)) for field in table.schema]))
        raw.validate(full=True)  # raises where more is wrong than the text
    rows, faulty = [], 0
    for values in raw.to_pylist():
        counted = [0]
        row = {field.name: _decoded(values[field.name], field.type, counted) for field in table.schema}
        for name in encoded:
            row[name] = None if row[name] is None else json.loads(row[name])
        rows.append(row)
        faulty += counted[0] > 0
    return Block(len(rows), names, rows=tuple(rows), decode_errors=faulty)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with bytes where it has text."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    return kind


def _decoded(value: Any, kind: pa.DataType, faults: list[int]) -> Any:
    """What `_as_bytes` made bytes, as text again; `faults` counts the strings that are not UTF-8."""
    if value is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = value.decode(errors="replace")
        faults[0] += text.encode() != value
        return text
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_decoded(item, kind.value_type, faults) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type, faults) for field in kind}
    return value


# -- CSV, and whatever `read_rows` reads -------------------------------------------------------------------------------


def _delimited_block(shard: Shard) -> Block:
    table, rows, broken = delimited_table(shard.path, shard.start, shard.stop)
    if table is not None:
        return Block(table.num_rows, tuple(table.column_names), table)
    return Block(len(rows), _columns(rows), rows=rows, parse_errors=broken)


def _row_blocks(path: Path) -> Iterator[Block]:
    from forge_pipeline.data.reading import ReadRow, read_rows

    reader = read_rows(path)
    while items := list(islice(reader, BLOCK_ROWS)):
        rows = tuple(item.values for item in items if isinstance(item, ReadRow))
        yield Block(len(rows), _columns(rows), rows=rows, parse_errors=len(items) - len(rows))


def _columns(rows: tuple[Row, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


# -- JSON lines --------------------------------------------------------------------------------------------------------


def _line_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Ranges that begin and end at a line; a line beyond `LONGEST_LINE` has a range of its own."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            # Large ones first: each has its own costs. Small ones last: no worker is long at work when others are done.
            target = max(SHARD_BYTES, min((size - start) // 8, _LARGEST * SHARD_BYTES))
            stop = _line_end(file, min(start + target, size), size)
            if stop - start > _most_bytes():
                file.seek(start)
                last = start + file.read(target).rfind(b"\n") + 1
                if last > start:
                    yield start, last
                    start = last
            yield start, stop
            start = stop


def _most_bytes() -> int:
    """Of a range that is read: one that is larger is a line beyond `LONGEST_LINE`, with what may stand before it."""
    return _LARGEST * SHARD_BYTES + LONGEST_LINE


def _line_end(file: io.BufferedReader, at: int, size: int) -> int:
    """Where the line that holds the byte before `at` ends, read in pieces."""
    file.seek(max(at - 1, 0))
    while piece := file.read(1 << 16):
        found = piece.find(b"\n")
        if found >= 0:
            return file.tell() - len(piece) + found + 1
    return size


_of_thread = threading.local()  # the shape of the lines that were read last, and room for the next ones


def _jsonl_block(shard: Shard, compiled: bool) -> Block:
    if shard.stop - shard.start > _most_bytes():
        return Block(0, (), parse_errors=1)
    data = _content(shard)
    return _block_of_lines(data[3:] if shard.start == 0 and data.startswith(b"\xef\xbb\xbf") else data, compiled)


def _content(shard: Shard) -> bytearray:
    """The bytes of a shard, in memory that is each thread's own and used again: the system clears what is new."""
    room: bytearray = getattr(_of_thread, "content", bytearray())
    size = shard.stop - shard.start
    try:
        if not room:
            room = bytearray(size + size // 16)  # shards are cut where lines end: a later one is often longer by some
        room.extend(bytes(max(0, size - len(room))))
        del room[size:]
    except BufferError:  # somebody still looks at it
        room = bytearray(size)
    _of_thread.content = room
    with shard.path.open("rb", buffering=0) as file:
        file.seek(shard.start)
        view, filled = memoryview(room), 0
        while count := file.readinto(view[filled:]):
            filled += count
        view.release()
    del room[filled:]
    return room


def _compressed_blocks(path: Path, compiled: bool) -> Iterator[Block]:
    """JSON lines of a compressed file, which can be read from its beginning only."""
    rest, first, skipping = b"", True, False
    with opened(path) as file:
        while piece := file.read(SHARD_BYTES):
            if first:
                piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
            end = piece.rfind(b"\n") + 1
            if not end and len(rest) > LONGEST_LINE:
                rest, skipping = b"", True
            if skipping:
                begin = piece.find(b"\n") + 1
                if not begin:
                    continue
                yield Block(0, (), parse_errors=1)
                piece, end, skipping = piece[begin:], end - begin, False
            if end:
                yield _block_of_lines(rest + piece[:end], compiled)
                rest = piece[end:]
            else:
                rest += piece
    if skipping:
        yield Block(0, (), parse_errors=1)
    elif rest:
        yield _block_of_lines(rest, compiled)


def _block_of_lines(data: Bytes, compiled: bool) -> Block:
    table = _table_of_lines(data, compiled) if data and not data.isspace() and _is_utf8(data) else None
    if table is not None:
        return Block(table.num_rows, tuple(table.column_names), table)
    return _line_block([line for line in data.split(b"\n") if line.strip()])


def _table_of_lines(data: Bytes, compiled: bool) -> pa.Table | None:
    """The lines as a table; None unless it has exactly one row a line, with every string left a string."""
    parse_lines = json_kernels() if compiled and len(data) > _SAMPLE_BYTES else None
    # Mostly lines have the shape of those that were read before them.
    last: Shape | None = getattr(_of_thread, "shape", None)
    if parse_lines and last and (table := read_lines(data, last, parse_lines)) is not None:
        return table
    sample = data[: data.find(b"\n", min(_SAMPLE_BYTES, len(data))) + 1] or data
    first = _arrow_table(sample, ())
    if first is None or len(sample) == len(data):
        return first
    shape = _of_thread.shape = Shape.of(first.schema) if parse_lines else None
    table = read_lines(data, shape, parse_lines) if parse_lines and shape and shape != last else None
    return _arrow_table(data, tuple(first.schema)) if table is None else table


@cache
def json_kernels() -> ParseLines | None:
    """The compiled reader; None where numba is not installed."""
    compiled = loops("json_kernels", "kernels", "json_lines", "signing", "tokens")
    return None if compiled is None else compiled["parse_lines"]


def _arrow_table(data: Bytes, known: tuple[pa.Field, ...]) -> pa.Table | None:
    """The lines as Arrow reads them; None as above.

    Args:
        data: The lines.
        known: Columns of the first lines, in their order, with text where Arrow sees time stamps. Of those that hold
            text alone Arrow is told so, lest it read all of them twice; later lines change nothing about them.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    line_count = _count_objects(data, octets)
    if not line_count or _is_deep(data, octets):
        return None
    try:
        table = _read_json(data, pa.schema([field for field in known if _is_text(field.type)]))
        kept = pa.schema([field.with_type(_kept_text(field.type)) for field in table.schema])
        if kept != table.schema:
            table = _read_json(data, kept)
        table.validate()  # of objects without keys Arrow has made arrays that are shorter than they say
    except pa.ArrowException:
        return None
    if table.num_rows != line_count:
        return None
    first = [field.name for field in known]
    return table.select([*first, *(name for name in table.column_names if name not in set(first))])


def _is_text(kind: pa.DataType) -> bool:
    """Whether values of the type hold strings and nothing else."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_text(field.type) for field in kind)
    return _is_text(kind.value_type) if pa.types.is_list(kind) else pa.types.is_string(kind)


def _count_objects(data: Bytes, octets: npt.NDArray[np.uint8]) -> int | None:
    """How many lines are not blank; None if one of them does not begin with { and end with }.

    That they do keeps an object from reaching over two lines, and ``null`` from Arrow, which it crashes.
    """
    ends = np.flatnonzero(octets == 0x0A)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    whole = (octets[np.minimum(starts, len(octets) - 1)] == 0x7B) & (octets[ends - 1] == 0x7D) & (ends > starts)
    blank = 0
    for index in np.flatnonzero(~whole).tolist():
        line = data[starts[index] : ends[index]].strip(b" \t\r")
        if line and not (line.startswith(b"{") and line.endswith(b"}")):
            return None
        blank += not line
    return len(ends) - blank


def _read_json(data: Bytes, schema: pa.Schema) -> pa.Table:
    options = pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    parse = pa_json.ParseOptions(explicit_schema=schema)
    return pa_json.read_json(pa.BufferReader(data), read_options=options, parse_options=parse)


def _is_utf8(data: Bytes) -> bool:
    """As ``data.decode()`` without an error, twenty times as fast."""
    if len(data) >= 1 << 31:
        return all(_is_utf8(line) for line in data.split(b"\n"))
    ends = pa.py_buffer(np.array([0, len(data)], dtype=np.int32))
    try:
        pa.StringArray.from_buffers(1, ends, pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_deep(data: Bytes, octets: npt.NDArray[np.uint8]) -> bool:
    """Whether a line is nested more than `_DEEPEST` levels. Lines with fewer opening brackets are not looked at."""
    opening = np.flatnonzero((octets & 0xDF) == 0x5B)[:: _DEEPEST // 2].tolist()  # [ and { differ in one bit
    looked_at = 0
    for start, stop in pairwise(opening):
        if start >= looked_at and data.find(b"\n", start, stop) < 0:
            end = data.find(b"\n", stop)
            looked_at = end if end >= 0 else len(data)
            if _depth(data[data.rfind(b"\n", 0, start) + 1 : looked_at]) > _DEEPEST:
                return True
    return False


def _depth(line: Bytes) -> int:
    characters = np.frombuffer(_STRING.sub(b"", line), dtype=np.uint8) & 0xDF
    return int(np.cumsum((characters == 0x5B).astype(np.int64) - (characters == 0x5D)).max(initial=0))


def _kept_text(kind: pa.DataType) -> pa.DataType:
    """The type with text where Arrow made time stamps of strings that all look like one."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_kept_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_kept_text(field.type)) for field in kind])
    return kind


def _line_block(lines: Sequence[Bytes]) -> Block:
    rows: list[Row] = []
    parse_errors = decode_errors = non_objects = 0
    for line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode(errors="replace")
            decode_errors += 1
        try:
            value = json.loads(text, object_pairs_hook=_keep_all)
        except (ValueError, RecursionError):
            parse_errors += 1
            continue
        non_objects += not isinstance(value, dict)
        rows.append(value if isinstance(value, dict) else {"": value})
    return Block(
        len(rows),
        tuple(name for name in _columns(tuple(rows)) if name),
        rows=tuple(rows),
        parse_errors=parse_errors,
        decode_errors=decode_errors,
        non_object_rows=non_objects,
    )


def _keep_all(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; values of a repeated key become a list, so that none escapes the audit."""
    result = dict(pairs)
    if len(result) < len(pairs):
        result = {key: values[0] if len(values := [v for k, v in pairs if k == key]) == 1 else values for key in result}
    return result
