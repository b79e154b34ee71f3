"""Every string of every row, with the path that leads to it; and the text that a row stands for.

Strings are found by walking Arrow types where the rows are a table, and Python objects
where they are not; both give the same strings under the same paths, such as
``messages[1].content``. Keys of objects are columns, not text.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forge_pipeline.data.columns import Row
from forge_pipeline.dataset_audit.reading import Block
from forge_pipeline.dataset_audit.tokens import IntArray

# Columns whose text a model learns from, lower-cased.
_TEXT_COLUMNS = {
    "text", "content", "messages", "conversations", "conversation", "dialogue", "dialog", "prompt", "completion",
    "response", "chosen", "rejected", "instruction", "input", "output", "system", "question", "answer", "user",
    "assistant", "query", "context", "document", "code",
}  # fmt: skip
# Keys whose values name or number something.
_LABEL_KEYS = {"role", "from", "type", "name", "id", "tool_call_id", "uuid", "source", "lang", "language"}


@dataclass(frozen=True)
class Strings:
    """The strings under one path pattern.

    Attributes:
        pattern: Path with ``[*]`` for every list level: ``messages[*].content``.
        texts: The strings, none of them null, in row order.
        rows: Row of each string.
        positions: For each list level, the index of each string in its list.
    """

    pattern: str
    texts: pa.StringArray
    rows: IntArray
    positions: tuple[IntArray, ...]

    def path(self, index: int) -> str:
        """Path of one string: ``messages[1].content``."""
        parts = self.pattern.split("[*]")
        return (
            "".join(f"{part}[{level[index]}]" for part, level in zip(parts, self.positions, strict=False)) + parts[-1]
        )


def strings_of(block: Block) -> list[Strings]:
    """All strings of a block, by path pattern in order of first appearance."""
    if block.table is None:
        return _from_rows(block.rows)
    found: list[Strings] = []
    rows = np.arange(block.row_count, dtype=np.int64)
    for name, column in zip(block.table.column_names, block.table.columns, strict=True):
        if name in block.json_columns:
            decoded = tuple({} if text is None else {name: json.loads(text)} for text in column.to_pylist())
            found += _from_rows(decoded)
        else:
            found += _descend(column.combine_chunks(), rows, name, ())
    return found


def _descend(array: pa.Array, rows: IntArray, pattern: str, positions: tuple[IntArray, ...]) -> Iterator[Strings]:
    kind = array.type
    if isinstance(array, pa.ChunkedArray):  # what combine_chunks gives for a column without chunks or beyond 2 GiB
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], kind)
    if isinstance(kind, pa.ExtensionType | pa.BaseExtensionType):
        yield from _descend(array.storage, rows, pattern, positions)
    elif pa.types.is_dictionary(kind):
        yield from _descend(array.dictionary_decode(), rows, pattern, positions)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield _strings(array.cast(pa.string()), rows, pattern, positions)
    elif pa.types.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            yield from _descend(child, rows, f"{pattern}.{field.name}", positions)
    elif pa.types.is_map(kind):
        pairs = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        yield from _descend(array.cast(pairs), rows, pattern, positions)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parents = pc.list_parent_indices(array).to_numpy(zero_copy_only=False).astype(np.int64)
        levels = (*(level[parents] for level in positions), _index_in_run(parents))
        yield from _descend(pc.list_flatten(array), rows[parents], f"{pattern}[*]", levels)


def _strings(array: pa.StringArray, rows: IntArray, pattern: str, positions: tuple[IntArray, ...]) -> Strings:
    if array.null_count:
        valid = array.is_valid()
        kept = valid.to_numpy(zero_copy_only=False)
        array, rows = array.filter(valid), rows[kept]
        positions = tuple(level[kept] for level in positions)
    return Strings(pattern, array, rows, positions)


def _index_in_run(parents: IntArray) -> IntArray:
    """Of sorted numbers, the index of each among its equals: [3, 3, 5] -> [0, 1, 0]."""
    here = np.arange(len(parents), dtype=np.int64)
    begins = np.ones(len(parents), dtype=bool)
    begins[1:] = parents[1:] != parents[:-1]
    return here - np.maximum.accumulate(np.where(begins, here, 0)) if len(parents) else here


def _from_rows(rows: tuple[Row, ...]) -> list[Strings]:
    found: dict[str, tuple[list[str], list[int], list[tuple[int, ...]]]] = {}
    for number, row in enumerate(rows):
        for pattern, positions, text in _walk(row, "", ()):
            texts, numbers, levels = found.setdefault(pattern, ([], [], []))
            texts.append(text)
            numbers.append(number)
            levels.append(positions)
    return [
        Strings(
            pattern,
            pa.array(texts, pa.string()),
            np.array(numbers, dtype=np.int64),
            tuple(np.array(level, dtype=np.int64) for level in zip(*levels, strict=True)),
        )
        for pattern, (texts, numbers, levels) in found.items()
    ]


def _walk(value: Any, pattern: str, positions: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...], str]]:
    if isinstance(value, str):
        yield pattern, positions, value if value.isascii() else value.encode(errors="replace").decode()
    elif isinstance(value, dict):
        for key, item in value.items():
            key = key.encode(errors="replace").decode()
            yield from _walk(item, f"{pattern}.{key}" if pattern else key, positions)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, f"{pattern}[*]", (*positions, index))


def row_texts(strings: list[Strings], row_count: int) -> pa.StringArray:
    """What each row says: its text columns, joined by line feeds, or else all its strings.

    Columns come by name and messages in their order, so rows that say the same have the same text whatever the order
    of their keys. Roles, ids and the like do not count. A row without text is "".
    """
    saying = [item for item in strings if not _is_label(item.pattern)]
    texts = _joined([item for item in saying if _is_text_column(item.pattern)], row_count)
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    if not pc.any(blank).as_py():
        return texts
    return pc.if_else(blank, _joined(saying, row_count), texts)


def _is_label(pattern: str) -> bool:
    return pattern.replace("[*]", "").rsplit(".", 1)[-1].lower() in _LABEL_KEYS


def _is_text_column(pattern: str) -> bool:
    return _root(pattern).lower() in _TEXT_COLUMNS


def _root(pattern: str) -> str:
    """The column that a path pattern begins with."""
    return pattern.replace("[*]", "").split(".", 1)[0]


def _joined(strings: list[Strings], row_count: int) -> pa.StringArray:
    if not strings:
        return pa.array([""] * row_count, pa.string())
    strings = sorted(strings, key=lambda item: item.pattern)
    roots = sorted({_root(item.pattern) for item in strings})
    sizes = [len(item.rows) for item in strings]
    rows = np.concatenate([item.rows for item in strings])
    root = np.repeat([roots.index(_root(item.pattern)) for item in strings], sizes)
    first = np.concatenate([item.positions[0] if item.positions else np.zeros(len(item.rows), int) for item in strings])
    order = np.lexsort((first, root, rows))  # stable: by pattern where all these are equal
    texts = pa.concat_arrays([item.texts for item in strings]).take(pa.array(order))
    offsets = np.searchsorted(rows[order], np.arange(row_count + 1)).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), "\n")
