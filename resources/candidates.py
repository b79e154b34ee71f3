"""A freshly trained model becomes a candidate in the registry."""

from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import Registry
from forge_pipeline.training import read_training_report


def register_candidate(
    registry: Registry, recipe: ForgeConfig, model: ModelDirectory, *, line: str, run_id: str, job_id: str | None
) -> Any:
    """Enter `model` as a candidate; the same digest again is the same entry."""
    report = read_training_report(model)
    return registry.register_model(
        uid=model.digest,
        name=job_id or line,
        base_model=recipe.model.name_or_path,
        task="text-generation",
        provider="huggingface",
        strategy=recipe.training.trainer_type,
        path=str(model.path),
        training_params={
            "num_epochs": recipe.training.num_train_epochs,
            "batch_size": recipe.training.per_device_train_batch_size,
            "learning_rate": recipe.training.learning_rate,
        },
        metrics=dict(report.metrics),
        line=line,
        run_id=run_id,
        job_id=job_id,
    )
