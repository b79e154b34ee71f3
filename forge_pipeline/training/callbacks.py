"""What the Trainer tells us while it runs: progress for whoever listens, and losses that must stop it.

The class is made inside a function, because its base comes from transformers.
"""

import math
from typing import TYPE_CHECKING, Any

from forge_pipeline import progress as reporting
from forge_pipeline.errors import TrainingError
from forge_pipeline.training.pace import Pace
from forge_pipeline.training.usage import memory_in_use

if TYPE_CHECKING:
    from transformers import TrainerCallback

_STAGE = "fine_tune"
_SHOWN = ("loss", "eval_loss", "reward", "learning_rate", "epoch", "grad_norm")


def progress_callback(report: reporting.Report) -> "TrainerCallback":
    """A callback that reports every optimizer update, and stops training at a loss that is no number."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class ProgressReporter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def __init__(self) -> None:
            self._latest: dict[str, float] = {}
            self._pace = Pace()

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            self._pace.begin(state.max_steps)
            if state.is_world_process_zero:
                report(reporting.Progress(_STAGE, state.global_step, state.max_steps, "training"))

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            self._pace.step_done(state.global_step)
            # A step that is logged is reported by on_log, which comes after this and knows its loss.
            if state.global_step % state.logging_steps:
                self._say(args, state, "training")

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
            if "loss" in logs and isinstance(tokens := logs.get("num_tokens"), int | float):
                self._pace.counted(tokens)
            self._say(args, state, "evaluating" if "eval_loss" in logs else "training")

        def on_evaluate(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            self._pace.paused()

        def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            self._pace.paused()

        def _say(self, args: TrainingArguments, state: TrainerState, message: str) -> None:
            if state.is_world_process_zero:
                metrics = self._latest | self._pace.metrics() | memory_in_use(args.device.type)
                report(reporting.Progress(_STAGE, state.global_step, state.max_steps, message, metrics))

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
                "training.warmup_ratio, or look for broken rows"
            )
