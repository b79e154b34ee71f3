"""Fold an adapter into its base model.

In float32 whatever the adapter was trained on: the sum of a weight and a small update
loses the update's low bits in bfloat16. `safe_merge` refuses a sum with NaN or inf in it.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.directory import ModelDirectory, write_record
from forge_pipeline.models.loading import load_saved_tokenizer, load_tuned
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.writing import write_full_model, write_tokenizer


def merge(config: ForgeConfig, model: ModelDirectory, output_dir: Path, *, dtype: str = "float32") -> ModelDirectory:
    """Write the full model that `model` and its base make together.

    Args:
        model: An adapter; a full model is written again in `dtype`.
        output_dir: Must not exist, or be empty.
        dtype: Of the weights that are written; the sum is made in float32.

    Raises:
        ModelError: The adapter belongs to another base model, or the sum is not finite.
        FileExistsError: `output_dir` holds something.
    """
    import torch

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"merge dtype: found {dtype!r}; expected float32, bfloat16 or float16")
    record = model.record
    tuned, _ = load_tuned(config, model, dtype="float32")
    with publishing(Path(output_dir)) as staging, quiet_libraries():
        if record.kind == "adapter":
            try:
                tuned = tuned.merge_and_unload(safe_merge=True)
            except ValueError as error:
                raise ModelError(f"{model.path} cannot be merged: {error}") from error
        write_full_model(tuned.to(getattr(torch, dtype)), staging)
        write_tokenizer(load_saved_tokenizer(model), staging)
        _keep_reports(model.path, staging)
        write_record(staging, replace(record, kind="full"))
    return ModelDirectory.open(Path(output_dir))


def _keep_reports(source: Path, destination: Path) -> None:
    """Take along what the training stage wrote about itself."""
    for path in source.glob("*_report.json"):
        shutil.copyfile(path, destination / path.name)
