"""JSON lines of one shape, read by a compiled loop: five times as fast as a reader of any JSON.

The shape is what the first lines have: keys in one order; values that are strings, lists
of strings, or lists of objects of strings (a chat). At the first byte that does not fit,
down to an escape that stands for half a character, the loop (`json_kernels`) gives up and
the caller reads the lines in another way. So what it returns is what any reader returns.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import small_pages
from forge_pipeline.dataset_audit.arrow_arrays import number_array

STRING, STRINGS, OBJECTS = 0, 1, 2
"""Kinds of values: a string, a list of strings, a list of objects of strings."""

PAD = 8  # bytes that may be read and written behind a string
_QUOTE, _FEED = np.uint8(0x22), np.uint8(0x0A)

_PIECE = 1 << 16
_of_thread = small_pages.of_thread()

Bytes: TypeAlias = bytes | bytearray

ParseLines = Callable[..., int | None]
"""`json_kernels.parse_lines`, compiled."""


@dataclass(frozen=True)
class Shape:
    """The columns of the lines.

    Attributes:
        names: Of the columns.
        kinds: `STRING`, `STRINGS` or `OBJECTS`, of each column.
        keys: The keys of each column's objects; none for other kinds.
    """

    names: tuple[str, ...]
    kinds: tuple[int, ...]
    keys: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, schema: pa.Schema) -> "Shape | None":
        """The shape of lines that have this schema; None where they are of another sort."""
        kinds, keys = [], []
        for field in schema:
            kind, own = _kind_of(field.type)
            if kind is None or not all(_is_plain(key) for key in (field.name, *own)):
                return None
            kinds.append(kind)
            keys.append(own)
        return cls(tuple(schema.names), tuple(kinds), tuple(keys)) if kinds else None


def _kind_of(kind: pa.DataType) -> tuple[int | None, tuple[str, ...]]:
    if pa.types.is_string(kind):
        return STRING, ()
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return STRINGS, ()
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type.num_fields:
        fields = list(kind.value_type)
        if all(pa.types.is_string(field.type) for field in fields):
            return OBJECTS, tuple(field.name for field in fields)
    return None, ()


def _is_plain(key: str) -> bool:
    """Whether a key stands in JSON as it is."""
    return not any(char in '"\\' or char < " " for char in key)


def read_lines(data: Bytes, shape: Shape, parse_lines: ParseLines) -> pa.Table | None:
    """The lines as a table; None if one is not of that shape.

    Args:
        data: UTF-8.
        shape: Of every line.
        parse_lines: The compiled loop.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    feeds, quotes = _counts(octets, _FEED, _QUOTE)
    rows = feeds + (not data.endswith(b"\n"))
    leaves = [max(len(own), 1) for own in shape.keys]
    first_leaf = np.cumsum([0, *leaves])
    names = [name.encode() for name in (*shape.names, *(key for own in shape.keys for key in own))]
    first_key = len(shape.names) + np.cumsum([0, *(len(own) for own in shape.keys)])
    most = quotes // 2 + 2
    texts = _room(int(first_leaf[-1]), len(data) + PAD)
    ends = np.zeros((int(first_leaf[-1]), most), dtype=np.int32)
    counts = np.zeros(int(first_leaf[-1]), dtype=np.int64)
    lists = np.zeros((len(shape.names), rows + 1), dtype=np.int32)
    if (
        len(data) >= 1 << 31
        or parse_lines(
            octets,
            np.frombuffer(b"".join(names), dtype=np.uint8),
            np.cumsum([0, *(len(name) for name in names)]).astype(np.int64),
            np.array(shape.kinds, dtype=np.int64),
            first_key.astype(np.int64),
            first_leaf.astype(np.int64),
            texts,
            ends,
            counts,
            lists,
        )
        != rows
    ):
        return None

    def strings(leaf: int) -> pa.StringArray:
        count = int(counts[leaf])
        offsets = ends[leaf, : count + 1]
        buffers = [pa.py_buffer(offsets), pa.py_buffer(texts[leaf, : int(offsets[-1])])]
        return pa.StringArray.from_buffers(count, *buffers)

    columns: list[pa.Array] = []
    for column, (kind, own) in enumerate(zip(shape.kinds, shape.keys, strict=True)):
        values = [strings(int(first_leaf[column]) + number) for number in range(leaves[column])]
        items = pa.StructArray.from_arrays(values, list(own)) if kind == OBJECTS else values[0]
        columns.append(items if kind == STRING else pa.ListArray.from_arrays(number_array(lists[column]), items))
    return pa.table(columns, names=list(shape.names))


def _counts(octets: npt.NDArray[np.uint8], *values: np.uint8) -> list[int]:
    """How often each value occurs. Piece by piece: an array of answers for all of it would be new memory."""
    counts = [0] * len(values)
    same = np.empty(_PIECE, dtype=np.bool_)
    for first in range(0, len(octets), _PIECE):
        piece = octets[first : first + _PIECE]
        for index, value in enumerate(values):
            counts[index] += int(np.count_nonzero(np.equal(piece, value, out=same[: len(piece)])))
    return counts


_ROOM_STEP = 1 << 20  # bytes: of shards that are cut where lines end, a later one is often longer by some


def _room(leaves: int, size: int) -> npt.NDArray[np.uint8]:
    """Room for the bytes of each leaf; what is in it may be anything.

    It is each thread's own, used again once no table has a part of it: new memory, which the system fills with zeros,
    would cost as much as to read the lines. Pages of it that stay empty cost nothing.
    """
    last: npt.NDArray[np.uint8] | None = getattr(_of_thread, "room", None)
    # Three know it: the thread, `last` and the call. Every part that a table has is one more.
    if last is None or len(last) < leaves * size or sys.getrefcount(last) > 3:
        last = _of_thread.room = small_pages.zeros(-(-leaves * size // _ROOM_STEP) * _ROOM_STEP, np.uint8)
    return last[: leaves * size].reshape(leaves, size)
