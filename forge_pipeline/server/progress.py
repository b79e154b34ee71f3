"""How far a run is: its JSONL progress file -> figures, and status messages -> WebSocket clients.

The file is appended to by the run's stages, one whole line a write, so a reader that
remembers its offset never sees half a moment. Figures are those of the fine-tune;
earlier stages only name themselves.
"""

import asyncio
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forge_pipeline.server.jobs import Job
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.schemas import TrainingStatus

TRAINING_STAGE = "fine_tune"
_REWARD_MODEL = (
    "reward model: "  # so begins what the first of rlhf's two fine-tunes says; the job's steps are the second's
)
_QUEUE = 64  # messages a slow client may be behind before the oldest is dropped


@dataclass(frozen=True)
class Figures:
    """What the progress file says so far. `epoch` counts from 1; `step` and `total` are optimizer updates."""

    stage: str | None = None
    message: str = ""
    step: int = 0
    total: int = 0
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None

    def after(self, line: dict[str, Any]) -> "Figures":
        """The figures after one more line."""
        stage, message = str(line.get("stage") or ""), str(line.get("message") or "")
        if stage != TRAINING_STAGE or message.startswith(_REWARD_MODEL):
            return replace(self, stage=stage, message=message)
        metrics = line.get("metrics") or {}
        return replace(
            self,
            stage=stage,
            message=message,
            step=max(self.step, _integer(line.get("step"))),
            # A fine-tune that is ended early saves what it has, and calls that the whole; what was planned was more.
            total=max(self.total, _integer(line.get("total"))),
            epoch=_number(metrics.get("epoch"), self.epoch),
            loss=_number(metrics.get("loss"), self.loss),
            learning_rate=_number(metrics.get("learning_rate"), self.learning_rate),
        )


class ProgressTail:
    """Reads a progress file from where it stopped. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest = path, 0, b""
        self.figures = Figures()

    def read(self) -> Figures:
        """Take in what was appended since; lines that are not JSON objects are skipped."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return self.figures
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                self.figures = self.figures.after(value)
        return self.figures


def training_status(job: Job | None, figures: Figures | None = None) -> TrainingStatus:
    """The status message of a job; idle without one.

    Args:
        job: The present job, or the last one. Its stored figures are the fallback.
        figures: Fresh ones of an active job.
    """
    if job is None:
        return TrainingStatus(
            status="idle",
            progress=0.0,
            current_epoch=0,
            total_epochs=0,
            current_step=0,
            total_steps=0,
            loss=None,
            learning_rate=None,
        )
    shown = figures or Figures()
    step, total = max(job.step, shown.step), shown.total or job.total_steps
    epochs = int(job.request.get("num_train_epochs", 1))
    if job.status == "completed":  # an early stop ends below the planned steps; what was done is then the whole
        total = step = step or total
    step = min(step, total) if total else step
    begun = shown.stage is not None and job.status in ("queued", "starting")  # seen here before Dagster was asked again
    share = 100.0 if job.status == "completed" else 100.0 * step / total if total else 0.0
    return TrainingStatus(
        status="training" if begun else job.status,
        progress=round(min(share, 100.0), 1),
        current_epoch=epoch_of(shown, epochs) if figures else job.epoch,
        total_epochs=epochs,
        current_step=step,
        total_steps=total,
        loss=shown.loss if shown.loss is not None else job.loss,
        learning_rate=shown.learning_rate if shown.learning_rate is not None else job.learning_rate,
        job_id=job.id,
        stage=shown.stage,
        message=without_paths(shown.message),
        error=job.error and without_paths(job.error),
    )


def epoch_of(figures: Figures, epochs: int) -> int:
    """The epoch that is being trained, from 1 to `epochs`."""
    done = (
        figures.epoch if figures.epoch is not None else epochs * figures.step / figures.total if figures.total else 0.0
    )
    # A hair over a whole number is the end of that epoch, not the next one's beginning.
    return min(max(math.ceil(done - 1e-6), 1), max(epochs, 1))


class Audience:
    """The WebSocket clients that watch. Each has a queue of its own, so a slow or dead one holds nobody up."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()

    def __len__(self) -> int:
        return len(self._queues)

    def join(self) -> asyncio.Queue[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(_QUEUE)
        self._queues.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[str]) -> None:
        self._queues.discard(queue)

    def tell(self, message: str) -> None:
        """Queue `message` for everyone; a client that is `_QUEUE` messages behind loses its oldest."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)


def _number(value: Any, default: float | None) -> float | None:
    """A finite float, else `default`: a loss of NaN is no number a client can draw."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return default


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
