"""A row that was read, a row that could not be, and what a row must be to be stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from forge_pipeline.data.columns import Row

LONGEST_ROW = 256 * 2**20  # bytes (or characters) of one line, row or element; a longer one is skipped, not held
DEEPEST = 32  # levels of nesting; more is no training row, and recursion in the libraries below has an end


@dataclass(frozen=True)
class ReadRow:
    """A row and where it began: `line` counts from 1.

    In Parquet and Arrow files it counts rows; in documents, pages (PDF) or blocks.
    """

    line: int
    values: Row


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    line: int
    reason: str


Rows = Iterator[ReadRow | BrokenRow]


def too_long(line: int, unit: str = "line") -> BrokenRow:
    return BrokenRow(line, f"the {unit} is longer than {LONGEST_ROW // 2**20} MiB, the most that one row may hold")


def problem(value: Any, depth: int = 0) -> str | None:
    """Why parsed JSON cannot be stored as a row, or None."""
    if not depth and not isinstance(value, dict):
        return f"{type(value).__name__} instead of an object with named columns"
    if depth > DEEPEST:
        return f"nested more than {DEEPEST} levels deep"
    if isinstance(value, str):
        return "text with half of a surrogate pair (\\ud800-\\udfff)" if has_surrogate(value) else None
    if isinstance(value, dict):
        keys = (problem(key, depth + 1) for key in value if isinstance(key, str))
        inner = (problem(item, depth + 1) for item in value.values())
        return next((found for found in (*keys, *inner) if found), None)
    if isinstance(value, list):
        return next((found for item in value if (found := problem(item, depth + 1))), None)
    return None


def has_surrogate(text: str) -> bool:
    """Whether `text` holds half of a surrogate pair, which no UTF-8 file can."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
