"""The `training:` section: which TRL trainer, with which arguments."""

from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from forge_pipeline.config._base import Section
from forge_pipeline.config.model import check_revision

TrainerType = Literal["sft", "dpo", "kto", "orpo", "simpo", "grpo"]


class TrainingSection(Section):
    """Arguments of the fine-tune. Batch sizes count rows per device; lengths count tokens."""

    trainer_type: TrainerType = "sft"
    output_dir: str = "./checkpoints"
    """Where the library path (`ForgeTrainer`) writes. Dagster runs write to the artefact store instead."""
    final_model_dir: str = "final_model"
    merge_adapters: bool = False
    """Fold the adapter into the base model after training."""
    max_steps: int = Field(default=-1, ge=-1)
    num_train_epochs: int = Field(default=3, ge=1)
    per_device_train_batch_size: int = Field(default=4, ge=1)
    per_device_eval_batch_size: int = Field(default=4, ge=1)
    gradient_accumulation_steps: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = "linear"
    warmup_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optim: str = "adamw_torch"
    seed: int = Field(default=42, ge=0)
    full_determinism: bool = False
    logging_steps: int = Field(default=1, ge=1)
    eval_steps: int = Field(default=200, ge=1)
    save_steps: int = Field(default=200, ge=1)
    save_total_limit: int = Field(default=3, ge=1)
    early_stopping_patience: int = Field(default=3, ge=1)
    """Evaluations without improvement before training stops early; needs a validation split."""
    gradient_checkpointing: Literal["auto", True, False] = "auto"
    group_by_length: Literal["auto", True, False] = "auto"
    """Batch rows of like length. auto: on where packing is off."""
    packing: bool = False
    sample_packing: bool = False
    """Older spelling of ``packing``."""
    packing_strategy: Literal["bfd", "wrapped"] = "bfd"
    assistant_only_loss: bool = True
    """Learn the assistant's turns only; the rest of a conversation is masked with -100."""
    completion_only_loss: bool = True
    """Learn the completion only; the prompt is masked with -100."""
    neftune_noise_alpha: float | None = Field(default=None, ge=0)
    rope_scaling: dict[str, Any] | None = None
    sliding_window_attention: int | None = Field(default=None, ge=1)
    dpo_beta: float = Field(default=0.1, gt=0)
    orpo_beta: float = Field(default=0.1, gt=0)
    kto_beta: float = Field(default=0.1, gt=0)
    simpo_beta: float = Field(default=2.0, gt=0)
    simpo_gamma: float = Field(default=0.5, ge=0)
    grpo_num_generations: int = Field(default=4, ge=2)
    grpo_max_completion_length: int = Field(
        default=512, ge=1, validation_alias=AliasChoices("grpo_max_completion_length", "grpo_max_new_tokens")
    )
    grpo_reward_model: str | None = None
    grpo_reward_model_revision: str | None = None
    grpo_reward_functions: list[str] = []
    """Reward functions by import path, ``module:function``; empty takes the answer-match reward."""
    galore_enabled: bool = False
    galore_optim: Literal[
        "galore_adamw",
        "galore_adamw_8bit",
        "galore_adafactor",
        "galore_adamw_layerwise",
        "galore_adamw_8bit_layerwise",
        "galore_adafactor_layerwise",
    ] = "galore_adamw"
    galore_rank: int = Field(default=128, ge=1)
    galore_update_proj_gap: int = Field(default=200, ge=1)
    galore_scale: float = Field(default=0.25, gt=0)
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = "std"
    galore_target_modules: list[str] | None = None
    oom_recovery: bool = False
    oom_recovery_min_batch_size: int = Field(default=1, ge=1)
    report_to: Literal["tensorboard", "wandb", "mlflow", "none"] = "none"
    run_name: str | None = None
    gpu_cost_per_hour: float | None = Field(default=None, ge=0)
    """Price of one device hour, in the provider's currency. None: the cost is not known, and stays None."""

    _revision = field_validator("grpo_reward_model_revision")(check_revision)

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainingSection":
        if self.grpo_reward_model_revision and not self.grpo_reward_model:
            raise ValueError("grpo_reward_model_revision is set but grpo_reward_model is not; name the reward model")
        if self.rope_scaling is not None:
            kind = self.rope_scaling.get("type", self.rope_scaling.get("rope_type"))
            if kind not in ("linear", "dynamic", "yarn", "longrope"):
                raise ValueError(f"rope_scaling.type: found {kind!r}; expected linear, dynamic, yarn or longrope")
        return self

    @property
    def uses_packing(self) -> bool:
        return self.packing or self.sample_packing

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimizer update on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
