"""What a training would take: memory by `fit_check`, time by what earlier jobs of this server took.

`fit_check` reads a model's configuration, never its weights. Time is said only where jobs with the same model and
settings have completed here, on rows of about the same size; it is the median of their seconds an update, times the
updates, and of what they took before the first one and after the last.
"""

import json
import math
import statistics
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ForgeError, ModelError, StoreError
from forge_pipeline.registry import Registry
from forge_pipeline.server.jobs import Job, JobTable
from forge_pipeline.server.progress import TRAINING_STAGE
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.row_schemas import FileReport
from forge_pipeline.server.schemas import StartTraining
from forge_pipeline.server.settings import ServerSettings
from forge_pipeline.server.validation_schemas import Estimate

_GIB = 2.0**30
_PATIENCE = 20.0  # seconds that one estimate waits for another
_FORGET_AFTER = 30.0  # seconds for which a model that was not found is not looked for again
_JOBS, _ENOUGH = 200, 5  # completed jobs that are looked through, and like ones that are asked
_ALIKE = 2.0  # rows at most so many times as long count as of the same size
_SAME = (
    "task", "model_name", "provider", "strategy", "device", "lora_r", "use_4bit", "use_8bit", "fp16", "bf16",
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "packing",
    "max_seq_length",
)  # fmt: skip
_FIELDS = {  # recipe key -> field of the start body
    "training.per_device_train_batch_size": "per_device_train_batch_size",
    "training.gradient_accumulation_steps": "gradient_accumulation_steps",
    "training.gradient_checkpointing": "gradient_checkpointing",
    "training.optim": "optim",
    "model.max_length": "max_seq_length",
    "model.load_in_4bit": "use_4bit",
}


class Estimator:
    """Estimates, one at a time: they are computed in this process, which has requests to answer."""

    def __init__(self, settings: ServerSettings, registry: Registry, jobs: JobTable) -> None:
        self._settings, self._registry, self._jobs = settings, registry, jobs
        self._lock = threading.Lock()
        self._unknown: dict[str, tuple[float, str]] = {}

    def estimate(
        self,
        start: StartTraining,
        recipe: Mapping[str, Any],
        dataset: Path | None,
        report: FileReport | None,
        *,
        exact: bool,
    ) -> tuple[Estimate | None, list[str]]:
        """The estimate, or why there is none."""
        config = ForgeConfig(**recipe)
        device = None if start.device == "auto" else start.device
        asked_at, words = self._unknown.get(start.model_name, (-math.inf, ""))
        if time.monotonic() - asked_at < _FORGET_AFTER:  # a Hub that does not answer is not asked at every keystroke
            return None, [words]
        from forge_pipeline.fit_check import fit_check

        if not self._lock.acquire(timeout=_PATIENCE):
            return None, ["No estimate just now: another one is being computed"]
        try:
            found = fit_check(config, device=device, serving=[config.model.max_length], quick=not exact)
        except ForgeError as error:
            words = f"No estimate: {without_paths(str(error))}"
            if isinstance(error, ModelError | StoreError):
                self._unknown = {start.model_name: (time.monotonic(), words)}
            return None, [words]
        finally:
            self._lock.release()
        serving = next(each for each in found.serving if each.runtime == "transformers" and each.batch == 1)
        advice = [_words(each.keys, each.needed, each.words) for each in found.advice]
        return Estimate(
            training_gib=round(found.training.needed / _GIB, 3),
            serving_gib=round(serving.needed / _GIB, 3),
            available_gib=round(found.budget.bytes / _GIB, 3),
            fits=found.fits,
            advice=advice,
            seconds=self._seconds(start, dataset, report),
            how=found.training.how,
            notes=[without_paths(each) for each in found.notes],
        ), []

    def _seconds(self, start: StartTraining, dataset: Path | None, report: FileReport | None) -> float | None:
        if dataset is None or report is None or not report.rows:
            return None
        size = dataset.stat().st_size / report.rows
        wanted = {name: getattr(start, name) for name in _SAME}
        measured: list[tuple[float, float]] = []
        for job in self._jobs.page(limit=_JOBS, status="completed"):
            if len(measured) == _ENOUGH:
                break
            if job.kind == "train" and all(job.request.get(name) == value for name, value in wanted.items()):
                known = self._row_size(job)
                if known is not None and 1 / _ALIKE <= known / size <= _ALIKE and (took := self._took(job)):
                    measured.append(took)
        if not measured:
            return None
        per_update = statistics.median(rate for rate, _ in measured)
        beside = statistics.median(rest for _, rest in measured)
        return round(per_update * _updates(start, report.rows) + beside, 1)

    def _row_size(self, job: Job) -> float | None:
        """Bytes of a row of the upload that a job learnt from; None where it is no upload, or is gone."""
        row = self._registry.find_dataset(str(job.request["dataset"]))
        return float(row.size_bytes) / row.num_examples if row and row.num_examples else None

    def _took(self, job: Job) -> tuple[float, float] | None:
        """Seconds an update, and seconds of everything else, of a completed job."""
        moments = _moments(self._settings.progress_dir / f"{job.run_id}.jsonl")
        if len(moments) < 2 or job.started_at is None or job.ended_at is None:
            return None
        (first, began), (last, ended) = moments[0], moments[-1]
        if last <= first:
            return None
        rate = (ended - began) / (last - first)
        whole = (datetime.fromisoformat(job.ended_at) - datetime.fromisoformat(job.started_at)).total_seconds()
        return rate, max(0.0, whole - rate * last)


def _updates(start: StartTraining, rows: int) -> int:
    """Optimizer updates of a training on `rows` rows."""
    if start.max_steps > 0:
        return start.max_steps
    batch = start.per_device_train_batch_size * start.gradient_accumulation_steps
    return start.num_train_epochs * math.ceil(max(1, round(rows * (1 - start.eval_split))) / batch)


def _moments(progress: Path) -> list[tuple[int, float]]:
    """Update and Unix time of each line that a fine-tune wrote."""
    found = []
    try:
        lines = progress.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            value = json.loads(line)
            if value["stage"] == TRAINING_STAGE and value["step"] > 0:
                found.append((int(value["step"]), float(value["ts"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _words(keys: Mapping[str, Any], needed: int, words: tuple[str, ...]) -> str:
    """``gradient_checkpointing: true: needs 3.1 GiB (slower by a quarter)``."""
    changes = ", ".join(f"{_FIELDS.get(key, key)}: {json.dumps(value)}" for key, value in keys.items())
    cost = "; ".join(word for word in words if word)
    return f"{changes} needs {needed / _GIB:.1f} GiB" + (f" ({cost})" if cost else "")
