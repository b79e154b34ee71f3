"""One JSON text -> one row, as strictly as `integrity.loads_strict`, but with integers of any size kept exact.

Refused, each with its reason: repeated keys, NaN and infinities (also numbers too large for
a double), halves of surrogate pairs, values that are no object, nesting beyond `row.DEEPEST`.
"""

import json
import math
from typing import Any

from forge_pipeline.data.columns import without_nulls
from forge_pipeline.data.readers.row import DEEPEST, BrokenRow, ReadRow, problem

_SPACE = " \t\r\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = min(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {twice!r} in a JSON object")
    return result


def _double(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is beyond the range of a double")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# One decoder for all rows: building one for each, as `json.loads` does with hooks, costs as much as a short row.
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_double, parse_constant=_refuse)


def scan(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends.

    Raises:
        json.JSONDecodeError: Not JSON, or cut off.
        ValueError: JSON, but refused.
        RecursionError: Nested too deeply.
    """
    return _STRICT.raw_decode(text, at)


def parsed_row(text: str, line: int) -> ReadRow | BrokenRow:
    """The row of one text that holds one JSON value, white space around it allowed."""
    try:
        at = 0 if text[:1] == "{" else len(text) - len(text.lstrip(_SPACE))
        values, end = scan(text, at)
        if end != len(text) and text[end:].strip(_SPACE):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        if "\0" in text:
            return BrokenRow(line, "holds NUL bytes; the file was perhaps cut off or copied while being written")
        return BrokenRow(line, f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return BrokenRow(line, str(error))
    except RecursionError:
        return nested_too_deeply(line)
    return stored_row(values, text, line)


def stored_row(values: Any, text: str, line: int) -> ReadRow | BrokenRow:
    """The row for `values`, parsed from `text`. A glance at the text spares most rows the walk through them."""
    shallow = text.count("{") + text.count("[") <= DEEPEST
    whole = "\\ud" not in text and "\\uD" not in text
    if not (shallow and whole and isinstance(values, dict)) and (reason := problem(values)):
        return BrokenRow(line, reason)
    return ReadRow(line, without_nulls(values) if "null" in text else values)


def nested_too_deeply(line: int) -> BrokenRow:
    return BrokenRow(line, f"nested more than {DEEPEST} levels deep")
