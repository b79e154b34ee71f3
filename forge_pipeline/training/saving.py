"""Checkpoints that are whole or not there, and that hold everything a run needs to go on as if nothing had happened.

transformers keeps weights, optimizer, schedule, random states and the position among the
rows. It forgets the losses summed since the last log, TRL's running metrics and token count,
and how long an evaluation has not improved; `TrainingMemory` keeps those in the checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.training.checkpoints import (
    discard_checkpoint,
    newest_checkpoint,
    rotate_checkpoints,
    seal_checkpoint,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback

MEMORY_FILE = "forge_memory.json"
DIGEST_STEPS = (1, 4, 16, 64)
"""Optimizer updates after which a run notes the digest of its trainable weights, for `reproduce`."""


class TrainingMemory:
    """What one run remembers across a resume, beside what transformers keeps."""

    def __init__(self) -> None:
        self.weights: dict[int, Digest] = {}
        self.oom_recoveries: list[dict[str, int]] = []
        self._restored: Mapping[str, Any] = {}

    def load(self, checkpoint: Path | None) -> None:
        """Take over what a checkpoint remembers; nothing where there is none, or it is not of our making."""
        file = checkpoint / MEMORY_FILE if checkpoint else None
        self._restored = json.loads(file.read_text()) if file and file.is_file() else {}
        self.weights = {int(step): Digest(digest) for step, digest in self._restored.get("weights", {}).items()}
        # Those of this process stand: a checkpoint from before the memory ran out does not know of them.
        self.oom_recoveries = self.oom_recoveries or list(self._restored.get("oom_recoveries", []))

    def write(self, checkpoint: Path, trainer: Any) -> None:
        """Keep the trainer's running values. NaN may be among them, which is why this is not canonical JSON."""
        values = {
            "tr_loss": trainer._tr_loss.item(),
            "total_loss": trainer._total_loss_scalar,
            "last_logged": trainer._globalstep_last_logged,
            "tokens": getattr(trainer, "_total_train_tokens", None),
            "metrics": {name: _plain(getattr(trainer, name, None)) for name in _METRICS},
            "patience": _patience(trainer),
            "weights": self.weights,
            "oom_recoveries": self.oom_recoveries,
        }
        write_file(checkpoint / MEMORY_FILE, json.dumps(values, sort_keys=True).encode())

    def restore(self, trainer: Any) -> None:
        """Put the running values back, after transformers has set them to zero and before the first step."""
        if not (values := self._restored):
            return
        trainer._tr_loss.fill_(values["tr_loss"])
        trainer._total_loss_scalar = values["total_loss"]
        trainer._globalstep_last_logged = values["last_logged"]
        if values["tokens"] is not None:
            trainer._total_train_tokens = values["tokens"]
        for name, modes in values["metrics"].items():
            for mode, series in (modes or {}).items():
                getattr(trainer, name)[mode].update(series)
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "early_stopping_patience_counter"):
                callback.early_stopping_patience_counter = values["patience"]


_METRICS = ("_metrics", "_stored_metrics")  # of TRL's stable and experimental trainers: mode -> name -> values


def _plain(metrics: Any) -> dict[str, dict[str, list[float]]] | None:
    """TRL's running metrics as JSON; None for a trainer that has none."""
    if metrics is None:
        return None
    return {
        mode: {name: [getattr(value, "item", lambda value=value: value)() for value in values]
               for name, values in series.items()}
        for mode, series in metrics.items()
    }  # fmt: skip


def _patience(trainer: Any) -> int:
    counters = (getattr(each, "early_stopping_patience_counter", None) for each in trainer.callback_handler.callbacks)
    return next((counter for counter in counters if counter is not None), 0)


def memory_callback(
    memory: TrainingMemory, trainer: Callable[[], Any], *, stop_after: int | None = None
) -> "TrainerCallback":
    """Restores the running values when training begins, and notes digests of the weights on the way.

    Args:
        trainer: Gives the trainer, which is made after its callbacks.
        stop_after: Updates after which training ends, whatever its schedule says.
    """
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Memory(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            # A resumed state brings the intervals of the run that wrote it; how often to log and save is today's word.
            state.compute_steps(args, state.max_steps)
            memory.restore(trainer())

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.global_step in DIGEST_STEPS and args.world_size == 1:  # a rank may hold a part of each weight only
                memory.weights[state.global_step] = weights_digest(trainer().model)
            if stop_after is not None and state.global_step >= stop_after:
                control.should_training_stop = True

    return Memory()


def weights_digest(model: Any) -> Digest:
    """Digest of a model's trainable weights: names, types, shapes and bytes, in the order of their names."""
    import hashlib

    import torch

    hashed = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if weight.requires_grad:
            hashed.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            hashed.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return Digest(f"sha256:{hashed.hexdigest()}")


def saving_whole(trainer_class: type, memory: TrainingMemory, identity: Mapping[str, Any]) -> type:
    """`trainer_class`, whose checkpoints are sealed before an older one is removed, or leave nothing behind."""

    def save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        directory = Path(self.args.output_dir)
        path = directory / f"checkpoint-{self.state.global_step}"
        check_weights(self.model, self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                discard_checkpoint(path)  # of an earlier process, half-written
            self.accelerator.wait_for_everyone()
            trainer_class._save_checkpoint(self, model, trial)  # type: ignore[attr-defined]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                memory.write(path, self)
                batch = (self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps)
                seal_checkpoint(path, identity=identity, batch=batch)
        # Whatever was raised: each of the libraries that write a part of a checkpoint has errors of its own.
        except Exception as error:
            discard_checkpoint(path)
            raise TrainingError(_not_written(path, error)) from error
        except BaseException:
            discard_checkpoint(path)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(directory, limit=limit, best=Path(best) if best else None)

    return type(trainer_class.__name__, (trainer_class,), {"_save_checkpoint": save_checkpoint})


def check_weights(model: Any, step: int) -> None:
    """Refuse to keep weights that are no numbers.

    Raises:
        TrainingError: A trainable weight holds NaN or an infinity.
    """
    import torch

    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise TrainingError(
                f"training diverged: {name} holds values that are not finite after step {step}; lower "
                "training.learning_rate"
            )


def _not_written(path: Path, error: Exception) -> str:
    """Why a checkpoint is not there, with the room that is left, because some writers do not tell a full disk."""
    try:
        room = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free there"
    except OSError:
        room = "its folder cannot be looked at"
    return f"{path} could not be written: {type(error).__name__}: {error} ({room})"


def what_is_left(work_dir: Path, *, kept: bool) -> str:
    """One sentence for the end of an error: what a run that stopped here has to go on from."""
    found = newest_checkpoint(work_dir) if kept else None
    if found is None:
        return "Nothing was saved"
    return f"The last good checkpoint is {found.path}, after step {found.step}"
