"""A file or directory -> splits -> shards -> blocks of rows.

A shard is a byte range of a JSONL file, some row groups of a Parquet file, or a whole
file of another kind: small to send to another process, which reads it there. Reading
the shards of a split in order gives every row once, whoever reads them. JSONL goes
through Arrow's reader a shard at a time; a shard that Arrow refuses (a broken line,
mixed types, bytes that are not UTF-8) is read again line by line, and what is wrong in
it is counted, not raised.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from forge_pipeline.data.artifacts import SPLITS
from forge_pipeline.data.columns import Row, json_columns
from forge_pipeline.data.reading import ReadRow, is_data_file, known_suffixes, read_rows
from forge_pipeline.data.splits import as_split
from forge_pipeline.dataset_audit.report import REPORT_NAME
from forge_pipeline.errors import DataError

SHARD_BYTES = 8 << 20
BLOCK_ROWS = 8192
_JSONL = (".jsonl", ".ndjson")
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
    """Part of a file. `start` and `stop` count bytes (JSONL) or row groups (Parquet); -1 means the whole file."""

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
        parse_errors: Lines that are no JSON; they are not rows.
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
    files that lie beside files of other kinds are metadata.

    Raises:
        FileNotFoundError: There is no such file or directory, or no data file in it.
        DataError: A file of a kind that cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(f"source: there is no file or directory {str(source)!r}")
    if source.is_file():
        if not is_data_file(source):
            raise DataError(
                f"source: cannot read {source.name!r}; expected {', '.join(known_suffixes())}, or .gz of them"
            )
        return {as_split(source.name) or "train": (source,)}
    files = sorted(path for path in source.rglob("*") if _is_candidate(path.relative_to(source)) and path.is_file())
    rows_only = [path for path in files if path.suffix not in _MAYBE_METADATA]
    files = rows_only or files
    if not files:
        raise FileNotFoundError(f"source: {str(source)!r} holds no data files; expected {', '.join(known_suffixes())}")
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(_split_of(path.relative_to(source)), []).append(path)
    order = [*(split for split in SPLITS if split in splits), *sorted(split for split in splits if split not in SPLITS)]
    return {split: tuple(splits[split]) for split in order}


def _is_candidate(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return is_data_file(relative) and not hidden and relative.name not in _NOT_ROWS


def _split_of(relative: Path) -> str:
    names = [relative.name, *reversed(relative.parent.parts)]
    return next((split for name in names if (split := as_split(name))), relative.name.split(".")[0])


def plan(splits: dict[str, tuple[Path, ...]]) -> list[Shard]:
    """The shards of all files, in reading order. It depends on the files alone."""
    return [shard for split, paths in splits.items() for path in paths for shard in _shards(path, split)]


def _shards(path: Path, split: str) -> Iterator[Shard]:
    if path.suffix == ".parquet":
        with _parquet(path) as file:
            for group in range(file.num_row_groups):
                yield Shard(path, split, group, group + 1)
    elif path.suffix in _JSONL and not _is_array(path):
        yield from _byte_ranges(path, split)
    else:
        yield Shard(path, split)


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _byte_ranges(path: Path, split: str) -> Iterator[Shard]:
    """Ranges that begin and end at a line."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            file.seek(min(start + SHARD_BYTES, size))
            file.readline()
            yield Shard(path, split, start, file.tell())
            start = file.tell()


def read_blocks(shard: Shard) -> Iterator[Block]:
    """The rows of a shard, at most `BLOCK_ROWS` in a block of Python objects.

    Raises:
        OSError: The file cannot be read.
        DataError: The file is broken as a whole.
    """
    if shard.path.suffix == ".parquet":
        yield from _parquet_blocks(shard)
    elif shard.stop >= 0:
        yield _jsonl_block(shard)
    else:
        yield from _row_blocks(shard.path)


def _parquet_blocks(shard: Shard) -> Iterator[Block]:
    with _parquet(shard.path) as file:
        encoded = tuple(json_columns(file.schema_arrow))
        names = tuple(file.schema_arrow.names)
        groups = list(range(shard.start, shard.stop))
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, row_groups=groups):
            yield Block(batch.num_rows, names, pa.Table.from_batches([batch]), json_columns=encoded)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowException as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error


def _row_blocks(path: Path) -> Iterator[Block]:
    reader = read_rows(path)
    while items := list(islice(reader, BLOCK_ROWS)):
        rows = tuple(item.values for item in items if isinstance(item, ReadRow))
        yield Block(len(rows), _columns(rows), rows=rows, parse_errors=len(items) - len(rows))


def _columns(rows: tuple[Row, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _jsonl_block(shard: Shard) -> Block:
    with shard.path.open("rb") as file:
        file.seek(shard.start)
        data = file.read(shard.stop - shard.start)
    if shard.start == 0:
        data = data.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in data.split(b"\n") if line.strip()]
    table = _arrow_table(data, len(lines)) if lines else None
    return Block(table.num_rows, tuple(table.column_names), table) if table is not None else _line_block(lines)


def _arrow_table(data: bytes, line_count: int) -> pa.Table | None:
    """The lines as Arrow reads them; None unless it reads exactly one row a line, with every string left a string."""
    try:
        data.decode()
        options = pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
        table = pa_json.read_json(io.BytesIO(data), read_options=options)
        schema = pa.schema([field.with_type(_kept_text(field.type)) for field in table.schema])
        if schema != table.schema:
            parse = pa_json.ParseOptions(explicit_schema=schema)
            table = pa_json.read_json(io.BytesIO(data), read_options=options, parse_options=parse)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table if table.num_rows == line_count else None


def _kept_text(kind: pa.DataType) -> pa.DataType:
    """The type with text where Arrow made time stamps of strings that all look like one."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_kept_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_kept_text(field.type)) for field in kind])
    return kind


def _line_block(lines: list[bytes]) -> Block:
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
