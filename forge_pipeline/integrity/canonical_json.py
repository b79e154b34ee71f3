"""The one definition of canonical bytes: RFC 8785 (JSON Canonicalization Scheme).

Refuses what it cannot encode exactly (NaN, infinities, integers beyond 2**53 - 1,
keys that are not strings) instead of coercing it. `loads_strict` is the reader that
goes with it: duplicate keys are an error, as RFC 8785 3.1 (I-JSON, RFC 7493) asks.
"""

import json
from typing import Any

import rfc8785

from forge_pipeline.integrity.digest import Digest


def canonical_json(value: Any) -> bytes:
    """Canonical UTF-8 bytes of a JSON value (dict, list, str, int, float, bool, None).

    Raises:
        ValueError: The value, or something inside it, is not exactly representable.
    """
    try:
        return _encoded(value)
    except RecursionError as error:
        raise ValueError("nested too deeply for canonical JSON") from error
    except (rfc8785.CanonicalizationError, TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"not representable as canonical JSON (RFC 8785): {error}") from error


# Without floats, and with ASCII keys, the standard library's compiled encoder writes the same bytes many times faster.
_encode_plain = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")).encode


def _encoded(value: Any, depth: int = 0) -> bytes:
    """Plain parts by the compiled encoder, everything else by the reference implementation."""
    if _is_plain(value):
        return _encode_plain(value).encode()
    if depth < _DEEPEST_SPLIT and type(value) is dict and all(type(key) is str and key.isascii() for key in value):
        members = (_encode_plain(key).encode() + b":" + _encoded(value[key], depth + 1) for key in sorted(value))
        return b"{" + b",".join(members) + b"}"
    return rfc8785.dumps(value)


_DEEPEST_SPLIT = 3  # objects inside one another whose members are encoded one by one


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is bool or value is None or isinstance(value, str):
        return True
    if kind is int:
        return bool(-(2**53) < value < 2**53)
    if kind is dict:
        return all(type(key) is str and key.isascii() for key in value) and all(map(_is_plain, value.values()))
    return (kind is list or kind is tuple) and all(map(_is_plain, value))


def json_digest(value: Any) -> Digest:
    """Digest of a JSON value's canonical bytes."""
    return Digest.of(canonical_json(value))


def loads_strict(text: str | bytes) -> Any:
    """Parse JSON, refusing duplicate keys and NaN/Infinity literals.

    An integer beyond 2**53 - 1 is read as the double that it is in canonical JSON, which
    writes 1e17 as 100000000000000000; so ``canonical_json(loads_strict(b)) == b``.

    Raises:
        ValueError: Not JSON, or one of the above.
    """
    try:
        return _STRICT.decode(text if isinstance(text, str) else text.decode(json.detect_encoding(text)))
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply to read") from error


def _strict_decoder() -> json.JSONDecoder:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"duplicate key {twice[0]!r} in a JSON object")
        return result

    def no_constants(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def number(digits: str) -> int | float:
        value = int(digits)
        return value if abs(value) < 2**53 else float(digits)

    return json.JSONDecoder(object_pairs_hook=no_duplicates, parse_constant=no_constants, parse_int=number)


_STRICT = _strict_decoder()
