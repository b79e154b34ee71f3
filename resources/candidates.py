"""A freshly trained model becomes a candidate in the registry.

Its task is its record's, except that a reward model's is ``reward-modeling``: it scores, and
does not what `model.task` says. Its provider is who trained: ``huggingface`` for this library
on transformers, else the recipe's `model.backend`.
"""

from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.models import ModelDirectory
from forge_pipeline.models.directory import ModelRecord
from forge_pipeline.registry import Registry
from forge_pipeline.training import read_training_report
from forge_pipeline.training.report import TrainingReport


def register_candidate(
    registry: Registry, recipe: ForgeConfig, model: ModelDirectory, *, line: str, run_id: str, job_id: str | None
) -> Any:
    """Enter `model` as a candidate; the same digest again is the same entry."""
    report = read_training_report(model)
    return registry.register_model(
        uid=model.digest,
        name=job_id or line,
        base_model=recipe.model.name_or_path,
        task=_task(model.record),
        provider="huggingface" if recipe.model.backend == "transformers" else recipe.model.backend,
        strategy=recipe.training.trainer_type,
        path=str(model.path),
        training_params={
            "num_epochs": recipe.training.num_train_epochs,
            "batch_size": recipe.training.per_device_train_batch_size,
            "learning_rate": recipe.training.learning_rate,
        },
        metrics=_metrics(report),
        line=line,
        run_id=run_id,
        job_id=job_id,
    )


def _task(record: ModelRecord) -> str:
    return "reward-modeling" if record.head == "sequence-classification" else record.task


def _metrics(report: TrainingReport) -> dict[str, float]:
    """The report's metrics, and how well the reward model that rlhf trained first tells the held-out answers apart."""
    accuracy = report.reward_model.accuracy if report.reward_model else None
    return {**report.metrics, **({} if accuracy is None else {"reward_accuracy": accuracy})}
