"""Splits follow content: not order, not what else is there."""

import random
from collections import Counter
from typing import Any

from forge_pipeline.config.data import SplitSection
from forge_pipeline.data.splits import assign, group_key, row_digest, shuffled, smallest_digests

TENTHS = SplitSection(validation=0.1, test=0.1)


def keys(count: int) -> list[bytes]:
    return [row_digest({"text": str(i)}) for i in range(count)]


def test_shares_come_out_about_as_asked() -> None:
    counts = Counter(assign(keys(5000), TENTHS))
    assert abs(counts["validation"] - 500) < 70
    assert abs(counts["test"] - 500) < 70


def test_order_does_not_matter_and_new_rows_move_no_old_one() -> None:
    old = keys(500)
    before = dict(zip(old, assign(old, TENTHS), strict=True))
    more = keys(900)
    random.Random(0).shuffle(more)
    after = dict(zip(more, assign(more, TENTHS), strict=True))
    assert all(after[key] == split for key, split in before.items())


def test_another_seed_gives_other_splits() -> None:
    assert assign(keys(200), TENTHS) != assign(keys(200), SplitSection(validation=0.1, test=0.1, seed=1))


def test_rows_of_one_group_go_together() -> None:
    groups = [key for key in keys(100) for _ in range(3)]
    splits = assign(groups, TENTHS)
    assert all(len(set(splits[i : i + 3])) == 1 for i in range(0, 300, 3))


def test_a_small_dataset_gets_every_split_that_was_asked_for() -> None:
    for count in range(3, 12):
        assert set(assign(keys(count), TENTHS)) == {"train", "validation", "test"}


def test_one_group_goes_to_train_and_none_goes_nowhere() -> None:
    for key in keys(20):
        assert assign([key, key], SplitSection(validation=0.9)) == ["train", "train"]
    assert assign([], TENTHS) == []


def test_declared_splits_get_no_rows() -> None:
    assert set(assign(keys(200), TENTHS, skip=frozenset({"test"}))) == {"train", "validation"}


def test_repeats_that_differ_in_case_white_space_or_order_share_a_group() -> None:
    def pair(question: str, answer: str) -> dict[str, Any]:
        return {"question": question, "answer": answer}

    first = group_key(pair("What is AI?", "A field of study."))
    assert group_key(pair("what  is AI", "a field of study")) == first
    assert (
        group_key(
            {
                "messages": [
                    {"role": "user", "content": "What is AI?"},
                    {"role": "assistant", "content": "A field of study."},
                ]
            }
        )
        == first
    )
    assert group_key(pair("What is AI?", "A field.")) != first
    assert group_key({"text": "?!"}) != group_key({"text": "..."})


def test_selection_is_by_content_and_independent_of_the_split() -> None:
    digests = keys(2000)
    chosen = {digests[i] for i in smallest_digests(digests, 400)}
    backwards = digests[::-1]
    assert {backwards[i] for i in smallest_digests(backwards, 400)} == chosen
    assert 20 < Counter(assign(sorted(chosen), TENTHS))["test"] < 70
    assert smallest_digests(digests, 5000) == list(range(2000))


def test_shuffling_depends_on_content_and_seed_only() -> None:
    digests = keys(50)
    order = [digests[i] for i in shuffled(digests, 1)]
    backwards = digests[::-1]
    assert [backwards[i] for i in shuffled(backwards, 1)] == order
    assert [digests[i] for i in shuffled(digests, 2)] != order
    assert sorted(order) == sorted(digests)


def test_the_order_of_keys_does_not_change_a_row() -> None:
    assert row_digest({"a": 1, "b": 2}) == row_digest({"b": 2, "a": 1})
