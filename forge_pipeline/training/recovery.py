"""What a fine-tune does when something goes wrong: memory that runs out, losses that leave the ground, a crash before.

A batch that does not fit is halved and gradients are summed over more of them, so that an
optimizer update still sees the same rows. Everything is built anew for it, from the last
whole checkpoint or from the start: never on weights that an update left half done.
"""

import errno
import gc
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.training.checkpoints import Checkpoint, newest_checkpoint, open_checkpoint
from forge_pipeline.training.identity import identity_differences, version_differences, work_key

if TYPE_CHECKING:
    from transformers import TrainerCallback

LogEvent = Callable[..., object]
"""Called with an event's name and its fields, as `AuditLogger.log_event` takes them."""

_log = logging.getLogger(__name__)
# Allocators that have no exception of their own: torch's on a CPU, the kernel where weights are mapped, CUDA's
# libraries beside torch.
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, of torch's on any device or of Python's."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_disk_trouble(error: BaseException) -> bool:
    """Whether a file could not be written for want of room, whoever wrote it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def free_memory() -> None:
    """Give back what is no longer referred to, also what the device's allocator holds on to."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller_batch(batch: int, accumulation: int, *, minimum: int) -> tuple[int, int] | None:
    """At most half the rows at a time, and as many more times: exactly the same rows per update.

    Returns:
        The largest such batch and its accumulation; None if it would be below `minimum`.
    """
    rows = batch * accumulation
    fitting = (size for size in range(batch // 2, minimum - 1, -1) if rows % size == 0)
    found = next(fitting, None)
    return None if found is None else (found, rows // found)


def choose_checkpoint(
    asked: str | bool | None, work_dir: Path | None, identity: Mapping[str, Any]
) -> Checkpoint | None:
    """The checkpoint to resume from; None to start from the beginning.

    Args:
        asked: A path; True for the newest whole one in `work_dir`; ``auto`` for the same where there is one of
            this very run, and the beginning where there is none.

    Raises:
        TrainingError: There is none, it is not whole, or a run with `identity` would not have written it.
    """
    if not asked:
        return None
    if asked == "auto" or asked is True:
        found = newest_checkpoint(Path(work_dir)) if work_dir is not None else None
        if found is None and asked is True:
            raise TrainingError(f"there is no checkpoint to resume from in {work_dir}; start without resuming")
        if found is None:
            return None
    else:
        found = open_checkpoint(Path(asked))
    differences = identity_differences(found.identity, identity)
    if differences and asked == "auto":
        _log.warning("%s is of another run, so training starts from the beginning: %s", found.path, differences)
        return None
    if differences:
        raise TrainingError(
            f"{found.path} is of another run: different are {'; '.join(differences)}. Put that back, or start without "
            "resuming"
        )
    if changed := version_differences(found.identity, identity):
        _log.warning(
            "%s was written by other libraries (%s): the weights may come out different from those of a run without "
            "an interruption",
            found.path,
            ", ".join(changed),
        )
    return found


def divergence_watch(config: ForgeConfig) -> "TrainerCallback":
    """A callback that stops training when a gradient is no number or the loss has left its start far behind."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    factor, window = config.training.divergence_factor, config.training.divergence_window

    class DivergenceWatch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            norm = (logs or {}).get("grad_norm")
            # Loss scaling of float16 looks for the largest scale by overflowing now and then, and skips that update.
            if isinstance(norm, int | float) and not math.isfinite(norm) and not args.fp16:
                raise TrainingError(
                    f"training diverged: grad_norm is {norm} at step {state.global_step}; lower "
                    "training.learning_rate or training.max_grad_norm, or look for broken rows"
                )
            if factor is not None and "loss" in (logs or {}):
                losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
                check_divergence(losses, factor=factor, window=window, step=state.global_step)

    return DivergenceWatch()


def check_divergence(losses: Sequence[float], *, factor: float, window: int, step: int) -> None:
    """Hold the mean of the last `window` logged losses against that of the first.

    Raises:
        TrainingError: It is more than `factor` times as large. Losses that start at or below 0 are not judged.
    """
    if len(losses) < 2 * window:
        return
    start, now = sum(losses[:window]) / window, sum(losses[-window:]) / window
    if start > 0 and now > factor * start:
        raise TrainingError(
            f"training diverged: the loss is {now:.4g} over the last {window} logs at step {step}, more than "
            f"training.divergence_factor {factor:g} times the {start:.4g} that it began with; lower "
            "training.learning_rate or raise training.warmup_ratio"
        )


@contextmanager
def resumable_work_dir(
    home: Path, config: ForgeConfig, tokenized: Digest, *, previous: Digest | None = None
) -> Iterator[Path | None]:
    """A folder for the checkpoints of one fine-tune that a repeat of it finds again, removed when the block ends well.

    It lies with the scratch of runs, under ``<home>/work``, so that what nobody comes back for falls to
    the recipe's retention. A lock that the kernel takes back from a dead process keeps two runs apart.

    Args:
        tokenized: Digest of the tokenized dataset.
        previous: Digest of the model of the stage before, in a pipeline.

    Yields:
        The folder; None if another process trains the same just now, so that this one must do without.
    """
    import filelock

    directory = home / "work" / f"fine_tune-{work_key(config, tokenized=tokenized, previous=previous)}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory.with_name(f".{directory.name}.lock"), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _log.warning("%s is in use: another run trains the same recipe on the same rows", directory)
        yield None
        return
    try:
        directory.mkdir(exist_ok=True)
        yield directory
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.release()
