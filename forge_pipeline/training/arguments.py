"""`ForgeConfig` -> the keyword arguments of a TRL configuration class. Pure: no torch, no TRL.

What differs from TRL's own defaults, and why:

- Gradient checkpointing is off on a CPU, where it costs 11 to 28 % of the time for memory that is there.
- bfloat16 weights go without autocast on a CPU: casting them again loses more than it gains.
- `logging_nan_inf_filter` is off, because it hides the losses that must stop a run.
- transformers 5 has no `warmup_ratio`; `warmup_steps` below 1 is a share of the steps.
"""

import math
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.training import TrainingSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.models.devices import Device
from forge_pipeline.training.distributed import Ranks, asked_processes, distributed_arguments
from forge_pipeline.training.external.back_ends import check_back_end
from forge_pipeline.training.methods import METHODS, Method, check_still_there, method_for
from forge_pipeline.training.optimizers import check_optimizer, optimizer_arguments
from forge_pipeline.training.trackers import check_trackers


def planned_steps(config: ForgeConfig, rows: int, world_size: int = 1) -> int:
    """Optimizer updates that a run over `rows` training rows makes in `world_size` processes."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    if METHODS[training.trainer_type].generates:  # a batch holds `num_generations` completions of each prompt
        per_epoch = rows * training.grpo_num_generations / (training.effective_batch_size * world_size)
        return max(1, math.ceil(per_epoch * training.num_train_epochs))
    batches = math.ceil(math.ceil(rows / training.per_device_train_batch_size) / world_size)
    return max(1, math.ceil(batches / training.gradient_accumulation_steps)) * training.num_train_epochs


def build_arguments(
    config: ForgeConfig,
    *,
    device: Device,
    dtype: str,
    bfloat16: bool,
    rows: int,
    validation_rows: int,
    work_dir: Path,
    keep: bool,
    method: Method | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
) -> dict[str, Any]:
    """Keyword arguments for the TRL configuration of `config.training.trainer_type`.

    Args:
        device: Where training runs.
        dtype: Of the base weights in memory: float32, bfloat16, float16.
        bfloat16: Whether the device computes in bfloat16.
        rows, validation_rows: In the tokenized splits; 0 validation rows turn evaluation off.
        work_dir: Where checkpoints go.
        keep: Whether checkpoints are wanted for resuming; without it they are written only if early
            stopping has to come back to one.
        method: The row of the table to train by; None takes the recipe's.
        ranks: This process among those that train together.

    Raises:
        ConfigError: Settings that TRL would refuse after the model is loaded.
    """
    check_training(config, world_size=ranks.world_size)
    training = config.training
    method = method or method_for(config)
    evaluates = method.evaluates and validation_rows > 0
    stops_early = evaluates and planned_steps(config, rows, ranks.world_size) > training.eval_steps
    arguments = {
        "output_dir": str(work_dir),
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "per_device_eval_batch_size": training.per_device_eval_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": min(training.warmup_ratio, math.nextafter(1.0, 0.0)),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        **optimizer_arguments(config, device),
        "seed": training.seed,
        "data_seed": training.seed,
        "full_determinism": training.full_determinism,
        "neftune_noise_alpha": training.neftune_noise_alpha,
        "gradient_checkpointing": _checkpoints_gradients(config, device),
        "use_cpu": device == "cpu",
        **_precision(config, device, dtype, bfloat16=bfloat16),
        "logging_strategy": "steps",
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,
        "report_to": "none",  # TRL's own callbacks send too much; ours are in `trackers`
        "run_name": training.run_name,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device == "cuda",
        **_saving(config, evaluates=evaluates, stops_early=stops_early, keep=keep),
        **_order(config),
        **method.arguments(training),
        **distributed_arguments(config, ranks, device),
    }
    if method.limits_length:
        arguments["max_length"] = config.model.max_length
    if training.use_liger_kernel:
        arguments["use_liger_kernel"] = True
    if training.padding_free and not training.uses_packing:
        # TRL would leave rows as long as they are; ours were cut when they were tokenized.
        arguments |= {"padding_free": True, "max_length": None}
    return arguments


def check_training(config: ForgeConfig, world_size: int | None = None) -> None:
    """Refuse, before anything is loaded, what a TRL trainer would refuse after it.

    Args:
        world_size: Processes that train together; None takes the recipe's number, where it gives one.

    Raises:
        ConfigError: With the key and the fix.
    """
    check_back_end(config)
    training = config.training
    if training.trainer_type == "kto" and training.per_device_train_batch_size < 2:
        raise ConfigError(
            "training.per_device_train_batch_size: found 1; kto estimates a divergence from the other rows of a "
            "batch, so write 2 or more"
        )
    check_trackers(config)
    method = method_for(config)
    check_still_there(method)
    world_size = world_size or asked_processes(config)
    together = training.effective_batch_size * world_size
    if method.generates and together % training.grpo_num_generations:
        processes = f" x {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"training.grpo_num_generations: found {training.grpo_num_generations}, which does not divide "
            f"per_device_train_batch_size x gradient_accumulation_steps{processes} = {together}; "
            "change one of the three"
        )
    if training.grpo_reward_weights is not None:
        _check_reward_weights(training)
    check_optimizer(config)
    if training.padding_free and not method.packs:
        raise ConfigError(f"training.padding_free: only sft takes it; remove it for {training.trainer_type}")
    if training.uses_packing and not method.packs:
        raise ConfigError(f"training.packing: only sft packs rows; remove it for trainer_type {training.trainer_type}")
    if training.group_by_length is True and not METHODS[training.trainer_type].groups_by_length:
        raise ConfigError(
            f"training.group_by_length: {training.trainer_type} cannot batch rows by length; remove it or write auto"
        )
    if training.group_by_length is True and training.uses_packing:
        raise ConfigError("training.group_by_length: packed rows are equally long already; remove it or write auto")


def _check_reward_weights(training: TrainingSection) -> None:
    rewards = len(training.grpo_reward_functions) + bool(training.grpo_reward_model) or 2  # two of ours where none is
    if training.trainer_type != "grpo":
        raise ConfigError(f"training.grpo_reward_weights: {training.trainer_type} has no rewards to weigh; remove it")
    if len(training.grpo_reward_weights or ()) != rewards:
        raise ConfigError(
            f"training.grpo_reward_weights: found {len(training.grpo_reward_weights or ())} weights for {rewards} "
            "rewards; write one for each of grpo_reward_functions, then one for grpo_reward_model"
        )


def _checkpoints_gradients(config: ForgeConfig, device: Device) -> bool:
    chosen = config.training.gradient_checkpointing
    return device == "cuda" if chosen == "auto" else chosen


def _precision(config: ForgeConfig, device: Device, dtype: str, *, bfloat16: bool) -> dict[str, bool]:
    """Autocast, which TRL turns on unless it is told otherwise."""
    cast_already = device == "cpu" and dtype != "float32"
    asked_for_float32 = config.model.dtype in ("float32", "fp32")
    if cast_already or asked_for_float32:
        return {"bf16": False, "fp16": False}
    return {"bf16": bfloat16, "fp16": device == "cuda" and not bfloat16}


def _saving(config: ForgeConfig, *, evaluates: bool, stops_early: bool, keep: bool) -> dict[str, Any]:
    training = config.training
    values: dict[str, Any] = {
        # With a step-based strategy the Trainer evaluates after the last step as well.
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": training.eval_steps,
        "save_strategy": "steps" if keep or stops_early else "no",
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
    }
    if stops_early:
        # The best evaluation must be one that was saved.
        values |= {
            "save_steps": training.eval_steps,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    return values


def groups_by_length(config: ForgeConfig) -> bool:
    """Whether training rows are drawn in batches of like length (see `row_order`)."""
    training = config.training
    if not METHODS[training.trainer_type].groups_by_length or training.uses_packing:
        return False
    return config.data.shuffle if training.group_by_length == "auto" else training.group_by_length


def _order(config: ForgeConfig) -> dict[str, Any]:
    """How the rows of an epoch are drawn where they are not grouped by length."""
    if METHODS[config.training.trainer_type].generates:
        return {"shuffle_dataset": config.data.shuffle}
    if config.training.trainer_type == "kto":
        return {}  # TRL's own order; the rows were shuffled before (see fine_tune)
    return {"train_sampling_strategy": "random" if config.data.shuffle else "sequential"}
