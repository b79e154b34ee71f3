"""How often each training row is taken, where a recipe mixes several datasets.

Shares come from `mix_ratio`, or from the datasets' sizes: n_i ** (1/T) for
`mix_temperature` T, as multilingual models are mixed (arXiv:1907.05019, section 4). Without
replacement no row is taken twice, and the mix is as large as that allows; with
replacement it has `mix_rows` rows, and every row of a dataset occurs floor or ceil of
its expected number of times. Which rows occur once more than others is decided by their
content and the seed, never by their position. Repeats of a row are one row to the split:
they stay together, and held-out rows are never repeated.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forge_pipeline.config.data import DataSection
from forge_pipeline.data.splits import Keys, smallest
from forge_pipeline.errors import DataError

Times = npt.NDArray[np.int32]


def mixes(data: DataSection) -> bool:
    """Whether the recipe mixes at all; otherwise every dataset is taken whole."""
    return data.mix_ratio is not None or data.mix_temperature is not None or data.mix_replacement


def wanted_rows(data: DataSection, names: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """How many rows of each dataset the mix takes, from datasets of `sizes` rows; `names` are for errors.

    Raises:
        DataError: A dataset that should be mixed in has no training rows.
    """
    shares = _shares(data, sizes)
    for name, size, share in zip(names, sizes, shares, strict=True):
        if share > 0 and not size:
            raise DataError(
                f"{name}: has no training rows to mix in; leave it out, or give it the weight 0 in data.mix_ratio"
            )
    if data.mix_replacement:
        return _apportioned(data.mix_rows or sum(sizes), shares)
    total = min((size / share for size, share in zip(sizes, shares, strict=True) if share > 0), default=0.0)
    return [min(size, math.floor(total * share + 0.5)) for size, share in zip(sizes, shares, strict=True)]


def times_taken(keys: Keys, wanted: int, seed: int) -> Times:
    """How often each row of one dataset is taken, so that it is `wanted` rows in all: floor or ceil of the mean.

    Args:
        keys: One of each row's content; the rows of the smallest, reordered by `seed`, are taken once more.
    """
    every, more = divmod(wanted, len(keys)) if len(keys) else (0, 0)
    times = np.full(len(keys), every, np.int32)
    times[smallest(_reordered(keys, seed), more)] += 1
    return times


def _shares(data: DataSection, sizes: Sequence[int]) -> list[float]:
    """The share of each dataset in the mix; together 1, unless there are no rows at all."""
    if data.mix_ratio is not None:
        weights = list(data.mix_ratio)
    else:
        largest = max(sizes)  # powers of n_i/n_max, because n_i ** (1/T) is beyond floats for small T
        weights = [(size / largest) ** (1 / (data.mix_temperature or 1.0)) if size else 0.0 for size in sizes]
    total = sum(weights)
    return [weight / total if total else 0.0 for weight in weights]


def _apportioned(total: int, shares: Sequence[float]) -> list[int]:
    """`total` in whole rows, each within one of its exact share: the largest remainders are rounded up."""
    exact = [total * share for share in shares]
    rows = [math.floor(number) for number in exact]
    by_remainder = sorted(range(len(rows)), key=lambda i: (rows[i] - exact[i], i))
    for i in by_remainder[: total - sum(rows)]:
        rows[i] += 1
    return rows


def _reordered(keys: Keys, seed: int) -> Keys:
    """Other keys in place of these, by the finalizer of SplitMix64 (Steele, Lea, Flood 2014).

    Not the keys themselves: `data.limit` takes the rows of the smallest, and would then prefer datasets that were cut.
    """
    salt = (0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64
    mixed = keys ^ np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    reordered: Keys = mixed ^ (mixed >> np.uint64(31))
    return reordered
