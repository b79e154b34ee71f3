"""The near-duplicate join by itself: compiled loops against their reference, shards, huge buckets."""

import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import near_duplicates
from forge_pipeline.dataset_audit.grouping import near_duplicate_groups
from forge_pipeline.dataset_audit.groups import components, equal_groups
from forge_pipeline.dataset_audit.near_duplicates import (
    JoinKernels,
    Pairs,
    SignedRows,
    Tables,
    find_pairs,
    jaccard_of,
    join_kernels,
    unit_of,
)

SETS = st.lists(st.frozensets(st.integers(0, 12) | st.integers(0, (1 << 32) - 1), max_size=12), min_size=2, max_size=12)


@pytest.fixture(scope="module")
def kernels() -> JoinKernels:
    pytest.importorskip("numba")
    loaded = join_kernels()
    assert loaded is not None
    return loaded


def flat(sets: list[frozenset[int]]) -> tuple[Any, Any]:
    offsets = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    return offsets, np.array([value for own in sets for value in sorted(own)], dtype=np.uint32)


@given(SETS, st.data())
@settings(deadline=None)
def test_similarity_is_that_of_the_sets_compiled_or_not(
    kernels: JoinKernels, sets: list[frozenset[int]], data: st.DataObject
) -> None:
    place = st.integers(0, len(sets) - 1)
    pairs = data.draw(st.lists(st.tuples(place, place), min_size=1, max_size=20))
    threshold = data.draw(st.sampled_from([0.0, 0.2, 0.5, 0.85, 1.0]))
    left, right = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    expected = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in pairs]
    plain = jaccard_of(*flat(sets), left, right)
    assert plain.tolist() == expected
    compiled = jaccard_of(*flat(sets), left, right, threshold, kernels)
    above = plain >= threshold
    assert compiled[above].tolist() == plain[above].tolist()
    assert (compiled[~above] < threshold).all()


@given(st.integers(0, 2**32), st.sampled_from(["bands", "simhash"]))
@settings(deadline=None, max_examples=30)
def test_what_an_earlier_table_has_is_the_same_compiled_or_not(kernels: JoinKernels, seed: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    if kind == "bands":
        tables, keys = Tables.of_bands(6, 0.8), draw.integers(0, 3, (20, 6), dtype=np.uint64)
    else:
        tables = Tables.of_simhash(20, 3, 0.8)
        flips = np.uint64(1) << draw.integers(0, 64, (20, 5), dtype=np.uint64)
        keys = np.bitwise_xor.reduce(flips, axis=1)[:, None]
    left, right = draw.integers(0, 20, (2, 50))
    for table in range(tables.count):
        plain = tables.taken_elsewhere(keys, left, right, table)
        assert tables.taken_elsewhere(keys, left, right, table, kernels).tolist() == plain.tolist()


def signed(sets: list[frozenset[int]], keys: Any) -> Any:
    """The signatures of one shard, for sets of tokens below 2**32."""
    offsets, values = flat(sets)
    tokens = np.array([hash(own) % (1 << 62) + 1 if own else 0 for own in sets], dtype=np.uint64)
    return SimpleNamespace(text=tokens, tokens=tokens, keys=keys, offsets=offsets, values=values)


def similar_sets(count: int, seed: int = 0) -> tuple[list[frozenset[int]], Any]:
    """Sets that differ from their neighbours in a few tokens, and 16 band keys by a simple MinHash."""
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 1 << 32, 60)
    sets = [frozenset(base.tolist()) for _ in range(count)]
    for index in range(count):
        changed = base.copy()
        changed[draw.integers(0, 60, 2)] = draw.integers(0, 1 << 32, 2)
        sets[index] = frozenset(changed.tolist())
        if index % 10 == 9:
            base = draw.integers(0, 1 << 32, 60)
    return sets, band_keys_of(sets)


def band_keys_of(sets: list[frozenset[int]], bands: int = 16, width: int = 4) -> Any:
    factors = np.random.default_rng(1).integers(0, 1 << 63, bands * width, dtype=np.uint64) | np.uint64(1)
    rows = [(np.array(sorted(own), dtype=np.uint64)[:, None] * factors).min(axis=0) for own in sets]
    return np.array(rows).reshape(len(sets), bands, width).sum(axis=2)


def joined(sets: list[frozenset[int]], keys: Any, cuts: list[int], **tables: Any) -> Pairs:
    shards = [signed(sets[a:b], keys[a:b]) for a, b in pairwise([0, *cuts, len(sets)])]
    rows = SignedRows.of(shards)
    unit = unit_of(rows.tokens)
    units = np.flatnonzero(unit == np.arange(len(unit)))
    return find_pairs(rows, units, Tables.of(rows, units, hamming=None, jaccard=0.85), **tables)


def as_list(pairs: Pairs) -> list[tuple[int, int, float]]:
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True))


def test_pairs_do_not_depend_on_shards_nor_on_the_order_of_tables() -> None:
    sets, keys = similar_sets(200)
    whole = joined(sets, keys, [])
    assert len(whole.left) > 100
    assert as_list(whole) == sorted(as_list(whole))
    assert as_list(joined(sets, keys, [1, 50, 50, 199])) == as_list(whole)
    backwards = joined(sets, keys, [], map_tables=lambda function, items: [function(i) for i in reversed(items)])
    assert as_list(backwards) == as_list(whole)


def test_pairs_are_the_same_compiled_or_not(kernels: JoinKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, keys = similar_sets(300, seed=3)
    monkeypatch.setattr(near_duplicates, "join_kernels", lambda: None)
    plain = joined(sets, keys, [])
    monkeypatch.setattr(near_duplicates, "join_kernels", lambda: kernels)
    monkeypatch.setattr(near_duplicates, "_KERNEL_PAIRS", 0)
    assert as_list(joined(sets, keys, [])) == as_list(plain)


@pytest.mark.parametrize("count", [4_000, 40_000])
def test_near_identical_rows_cost_a_bounded_number_of_comparisons(count: int, kernels: JoinKernels) -> None:
    """A form letter with one word that differs: all in one bucket of nearly every band."""
    letter = frozenset(range(60))
    sets = [letter | {1000 + index} for index in range(count)]
    keys = np.zeros((count, 16), dtype=np.uint64)
    keys[:, :8] = np.arange(count)[:, None] // 7  # half of the bands see smaller buckets
    started = time.process_time()
    pairs = joined(sets, keys, [])
    assert time.process_time() - started < 0.5 + count * 200e-6
    assert pairs.complete is False
    assert len(pairs.left) < 6 * near_duplicates._MOST_PAIRS
    assert components(count, pairs.left, pairs.right).max() == 0


def test_texts_are_grouped_by_what_they_say() -> None:
    base = " ".join(f"word{i}" for i in range(40))
    texts = ["...", base, "something else", base.upper() + "!", "", base + " more", "", "..."]
    assert near_duplicate_groups(texts).tolist() == [0, 1, 2, 1, 4, 1, 4, 0]
    assert near_duplicate_groups([]).tolist() == []


@given(st.permutations(range(12)))
@settings(deadline=None, max_examples=20)
def test_groups_do_not_depend_on_the_order_of_the_texts(order: list[int]) -> None:
    base = [" ".join(f"w{i}{k}" for i in range(30)) for k in range(4)]
    texts = [*base, *(text + " one more" for text in base), "", "", "?", "single"]
    groups = near_duplicate_groups(texts).tolist()
    shuffled = near_duplicate_groups([texts[i] for i in order]).tolist()
    for here, i in enumerate(order):
        for there, j in enumerate(order):
            assert (shuffled[here] == shuffled[there]) == (groups[i] == groups[j])


@pytest.mark.parametrize("count", [1, 4_095, 4_096, 30_000])
@pytest.mark.parametrize("repeated", [0, 1, 2_000])
@pytest.mark.parametrize("mask", [~0, 0xFFFF, 0xFFFF << 48], ids=["whole", "low bits", "high bits"])
def test_keys_that_meet_no_other_are_left_out_of_the_sort_and_nothing_else(
    kernels: JoinKernels, count: int, repeated: int, mask: int
) -> None:
    draw = np.random.default_rng(count + repeated)
    keys = draw.integers(0, 1 << 64, count, dtype=np.uint64)
    keys[draw.integers(0, count, repeated)] = keys[draw.integers(0, count, repeated)]
    keys &= np.uint64(mask & (1 << 64) - 1)

    def groups(found: tuple[Any, Any]) -> set[tuple[int, ...]]:
        members, bounds = found
        return {tuple(members[a:b].tolist()) for a, b in pairwise(bounds.tolist())}

    assert groups(near_duplicates._equal_groups(keys)) == groups(equal_groups(keys))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_how_many_candidates_are_verified_together_changes_no_pair(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, keys = similar_sets(200)
    whole = joined(sets, keys, [70])
    monkeypatch.setattr(near_duplicates, "_CHUNK_PAIRS", chunk)
    parts = joined(sets, keys, [70])
    assert len(whole.left) > 100
    for name in ("left", "right", "similarity", "complete"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
