"""Base and tuned model on the same items: the difference, its interval, and what could have been seen.

Three kinds of metric, by how lm-eval aggregates items:
  shares    0 or 1 per item: Tango's score interval of the difference and McNemar's exact test.
  means     any number per item: the normal interval of the mean of paired differences.
  ratios    perplexities and bits per byte, functions of a ratio of two sums: percentiles of a
            bootstrap over items, which keeps pairs together.
Other aggregations (BLEU, Matthews' correlation) have a score and no interval.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.measurement import TaskScore
from forge_pipeline.evaluation.statistics import mcnemar_exact, paired_interval, paired_proportion_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

POWER = 0.8  # of the minimum detectable effect
_LEVEL = 0.05
_RESAMPLES = 2000
_AT_ONCE = 2_000_000  # drawn items held in memory
_SEED = 20240  # fixed: equal answers, equal interval


@dataclass(frozen=True)
class PairedComparison:
    """Base and tuned model on the same items of one task.

    Attributes:
        task, metric: What was measured.
        n: Items scored by both.
        base_score, tuned_score: Over the items, in the metric's own unit; shares from 0 to 1.
        difference: tuned - base.
        interval: 95 % interval of the difference; for 0/1 metrics Tango's score interval. None where the items
            cannot tell.
        base_stderr, tuned_stderr: Standard error of each score; None below two items.
        only_base_correct, only_tuned_correct: Discordant items of a 0/1 metric.
        p_value: Exact McNemar, two-sided, of a 0/1 metric.
        higher_is_better: False for perplexity and the like.
        minimum_detectable_effect: The smallest true difference that these items would show in 80 % of repetitions,
            in the metric's unit, from the width of `interval`.
    """

    task: str
    metric: str
    n: int
    base_score: float
    tuned_score: float
    difference: float
    interval: tuple[float, float] | None
    base_stderr: float | None = None
    tuned_stderr: float | None = None
    only_base_correct: int | None = None
    only_tuned_correct: int | None = None
    p_value: float | None = None
    higher_is_better: bool = True
    minimum_detectable_effect: float | None = None

    @property
    def loss(self) -> float:
        """How much worse the tuned model is; negative where it is better."""
        return -self.difference if self.higher_is_better else self.difference

    @property
    def loss_interval(self) -> tuple[float, float] | None:
        """`interval`, as that of the loss."""
        if self.interval is None:
            return None
        low, high = self.interval
        return (-high, -low) if self.higher_is_better else (low, high)


def paired(base: TaskScore, tuned: TaskScore) -> PairedComparison:
    """Compare two models' answers to one task, item by item.

    Raises:
        EvaluationError: The two models were not asked the same items.
    """
    if base.digest != tuned.digest:
        raise EvaluationError(f"the two models were not asked the same items of {tuned.name!r}; benchmark both again")
    comparison = PairedComparison(
        task=tuned.name,
        metric=tuned.metric,
        n=tuned.n,
        base_score=base.score,
        tuned_score=tuned.score,
        difference=tuned.score - base.score,
        interval=None,
        base_stderr=base.stderr,
        tuned_stderr=tuned.stderr,
        higher_is_better=tuned.higher_is_better,
    )
    if not (base.values and tuned.values):
        return comparison
    if tuned.aggregation != "mean":
        return _with_effect(_ratio(comparison, base, tuned))
    pairs = [(base.values[item], tuned.values[item]) for item in tuned.values]
    if not (base.is_binary and tuned.is_binary):
        return _with_effect(replace(comparison, interval=paired_interval([t - b for b, t in pairs])))
    only_base = sum(b > t for b, t in pairs)
    only_tuned = sum(t > b for b, t in pairs)
    return _with_effect(
        replace(
            comparison,
            interval=paired_proportion_interval(only_tuned, only_base, len(pairs)),
            only_base_correct=only_base,
            only_tuned_correct=only_tuned,
            p_value=mcnemar_exact(only_base, only_tuned),
        )
    )


def minimum_detectable_effect(interval: tuple[float, float], power: float = POWER) -> float:
    """The smallest true difference whose 95 % interval excludes 0 with probability `power`.

    The standard error is taken from the interval's width. Source: E. Miller, "Adding Error Bars to Evals",
    arXiv 2411.00640, section 5, solved for the effect.
    """
    quantile = NormalDist().inv_cdf
    decided = quantile(1 - _LEVEL / 2)
    stderr = (interval[1] - interval[0]) / (2 * decided)
    return (decided + quantile(power)) * stderr


def _with_effect(comparison: PairedComparison) -> PairedComparison:
    if comparison.interval is None:
        return comparison
    return replace(comparison, minimum_detectable_effect=minimum_detectable_effect(comparison.interval))


def _ratio(comparison: PairedComparison, base: TaskScore, tuned: TaskScore) -> PairedComparison:
    """Percentile bootstrap over items (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, chapter 13)."""
    import numpy as np

    items = list(tuned.values)
    if len(items) < 2:
        return comparison
    unit = AGGREGATIONS[tuned.aggregation]
    columns = np.array(
        [[score.values[item] for item in items] for score in (base, tuned)]
        + [[score.weights.get(item, 1.0) for item in items] for score in (base, tuned)]
    )
    drawn = np.concatenate(list(_resampled(columns)), axis=1)  # (4, resamples)
    scores = [np.array([unit(mean) for mean in drawn[row] / drawn[row + 2]]) for row in (0, 1)]
    apart = scores[1] - scores[0]
    interval = None
    if apart.min() < apart.max():  # no spread is no evidence of certainty
        low, high = np.percentile(apart, [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
        interval = (float(low), float(high))
    base_stderr, tuned_stderr = (float(score.std(ddof=1)) for score in scores)
    return replace(comparison, interval=interval, base_stderr=base_stderr, tuned_stderr=tuned_stderr)


def _resampled(columns: "npt.NDArray[np.float64]") -> "list[npt.NDArray[np.float64]]":
    """Sums of each column over items drawn with replacement, the same items for all columns."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    n = columns.shape[1]
    step = max(1, _AT_ONCE // n)
    sums = []
    for start in range(0, _RESAMPLES, step):
        picked = random.integers(0, n, size=(min(step, _RESAMPLES - start), n))
        sums.append(columns[:, picked].sum(axis=2))
    return sums


def _exp(mean: float) -> float:
    return math.exp(min(700.0, -mean))  # a perplexity beyond doubles counts as the largest


AGGREGATIONS: Mapping[str, Callable[[float], float]] = {
    "mean": float,
    "perplexity": _exp,
    "weighted_perplexity": _exp,
    "bits_per_byte": lambda mean: -mean / math.log(2),
}
"""lm-eval's aggregations that are a function of (sum of values) / (sum of weights)."""


def score_of(task: TaskScore, items: Mapping[str, float]) -> float | None:
    """The score over some of a task's items; None where there are none, or its metric is no function of a mean."""
    if not items or task.aggregation not in AGGREGATIONS:
        return None
    if task.aggregation == "mean":
        return fmean(items.values())
    weights = [task.weights.get(item, 1.0) for item in items]
    return AGGREGATIONS[task.aggregation](sum(items.values()) / sum(weights))
