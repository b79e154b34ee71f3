"""Every string of every row, with the path that leads to it; and the text that a row stands for.

Strings are found by walking Arrow types where the rows are a table, and Python objects
where they are not; both give the same strings under the same paths, such as
``messages[1].content``. Keys of objects are columns, not text. Where a string stands is
worked out when it is asked for, which is where something was found.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.data.columns import Row
from forge_pipeline.data.row_texts import LABEL_KEYS, TEXT_COLUMNS
from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit.arrow_arrays import (
    boolean_array,
    null_scalar,
    number_array,
    number_scalar,
    numpy_of,
    string_array,
    text_scalar,
)
from forge_pipeline.dataset_audit.reading import Block
from forge_pipeline.dataset_audit.tokens import IntArray, ranges

BoolArray = npt.NDArray[np.bool_]

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Places(Protocol):
    """Where the strings of one path pattern stand."""

    def of(self, indices: IntArray) -> tuple[IntArray, tuple[IntArray, ...]]:
        """Row of each string, and for each list level its index in its list."""
        ...

    def starts(self, row_count: int) -> IntArray:
        """The first string of each row, and behind the last row the number of strings; shape (row_count + 1,)."""
        ...


@dataclass(frozen=True)
class _ListPlaces:
    """Of strings in Arrow lists: `levels` are list offsets, the outer ones first; `kept` are those not null, or all."""

    levels: tuple[IntArray, ...]
    kept: IntArray | None = None

    def of(self, indices: IntArray) -> tuple[IntArray, tuple[IntArray, ...]]:
        at = indices if self.kept is None else self.kept[indices]
        positions: list[IntArray] = []
        for offsets in reversed(self.levels):
            parent = np.searchsorted(offsets, at, side="right") - 1
            positions.append(at - offsets[parent])
            at = parent
        return at, tuple(reversed(positions))

    def starts(self, row_count: int) -> IntArray:
        at = np.arange(row_count + 1, dtype=np.int64)
        for offsets in self.levels:
            at = offsets[at]
        return at if self.kept is None else np.searchsorted(self.kept, at).astype(np.int64)


@dataclass(frozen=True)
class _KnownPlaces:
    """Of strings found one by one."""

    rows: IntArray
    positions: tuple[IntArray, ...]

    def of(self, indices: IntArray) -> tuple[IntArray, tuple[IntArray, ...]]:
        return self.rows[indices], tuple(level[indices] for level in self.positions)

    def starts(self, row_count: int) -> IntArray:
        return np.searchsorted(self.rows, np.arange(row_count + 1)).astype(np.int64)


@dataclass(frozen=True)
class Strings:
    """The strings under one path pattern.

    Attributes:
        pattern: Path with ``[*]`` for every list level: ``messages[*].content``.
        texts: The strings, none of them null, in row order.
        places: Where they stand.
    """

    pattern: str
    texts: pa.StringArray | pa.LargeStringArray
    places: Places

    @cached_property
    def _all_places(self) -> tuple[IntArray, tuple[IntArray, ...]]:
        return self.places.of(np.arange(len(self.texts), dtype=np.int64))

    @property
    def rows(self) -> IntArray:
        """Row of each string."""
        return self._all_places[0]

    @property
    def positions(self) -> tuple[IntArray, ...]:
        """For each list level, the index of each string in its list."""
        return self._all_places[1]

    def path(self, index: int) -> str:
        """Path of one string: ``messages[1].content``."""
        return self.paths(np.array([index], dtype=np.int64))[0]

    def paths(self, indices: IntArray) -> list[str]:
        """Path of each of some strings."""
        parts = self.pattern.split("[*]")
        _, positions = self.places.of(indices)
        if len(parts) == 1:
            return parts * len(indices)
        known: dict[tuple[int, ...], str] = {}
        paths = []
        for at in zip(*(level.tolist() for level in positions), strict=True):
            if at not in known:
                known[at] = "".join(f"{part}[{place}]" for part, place in zip(parts, at, strict=False)) + parts[-1]
            paths.append(known[at])
        return paths


def strings_of(block: Block) -> list[Strings]:
    """All strings of a block, by path pattern in order of first appearance."""
    if block.table is None:
        return _from_rows(block.rows)
    found: list[Strings] = []
    for name, column in zip(block.table.column_names, block.table.columns, strict=True):
        if name in block.json_columns:
            decoded = tuple({} if text is None else {name: json.loads(text)} for text in column.to_pylist())
            found += _from_rows(decoded)
        else:
            found += _descend(column, name, ())
    return found


def _descend(array: pa.Array, pattern: str, levels: tuple[IntArray, ...]) -> Iterator[Strings]:
    kind = array.type
    if isinstance(array, pa.ChunkedArray):
        chunks = array.chunks or [pa.nulls(0, kind)]
        array = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    if isinstance(kind, pa.ExtensionType | pa.BaseExtensionType):
        yield from _descend(array.storage, pattern, levels)
    elif pa.types.is_dictionary(kind):
        yield from _descend(array.dictionary_decode(), pattern, levels)
    elif pa.types.is_run_end_encoded(kind):
        yield from _descend(pc.run_end_decode(array), pattern, levels)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield _strings(array, pattern, levels)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        try:  # some writers of Parquet do not say that their bytes are text
            yield _strings(array.cast(pa.large_binary()).cast(pa.large_string()), pattern, levels)
        except pa.ArrowInvalid:
            return
    elif pa.types.is_string_view(kind):
        yield _strings(pc.cast(array, pa.large_string()), pattern, levels)
    elif pa.types.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            yield from _descend(child, f"{pattern}.{field.name}", levels)
    elif pa.types.is_map(kind):
        pairs = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        yield from _descend(pc.cast(array, pairs), pattern, levels)
    elif any(is_kind(kind) for is_kind in _LISTS):
        yield from _descend(pc.list_flatten(array), f"{pattern}[*]", (*levels, _list_offsets(array)))
    elif pa.types.is_union(kind):
        for item in _from_rows(tuple({pattern: value} for value in array.to_pylist())):
            rows, positions = _ListPlaces(levels).of(item.rows)
            yield Strings(item.pattern, item.texts, _KnownPlaces(rows, (*positions, *item.positions)))


def _list_offsets(array: pa.Array) -> IntArray:
    """Where each list begins among the values of all that are not null, and how many values there are."""
    lengths = pc.list_value_length(array)
    if lengths.null_count:
        lengths = pc.fill_null(lengths, number_scalar(0, lengths.type))
    lengths = numpy_of(lengths)
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _strings(array: pa.Array, pattern: str, levels: tuple[IntArray, ...]) -> Strings:
    if not array.null_count:
        return Strings(pattern, array, _ListPlaces(levels))
    valid = array.is_valid()
    kept = np.flatnonzero(numpy_of(valid))
    return Strings(pattern, array.filter(valid), _ListPlaces(levels, kept))


def _from_rows(rows: tuple[Row, ...]) -> list[Strings]:
    found: dict[str, tuple[list[str], list[int], list[tuple[int, ...]]]] = {}
    for number, row in enumerate(rows):
        for pattern, positions, text in _walk(row):
            texts, numbers, levels = found.setdefault(pattern, ([], [], []))
            texts.append(text)
            numbers.append(number)
            levels.append(positions)
    return [
        Strings(
            pattern,
            string_array(texts, pa.large_string()),
            _KnownPlaces(
                np.array(numbers, dtype=np.int64),
                tuple(np.array(level, dtype=np.int64) for level in zip(*levels, strict=True)),
            ),
        )
        for pattern, (texts, numbers, levels) in found.items()
    ]


def _walk(row: Row) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Path pattern, positions and text of each string of a row, in order; on a stack of its own, however deep."""
    open_values: list[tuple[str, tuple[int, ...], Any]] = [("", (), row)]
    while open_values:
        pattern, positions, value = open_values.pop()
        if isinstance(value, str):
            yield pattern, positions, value if value.isascii() else value.encode(errors="replace").decode()
        elif isinstance(value, dict):
            keys = [
                (key if key.isascii() else key.encode(errors="replace").decode(), item) for key, item in value.items()
            ]
            open_values += [(f"{pattern}.{key}" if pattern else key, positions, item) for key, item in reversed(keys)]
        elif isinstance(value, list | tuple):
            inner = f"{pattern}[*]"
            open_values += [(inner, (*positions, index), value[index]) for index in reversed(range(len(value)))]


def row_texts(strings: Sequence[Strings], row_count: int) -> pa.LargeStringArray:
    """What each row says: its text columns, joined by line feeds, or else all its strings.

    Columns come by name and messages in their order, so rows that say the same have the same text whatever the order
    of their keys. Roles, ids and the like do not count. A row without text is "".
    """
    saying = [item for item in strings if not _is_label(item.pattern)]
    texts = _joined([item for item in saying if _is_text_column(item.pattern)], row_count)
    blank = blank_texts(texts)
    if not blank.any() or all(_is_text_column(item.pattern) for item in saying):
        return texts
    return pc.if_else(boolean_array(blank), _joined(saying, row_count), texts)


def _is_label(pattern: str) -> bool:
    return pattern.replace("[*]", "").rsplit(".", 1)[-1].lower() in LABEL_KEYS


def _is_text_column(pattern: str) -> bool:
    return _root(pattern).lower() in TEXT_COLUMNS


def _root(pattern: str) -> str:
    """The column that a path pattern begins with."""
    return pattern.replace("[*]", "").split(".", 1)[0]


def _joined(strings: Sequence[Strings], row_count: int) -> pa.LargeStringArray:
    """The strings of each row, columns by name; in a column by the first list's index, then by pattern."""
    by_root = groupby(sorted(strings, key=lambda item: (_root(item.pattern), item.pattern)), lambda i: _root(i.pattern))
    columns = [_joined_column(list(items), row_count) for _, items in by_root]
    if not columns:
        return string_array([""] * row_count, pa.large_string())
    if len(columns) == 1:
        return pc.fill_null(columns[0], text_scalar("", pa.large_string()))
    silent = columns[0].is_null()
    for column in columns[1:]:
        silent = pc.and_(silent, column.is_null())
    # Arrow 26 leaves rows out that are null in every column: none may be.
    columns[0] = pc.if_else(silent, text_scalar("", pa.large_string()), columns[0])
    return pc.binary_join_element_wise(*columns, text_scalar("\n", pa.large_string()), null_handling="skip")


def _joined_column(strings: list[Strings], row_count: int) -> pa.LargeStringArray:
    """The strings of one column, joined by row; null for a row that has none."""
    if len(strings) == 1:  # they stand in order already
        texts, starts = strings[0].texts, strings[0].places.starts(row_count)
        if len(texts) == row_count and np.array_equal(starts, np.arange(row_count + 1)):
            return pc.cast(texts, pa.large_string())
    else:
        rows = np.concatenate([item.rows for item in strings])
        first = np.concatenate(
            [item.positions[0] if item.positions else np.zeros(len(item.rows), int) for item in strings]
        )
        order = np.lexsort((first, rows))  # stable: by pattern where both are equal
        texts = pc.take(
            pa.concat_arrays([pc.cast(item.texts, pa.large_string()) for item in strings]), number_array(order)
        )
        starts = np.searchsorted(rows[order], np.arange(row_count + 1)).astype(np.int64)
    # A block has fewer than 2**31 strings.
    lists = pa.ListArray.from_arrays(number_array(starts.astype(np.int32)), texts)
    joined = pc.cast(pc.binary_join(lists, text_scalar("\n", texts.type)), pa.large_string())
    empty = starts[1:] == starts[:-1]
    return pc.if_else(boolean_array(empty), null_scalar(pa.large_string()), joined) if empty.any() else joined


def text_bytes(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], IntArray]:
    """UTF-8 of all texts, and where each begins; the last offset ends the last text. Nothing is copied."""
    _, offsets, data = texts.buffers()
    begins = np.frombuffer(offsets, dtype=np.int64, count=texts.offset + len(texts) + 1)[texts.offset :]
    return (np.frombuffer(data, dtype=np.uint8) if data else np.zeros(0, dtype=np.uint8)), begins


def blank_texts(texts: pa.LargeStringArray) -> BoolArray:
    """Which texts are empty or white space; shape (texts,)."""
    data, offsets = text_bytes(texts)
    starts = offsets[:-1]
    blank: BoolArray = offsets[1:] == starts
    if len(data):  # only what begins with white space, or beyond ASCII, is looked at
        first = data[np.minimum(starts, len(data) - 1)]
        chosen = np.flatnonzero(~blank & ((first <= 0x20) | (first >= 0x80)))
        if len(chosen):
            trimmed = pc.utf8_trim_whitespace(pc.take(texts, number_array(chosen)))
            blank[chosen] = numpy_of(pc.equal(trimmed, text_scalar("", pa.large_string())))
    return blank


def text_hashes(texts: pa.LargeStringArray) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each text's UTF-8; shape (texts,).

    The sum of its eight-byte words, each mixed with its place by the finalizer of MurmurHash3, and the length, mixed
    again. For counting equal texts: among a billion different ones, less than one pair in thirty is expected to be
    taken for equal. It withstands no one who looks for such pairs.
    """
    data, offsets = text_bytes(texts)
    padded = np.concatenate([data[offsets[0] : offsets[-1]], np.zeros(8, dtype=np.uint8)])
    begins = offsets[:-1] - offsets[0]
    lengths = np.diff(offsets)
    whole, rest = lengths >> 3, lengths & 7
    counts = whole + (rest > 0)
    place = ranges(np.zeros(len(counts), dtype=np.int64), counts)
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))[np.repeat(begins, counts) + 8 * place]
    ends = np.cumsum(counts)
    tails = np.flatnonzero(rest)
    words[ends[tails] - 1] &= (np.uint64(1) << (8 * rest[tails]).astype(np.uint64)) - np.uint64(1)
    words ^= np.uint64(0x632BE59BD9B4E019) + place.astype(np.uint64) * _GOLDEN
    sums = np.zeros(len(words) + 1, dtype=np.uint64)
    np.cumsum(mixed(words), out=sums[1:])
    return mixed(sums[ends] - sums[ends - counts] + lengths.astype(np.uint64) * _GOLDEN)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """MurmurHash3's 64-bit finalizer."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))
