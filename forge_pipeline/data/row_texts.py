"""What a row says: the text by which rows are compared for near-duplicates.

The texts of its text columns, joined by line feeds, or else all its texts. Columns come
by name and messages in their order, so rows that say the same have the same text
whatever the order of their keys; roles, ids and the like do not count. The dataset audit
compares rows by the same text, which it builds from Arrow columns.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Columns whose text a model learns from, lower-cased.
TEXT_COLUMNS = frozenset({
    "text", "content", "messages", "conversations", "conversation", "dialogue", "dialog", "prompt", "completion",
    "response", "chosen", "rejected", "instruction", "input", "output", "system", "question", "answer", "user",
    "assistant", "query", "context", "document", "code",
})  # fmt: skip
# Keys whose values name or number something.
LABEL_KEYS = frozenset({"role", "from", "type", "name", "id", "tool_call_id", "uuid", "source", "lang", "language"})


class _Text(NamedTuple):
    """A text and its place: column, index in its outermost list, path pattern (``messages[*].content``)."""

    column: str
    turn: int
    pattern: str
    text: str


def row_text(row: Mapping[str, Any]) -> str:
    """The text of one row; "" where there is none."""
    said = [found for name, value in row.items() for found in _texts(value, name, 0, False)]
    text = _joined([found for found in said if found.column.lower() in TEXT_COLUMNS])
    return text if text.strip() else _joined(said)


def _joined(texts: list[_Text]) -> str:
    return "\n".join(found.text for found in sorted(texts, key=lambda found: found[:3]))


def _texts(value: Any, pattern: str, turn: int, in_list: bool) -> Iterator[_Text]:
    if isinstance(value, str):
        keys = pattern.replace("[*]", "").split(".")
        if keys[-1].lower() not in LABEL_KEYS:
            yield _Text(keys[0], turn, pattern, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{pattern}.{key}", turn, in_list)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(item, f"{pattern}[*]", turn if in_list else number, True)
