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
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"not representable as canonical JSON (RFC 8785): {error}") from error


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

    try:
        return json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants, parse_int=number)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply to read") from error
