"""The registry's rows as the REST contract shows them; deleting a model; taking in an upload.

A model of a REST job is shown once its job has completed: a stopped or failed job adds
none. Models of the pipeline's own lines are always shown.
"""

import math
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from forge_pipeline.errors import StoreError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import DatasetRow, ModelRow, Registry
from forge_pipeline.server import row_schemas, uploads
from forge_pipeline.server.dataset_schemas import DatasetDetails
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError
from forge_pipeline.server.jobs import Job, JobTable
from forge_pipeline.server.schemas import (
    DatasetSummary,
    ModelDetails,
    ModelList,
    ModelMetrics,
    ModelPage,
    ModelSummary,
    TrainingParams,
    Uploaded,
    Validation,
)
from forge_pipeline.server.settings import ServerSettings

_MAX_ID = 2**63 - 1
_LANGUAGE, _ANSWERING = ("sft", "pretraining"), "extractive-question-answering"
# What the contract calls a metric -> what the registry may call it.
_SCORES: dict[str, tuple[str, ...]] = {
    **{name: (f"eval_{name}",) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "f1")},
    "reward_accuracy": ("reward_accuracy", "eval_accuracy", "eval_rewards/accuracies"),
    "mean_reward": ("reward",),
}


# What a list of models can be sorted by. The first of equals is the one that was made first.
_ORDERS: dict[str, Callable[[ModelSummary], Any]] = {
    "id": lambda model: model.id,
    "created_at": lambda model: (model.created_at, model.id),
    "name": lambda model: (model.name, model.id),
    "size_mb": lambda model: (model.size_mb, model.id),
    "final_loss": lambda model: (math.inf if model.metrics.final_loss is None else model.metrics.final_loss, model.id),
}


@dataclass(frozen=True)
class ModelQuery:
    """Which models a list shows; None: no limit, or any.

    Attributes:
        after: Id of the model after which the list goes on.
        sort: A name of `_ORDERS`, with a minus for the other way round.
    """

    limit: int | None = None
    after: int | None = None
    task: str | None = None
    base_model: str | None = None
    sort: str = "id"


class Catalog:
    """Models and datasets, over the registry and the job table."""

    def __init__(self, settings: ServerSettings, registry: Registry, jobs: JobTable) -> None:
        self._settings, self._registry, self._jobs = settings, registry, jobs

    def models(self) -> list[ModelSummary]:
        found = ((row, self._jobs.find(row.job_id)) for row in self._registry.list_models())
        return [_summary(row, job) for row, job in found if _shown(job)]

    def page(self, wanted: ModelQuery) -> ModelPage | ModelList:
        """Models of a task or base model, in the order asked for; all of them, or those after another one.

        Raises:
            RequestError: No such model is listed as the one to go on after.
        """
        found = [
            model
            for model in self.models()
            if wanted.task in (None, model.task) and wanted.base_model in (None, model.base_model)
        ]
        descending = wanted.sort.startswith("-")
        found.sort(key=lambda model: _ORDERS[wanted.sort.removeprefix("-")](model), reverse=descending)
        if wanted.after is not None:
            ids = [model.id for model in found]
            if wanted.after not in ids:
                raise RequestError("after: there is no such model in this list; give the id of a page's last model")
            found = found[ids.index(wanted.after) + 1 :]
        if wanted.limit is None:
            return ModelList(models=found)
        return ModelPage(models=found[: wanted.limit], has_more=len(found) > wanted.limit)

    def model(self, model_id: int) -> ModelDetails:
        """Everything about one model.

        Raises:
            NotFoundError: No model is shown under that id.
        """
        row, job = self.row(model_id)
        request = job.request if job else {}
        params = row.training_params
        return ModelDetails(
            **dict(_summary(row, job)),
            provider=request.get("provider", row.provider),
            strategy=request.get("strategy", row.strategy),
            training_params=TrainingParams(
                num_epochs=request.get("num_train_epochs", params.get("num_epochs")),
                batch_size=request.get("per_device_train_batch_size", params.get("batch_size")),
                learning_rate=request.get("learning_rate", params.get("learning_rate")),
            ),
            job_id=row.job_id,
        )

    def row(self, model_id: int) -> tuple[ModelRow, Job | None]:
        """The registry's row, and the job that made it.

        Raises:
            NotFoundError: No model is shown under that id.
        """
        row = self._registry.get_model(model_id) if 0 < model_id <= _MAX_ID else None
        job = self._jobs.find(row.job_id) if row else None
        if row is None or not _shown(job):
            raise NotFoundError(f"There is no model {model_id}; GET /api/models lists them")
        return row, job

    def delete_model(self, model_id: int) -> str:
        """Forget a model and remove its files; returns its name.

        Raises:
            NotFoundError: There is no such model.
            ConflictError: It is or was released, and is kept.
        """
        row, job = self.row(model_id)
        try:
            if not self._registry.delete_model(model_id):
                raise NotFoundError(f"There is no model {model_id}; GET /api/models lists them")
        except StoreError as error:
            raise ConflictError(str(error)) from error
        _remove(Path(row.path), self._settings.data_dir)
        return _summary(row, job).name

    def datasets(self) -> list[DatasetSummary]:
        return [_dataset(row) for row in self._registry.list_datasets()]

    def dataset(self, row: DatasetRow, preview: list[dict[str, Any]]) -> DatasetDetails:
        """Everything about one dataset."""
        validation = Validation.model_validate(row.validation)
        return DatasetDetails(
            **dict(_dataset(row)),
            digest=row.digest,
            dataset_schema=validation.dataset_schema,
            validation=validation,
            preview=preview,
        )

    def take_in(self, received: uploads.Received) -> Uploaded:
        """Check an upload's rows, give it its name and record it.

        Raises:
            RequestError: Wrong extension, not UTF-8, or no row at all. The file is removed.
        """
        try:
            name = uploads.stored_name(received.filename)
            report = row_schemas.inspect_file(received.path)
            if not report.rows:
                raise RequestError("The file holds no row; a dataset has one JSON object a line")
            placed = uploads.place(received.path, self._settings.datasets_dir, name)
        except UnicodeDecodeError as error:
            raise RequestError(f"The file is not UTF-8 text: {error.reason}. Save it as UTF-8") from error
        finally:
            received.path.unlink(missing_ok=True)
        validation = Validation(
            valid=report.valid, errors=list(report.errors), error_count=report.error_count, dataset_schema=report.schema
        )
        self._registry.register_dataset(
            digest=Digest.of_file(placed),
            filename=placed.name,
            path=str(placed),
            num_examples=report.rows,
            size_bytes=received.size,
            validation=validation.model_dump(),
        )
        return Uploaded(filename=placed.name, num_examples=report.rows, validation=validation)


def _shown(job: Job | None) -> bool:
    return job is None or job.status == "completed"


def _summary(row: ModelRow, job: Job | None) -> ModelSummary:
    return ModelSummary(
        id=row.id,
        uid=str(row.uid),
        name=_name(job) if job else row.name,
        # The recipe holds the model's resolved path; the job holds what was asked for.
        base_model=job.request["model_name"] if job else row.base_model,
        task=row.task,
        created_at=_time(row.created_at),
        size_mb=_megabytes(row.size_bytes),
        metrics=_metrics(row, job),
    )


def _name(job: Job) -> str:
    """Base model, strategy and job: ``llama-3.2-3b-sft-1f0a2c9d4e7b``."""
    base = str(job.request["model_name"]).rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf").lower()
    return f"{base}-{job.request['strategy']}-{job.id.removeprefix('train_')}"


def _metrics(row: ModelRow, job: Job | None) -> ModelMetrics:
    known = (row.metrics.get(name) for name in ("eval_loss", "train_loss", "loss"))
    final_loss = next((loss for loss in known if loss is not None), job.loss if job else None)
    perplexity = None
    # The mean over tokens of a cross-entropy; exp() of another loss means nothing.
    if final_loss is not None and final_loss < 700 and row.strategy in _LANGUAGE and row.task != _ANSWERING:
        perplexity = math.exp(final_loss)
    found = {shown: _first(row, names) for shown, names in _SCORES.items()}
    return ModelMetrics(final_loss=final_loss, perplexity=perplexity, **found)


def _first(row: ModelRow, names: tuple[str, ...]) -> float | None:
    return next((row.metrics[name] for name in names if row.metrics.get(name) is not None), None)


def _dataset(row: DatasetRow) -> DatasetSummary:
    return DatasetSummary(
        filename=row.filename,
        num_examples=row.num_examples,
        size_mb=_megabytes(row.size_bytes),
        uploaded_at=_time(row.uploaded_at),
    )


def _time(value: datetime) -> str:
    return value.isoformat(timespec="seconds").replace("+00:00", "Z")


def _megabytes(size: int) -> float:
    return round(size / 1e6, 3) or (0.001 if size else 0.0)


def _remove(directory: Path, data_dir: Path) -> None:
    """Remove an artefact: out of its place at once, then file by file. Only ever inside the data directory."""
    if not directory.resolve().is_relative_to(data_dir.resolve()) or not directory.is_dir():
        return
    doomed = directory.with_name(f".deleted.{uuid.uuid4().hex}")
    directory.rename(doomed)
    shutil.rmtree(doomed)
