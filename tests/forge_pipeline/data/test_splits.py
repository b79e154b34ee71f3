"""Splits follow content: not order, not what else is there."""

import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.config.data import SplitSection
from forge_pipeline.data import splits
from forge_pipeline.data.examples import example_of
from forge_pipeline.data.splits import SPLITS, Keys, group_key, row_digest, salted_key, shuffled, smallest

TENTHS = SplitSection(validation=0.1, test=0.1)


def digests(count: int) -> list[bytes]:
    return [row_digest({"text": str(i)}) for i in range(count)]


def keys(count: int, salt: str = "group") -> Keys:
    return np.array([salted_key(salt, digest) for digest in digests(count)], np.uint64)


def assign(
    groups: Keys,
    wanted: SplitSection = TENTHS,
    clusters: list[int] | None = None,
    skip: frozenset[str] = frozenset(),
) -> list[str]:
    salt = f"split {wanted.seed}"
    places = np.array([salted_key(salt, int(key).to_bytes(8, "big")) for key in groups], np.uint64)
    given = None if clusters is None else np.array(clusters, np.int64)
    return [SPLITS[number] for number in splits.assign(groups, places, wanted, clusters=given, skip=skip)]


def test_shares_come_out_about_as_asked() -> None:
    counts = Counter(assign(keys(5000)))
    assert abs(counts["validation"] - 500) < 70
    assert abs(counts["test"] - 500) < 70


def test_order_does_not_matter_and_new_rows_move_no_old_one() -> None:
    old = keys(500)
    before = dict(zip(old, assign(old), strict=True))
    more = keys(900)
    np.random.default_rng(0).shuffle(more)
    after = dict(zip(more, assign(more), strict=True))
    assert all(after[key] == split for key, split in before.items())


def test_another_seed_gives_other_splits() -> None:
    assert assign(keys(200)) != assign(keys(200), SplitSection(validation=0.1, test=0.1, seed=1))


def test_rows_of_one_group_go_together() -> None:
    found = assign(np.repeat(keys(100), 3))
    assert all(len(set(found[i : i + 3])) == 1 for i in range(0, 300, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60), st.randoms())
def test_rows_tied_by_words_or_by_cluster_share_a_split_whatever_their_order(
    rows: list[tuple[int, int]], chance: random.Random
) -> None:
    some = keys(31)

    def split_of(rows: list[tuple[int, int]]) -> dict[tuple[int, int], str]:
        first = {cluster: i for i, (_, cluster) in reversed(list(enumerate(rows)))}
        found = assign(np.array([some[group] for group, _ in rows]), clusters=[first[cluster] for _, cluster in rows])
        by_row: dict[tuple[int, int], set[str]] = {}
        for row, split in zip(rows, found, strict=True):
            by_row.setdefault(row, set()).add(split)
        assert all(len(splits) == 1 for splits in by_row.values())
        return {row: split for row, (split,) in by_row.items()}

    found = split_of(rows)
    for tied in range(31):
        assert len({split for (group, _), split in found.items() if group == tied}) <= 1
        assert len({split for (_, cluster), split in found.items() if cluster == tied}) <= 1
    shuffled_rows = list(rows)
    chance.shuffle(shuffled_rows)
    assert split_of(shuffled_rows) == found


def test_a_chain_of_ties_is_one_group_however_long() -> None:
    rows = 2000  # row i shares its words with row i+1 where i is even, its cluster where i is odd
    groups = np.repeat(keys(rows // 2), 2)
    clusters = [(i + 1) // 2 for i in range(rows)]
    assert len(set(assign(groups, SplitSection(validation=0.5), clusters))) == 1


def test_clusters_that_tie_nothing_change_nothing() -> None:
    assert assign(keys(300), clusters=list(range(300))) == assign(keys(300))


def test_a_group_larger_than_a_split_stays_in_train() -> None:
    for key in keys(40):
        groups = np.concatenate([np.repeat(key, 30), keys(110)[40:]])
        found = assign(groups)
        assert set(found[:30]) == {"train"}
        assert set(found) == {"train", "validation", "test"}


def test_a_small_dataset_gets_every_split_that_was_asked_for() -> None:
    for count in range(3, 12):
        assert set(assign(keys(count))) == {"train", "validation", "test"}


def test_one_group_goes_to_train_and_none_goes_nowhere() -> None:
    for key in keys(20):
        assert assign(np.repeat(key, 2), SplitSection(validation=0.9)) == ["train", "train"]
    assert assign(keys(0)) == []


def test_declared_splits_get_no_rows() -> None:
    assert set(assign(keys(200), skip=frozenset({"test"}))) == {"train", "validation"}


def test_repeats_that_differ_in_case_white_space_or_order_share_a_group() -> None:
    def key(row: dict[str, Any]) -> bytes:
        return group_key(example_of(row))

    def pair(question: str, answer: str) -> dict[str, Any]:
        return {"question": question, "answer": answer}

    first = key(pair("What is AI?", "A field of study."))
    turns = [{"role": "user", "content": "What is AI?"}, {"role": "assistant", "content": "A field of study."}]
    assert key(pair("what  is AI", "a field of study")) == first
    assert key({"messages": turns}) == first
    assert key({"messages": [{"role": "system", "content": "Be brief."}, *turns]}) == first
    assert key({"prompt": "What is AI?", "completion": "A field of study."}) == first
    assert key({"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "assistant", "content": "?"}]}) == first
    assert key(pair("What is AI?", "A field.")) != first
    assert key({"text": "?!"}) != key({"text": "..."})


def test_selection_is_by_content_and_independent_of_the_split() -> None:
    select = keys(2000, "select")
    chosen = set(select[smallest(select, 400)])
    backwards = select[::-1]
    assert set(backwards[smallest(backwards, 400)]) == chosen
    assert 20 < Counter(assign(keys(2000)[smallest(select, 400)]))["test"] < 70
    assert smallest(select, 5000).tolist() == list(range(2000))


def test_shuffling_depends_on_content_and_seed_only() -> None:
    some = digests(50)
    order = [some[i] for i in shuffled(some, 1)]
    backwards = some[::-1]
    assert [backwards[i] for i in shuffled(backwards, 1)] == order
    assert [some[i] for i in shuffled(some, 2)] != order
    assert sorted(order) == sorted(some)


def test_the_order_of_keys_does_not_change_a_row() -> None:
    assert row_digest({"a": 1, "b": 2}) == row_digest({"b": 2, "a": 1})
