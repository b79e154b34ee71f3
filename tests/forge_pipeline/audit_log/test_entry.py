"""The line format: one form for each entry, and everything else refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.audit_log import Entry
from forge_pipeline.audit_log.entry import MAX_LINE_BYTES
from forge_pipeline.integrity import Digest

ENTRY = Entry(
    log_id="6b1f0f2e-58f3-4d5e-8a10-0e2f0b8a9a11",
    seq=3,
    ts="2026-11-21T19:27:00.123456Z",
    event="training.started",
    actor={"operator": "alice@lab"},
    run={"run_id": "run-1"},
    data={"model": "base", "rate": 0.1, "tokens": 1e17, "nested": {"a": [1, None, True]}},
    prev_hash=Digest.of(b"before"),
)
LINE = ENTRY.to_bytes()


def test_the_line_is_what_the_docstring_says() -> None:
    assert (
        b'{"actor":{"operator":"alice@lab"},'
        b'"data":{"model":"base","nested":{"a":[1,null,true]},"rate":0.1,"tokens":100000000000000000},'
        b'"event":"training.started","log_id":"6b1f0f2e-58f3-4d5e-8a10-0e2f0b8a9a11",'
        b'"prev_hash":"' + Digest.of(b"before").encode() + b'",'
        b'"run":{"run_id":"run-1"},"seq":3,"ts":"2026-11-21T19:27:00.123456Z","v":1}'
    ) == LINE


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_reading_a_written_line_and_writing_it_again_gives_the_same_bytes(data: dict[str, object]) -> None:
    line = replace(ENTRY, data=data).to_bytes()
    assert Entry.parse(line).to_bytes() == line


NOT_AN_ENTRY = {
    "nothing": b"",
    "a space": b" ",
    "not JSON": b"training.started",
    "not an object": b"[1]",
    "not UTF-8": LINE.replace(b"alice", b"al\xffce"),
    "UTF-16": LINE.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + LINE,
    "white space inside": LINE.replace(b'"seq":3', b'"seq": 3'),
    "white space after": LINE + b" ",
    "carriage return": LINE + b"\r",
    "a second object": LINE + LINE,
    "other key order": b'{"v":1,' + LINE[1:].replace(b',"v":1', b""),
    "a duplicate key": LINE.replace(b'"seq":3', b'"seq":3,"seq":3'),
    "a duplicate key inside data": LINE.replace(b'"rate":0.1', b'"rate":0.1,"rate":0.1'),
    "NaN": LINE.replace(b"0.1", b"NaN"),
    "infinity": LINE.replace(b"0.1", b"1e999"),
    "a number written longer than need be": LINE.replace(b"0.1", b"0.10"),
    "an escape that need not be": LINE.replace(b"base", b"\\u0062ase"),
    "a lone surrogate": LINE.replace(b"base", b"\\ud800"),
    "another version": LINE.replace(b'"v":1', b'"v":2'),
    "a version that is true": LINE.replace(b'"v":1', b'"v":true'),
    "a negative number": LINE.replace(b'"seq":3', b'"seq":-3'),
    "a number with a fraction": LINE.replace(b'"seq":3', b'"seq":3.5'),
    "no operator": LINE.replace(b'"operator"', b'"someone"'),
    "an empty run id": LINE.replace(b'"run-1"', b'""'),
    "a run that is a string": LINE.replace(b'{"run_id":"run-1"}', b'"run-1"'),
    "an event without a dot": LINE.replace(b"training.started", b"started"),
    "a time that is not": LINE.replace(b"2026-11-21", b"2026-02-30"),
    "a time in another zone": LINE.replace(b"123456Z", b"123456+01:00"),
    "a log id that is not a UUIDv4": LINE.replace(b"-4d5e-", b"-1d5e-"),
    "a previous hash that is not": LINE.replace(b"sha256:", b"sha512:"),
    "a missing member": LINE.replace(b'"seq":3,', b""),
    "an unknown member": LINE.replace(b'"seq":3', b'"seq":3,"sequence":3'),
    "a short HMAC tag": LINE.replace(b'"log_id"', b'"hmac":"ab","log_id"'),
    "a signature that is not base64": LINE.replace(b'"ts"', b'"sig":"*","ts"'),
    "an empty commitment": LINE.replace(b'"data"', b'"commit":{},"data"'),
    "nested too deeply": LINE.replace(b"0.1", b"[" * 5000 + b"]" * 5000),
    "a number with too many digits": LINE.replace(b"0.1", b"1" * 5000),
}


@pytest.mark.parametrize("line", NOT_AN_ENTRY.values(), ids=NOT_AN_ENTRY.keys())
def test_anything_but_the_one_form_is_refused(line: bytes) -> None:
    assert line != LINE
    with pytest.raises(ValueError, match=r"."):
        Entry.parse(line)


NOT_JSON = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "an object": object(),
    "a set": {1},
    "bytes": b"1",
    "an integer beyond a double": 2**53,
    "a key that is a number": {1: 2},
    "a lone surrogate": "\ud800",
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_a_value_that_is_not_json_cannot_be_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(ENTRY, data={"x": value}).to_bytes()


def test_a_value_nested_too_deeply_cannot_be_written() -> None:
    value: object = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        replace(ENTRY, data={"x": value}).to_bytes()


def test_a_line_has_a_greatest_length() -> None:
    with pytest.raises(ValueError, match="store the value as an artefact and log its digest"):
        replace(ENTRY, data={"x": "a" * MAX_LINE_BYTES}).to_bytes()


def test_an_entry_says_who_when_and_in_which_run() -> None:
    assert (ENTRY.operator, ENTRY.run_id, ENTRY.time.isoformat()) == (
        "alice@lab",
        "run-1",
        "2026-11-21T19:27:00.123456+00:00",
    )
