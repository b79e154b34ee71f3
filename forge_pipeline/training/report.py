"""What a fine-tune says about itself: `TrainingReport`, in the model directory and free of times.

Equal recipes, data and machines give equal reports; times and memory go to `ResourceUsage`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest, read_report
from forge_pipeline.models.directory import ModelDirectory

REPORT_NAME = "training_report.json"

_OWN_FIELDS = ("step", "train_loss", "num_tokens", "eval_num_tokens")
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
class OomRecovery:
    """Memory ran out: `step` is where training went on from, with fewer rows at a time and as many per update."""

    step: int
    old_batch_size: int
    new_batch_size: int
    new_grad_accum: int


@dataclass(frozen=True)
class WeightsAfter:
    """Digest of the trainable weights after `step` optimizer updates."""

    step: int
    digest: Digest


@dataclass(frozen=True)
class RewardModelReport:
    """The reward model that ``trainer_type: rlhf`` trained first.

    Attributes:
        digest: Of its directory.
        accuracy: Share of the held-out pairs whose chosen answer it scores higher; None without such pairs.
        held_out_pairs: Pairs that it did not learn from.
        metrics: As in the report of its own fine-tune.
    """

    digest: Digest
    steps: int
    train_loss: float | None
    eval_loss: float | None
    accuracy: float | None
    held_out_pairs: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainingReport:
    """A finished fine-tune.

    Attributes:
        steps, epochs: Optimizer updates made, passes over the training rows.
        train_loss: Mean over all optimizer updates, also over those before a run was resumed.
        eval_loss: Of the weights that were saved; None without validation rows.
        metrics: The last value of every number TRL logged, without the wall-clock ones.
        tokens_trained: Tokens that went through the model, padding excluded; None where TRL does not count.
        effective_batch_size: Rows per optimizer update over all devices.
        dtype: Of the base weights in memory; ``nf4`` or ``fp4`` when they were quantized.
        stopped_early: Whether the evaluation loss stopped improving before the planned end.
        arguments: The TRL arguments that shape the weights, and `group_by_length`, which is ours.
        oom_recoveries: Each time that memory ran out and a smaller batch was taken.
        weights: Digests on the way, which `reproduce` holds a second training against.
        world_size: Processes that trained together.
        reward_model: What rlhf's policy was optimized against; None for other trainer types.
        tool: Name and versions of the external tool that trained; empty where this library did.
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
    oom_recoveries: tuple[OomRecovery, ...] = ()
    weights: tuple[WeightsAfter, ...] = ()
    world_size: int = 1
    tool: dict[str, str] = field(default_factory=dict)
    reward_model: RewardModelReport | None = None


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


def mean_loss(log: list[dict[str, Any]]) -> float | None:
    """Mean training loss over the optimizer updates; a log entry stands for those since the one before it."""
    total, last = 0.0, 0
    for point in loss_history(log):
        if point.loss is not None:
            total += point.loss * (point.step - last)
            last = point.step
    return total / last if last else None


def tokens_trained(log: list[dict[str, Any]]) -> int | None:
    """TRL's running token count at the end; it starts again from 0 where a run was resumed."""
    counts = [int(entry["num_tokens"]) for entry in log if "loss" in entry and "num_tokens" in entry]
    if not counts:
        return None
    before_restarts = sum(count for count, following in pairwise(counts) if following < count)
    return before_restarts + counts[-1]


def tokens_since_start(log: list[dict[str, Any]]) -> int | None:
    """TRL's running token count at the end: tokens of this process alone, also where it resumed another's run."""
    counts = [int(entry["num_tokens"]) for entry in log if "loss" in entry and "num_tokens" in entry]
    return counts[-1] if counts else None


def last_metrics(log: list[dict[str, Any]]) -> dict[str, float]:
    """The last finite value of each number in the Trainer's log that does not depend on the clock."""
    latest: dict[str, float] = {}
    for entry in log:
        for name, value in entry.items():
            number = _finite(value)
            if number is not None and name not in _OWN_FIELDS and not any(word in name for word in _CLOCK_WORDS):
                latest[name] = number
    return dict(sorted(latest.items()))


def perplexity(method_metrics: tuple[str, ...], eval_loss: float | None) -> dict[str, float]:
    """exp of the loss, where that is the mean over tokens; nothing where it is too large to mean anything."""
    if "eval_perplexity" not in method_metrics or eval_loss is None or eval_loss > 100:
        return {}
    return {"eval_perplexity": math.exp(eval_loss)}


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """TRL arguments that shape the weights: without the paths of this machine and what is kept for resuming."""
    return {
        name: value
        for name, value in sorted(arguments.items())
        if name not in ("output_dir", "run_name") and not name.startswith("save_")
    }


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
