"""Batches of like length, in an order that seed and epoch decide."""

import random

from forge_pipeline.training.row_order import by_length, length_grouped

LENGTHS = random.Random(1).choices(range(5, 201), k=400)


def test_every_row_comes_once_and_the_longest_comes_first() -> None:
    order = list(by_length(LENGTHS, batch=8, seed=1))
    assert sorted(order) == list(range(400))
    assert LENGTHS[order[0]] == max(LENGTHS)


def test_batches_hold_rows_of_like_length() -> None:
    def padding(order: list[int]) -> int:
        batches = [order[start : start + 8] for start in range(0, 400, 8)]
        return sum(
            max(LENGTHS[row] for row in batch) * len(batch) - sum(LENGTHS[r] for r in batch) for batch in batches
        )

    assert padding(list(by_length(LENGTHS, batch=8, seed=1))) < 0.25 * padding(list(range(400)))


def test_the_order_follows_seed_and_epoch_whatever_else_is_random() -> None:
    import torch

    torch.manual_seed(1)
    first = by_length(LENGTHS, batch=8, seed=1)
    order = list(first)
    torch.manual_seed(2)
    again = by_length(LENGTHS, batch=8, seed=1)
    assert list(again) == order
    again.set_epoch(1)
    assert list(again) != order
    assert list(by_length(LENGTHS, batch=8, seed=2)) != order


def test_fewer_rows_than_a_batch_are_one_chunk() -> None:
    assert length_grouped([0, 1, 2], [3, 9, 5], batch=8) == [1, 2, 0]
