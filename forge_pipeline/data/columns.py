"""Rows <-> Arrow, losing nothing.

A column whose values share one Arrow type is stored in that type. A column whose values
do not (text in one row, a list in the next, integers beyond 64 bits, objects with
scores of different keys) is stored as JSON text, marked by the field metadata
``forge.encoding: json``. Law: ``rows_of(table_of(rows)) == without_nulls(rows)``, where any
row has a column at all; an absent key and a null are one and the same, because Arrow
cannot tell them apart. Rows become Arrow a chunk at a time, and `SharedSchema` says in
which types all chunks can stand together; the law holds however they are cut.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

Row = dict[str, Any]
ColumnChunks = Callable[[str], Iterable[pa.Table]]
"""The chunks that hold a column, each as a table of that column alone."""

CHUNK_ROWS = 4096
_READ_ROWS = 512
_ENCODING = b"forge.encoding"
_JSON_METADATA = {_ENCODING: b"json"}
_ROW_GROUP_ROWS = 65_536
_ROW_GROUP_BYTES = 16 << 20  # of Arrow, before compression; a single larger row is a group of its own
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
    return _rows_in(table.to_batches(max_chunksize=CHUNK_ROWS), table.schema)


def read_parquet_rows(path: Path) -> Iterator[Row]:
    """As `rows_of`, of a Parquet file, holding one row group and one batch of rows at a time."""
    import pyarrow.parquet as pq  # only here and below: who asks for the other names does not wait for its import

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from _rows_in(file.iter_batches(batch_size=_READ_ROWS, row_groups=[group]), file.schema_arrow)


def _rows_in(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[Row]:
    encoded = json_columns(schema)
    for batch in batches:
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
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", compression_level=3, row_group_size=_ROW_GROUP_ROWS)


class ParquetRows:
    """Writes a Parquet file piece by piece; row groups are full ones, however small the pieces are.

    Use as a context manager: the file is whole when the block ends.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append the rows of `table`, which has the schema that was given."""
        self._pending.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._pending), row_group_size=_ROW_GROUP_ROWS)
        self._pending, self._rows, self._bytes = [], 0, 0


class TableBuilder:
    """Collects rows in chunks of Arrow, so that Python objects never pile up."""

    def __init__(self) -> None:
        self._pending: list[Row] = []
        self._chunks: list[pa.Table] = []
        self._schema = SharedSchema()

    def append(self, row: Row) -> None:
        self._pending.append(row)
        if len(self._pending) >= CHUNK_ROWS:
            self._flush()

    def finish(self) -> pa.Table:
        self._flush()
        self._schema.settle(lambda name: (chunk.select([name]) for chunk in self._chunks if name in chunk.column_names))
        schema = self._schema.schema
        return pa.concat_tables([schema.empty_table(), *(self._schema.conformed(chunk) for chunk in self._chunks)])

    def _flush(self) -> None:
        if self._pending:
            chunk = chunk_of(self._pending)
            self._schema.add(chunk.schema)
            self._chunks.append(chunk)
            self._pending = []


def chunk_of(rows: Sequence[Row]) -> pa.Table:
    """Some rows as a table: each column in the type of its values, or as JSON text."""
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:  # a table without columns would forget how many rows it has
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))])
    columns = [_column([row.get(name) for row in rows]) for name in names]
    fields = [
        pa.field(name, array.type, metadata=_JSON_METADATA if as_json else None)
        for name, (array, as_json) in zip(names, columns, strict=True)
    ]
    return pa.table([array for array, _ in columns], schema=pa.schema(fields))


class SharedSchema:
    """The types in which the columns of many chunks can be stored together.

    Give it the schema of every chunk (`add`), then the chunks of the columns whose types differ (`settle`):
    whether two types merge without loss may depend on the values, as with integers beyond 2**53 and floats.
    """

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType | None] = {}  # None: as JSON
        self._differing: set[str] = set()

    def add(self, chunk: pa.Schema) -> None:
        encoded = json_columns(chunk)
        for field in chunk:
            before = self._types.get(field.name, pa.null())
            if before is None or field.name in encoded:
                self._types[field.name] = None
                continue
            if field.type != before and not pa.types.is_null(before) and not pa.types.is_null(field.type):
                self._differing.add(field.name)
            self._types[field.name] = _merged(before, field.type)

    def settle(self, chunks: ColumnChunks) -> None:
        """Try every value of the columns whose types differ; those that do not fit become JSON."""
        for name in sorted(self._differing):
            kind = self._types[name]
            if kind is not None and any(_promoted(chunk.column(0), kind) is None for chunk in chunks(name)):
                self._types[name] = None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field(name, pa.string(), metadata=_JSON_METADATA) if kind is None else pa.field(name, kind)
                for name, kind in self._types.items()
            ]
        )

    def conformed(self, chunk: pa.Table) -> pa.Table:
        """The chunk in the shared types, with nulls in the columns that it lacks."""
        encoded = json_columns(chunk.schema)
        columns = []
        for name, kind in self._types.items():
            if name not in chunk.column_names:
                columns.append(pa.chunked_array([pa.nulls(chunk.num_rows, kind or pa.string())]))
            elif kind is not None:
                columns.append(_promoted(chunk.column(name), kind))
            elif name in encoded:
                columns.append(chunk.column(name))
            else:
                columns.append(pa.chunked_array([_json_array(chunk.column(name).to_pylist())]))
        return pa.table(columns, schema=self.schema)


def _merged(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    if first == second:
        return first
    try:
        one, other = (pa.schema([pa.field("column", kind)]) for kind in (first, second))
        kind = pa.unify_schemas([one, other], promote_options="permissive").field("column").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
    return kind if _is_storable(kind) else None


def _promoted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """The column in a wider type, or None where a value would change."""
    if column.type == kind:
        return column
    try:
        empty = pa.schema([pa.field("column", kind)]).empty_table()
        joined = pa.concat_tables([empty, pa.table({"column": column})], promote_options="permissive").column(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
    if joined.type != kind:
        return None
    return joined if _is_plain(kind) or _same(joined.to_pylist(), column.to_pylist()) else None


def _column(values: list[Any]) -> tuple[pa.Array, bool]:
    """The values as an array, and whether they had to become JSON text."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _json_array(values), True
    fits = isinstance(array, pa.Array) and _is_storable(array.type)
    if fits and (_is_plain(array.type) or _same(array.to_pylist(), values)):
        return array, False
    return _json_array(values), True


def _same(first: list[Any], second: list[Any]) -> bool:
    return bool(without_nulls(first) == without_nulls(second))


def _json_array(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else to_json(without_nulls(value)) for value in values], pa.string())


def to_json(value: Any) -> str:
    """Compact JSON with sorted keys; bytes as hex, other foreign objects (dates, decimals) as text."""
    return _ENCODER.encode(value)


def _foreign(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return dict(value) if isinstance(value, Mapping) else str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_foreign)


def _is_storable(kind: pa.DataType) -> bool:
    """Parquet has no structs without fields; very wide structs are maps in disguise."""
    if pa.types.is_struct(kind):
        return 0 < kind.num_fields <= _MOST_FIELDS and all(_is_storable(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_storable(kind.value_type)
    return True


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow only ever chooses this type for values that come back equal: what JSON can hold.

    Of others it makes bytes of text that stands among bytes, and days of moments that stand among days.
    """
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    return bool(
        pa.types.is_null(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_int64(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_string(kind)
    )
