"""Shares of a mix, and how often each row is taken for them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.config.data import DataSection
from forge_pipeline.data import mixing
from forge_pipeline.data.mixing import mixes, times_taken
from forge_pipeline.data.splits import Keys
from forge_pipeline.errors import DataError


def section(datasets: int, **mix: Any) -> DataSection:
    return DataSection(dataset_name_or_path="d0", extra_datasets=[f"d{i}" for i in range(1, datasets)], **mix)


def wanted_rows(data: DataSection, sizes: list[int]) -> list[int]:
    return mixing.wanted_rows(data, data.names, sizes)


def keys(count: int) -> Keys:
    return np.random.default_rng(7).integers(0, 2**64, count, dtype=np.uint64)


SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(SIZES, st.data())
def test_shares_with_replacement_are_the_weights_to_the_row(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(sizes), max_size=len(sizes)))
    total = data.draw(st.integers(1, 20_000))
    wanted = wanted_rows(section(len(sizes), mix_ratio=weights, mix_replacement=True, mix_rows=total), sizes)
    assert sum(wanted) == total
    assert all(abs(rows - total * w / sum(weights)) <= 1 for rows, w in zip(wanted, weights, strict=True))


@settings(max_examples=100, deadline=None)
@given(SIZES, st.data())
def test_without_replacement_no_dataset_gives_more_than_it_has_and_one_gives_all(
    sizes: list[int], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(sizes), max_size=len(sizes)))
    wanted = wanted_rows(section(len(sizes), mix_ratio=weights), sizes)
    assert all(rows <= size for rows, size in zip(wanted, sizes, strict=True))
    assert any(rows == size for rows, size in zip(wanted, sizes, strict=True))
    total = min(size * sum(weights) / w for size, w in zip(sizes, weights, strict=True))
    assert all(abs(rows - total * w / sum(weights)) <= 0.501 for rows, w in zip(wanted, weights, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2000), st.integers(0, 5))
def test_every_row_is_taken_floor_or_ceil_of_the_mean(rows: int, wanted: int, seed: int) -> None:
    times = times_taken(keys(rows), wanted, seed)
    assert int(times.sum()) == wanted
    assert set(times.tolist()) <= {math.floor(wanted / rows), math.ceil(wanted / rows)}


def test_which_rows_are_taken_once_more_follows_content_and_seed_not_position() -> None:
    some = keys(200)
    by_key = dict(zip(some.tolist(), times_taken(some, 300, 1).tolist(), strict=True))
    backwards = some[::-1].copy()
    assert dict(zip(backwards.tolist(), times_taken(backwards, 300, 1).tolist(), strict=True)) == by_key
    assert times_taken(some, 300, 2).tolist() != list(by_key.values())


def test_a_cut_dataset_keeps_no_rows_that_a_later_limit_prefers() -> None:
    some = keys(4000)
    kept = some[times_taken(some, 400, 42) > 0]
    assert abs(float(np.mean(kept / 2.0**64)) - 0.5) < 0.06


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(1.0, [0.9, 0.1]), (2.0, [0.75, 0.25]), (1e9, [0.5, 0.5]), (0.001, [1.0, 0.0])],
)
def test_temperature_goes_from_sizes_to_even_shares(temperature: float, shares: list[float]) -> None:
    data = section(2, mix_temperature=temperature, mix_replacement=True, mix_rows=10_000)
    assert [rows / 10_000 for rows in wanted_rows(data, [90_000, 10_000])] == pytest.approx(shares, abs=1e-4)


def test_temperature_without_replacement_cuts_the_large_dataset() -> None:
    assert wanted_rows(section(2, mix_temperature=1.0), [900, 100]) == [900, 100]
    assert wanted_rows(section(2, mix_temperature=2.0), [900, 100]) == [300, 100]


def test_replacement_alone_keeps_the_sizes_and_fills_up_to_the_rows_asked_for() -> None:
    assert wanted_rows(section(2, mix_replacement=True), [30, 10]) == [30, 10]
    assert wanted_rows(section(2, mix_replacement=True, mix_rows=100), [30, 10]) == [75, 25]


def test_a_dataset_of_weight_zero_gives_nothing_and_one_without_rows_is_refused_by_name() -> None:
    assert wanted_rows(section(2, mix_ratio=[0, 1]), [10, 20]) == [0, 20]
    assert wanted_rows(section(2, mix_ratio=[0, 1]), [0, 20]) == [0, 20]
    for replacement in (False, True):
        with pytest.raises(DataError, match="d1: has no training rows to mix in"):
            wanted_rows(section(2, mix_ratio=[1, 1], mix_replacement=replacement), [10, 0])


def test_a_recipe_that_says_nothing_mixes_nothing() -> None:
    assert not mixes(section(2))
    assert mixes(section(2, mix_temperature=2.0))
    assert mixes(section(2, mix_replacement=True))
