"""Fold an adapter into its base model.

In float32 whatever the adapter was trained on: the sum of a weight and a small update
loses the update's low bits in bfloat16. A sum with NaN or inf in it is refused.

The base model is read, changed and written one tensor at a time (`streaming`), so that the memory
needed follows its largest tensor and not its size. What that way does not know (other adapters than
LoRA and its kin, checkpoints in another layout than the model's own, code from the Hub) is merged by
PEFT in memory, and the log says why. Both give the same bytes.
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.adapter_weights import NotStreamableError
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.directory import ModelDirectory, write_record
from forge_pipeline.models.loading import check_same_base, load_saved_tokenizer, load_tuned
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.shards import MAX_SHARD_BYTES
from forge_pipeline.models.streaming import plan_full, plan_merge
from forge_pipeline.models.writing import write_full_model, write_tokenizer

_log = logging.getLogger(__name__)
DTYPES = ("float32", "bfloat16", "float16")


def merge(
    config: ForgeConfig,
    model: ModelDirectory,
    output_dir: Path,
    *,
    dtype: str = "float32",
    base: BaseModel | None = None,
    streaming: bool = True,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ModelDirectory:
    """Write the full model that `model` and its base make together.

    Args:
        model: An adapter; a full model is written again in `dtype`.
        output_dir: Must not exist, or be empty.
        dtype: Of the weights that are written; the sum is made in float32.
        base: What the adapter belongs on; None: the recipe's base model.
        streaming: Tensor by tensor, where that can be done; False loads the whole model.
        max_shard_bytes: Largest size of a file of weights, but for a single tensor that is larger.

    Raises:
        ModelError: The adapter belongs to another base model, or the sum is not finite.
        FileExistsError: `output_dir` holds something.
    """
    if dtype not in DTYPES:
        raise ModelError(f"merge dtype: found {dtype!r}; expected float32, bfloat16 or float16")
    with publishing(Path(output_dir)) as staging, quiet_libraries():
        if not (streaming and _stream(config, model, staging, dtype, base, max_shard_bytes)):
            _in_memory(config, model, staging, dtype, base, max_shard_bytes)
        write_tokenizer(load_saved_tokenizer(model), staging)
        keep_reports(model.path, staging)
        write_record(staging, replace(model.record, kind="full"))
    return ModelDirectory.open(Path(output_dir))


def _stream(
    config: ForgeConfig, model: ModelDirectory, staging: Path, dtype: str, base: BaseModel | None, limit: int
) -> bool:
    """Whether it could be done; nothing is written where it could not."""
    try:
        if model.record.kind == "full":
            planned = plan_full(config, model)
        else:
            if base is None and model.record.earlier:
                return False  # `load_tuned` refuses it, in its own words
            base = base or resolve_base_model(config)
            check_same_base(model, base)
            planned = plan_merge(config, model, base)
    except NotStreamableError as reason:
        _log.info("%s is merged in memory, not tensor by tensor: %s", model.path, reason)
        return False
    try:
        planned.write(staging, dtype, limit)
    except ModelError as error:
        raise ModelError(f"{model.path} {error}") from error
    return True


def _in_memory(
    config: ForgeConfig, model: ModelDirectory, staging: Path, dtype: str, base: BaseModel | None, limit: int
) -> None:
    import torch

    tuned, _ = load_tuned(config, model, dtype="float32", base=base)
    if model.record.kind == "adapter":
        try:
            tuned = tuned.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"{model.path} cannot be merged: {error}") from error
    try:
        write_full_model(tuned.to(getattr(torch, dtype)), staging, max_shard_bytes=limit)
    except NotImplementedError as error:  # transformers 5.23 undoes how the weights were read, which it cannot here
        raise ModelError(
            f"{model.path} cannot be merged in memory: transformers cannot save a model that was published in 4 bits"
        ) from error


def keep_reports(source: Path, destination: Path) -> None:
    """Take along what the training stage wrote about itself."""
    for path in source.glob("*_report.json"):
        shutil.copyfile(path, destination / path.name)
