"""Tokens, SimHash and MinHash against their plain definitions and against datasketch."""

import hashlib
import re
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import compute_minhash, compute_simhash
from forge_pipeline.dataset_audit.minhash import bands, minhash_rows, permutations
from forge_pipeline.dataset_audit.simhash import simhash_rows, table_masks
from forge_pipeline.dataset_audit.tokens import Tokenizer, token_hash

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=6)


def plain_tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def plain_simhash(text: str) -> int:
    votes = [0] * 64
    for token in plain_tokens(text):
        value = int.from_bytes(hashlib.sha1(token.encode()).digest()[:8], "little")
        votes = [vote + (1 if value >> bit & 1 else -1) for bit, vote in enumerate(votes)]
    return sum(1 << bit for bit, vote in enumerate(votes) if vote > 0)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_tokens_are_the_words_of_each_text_with_their_counts(texts: list[str]) -> None:
    rows = Tokenizer().tokenize(pa.array(texts, pa.string()))
    for index, text in enumerate(texts):
        part = slice(rows.offsets[index], rows.offsets[index + 1])
        found = dict(zip(rows.hashes[part].tolist(), rows.counts[part].tolist(), strict=True))
        assert found == Counter(token_hash(token) for token in plain_tokens(text))


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_simhash_is_the_majority_vote_of_token_hashes(texts: list[str]) -> None:
    signatures = simhash_rows(Tokenizer().tokenize(pa.array(texts, pa.string())))
    assert signatures.tolist() == [plain_simhash(text) for text in texts]


@pytest.mark.parametrize("repeats", [1, 255, 256, 70_000], ids=lambda n: f"{n} repeats of a word")
def test_simhash_counts_beyond_the_lanes(repeats: int) -> None:
    assert compute_simhash("same " * repeats + "other words here") == plain_simhash(
        "same " * repeats + "other words here"
    )


def test_simhash_of_nothing_is_zero_and_word_order_does_not_count() -> None:
    assert compute_simhash("") == compute_simhash(" ... ") == 0
    assert compute_simhash("The quick, brown fox!") == compute_simhash("fox brown quick the")
    assert 0 < compute_simhash("hello") < 1 << 64


@settings(max_examples=50, deadline=None)
@given(TEXTS, st.sampled_from([1, 16, 128]))
def test_minhash_is_bit_for_bit_datasketchs(texts: list[str], num_perm: int) -> None:
    signatures = minhash_rows(Tokenizer().tokenize(pa.array(texts, pa.string())), *permutations(num_perm))
    for text, signature in zip(texts, signatures, strict=True):
        expected = MinHash(num_perm=num_perm, scheme="affine32")
        for token in set(plain_tokens(text)):
            expected.update(token.encode())
        assert np.array_equal(signature, expected.hashvalues)


def test_compute_minhash_returns_datasketchs_object() -> None:
    one, other = compute_minhash("one two three four"), compute_minhash("four three two one one")
    assert isinstance(one, MinHash)
    assert isinstance(other, MinHash)
    assert one.scheme == "affine32"
    assert one.jaccard(other) == 1.0
    assert len(compute_minhash("x", num_perm=16)) == 16  # type: ignore[arg-type]


def test_compute_minhash_without_datasketch_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    assert compute_minhash("text") is None


@pytest.mark.parametrize("threshold", [0, 1, 3, 6, 16, 64])
@pytest.mark.parametrize("count", [10, 100_000, 10_000_000])
def test_signatures_within_the_threshold_share_a_mask(threshold: int, count: int) -> None:
    masks = table_masks(threshold, count)
    assert len(masks) <= 65
    rng = np.random.default_rng(threshold)
    for _ in range(200):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, threshold, replace=False))
        assert any(not flipped & mask for mask in masks)


def test_three_bits_anywhere_leave_one_mask_untouched() -> None:
    masks = table_masks(3, 10)
    assert all(any(not sum(1 << b for b in bits) & mask for mask in masks) for bits in combinations(range(0, 64, 3), 3))


@pytest.mark.parametrize(
    ("threshold", "num_perm", "expected"),
    [(0.85, 128, (16, 8)), (1.0, 128, (1, 128)), (0.0, 4, (4, 1)), (0.85, 1, (1, 1))],
)
def test_bands_find_99_percent_at_the_threshold(threshold: float, num_perm: int, expected: tuple[int, int]) -> None:
    assert bands(threshold, num_perm) == expected
