"""The gate ``benchmark``: scores and paired differences held against the recipe's limits.

  min_score             passes when the mean of the scores between 0 and 1 reaches it, fails otherwise.
  max_regression        passes only when the whole interval of the loss lies at or below it, for every task; fails
                        when a task's whole interval lies above; anything else is insufficient evidence.
  task_limits.<task>    min_score or max_score (the side depends on the metric), and max_regression in the place of
                        the common one.
Every limit that is set must hold; the worst finding decides, and each one like it is named. None set: not run,
because nothing was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forge_pipeline.config.evaluation import BenchmarkSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.evaluation.comparison import PairedComparison
from forge_pipeline.evaluation.measurement import Measurement, TaskScore
from forge_pipeline.evaluation.statistics import wilson_interval
from forge_pipeline.evaluation.tasks import NamedTask
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest

_ORDER: tuple[Outcome, ...] = ("fail", "not_run", "insufficient_evidence", "pass")  # the worst first


@dataclass(frozen=True)
class _Finding:
    outcome: Outcome
    reason: str
    metric: str | None = None
    observed: float | None = None
    threshold: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None


def decide(
    section: BenchmarkSection, subject: Digest, tuned: Measurement, comparisons: Sequence[PairedComparison]
) -> GateDecision:
    """Hold a measurement against the recipe's limits.

    Raises:
        ConfigError: A limit does not fit the metric: a lowest score where lower is better, or the other way around.
    """
    findings: list[_Finding] = []
    if section.min_score is not None:
        findings.append(_mean_finding(section.min_score, tuned))
    for task in tuned.tasks:
        findings += _bound_findings(section, task)
    for task, comparison in zip(tuned.tasks, comparisons, strict=True):
        findings += _regression_findings(section, task, comparison)
    if not findings:
        findings = [
            _Finding(
                "not_run",
                "the recipe sets no threshold (evaluation.benchmark.min_score, max_regression, task_limits)",
            )
        ]
    worst = min(findings, key=lambda finding: _ORDER.index(finding.outcome))
    telling = [finding.reason for finding in findings if finding.outcome == worst.outcome]
    return GateDecision(
        gate="benchmark",
        outcome=worst.outcome,
        reason="; ".join(telling),
        subject=subject,
        guards=section.guards,
        metric=worst.metric,
        observed=worst.observed,
        threshold=worst.threshold,
        interval=worst.interval,
        n=worst.n,
    )


def check_limits(section: BenchmarkSection, named: Sequence[NamedTask]) -> None:
    """Refuse limits that could never be held, before any model is loaded.

    Raises:
        ConfigError: `task_limits` names a task that is not measured, or a metric that it does not report.
    """
    names = [task.name for task in named]
    unknown = sorted(set(section.task_limits) - set(names))
    if unknown:
        raise ConfigError(
            f"evaluation.benchmark.task_limits: {unknown[0]!r} is none of the tasks that are measured "
            f"({', '.join(names)})"
        )
    for task in named:
        metric = metrics_of(section).get(task.name, "").partition(",")[0]
        for name, leaf in task.leaves.items():
            # A task with code of its own may report more than it lists; it is held against what it reported.
            if metric and leaf.get_config("process_results") is None and metric not in leaf.aggregation():
                raise ConfigError(
                    f"evaluation.benchmark.task_limits.{task.name}.metric: {metric!r} is not one that {name!r} "
                    f"reports; it reports {', '.join(leaf.aggregation())}"
                )


def metrics_of(section: BenchmarkSection) -> Mapping[str, str]:
    """The metrics that the recipe names, by task."""
    return {task: limits.metric for task, limits in section.task_limits.items() if limits.metric is not None}


def _mean_finding(min_score: float, tuned: Measurement) -> _Finding:
    shares = [task for task in tuned.tasks if task.is_share]
    average = tuned.average
    if average is None:
        return _Finding(
            "not_run",
            "min_score is a mean of scores between 0 and 1, and no task has such a score; set task_limits instead",
        )
    n = sum(task.n for task in shares)
    interval = None
    if len(shares) == 1 and shares[0].is_binary:
        interval = wilson_interval(round(average * n), n)
    reached = average >= min_score
    words = f"mean score {average:.4f} over {n} items {'reaches' if reached else 'is below'} min_score {min_score}"
    return _Finding("pass" if reached else "fail", words, "mean_score", average, min_score, interval, n)


def _bound_findings(section: BenchmarkSection, task: TaskScore) -> list[_Finding]:
    limits = section.task_limits.get(task.name)
    if limits is None:
        return []
    name, bound = ("min_score", limits.min_score) if task.higher_is_better else ("max_score", limits.max_score)
    wrong = limits.max_score if task.higher_is_better else limits.min_score
    if wrong is not None:
        other = "max_score" if task.higher_is_better else "min_score"
        raise ConfigError(
            f"evaluation.benchmark.task_limits.{task.name}.{other}: of {task.metric} "
            f"{'higher' if task.higher_is_better else 'lower'} is better; set {name}"
        )
    if bound is None:
        return []
    holds = task.score >= bound if task.higher_is_better else task.score <= bound
    words = f"{task.name}: {task.metric} {task.score:.4f} over {task.n} items "
    words += f"{'is within' if holds else 'misses'} its {name} {bound}"
    if task.stderr is not None:
        words += f" (standard error {task.stderr:.4f})"
    interval = wilson_interval(round(task.score * task.n), task.n) if task.is_binary else None
    return [_Finding("pass" if holds else "fail", words, task.metric, task.score, bound, interval, task.n)]


def _regression_findings(section: BenchmarkSection, task: TaskScore, comparison: PairedComparison) -> list[_Finding]:
    limits = section.task_limits.get(task.name)
    if limits is not None and limits.max_regression is not None:
        return [_regression_finding(limits.max_regression, comparison)]
    if section.max_regression is None:
        return []
    if not task.is_share and not (task.higher_is_better and task.aggregation == "mean" and task.values):
        return [
            _Finding(
                "not_run",
                f"{task.name}: max_regression is a share, and {task.metric} has a unit of its own; set "
                f"task_limits.{task.name}.max_regression",
            )
        ]
    return [_regression_finding(section.max_regression, comparison)]


def _regression_finding(allowed: float, comparison: PairedComparison) -> _Finding:
    numbers = f"{comparison.task}: tuned - base is {comparison.difference:+.4f} over {comparison.n} items"
    if not comparison.higher_is_better:
        numbers += f" ({comparison.metric}, lower is better)"
    outcome: Outcome
    if comparison.interval is None or comparison.loss_interval is None:
        outcome, words = "insufficient_evidence", f"{numbers}, without an interval to hold against max_regression"
    else:
        low, high = comparison.interval
        numbers += f", 95 % interval [{low:+.4f}, {high:+.4f}]{_tests(comparison)}"
        least, most = comparison.loss_interval
        if most <= allowed:
            outcome, words = "pass", f"{numbers}, no loss beyond {allowed}"
        elif least > allowed:
            outcome, words = "fail", f"{numbers}, a loss beyond max_regression {allowed}"
        else:
            outcome, words = "insufficient_evidence", f"{numbers}, which does not rule out a loss beyond {allowed}"
    threshold = -allowed if comparison.higher_is_better else allowed
    return _Finding(outcome, words, "difference", comparison.difference, threshold, comparison.interval, comparison.n)


def _tests(comparison: PairedComparison) -> str:
    words = []
    if comparison.p_value is not None:
        discordant = f"{comparison.only_base_correct} to {comparison.only_tuned_correct}"
        words.append(f"exact McNemar p = {comparison.p_value:.3g} ({discordant})")
    if comparison.minimum_detectable_effect is not None:
        words.append(f"detects {comparison.minimum_detectable_effect:.3g}")
    return f" ({', '.join(words)})" if words else ""
