"""Whether a model does worse in its benchmark by now than when it was new.

Two reports of the same model are compared: the first one, and the newest, whose items may come from newer data. The
items need not be the same, so no paired interval holds; the recipe's `max_drop` should lie above what the items can
show (`PairedComparison.minimum_detectable_effect`, "detects" in the report), and fewer than `min_items` say nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forge_pipeline.evaluation.benchmark import BenchmarkResult
from forge_pipeline.integrity import Digest

if TYPE_CHECKING:
    from forge_pipeline.config.automation import FallingMetricSection

AVERAGE = "average_score"


@dataclass(frozen=True)
class MetricFall:
    """One metric of one model, then and now.

    Attributes:
        subject: The model.
        reference, recent: Digests of the two reports.
        metric: Name of the task, or `AVERAGE`.
        before, now: Scores, in the metric's unit.
        drop: How much worse it is now, in the same unit; negative where it is better.
        items: Of the report with fewer.
        max_drop: The recipe's limit.
    """

    subject: Digest
    reference: Digest
    recent: Digest
    metric: str
    before: float
    now: float
    drop: float
    items: int
    max_drop: float

    @property
    def has_fallen(self) -> bool:
        return self.drop > self.max_drop


def measure_fall(
    section: "FallingMetricSection",
    subject: Digest,
    reference: tuple[Digest, BenchmarkResult],
    recent: tuple[Digest, BenchmarkResult],
) -> MetricFall | None:
    """Compare two reports of one model.

    Args:
        subject: The model's digest, which both reports are of.
        reference, recent: Each report's digest and the report.

    Returns:
        None where they cannot be compared: the task is in one of them only, other tasks went into the average, the
        metric is another one, or there were too few items.
    """
    before, now = _score(reference[1], section.task), _score(recent[1], section.task)
    if before is None or now is None or before.of != now.of:
        return None
    items = min(before.items, now.items)
    if items < section.min_items:
        return None
    drop = before.value - now.value if before.higher_is_better else now.value - before.value
    metric = section.task or AVERAGE
    return MetricFall(subject, reference[0], recent[0], metric, before.value, now.value, drop, items, section.max_drop)


@dataclass(frozen=True)
class _Score:
    value: float
    items: int
    higher_is_better: bool
    of: tuple[str, ...]
    """What the number is of: two scores are compared only where this is the same."""


def _score(report: BenchmarkResult, task: str | None) -> _Score | None:
    if task is None:
        tasks = tuple(sorted(report.scores))
        return _Score(report.average_score, report.items, True, tasks) if tasks else None
    for pair in report.comparisons:
        if pair.task == task:
            return _Score(pair.tuned_score, pair.n, pair.higher_is_better, (task, pair.metric))
    return None
