"""What the Trainer tells us while it runs: progress for whoever listens, and losses that must stop it.

The class is made inside a function, because its base comes from transformers.
"""

import math
import time
from typing import TYPE_CHECKING, Any

from forge_pipeline import progress as reporting
from forge_pipeline.errors import TrainingError

if TYPE_CHECKING:
    from transformers import TrainerCallback

_STAGE = "fine_tune"
_SHOWN = ("loss", "learning_rate", "epoch", "grad_norm", "eval_loss", "reward")


def progress_callback(report: reporting.Report) -> "TrainerCallback":
    """A callback that reports every optimizer update, and stops training at a loss that is no number."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class ProgressReporter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def __init__(self) -> None:
            self._latest: dict[str, float] = {}
            self._tokens, self._since = 0.0, time.monotonic()

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            self._since = time.monotonic()
            report(reporting.Progress(_STAGE, state.global_step, state.max_steps, "training"))

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            # A step that is logged is reported by on_log, which comes after this and knows its loss.
            if state.global_step % state.logging_steps:
                self._say(state, "training")

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            logs = logs or {}
            check_finite(logs, state.global_step)
            if "train_runtime" in logs:
                return
            self._latest |= {name: float(logs[name]) for name in _SHOWN if isinstance(logs.get(name), int | float)}
            self._count(logs)
            self._say(state, "evaluating" if "eval_loss" in logs else "training")

        def _count(self, logs: dict[str, Any]) -> None:
            """Turn TRL's running token count into a rate since the last log."""
            tokens, now = logs.get("num_tokens"), time.monotonic()
            if isinstance(tokens, int | float) and tokens > self._tokens and now > self._since:
                self._latest["tokens_per_second"] = (tokens - self._tokens) / (now - self._since)
                self._tokens, self._since = tokens, now

        def _say(self, state: TrainerState, message: str) -> None:
            if state.is_world_process_zero:
                report(reporting.Progress(_STAGE, state.global_step, state.max_steps, message, dict(self._latest)))

    return ProgressReporter()


def check_finite(logs: dict[str, Any], step: int) -> None:
    """Stop a run that has diverged.

    Raises:
        TrainingError: A loss in `logs` is NaN or infinite.
    """
    for name in ("loss", "eval_loss"):
        value = logs.get(name)
        if isinstance(value, int | float) and not math.isfinite(value):
            raise TrainingError(
                f"training diverged: {name} is {value} at step {step}; lower training.learning_rate, raise "
                "training.warmup_ratio, or look for broken rows. Nothing was saved"
            )
