"""What benchmark, safety gate and judge measured, in the trackers that `training.report_to` names for the loss curve.

The numbers lie at the step at which training ended, in the run that the curve is in::

    benchmark/<task>, benchmark/average_score, benchmark/base/<task>
    safety/unsafe_rate, safety/upper_bound, safety/over_refusal_bound, ...
    judge/mean_score, judge/win_rate, ...
    gate/<gate>      1 passed, 0 failed; no number where it was not evaluated

They are a copy for people who compare runs there; gates and records read the report.
"""

from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
from forge_pipeline.gates import Verdict
from forge_pipeline.models import ModelDirectory
from forge_pipeline.training import read_training_report
from forge_pipeline.training.trackers import log_evaluation


def track_evaluation(
    config: ForgeConfig, run_id: str, model: ModelDirectory, report: Any, logs: Path
) -> tuple[str, ...]:
    """Log a report's numbers in the recipe's trackers. A tracker's trouble is a warning in the log, never an error.

    Args:
        run_id: Of the training that made `model`, as the trackers know it.
        logs: As in `trackers.tracking`.

    Returns:
        Where they lie; empty where the recipe names no tracker.
    """
    name, numbers = evaluation_numbers(report)
    if not config.training.trackers or not numbers:
        return ()
    return log_evaluation(config, run_id, logs, name, read_training_report(model).steps, numbers)


@singledispatch
def evaluation_numbers(report: Any) -> tuple[str, dict[str, float]]:
    """The evaluation's name, and its numbers by the names above; what was not measured is left out."""
    raise TypeError(f"{type(report).__name__} is no report of an evaluation")


@evaluation_numbers.register
def _(report: BenchmarkResult) -> tuple[str, dict[str, float]]:
    numbers = {"average_score": report.average_score, "items": float(report.items)} | report.scores
    numbers |= {f"base/{task}": score for task, score in report.base_scores.items()}
    return "benchmark", _named("benchmark", numbers) | _gates(report)


@evaluation_numbers.register
def _(report: SafetyReport) -> tuple[str, dict[str, float]]:
    names = (
        "n", "unsafe", "unscored", "unsafe_rate", "upper_bound", "corrected_rate", "over_refusal_bound", "incoherent",
        "safety_score", "between_seed_sd",
    )  # fmt: skip
    return "safety", _named("safety", {name: getattr(report, name) for name in names}) | _gates(report)


@evaluation_numbers.register
def _(report: JudgeReport) -> tuple[str, dict[str, float]]:
    numbers = {
        "n": report.n,
        "invalid": report.invalid,
        "mean_score": report.mean_score,
        "win_rate": report.tally.win_rate if report.tally else None,
    }
    return "judge", _named("judge", numbers) | _gates(report)


def _named(kind: str, numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {f"{kind}/{name}": float(value) for name, value in numbers.items() if value is not None}


def _gates(report: BenchmarkResult | SafetyReport | JudgeReport) -> dict[str, float]:
    decided = [gate for gate in report.gates if gate.verdict is not Verdict.NOT_EVALUATED]
    return {f"gate/{gate.gate}": float(gate.verdict is Verdict.PASSED) for gate in decided}
