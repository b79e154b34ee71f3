"""A start body -> the recipe that the `studio` line runs.

Every field of the body has one place in the recipe (`_recipe`), or is refused where
this version has no place for it, or is a label (`compute_specs`) that stays with the job.
"""

from pathlib import Path
from typing import Any

import yaml

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError
from forge_pipeline.server.errors import RequestError
from forge_pipeline.server.schemas import StartTraining
from forge_pipeline.training.arguments import check_training

DEFAULT_MAX_LENGTH = 2048  # tokens
QUANTIZATIONS = ("f16", "q8_0")  # of the GGUF files that an export makes
LONGEST_COMPLETION = 512  # tokens that grpo and rlhf sample for a prompt, where max_seq_length is not below it


def build_recipe(start: StartTraining, *, job_id: str, base_model: str, dataset: Path) -> dict[str, Any]:
    """The recipe of one job, valid as a `ForgeConfig`.

    Args:
        start: The body, already found runnable.
        job_id: Also the recipe's name and the job's partition key.
        base_model: `model_name` as the run shall open it.
        dataset: The rows, as an absolute path.

    Raises:
        RequestError: The recipe's own rules, or the trainer's, refuse the combination.
    """
    recipe = _recipe(start, job_id, base_model, dataset)
    try:
        check_training(ForgeConfig(**recipe))
    except ConfigError as error:
        raise RequestError(str(error).replace("ForgeConfig: ", "").replace(str(dataset), dataset.name)) from error
    return recipe


def to_yaml(recipe: dict[str, Any]) -> bytes:
    """The recipe as the `studio/recipe` asset reads it."""
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode("utf-8")


def _recipe(start: StartTraining, job_id: str, base_model: str, dataset: Path) -> dict[str, Any]:
    length = start.max_seq_length if start.max_seq_length and start.max_seq_length > 0 else DEFAULT_MAX_LENGTH
    return {
        "name": job_id,
        "description": f"Job {job_id} of the REST service: {start.task}, {start.strategy}.",
        "model": {
            "name_or_path": base_model,
            "task": start.task,
            "backend": "unsloth" if start.provider == "unsloth" else "transformers",
            "max_length": length,
            "load_in_4bit": start.strategy == "qlora" or bool(start.use_4bit),
            "dtype": "float16" if start.fp16 else "bfloat16" if start.bf16 else "auto",
            **_quantization(start),
        },
        "lora": {
            "r": start.lora_r,
            "alpha": start.lora_alpha,
            "dropout": start.lora_dropout,
            "target_modules": ["all-linear"],
        },
        "training": {
            "trainer_type": "sft" if start.strategy == "qlora" else start.strategy,
            "num_train_epochs": start.num_train_epochs,
            "max_steps": start.max_steps,
            "per_device_train_batch_size": start.per_device_train_batch_size,
            "per_device_eval_batch_size": start.per_device_eval_batch_size,
            "gradient_accumulation_steps": start.gradient_accumulation_steps,
            "gradient_checkpointing": _or_auto(start.gradient_checkpointing),
            "max_grad_norm": start.max_grad_norm,
            "learning_rate": start.learning_rate,
            "weight_decay": start.weight_decay,
            "optim": start.optim,
            "lr_scheduler_type": start.lr_scheduler_type,
            "warmup_ratio": start.warmup_ratio,
            "group_by_length": _or_auto(start.group_by_length),
            "packing": start.packing,
            "eval_steps": start.eval_steps,
            **_sampling(start, length),
        },
        "data": {
            "dataset_name_or_path": str(dataset),
            "origin": f"Given to the REST service as {dataset.name}",
            "category": "user",
            "split": {"validation": start.eval_split},
            # A studio model may be trained to be looked at; what its data's audit finds keeps it from leaving.
            "audit": {"guards": ["export", "release"]},
        },
        # Nothing is benchmarked or probed here, so these two gates are never passed. They let files be made to try the
        # model out, which is all that a download of the model itself allows, and keep it from every release.
        "evaluation": {"benchmark": {"guards": ["release"]}, "safety": {"guards": ["release"]}},
        "export": {"quantizations": list(QUANTIZATIONS)},
    }


def _or_auto(value: bool | str | None) -> bool | str:
    return "auto" if value is None else value


def _quantization(start: StartTraining) -> dict[str, Any]:
    """How a 4-bit base is rounded. Unsloth does it its own way: what was asked for is handed on, to be refused."""
    values = {
        "bnb_4bit_compute_dtype": _or_auto(start.bnb_4bit_compute_dtype),
        "bnb_4bit_quant_type": start.bnb_4bit_quant_type,
        "bnb_4bit_use_double_quant": start.use_nested_quant,
    }
    if start.provider != "unsloth":
        return values
    unset = {"bnb_4bit_compute_dtype": "auto", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False}
    return {name: value for name, value in values.items() if value != unset[name]}


def _sampling(start: StartTraining, length: int) -> dict[str, Any]:
    """What the two strategies that learn from their own completions need beside the rest."""
    if start.strategy not in ("grpo", "rlhf"):
        return {}
    return {
        "grpo_num_generations": _generations(start),
        "grpo_max_completion_length": min(length, LONGEST_COMPLETION),
    }


def _generations(start: StartTraining) -> int:
    """Completions of each prompt: 4, or what comes near it and divides the batch, as the trainer needs."""
    batch = start.per_device_train_batch_size * start.gradient_accumulation_steps
    if batch < 2:
        raise RequestError(
            f"per_device_train_batch_size: {start.strategy} compares completions of one prompt, so "
            "per_device_train_batch_size x "
            f"gradient_accumulation_steps must be at least 2; found {batch}"
        )
    return next((number for number in (4, 3, 2) if batch % number == 0), batch)


def check_placeable(start: StartTraining, schema: str | None) -> None:
    """Refuse values that would be accepted and then ignored.

    Args:
        start: The body.
        schema: The schema of the dataset's rows (see `row_schemas`).

    Raises:
        RequestError: Names the field and what to send.
    """
    if start.use_chat_template and schema in ("prompt, completion", "text"):
        raise RequestError(
            f"use_chat_template: found true, but the rows are ({schema}), which are learnt as plain text. Send rows of "
            "(messages), (instruction, output) or (input, output), or leave use_chat_template out"
        )
