"""The compiled loops against what they speed up, bit for bit, on whatever text there is."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import signatures
from forge_pipeline.dataset_audit.signatures import RowSignatures, sign
from forge_pipeline.dataset_audit.signing import CACHE_BITS, scratch
from forge_pipeline.dataset_audit.texts import text_bytes, text_hashes
from forge_pipeline.dataset_audit.tokens import beyond_table, character_table, token_hash, tokens_of

needs_numba = pytest.mark.skipif(signatures.kernels() is None, reason="numba is not installed")

# Case that depends on neighbours, that changes a text's length, that makes two characters of one; what case ignores;
# digits of other scripts; characters beyond the first plane, with and without case.
TRICKY = "ΣσςİIıſKÅẞéÉΑ'’.·\u0345\u0307\u0301ʰªǅǄ٣²½ _-aZ9\u00ad\u200d中あ한🙂🄀𝐀𐐀𠀀\U000e0041\n\x00"
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.text(st.sampled_from(TRICKY), max_size=40)
    | st.text(st.sampled_from("ab ,."), max_size=700),
    max_size=6,
)
METHODS = [128, 7, None]


def as_array(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def assert_equal(one: RowSignatures, other: RowSignatures) -> None:
    for name in ("text", "tokens", "keys", "offsets", "values"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype, name
        assert np.array_equal(left, right), name


def both(texts: pa.LargeStringArray, num_perm: int | None) -> tuple[RowSignatures, RowSignatures]:
    return (
        sign(texts, num_perm=num_perm, jaccard=0.85, compiled=False),
        sign(texts, num_perm=num_perm, jaccard=0.85, compiled=True),
    )


@needs_numba
@pytest.mark.parametrize("num_perm", METHODS)
@settings(max_examples=300, deadline=None)
@given(texts=TEXTS)
def test_compiled_signatures_are_those_of_numpy(num_perm: int | None, texts: list[str]) -> None:
    assert_equal(*both(as_array(texts), num_perm))


@needs_numba
def test_every_character_makes_the_same_tokens() -> None:
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, sys.maxunicode, 997)]
    characters = [chr(code) for code in codes]
    lines = [" ".join(f"{char}x A{char}Σ" for char in characters[at : at + 64]) for at in range(0, len(characters), 64)]
    assert_equal(*both(as_array(lines), None))


ROWS_OF_MANY_TOKENS: dict[str, list[str]] = {
    "one word a hundred thousand times": ["same " * 100_000],
    "more words than are sorted by buckets": [" ".join(f"w{i * 7919 % 5000}" for i in range(20_000))],
    "exactly as many as are sorted by buckets": [" ".join(f"w{i}" for i in range(n)) for n in (511, 512, 513)],
    "words longer than the cache keeps": ["x" * n + " " + "é" * n for n in (23, 24, 25, 26, 55, 56, 63, 64, 65, 200)],
    "more words than the cache has room for": [" ".join(f"{i:x}" for i in range(at, at + 1000)) for at in range(0, 400_000, 1000)],
    "letters alone": ["a b c d e " * 1000, "a", "ab", ""],
}  # fmt: skip


@needs_numba
@pytest.mark.parametrize("case", ROWS_OF_MANY_TOKENS)
@pytest.mark.parametrize("num_perm", [16, None])
def test_long_rows_and_rare_words(case: str, num_perm: int | None) -> None:
    assert_equal(*both(as_array(ROWS_OF_MANY_TOKENS[case]), num_perm))


@needs_numba
def test_a_slice_of_a_column_is_signed_as_itself() -> None:
    texts = as_array(["before", "Éa one two", "𝐀 beyond the table 𠀀", "", "three"] * 3)
    assert_equal(both(texts.slice(1, 4), 128)[1], both(as_array(texts.slice(1, 4).to_pylist()), 128)[0])


@needs_numba
def test_bytes_that_are_no_utf8_are_signed_without_harm() -> None:
    wrong = [b"\xff\xfe", b"ab\xc3", b"\xe2\x82", b"\xf0\x9f\x99", b"\xce", b"x \xf4\x90\x80\x80 y", b"\xc0\xaf"]
    offsets = np.cumsum([0, *(len(text) for text in wrong)])
    texts = pa.LargeStringArray.from_buffers(
        len(wrong), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(b"".join(wrong))
    )
    kernels = signatures.kernels()
    assert kernels is not None
    data, begins = text_bytes(texts)
    rows = len(wrong)
    keys, tokens = np.zeros((rows, 1), np.uint64), np.zeros(rows, np.uint64)
    none = np.zeros(0, np.uint32)
    written = kernels["sign_rows"](
        data, begins, np.zeros(rows + 1, np.int64), np.zeros(0, np.uint64), character_table(),
        np.zeros(4 << CACHE_BITS, np.uint64), none, none, 0, np.zeros(0, np.uint64),
        tokens, keys, np.zeros(rows + 1, np.int64), np.zeros(100, np.uint32), scratch(8, 0),
    )  # fmt: skip
    assert 0 < written <= 10


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_what_numpy_signs_is_what_the_definitions_say(texts: list[str]) -> None:
    signed = sign(as_array(texts), num_perm=None, jaccard=0.85, compiled=False)
    for index, text in enumerate(texts):
        values = signed.values[signed.offsets[index] : signed.offsets[index + 1]].tolist()
        assert values == sorted({token_hash(token) & 0xFFFFFFFF for token in tokens_of(text)})
        assert (signed.tokens[index] == 0) == (not tokens_of(text))


def test_rows_with_the_same_words_have_the_same_tokens_and_others_do_not() -> None:
    texts = ["the cat sat", "Sat, the CAT!", "the the cat sat", "the cat sits", ""]
    by_set = sign(as_array(texts), num_perm=16, jaccard=0.85, compiled=False).tokens.tolist()
    assert by_set[0] == by_set[1] == by_set[2] != by_set[3]
    by_bag = sign(as_array(texts), num_perm=None, jaccard=0.85, compiled=False).tokens.tolist()
    assert by_bag[0] == by_bag[1] != by_bag[2]
    assert by_set[4] == by_bag[4] == 0


# -- the table of characters -------------------------------------------------------------------------------------------


def test_one_character_alone_becomes_two_in_lower_case() -> None:
    longer = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000 and len(chr(code).lower()) > 1]
    assert longer == [0x130]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_texts_beyond_the_table_are_named(texts: list[str]) -> None:
    data, offsets = text_bytes(as_array(texts))
    beyond = [i for i, text in enumerate(texts) if re.search(r"[\U00010000-\U0001EFFF\U00020000-\U0010FFFF]", text)]
    assert beyond_table(data, offsets).tolist() == beyond


# -- hashes of texts ---------------------------------------------------------------------------------------------------


def plain_hash(data: bytes) -> int:
    full, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(value: int) -> int:
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & full
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & full
        return value ^ value >> 33

    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    terms = [mixed(word ^ (0x632BE59BD9B4E019 + place * golden) & full) for place, word in enumerate(words)]
    return mixed((len(data) * golden + sum(terms)) & full)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_text_hashes_are_what_their_docstring_says(texts: list[str]) -> None:
    assert text_hashes(as_array(texts)).tolist() == [plain_hash(text.encode()) for text in texts]


def test_a_hundred_thousand_similar_texts_have_as_many_hashes() -> None:
    texts = [f"row {a} {'x' * (a % 9)} {b}" for a in range(400) for b in range(250)]
    assert len(np.unique(text_hashes(as_array(texts)))) == len(texts)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [["one two", "", "two three four"], []], ids=["rows", "no rows"])
@pytest.mark.parametrize("num_perm", [128, None])
def test_signatures_come_back_from_their_file_as_they_were(
    texts: list[str], num_perm: int | None, tmp_path: Path
) -> None:
    signed = sign(as_array(texts), num_perm=num_perm, jaccard=0.85, compiled=False)
    path = tmp_path / "signatures.arrow"
    signed.write(path)
    assert_equal(RowSignatures.read(path), signed)
    assert [found.name for found in path.parent.iterdir()] == ["signatures.arrow"]


def test_signatures_of_blocks_are_those_of_all_rows() -> None:
    texts = ["one two", "", "two three four", "five"]
    parts = [sign(as_array(part), num_perm=16, jaccard=0.85, compiled=False) for part in (texts[:1], [], texts[1:])]
    whole = sign(as_array(texts), num_perm=16, jaccard=0.85, compiled=False)
    assert_equal(RowSignatures.concatenated(parts), whole)


def test_without_numba_rows_are_signed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    find: Callable[[], object] = signatures.kernels.__wrapped__
    assert find() is None
    monkeypatch.setattr(signatures, "kernels", find)
    texts = as_array(["one two three"])
    keys: npt.NDArray[np.uint64] = sign(texts, num_perm=16, jaccard=0.85, compiled=True).keys
    assert np.array_equal(keys, sign(texts, num_perm=16, jaccard=0.85, compiled=False).keys)


@needs_numba
def test_signatures_that_are_kept_stay_as_they_are_while_others_are_made() -> None:
    def texts(part: int) -> list[str]:
        return [f"w{part} " + " ".join(f"x{part}y{row}z{word}" for word in range(40)) for row in range(50)]

    def made(part: int) -> signatures.RowSignatures:
        return sign(as_array(texts(part)), num_perm=16, jaccard=0.85, compiled=True)

    kept = {part: made(part) for part in range(12) if part % 3}
    for part in range(12, 400):  # more than a thread's room holds, and nobody keeps them
        made(part)
    for part, own in kept.items():
        expected = sign(as_array(texts(part)), num_perm=16, jaccard=0.85, compiled=False)
        assert np.array_equal(own.values, expected.values)
        assert np.array_equal(own.offsets, expected.offsets)


@needs_numba
def test_room_that_nobody_has_a_part_of_is_used_again() -> None:
    sign(as_array(["a b c"]), num_perm=16, jaccard=0.85, compiled=True)
    first = sign(as_array(["a b c"]), num_perm=16, jaccard=0.85, compiled=True).values.ctypes.data
    second = sign(as_array(["d e f"]), num_perm=16, jaccard=0.85, compiled=True).values
    assert second.ctypes.data == first
    assert sign(as_array(["a b c"]), num_perm=16, jaccard=0.85, compiled=True).values.ctypes.data != first
