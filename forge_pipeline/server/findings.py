"""What pydantic found wrong with a request, in words: the field, the value found, what was expected."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_MOST = 20  # of a body that are named; the rest are counted
# How pydantic names the branches of a field that takes one type or another.
_BRANCH = re.compile(r"constrained-str|str|int|float|bool|list\[.*\]|dict\[.*\]")
_OF_ANOTHER_TYPE = frozenset({"string_type", "list_type", "dict_type", "int_type", "float_type", "bool_type"})


def words_of(found: Sequence[Any]) -> str:
    """One sentence for each finding, the first `_MOST` of them."""
    told = _one_branch(found)
    words = "; ".join(_sentence(finding) for finding in told[:_MOST])
    more = len(told) - _MOST
    return words if more <= 0 else f"{words}; and {more} more"


def _one_branch(found: Iterable[Any]) -> list[Any]:
    """Of a field that takes several types: what is wrong with the value as the type that it has.

    Where it has none of them, one finding that names them all.
    """
    fields: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}
    for finding in found:
        path = tuple(finding["loc"])
        at = next((i for i, part in enumerate(path) if i > 1 and _is_branch(part)), None)
        if at is None or (at == len(path) - 1 and finding["type"] == "extra_forbidden"):  # a key that is called so
            fields[(*path, len(fields))] = [(None, finding)]
        else:
            fields.setdefault(path[:at], []).append((path[at], finding | {"loc": path[:at] + path[at + 1 :]}))
    told = []
    for branches in fields.values():
        others = {branch for branch, finding in branches if finding["type"] in _OF_ANOTHER_TYPE and branch is not None}
        meant = [finding for branch, finding in branches if branch not in others]
        if not meant:
            expected = " or ".join(str(finding["msg"]).removeprefix("Input should be ") for _, finding in branches)
            meant = [branches[0][1] | {"msg": f"Input should be {expected}"}]
        told += meant
    return told


def _is_branch(part: Any) -> bool:
    return isinstance(part, str) and _BRANCH.fullmatch(part) is not None


def _sentence(finding: Any) -> str:
    kind, path = finding["type"], [str(part) for part in finding["loc"]]
    name = _short(".".join(path[1:]))
    if kind == "json_invalid":
        return f"The body is not valid JSON: {finding.get('ctx', {}).get('error', finding['msg'])}"
    if not name and kind == "value_error":  # a rule over several fields names them itself
        return str(finding["msg"]).removeprefix("Value error, ")
    if not name:
        return "The body must be a JSON object sent as application/json"
    if kind == "missing":
        return f"{name}: is required and missing"
    if kind == "extra_forbidden":
        return f"{name}: is not a field of this request"
    message = str(finding["msg"]).removeprefix("Value error, ")
    return f"{name}: found {_short(repr(finding.get('input')))}. {message}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
