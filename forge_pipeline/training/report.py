"""What a fine-tune says about itself: `TrainingReport`, in the model directory and free of times.

Equal recipes, data and machines give equal reports; times and memory go to `ResourceUsage`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import read_report
from forge_pipeline.models.directory import ModelDirectory

REPORT_NAME = "training_report.json"

_CLOCK_WORDS = ("runtime", "per_second", "step_time", "flos")


@dataclass(frozen=True)
class LossPoint:
    """One logged moment: `step` counts optimizer updates from 1. An evaluation point has `eval_loss` alone."""

    step: int
    epoch: float
    loss: float | None
    learning_rate: float | None
    eval_loss: float | None


@dataclass(frozen=True)
class TrainingReport:
    """A finished fine-tune.

    Attributes:
        steps, epochs: Optimizer updates made, passes over the training rows.
        train_loss: Mean over the whole run, as TRL reports it.
        eval_loss: Of the weights that were saved; None without validation rows.
        metrics: The last value of every number TRL logged, without the wall-clock ones.
        tokens_trained: Tokens that went through the model, padding excluded; None where TRL does not count.
        effective_batch_size: Rows per optimizer update over all devices.
        dtype: Of the base weights in memory; ``nf4`` or ``fp4`` when they were quantized.
        stopped_early: Whether the evaluation loss stopped improving before the planned end.
        arguments: The TRL arguments, without paths.
    """

    trainer_type: str
    trainer_class: str
    steps: int
    epochs: float
    train_loss: float | None
    eval_loss: float | None
    metrics: dict[str, float]
    loss_history: tuple[LossPoint, ...]
    tokens_trained: int | None
    trainable_parameters: int
    total_parameters: int
    seed: int
    effective_batch_size: int
    dtype: str
    device: str
    stopped_early: bool
    arguments: dict[str, Any]


def read_training_report(model: ModelDirectory) -> TrainingReport:
    """The report that lies in a model directory.

    Raises:
        TrainingError: There is none.
        IntegrityError: It cannot be read.
    """
    path = model.path / REPORT_NAME
    if not path.is_file():
        raise TrainingError(f"{model.path} has no {REPORT_NAME}; expected a directory that `fine_tune` wrote")
    return read_report(path, TrainingReport)


def loss_history(log: list[dict[str, Any]]) -> tuple[LossPoint, ...]:
    """The Trainer's log as loss points, in order. What is not finite becomes None."""
    return tuple(
        LossPoint(
            step=int(entry["step"]),
            epoch=float(entry.get("epoch") or 0.0),
            loss=_finite(entry.get("loss")),
            learning_rate=_finite(entry.get("learning_rate")),
            eval_loss=_finite(entry.get("eval_loss")),
        )
        for entry in log
        if "loss" in entry or "eval_loss" in entry
    )


def last_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """The last finite value of each number in the Trainer's log that does not depend on the clock."""
    latest: dict[str, float] = {}
    for entry in log:
        for name, value in entry.items():
            number = _finite(value)
            if number is not None and name != "step" and not any(word in name for word in _CLOCK_WORDS):
                latest[name] = number
    return dict(sorted(latest.items()))


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """TRL arguments without the paths of this machine."""
    return {name: value for name, value in sorted(arguments.items()) if name not in ("output_dir", "run_name")}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
