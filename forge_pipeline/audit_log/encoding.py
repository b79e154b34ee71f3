"""Canonical JSON of entries, fast where the C encoder of `json` gives the bytes of RFC 8785.

It does for what nearly every entry is made of: strings below the surrogates, numbers that
both write alike, lists and objects of these. Anything else goes to
`forge_pipeline.integrity.canonical_json`, whose answers, and refusals, these functions share:

    encode(value) == canonical_json(value)
    decode(encode(value)) == value, and decode refuses every line that encode does not write

The two encoders differ in three places. RFC 8785 sorts keys by UTF-16 code units, `json` by
code points: the same order below U+D800. RFC 8785 writes numbers as ECMAScript does, `json`
as `repr` does: the same digits for a float that has a fraction and lies in [1e-4, 1e16).
RFC 8785 refuses integers beyond 2**53 - 1.

Both refuse what is nested more deeply than `MAX_DEPTH`, so that what one process could write,
another can read, however much of its stack is in use.
"""

import json
from typing import Any

from forge_pipeline.integrity import canonical_json, loads_strict

_SURROGATES = "\ud800"
MAX_DEPTH = 100  # objects and lists inside one another


def encode(value: Any) -> bytes:
    """Canonical UTF-8 bytes of a JSON value.

    Raises:
        ValueError: The value, or something inside it, is not exactly representable.
    """
    if _is_plain(value, MAX_DEPTH):
        return _encoder.encode(value).encode("utf-8")
    _check_depth(value, MAX_DEPTH)
    return canonical_json(value)


def decode(line: bytes) -> Any:
    """The value of which `line` is the canonical form.

    Raises:
        ValueError: It is not JSON, or not in that form.
    """
    text = line.decode("utf-8")
    if _is_below_surrogates(text) and text.count("{") + text.count("[") <= MAX_DEPTH:
        try:
            value = _decoder.decode(text)
            if _encoder.encode(value) == text:
                return value
        except ValueError:
            pass  # the slow path says what is wrong, if anything is
    value = loads_strict(text)
    _check_depth(value, MAX_DEPTH)
    if canonical_json(value) != line:
        raise ValueError("the line is not in canonical form (RFC 8785)")
    return value


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return _is_below_surrogates(value)
    if value is None or value is True or value is False:
        return True
    kind = type(value)
    if kind is int:
        return bool(-(2**53) < value < 2**53)
    if kind is float:
        return _is_written_alike(value)
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():
            if not (isinstance(key, str) and _is_below_surrogates(key) and _is_plain(item, depth - 1)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 - a generator would take twice as long
            if not _is_plain(item, depth - 1):
                return False
        return True
    return False


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            raise ValueError(f"nested too deeply: more than {MAX_DEPTH} objects and lists inside one another")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, depth - 1)


def _is_below_surrogates(text: str) -> bool:
    return text.isascii() or max(text) < _SURROGATES


def _is_written_alike(number: float) -> bool:
    return not number.is_integer() and 1e-4 <= abs(number) < 1e16


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a duplicate key")
    return members


def _float(digits: str) -> float:
    number = float(digits)
    if not _is_written_alike(number):
        raise ValueError("a number that the two encoders write in two ways")
    return number


def _int(digits: str) -> int:
    if len(digits) > 15:  # from here on it may be beyond 2**53
        raise ValueError("a number that the two encoders write in two ways")
    return int(digits)


_encoder = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)
_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_float, parse_int=_int)
