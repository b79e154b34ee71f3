"""The loss gate: did training end in finite numbers, and below what the recipe allows."""

import math

from forge_pipeline.config import ForgeConfig
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.training.report import TrainingReport, read_training_report


def loss_gate(config: ForgeConfig, model: ModelDirectory) -> tuple[GateDecision, ...]:
    """Decide `loss_is_finite`, and `loss` where the recipe sets a threshold, about this model directory.

    Raises:
        TrainingError: The directory has no training report.
    """
    report = read_training_report(model)
    decisions = [_finite(config, model, report)]
    thresholds = {
        "max_acceptable_loss": config.evaluation.max_acceptable_loss,
        "baseline_loss": config.evaluation.baseline_loss,
    }
    known = {name: value for name, value in thresholds.items() if value is not None}
    if known:
        decisions.append(_below(config, model, report, known))
    return tuple(decisions)


def final_loss(report: TrainingReport) -> tuple[str, float | None]:
    """The loss a gate looks at, and its name.

    The evaluation loss where there is one; else the mean of the last tenth of the logged training
    losses, because one batch is noise and the mean of the whole run is history.
    """
    if report.eval_loss is not None:
        return "eval_loss", report.eval_loss
    losses = [point.loss for point in report.loss_history if point.loss is not None]
    tail = losses[-max(1, math.ceil(len(losses) / 10)) :]
    return "train_loss", sum(tail) / len(tail) if tail else None


def _finite(config: ForgeConfig, model: ModelDirectory, report: TrainingReport) -> GateDecision:
    points = [point for point in report.loss_history if point.eval_loss is None]
    broken = [point.step for point in points if point.loss is None]
    name, value = final_loss(report)
    outcome: Outcome
    if not points or value is None:
        outcome, reason = "not_run", "no loss was logged, so nobody knows whether training converged"
    elif broken:
        outcome, reason = "fail", f"the loss is not a finite number at {len(broken)} logged steps, first at {broken[0]}"
    else:
        outcome, reason = "pass", f"all {len(points)} logged losses are finite; {name} is {value:.4f}"
    return GateDecision(
        gate="loss_is_finite",
        outcome=outcome,
        reason=reason,
        subject=model.digest,
        guards=config.evaluation.loss_guards,
        metric=name,
        observed=value,
        n=len(points),
    )


def _below(
    config: ForgeConfig, model: ModelDirectory, report: TrainingReport, thresholds: dict[str, float]
) -> GateDecision:
    name, value = final_loss(report)
    key, threshold = min(thresholds.items(), key=lambda item: item[1])
    outcome: Outcome
    if value is None:
        outcome, reason = "not_run", f"no loss was logged to hold against evaluation.{key}: {threshold:g}"
    elif value <= threshold:
        outcome, reason = "pass", f"{name} {value:.4f} is at most evaluation.{key}: {threshold:g}"
    else:
        outcome, reason = "fail", f"{name} {value:.4f} is above evaluation.{key}: {threshold:g}"
    return GateDecision(
        gate="loss",
        outcome=outcome,
        reason=reason,
        subject=model.digest,
        guards=config.evaluation.loss_guards,
        metric=name,
        observed=value,
        threshold=threshold,
    )
