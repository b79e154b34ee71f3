"""Rows <-> Arrow, losing nothing.

A column whose values share one Arrow type is stored in that type. A column whose values
do not (text in one row, a list in the next, integers beyond 64 bits, objects with
scores of different keys) is stored as JSON text, marked by the field metadata
``forge.encoding: json``. Law: ``rows_of(table_of(rows)) == without_nulls(rows)``, where any
row has a column at all; an absent key and a null are one and the same, because Arrow
cannot tell them apart.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

_ENCODING = b"forge.encoding"
_CHUNK_ROWS = 4096
_ROW_GROUP_ROWS = 65_536
_MOST_FIELDS = 64  # an object with more keys than this is a map, not a record


def without_nulls(value: Any) -> Any:
    """`value` with every null-valued key removed, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as one Arrow table with the union of their columns, in the order of first appearance."""
    builder = TableBuilder()
    for row in rows:
        builder.append(row)
    return builder.finish()


def rows_of(table: pa.Table) -> Iterator[Row]:
    """The rows of a table, null-valued keys left out, JSON columns decoded."""
    encoded = json_columns(table.schema)
    for batch in table.to_batches(max_chunksize=_CHUNK_ROWS):
        for row in batch.to_pylist():
            for name in encoded:
                if row[name] is not None:
                    row[name] = json.loads(row[name])
            yield without_nulls(row)


def json_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that are stored as JSON text."""
    return [field.name for field in schema if (field.metadata or {}).get(_ENCODING) == b"json"]


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write deterministically: equal tables give equal bytes with one version of pyarrow."""
    pq.write_table(table, path, compression="zstd", compression_level=3, row_group_size=_ROW_GROUP_ROWS)


class TableBuilder:
    """Collects rows in chunks of Arrow, so that Python objects never pile up."""

    def __init__(self) -> None:
        self._pending: list[Row] = []
        self._chunks: dict[str, list[_Chunk]] = {}
        self._rows = 0

    def append(self, row: Row) -> None:
        self._pending.append(row)
        if len(self._pending) >= _CHUNK_ROWS:
            self._flush()

    def finish(self) -> pa.Table:
        self._flush()
        columns = {name: _joined(chunks, self._rows) for name, chunks in self._chunks.items()}
        fields = [
            pa.field(name, array.type, metadata={_ENCODING: b"json"} if as_json else None)
            for name, (array, as_json) in columns.items()
        ]
        return pa.table([array for array, _ in columns.values()], schema=pa.schema(fields))

    def _flush(self) -> None:
        names = dict.fromkeys(name for row in self._pending for name in row)
        for name in names:
            chunk = _Chunk(self._rows, [row.get(name) for row in self._pending])
            self._chunks.setdefault(name, []).append(chunk)
        self._rows += len(self._pending)
        self._pending = []


class _Chunk:
    """Some consecutive values of one column: `start` is the number of the first row."""

    def __init__(self, start: int, values: Sequence[Any]) -> None:
        self.start = start
        self.length = len(values)
        native = _native(values)
        self.is_json = native is None
        self.array = _json_array(values) if native is None else native

    def as_json(self) -> pa.Array:
        return self.array if self.is_json else _json_array(self.array.to_pylist())


def _joined(chunks: list[_Chunk], rows: int) -> tuple[pa.ChunkedArray, bool]:
    """One column of `rows` values, and whether it had to be stored as JSON."""
    if not any(chunk.is_json for chunk in chunks):
        try:
            return _concatenated([(chunk.start, chunk.array) for chunk in chunks], rows), False
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            pass  # the chunks' types do not merge without loss
    return _concatenated([(chunk.start, chunk.as_json()) for chunk in chunks], rows), True


def _concatenated(parts: list[tuple[int, pa.Array]], rows: int) -> pa.ChunkedArray:
    tables, end = [], 0
    for start, array in parts:
        if start > end:
            tables.append(pa.table({"column": pa.nulls(start - end)}))
        tables.append(pa.table({"column": array}))
        end = start + len(array)
    if rows > end:
        tables.append(pa.table({"column": pa.nulls(rows - end)}))
    joined = pa.concat_tables(tables, promote_options="permissive").column(0)
    if not _is_storable(joined.type):
        raise pa.ArrowInvalid("the merged type has too many fields")
    return joined


def _native(values: Sequence[Any]) -> pa.Array | None:
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None
    return array if isinstance(array, pa.Array) and _is_storable(array.type) else None


def _json_array(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else to_json(without_nulls(value)) for value in values], pa.string())


def to_json(value: Any) -> str:
    """Compact JSON with sorted keys; bytes as hex, other foreign objects (dates, decimals) as text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_foreign)


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return dict(value) if isinstance(value, Mapping) else str(value)


def _is_storable(kind: pa.DataType) -> bool:
    """Parquet has no structs without fields; very wide structs are maps in disguise."""
    if pa.types.is_struct(kind):
        return 0 < kind.num_fields <= _MOST_FIELDS and all(_is_storable(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_storable(kind.value_type)
    return True
