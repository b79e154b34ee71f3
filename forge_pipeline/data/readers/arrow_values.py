"""Arrow arrays -> the values of rows, losing nothing that JSON has no type for.

Dates, times and time stamps become ISO 8601 text in their full resolution, durations ISO 8601
durations, decimals their digits, binary values hex (as in `columns.to_json`), UUIDs their usual
form. A map with text keys becomes an object, any other map a list of ``{"key", "value"}``.
Dictionary-encoded values are decoded once and shared.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forge_pipeline.data.columns import json_columns, without_nulls
from forge_pipeline.data.readers import json_text
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows, problem
from forge_pipeline.errors import DataError

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 8 * 2**20
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def check_schema(schema: pa.Schema, where: str) -> None:
    """Refuse two columns, or two fields of a struct, of one name: a row can hold only one of them.

    Raises:
        DataError: There are such columns.
    """
    _check_names([field.name for field in schema], where)
    for field in schema:
        _check_type(field.type, f"{where}: column {field.name!r}")


def _check_type(kind: pa.DataType, where: str) -> None:
    fields = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    if pa.types.is_struct(kind):
        _check_names([field.name for field in fields], where)
    for field in fields:
        _check_type(field.type, where)


def _check_names(names: list[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: two columns are named {twice[0]!r}; give each its own name")


def rows_of_batch(batch: pa.RecordBatch, start: int) -> Rows:
    """The rows of a batch whose first row is row number `start` (from 1), null-valued keys left out."""
    encoded = frozenset(json_columns(batch.schema))
    for part in _parts(batch):
        try:
            rows = _rows(part)
        except UnicodeDecodeError:
            yield from _one_by_one(part, start, encoded)
        else:
            for number, values in enumerate(rows, start=start):
                yield _decoded(values, number, encoded) if encoded else ReadRow(number, without_nulls(values))
        start += part.num_rows


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices small enough to stand as Python objects."""
    size = batch.nbytes // max(1, batch.num_rows)
    step = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, size)))
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    if not any(_is_foreign(field.type) for field in batch.schema):
        return list(batch.to_pylist())
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _one_by_one(batch: pa.RecordBatch, start: int, encoded: frozenset[str]) -> Rows:
    """Rows of a batch in which some text is not UTF-8."""
    for i in range(batch.num_rows):
        one = batch.slice(i, 1)
        try:
            yield _decoded(_rows(one)[0], start + i, encoded)
        except UnicodeDecodeError:
            yield BrokenRow(start + i, f"column {_not_utf8(one)!r} holds text that is not UTF-8")


def _not_utf8(row: pa.RecordBatch) -> str:
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            _values(column)
        except UnicodeDecodeError:
            return str(name)
    return ""


def _decoded(values: dict[str, Any], number: int, encoded: frozenset[str]) -> ReadRow | BrokenRow:
    """The row with its JSON columns parsed."""
    for name in encoded:
        if values[name] is None:
            continue
        try:
            values[name] = json_text.scan(values[name], 0)[0]
        except (ValueError, RecursionError) as error:
            return BrokenRow(number, f"column {name!r} is marked as JSON and is not: {error}")
    reason = problem(values) if encoded else None
    return BrokenRow(number, reason) if reason else ReadRow(number, without_nulls(values))


def _is_foreign(kind: pa.DataType) -> bool:
    """Whether `to_pylist` would give objects that JSON has no type for, or not the same values each time."""
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return True
    if pa.types.is_nested(kind):
        return pa.types.is_map(kind) or any(_is_foreign(kind.field(i).type) for i in range(kind.num_fields))
    return not (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _values(array: pa.Array) -> list[Any]:
    """The values of an array as JSON has them."""
    kind = array.type
    if not _is_foreign(kind):
        return list(array.to_pylist())
    if isinstance(kind, pa.BaseExtensionType):
        return [None if v is None else str(v) for v in array.to_pylist()] if _is_uuid(kind) else _values(array.storage)
    if pa.types.is_dictionary(kind):
        shared = _values(array.dictionary)
        return [None if i is None else shared[i] for i in array.indices.to_pylist()]
    if pa.types.is_run_end_encoded(kind):
        return _values(pc.run_end_decode(array))
    if pa.types.is_nested(kind):
        return _nested(array)
    return _leaves(array)


def _is_uuid(kind: pa.DataType) -> bool:
    return str(getattr(kind, "extension_name", "")) == "arrow.uuid"


def _nested(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        columns = [_values(column) for column in array.flatten()]
        rows: list[Any] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]
    if pa.types.is_map(kind):
        entries = _lists(array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))))
        return [None if entry is None else _object(entry) for entry in entries]
    if pa.types.is_union(kind):
        return [
            None if v is None else v if isinstance(v, str | int | float | list | dict) else str(v)
            for v in array.to_pylist()
        ]
    return _lists(array)


def _lists(array: pa.Array) -> list[Any]:
    lengths = pc.list_value_length(array).to_pylist()
    items = iter(_values(array.flatten()))
    return [None if length is None else [next(items) for _ in range(length)] for length in lengths]


def _object(entries: list[dict[str, Any]]) -> Any:
    """A map as an object, where its keys are distinct texts."""
    keys = [entry["key"] for entry in entries]
    if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
        return {entry["key"]: entry["value"] for entry in entries}
    return entries


def _leaves(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return [None if value is None else value.hex() for value in array.to_pylist()]
    if pa.types.is_timestamp(kind):
        return _timestamps(array)
    if pa.types.is_duration(kind):
        return [None if v is None else _duration(v, kind.unit) for v in array.cast(pa.int64()).to_pylist()]
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind):
        return list(array.cast(pa.string()).to_pylist())
    return [None if v is None else v.hex() if isinstance(v, bytes) else str(v) for v in array.to_pylist()]


def _timestamps(array: pa.Array) -> list[str | None]:
    """``2024-01-31T12:00:00.000001``; with a time zone, the moment in UTC, ending in Z."""
    plain = array.cast(pa.timestamp(array.type.unit)) if array.type.tz else array
    zone = "Z" if array.type.tz else ""
    return [None if v is None else v.replace(" ", "T") + zone for v in plain.cast(pa.string()).to_pylist()]


def _duration(value: int, unit: str) -> str:
    digits = _DIGITS[unit]
    whole, part = divmod(abs(value), 10**digits)
    fraction = f".{part:0{digits}}".rstrip("0") if part else ""
    return f"{'-' if value < 0 else ''}PT{whole}{fraction}S"
