"""The fast encoder is the slow one, byte for byte, and the fast reader refuses what the slow one refuses."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forge_pipeline.audit_log.encoding import MAX_DEPTH, decode, encode
from forge_pipeline.integrity import Digest, canonical_json, loads_strict

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["\ue000", "\U00010000", "\x7f", "\u2028", "\x1f"]
)
numbers = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(1e-7, 1e-3)
    | st.floats(1e14, 1e22)
    | st.integers(-(10**15), 10**15).map(lambda n: n / 1000)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(values)
@example({"\ue000": 1, "\U00010000": 2})
@example([0.0, -0.0, 1.0, 1e16, 1e-4, 9.999e-5, 1e21, 1e-7, 5e-324, 1.7976931348623157e308])
def test_a_value_is_encoded_as_the_rfc_asks_and_read_back(value: Any) -> None:
    line = encode(value)
    assert line == canonical_json(value)
    assert decode(line) == value


ALIKE = st.sampled_from(list('{}[]":,.-+eE0123456789 aNn\\tu\ue000\U00010000'))


@settings(max_examples=600, deadline=None)
@given(values, st.lists(st.tuples(st.integers(0, 200), ALIKE, st.booleans()), max_size=3))
def test_a_line_is_read_if_and_only_if_it_is_canonical(value: Any, edits: list[tuple[int, str, bool]]) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for place, character, is_exchange in edits:
        place %= len(text) + 1
        text = text[:place] + character + text[place + is_exchange :]
    line = text.encode()
    try:
        read = loads_strict(text)
        is_canonical = canonical_json(read) == line
    except ValueError:
        is_canonical = False
    if is_canonical:
        assert decode(line) == read
    else:
        with pytest.raises(ValueError, match=r"."):
            decode(line)


LIKE_STRINGS = {"a digest": Digest.of(b""), "a tuple": (1, 2.5), "true beside one": [True, 1]}


@pytest.mark.parametrize("value", LIKE_STRINGS.values(), ids=LIKE_STRINGS.keys())
def test_what_is_like_json_is_encoded_as_it(value: object) -> None:
    assert encode({"x": value}) == canonical_json({"x": value})


def nested(depth: int, leaf: object = 1) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize("leaf", [1, 1e17, "\U00010000"], ids=["plain", "a large number", "beyond the BMP"])
def test_there_is_one_greatest_depth_for_writing_and_reading(leaf: object) -> None:
    assert decode(encode(nested(MAX_DEPTH, leaf))) == nested(MAX_DEPTH, leaf)
    with pytest.raises(ValueError, match="nested too deeply"):
        encode(nested(MAX_DEPTH + 1, leaf))
    with pytest.raises(ValueError, match="nested too deeply"):
        decode(canonical_json(nested(MAX_DEPTH + 1, leaf)))


def test_many_objects_beside_one_another_are_not_deep() -> None:
    value = [{"a": [1]} for _ in range(500)]
    assert decode(encode(value)) == value
