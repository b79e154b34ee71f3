"""The `training:` section: which TRL trainer, with which arguments."""

from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from forge_pipeline.config._base import Section
from forge_pipeline.config.model import check_revision
from forge_pipeline.config.rope import check_rope_scaling

TrainerType = Literal["sft", "pretraining", "dpo", "kto", "orpo", "simpo", "reward", "grpo", "rlhf"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


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
    optim: str = "auto"
    """By the Trainer's name for it. auto: AdamW, fused on CUDA."""
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
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = "bfd"
    """``bfd`` fits whole rows together and cuts what is longer than `max_length`; ``bfd_split`` goes on with the rest
    of such a row in another one; ``wrapped`` lays rows end to end. Pretraining loses nothing: there ``bfd`` splits."""
    assistant_only_loss: bool = True
    """Learn the assistant's turns only; the rest of a conversation is masked with -100."""
    completion_only_loss: bool = True
    """Learn the completion only; the prompt is masked with -100."""
    neftune_noise_alpha: float | None = Field(default=None, ge=0)
    padding_free: bool = False
    """Put the rows of a batch one after the other instead of padding them. sft only; packing does it anyway."""
    use_liger_kernel: bool = False
    """Fused Triton kernels for the layers (not the loss, which TRL fuses itself). CUDA and liger-kernel needed."""
    rope_scaling: dict[str, Any] | None = None
    """Stretch rotary positions: ``rope_type`` (or ``type``) linear, dynamic, yarn or longrope, and its factors."""
    sliding_window_attention: int | None = Field(default=None, ge=1)
    """Tokens that a token sees before itself, where the architecture has such a window."""
    dpo_beta: float = Field(default=0.1, gt=0)
    orpo_beta: float = Field(default=0.1, gt=0)
    kto_beta: float = Field(default=0.1, gt=0)
    simpo_beta: float = Field(default=2.0, gt=0)
    simpo_gamma: float = Field(default=0.5, ge=0)
    reward_center_coefficient: float | None = Field(default=None, gt=0)
    """Keeps a reward model's scores near zero (arXiv:2312.09244, eq. 2; 0.01 is usual). None: scores float freely."""
    rlhf_algorithm: Literal["rloo", "grpo"] = "rloo"
    """How ``trainer_type: rlhf`` improves the policy against its reward model."""
    rlhf_beta: float = Field(default=0.05, ge=0)
    """Weight of the divergence from the base model in the reward of ``rlhf``."""
    rlhf_reward_epochs: int = Field(default=1, ge=1)
    """Passes over the preference pairs with which ``rlhf`` trains its reward model."""
    rlhf_reward_max_steps: int = Field(default=-1, ge=-1)
    rlhf_reward_learning_rate: float = Field(default=1e-4, gt=0)
    grpo_num_generations: int = Field(default=4, ge=2)
    grpo_max_completion_length: int = Field(
        default=512, ge=1, validation_alias=AliasChoices("grpo_max_completion_length", "grpo_max_new_tokens")
    )
    grpo_reward_model: str | None = None
    grpo_reward_model_revision: str | None = None
    grpo_reward_functions: list[str] = []
    """Each ``module:function``; ``scorer=module:function``, an answer and its row in and a number out, as
    reasoning-gym's; ``regex=<pattern>``; or one of ours: answer_match, answer_format, valid_json, matches_pattern,
    reasoning_gym. Empty takes answer_match and answer_format, unless there is a reward model."""
    grpo_reward_weights: list[float] | None = None
    """One for each reward function, then one for the reward model; None weighs all alike."""
    grpo_beta: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the base model; 0 keeps no reference in memory."""
    grpo_temperature: float = Field(default=1.0, gt=0)
    """Of the completions that grpo and rlhf sample."""
    doc_stride: int = Field(default=128, ge=1)
    """Tokens that neighbouring windows of a long context share, in extractive question answering."""
    max_answer_length: int = Field(default=30, ge=1)
    """Longest answer that extractive question answering gives, in tokens."""
    summary_max_length: int = Field(default=128, ge=2)
    """Longest summary, in tokens: learnt (encoder-decoder models) and written."""
    summary_eval_rows: int = Field(default=100, ge=0)
    """Validation documents that are summarized after training, for ROUGE; 0 leaves it out."""
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
    fit_check: bool = True
    """Refuse, before weights are loaded, what cannot fit the device even without a single row: weights, gradients and
    optimizer states alone exceed all its memory. ``forge fit-check`` says more."""
    oom_recovery: bool = False
    """When memory runs out, go on from the last checkpoint with half the rows at a time and as many per update."""
    oom_recovery_min_batch_size: int = Field(default=1, ge=1)
    """Rows per device at a time below which ``oom_recovery`` gives up."""
    divergence_factor: float | None = Field(default=None, gt=1)
    """Stop when the loss has grown to this many times what it began with. None: only NaN and infinity stop a run."""
    divergence_window: int = Field(default=20, ge=1)
    """Logged losses that ``divergence_factor`` averages, at the beginning and now."""
    report_to: TrackerName | Literal["none"] | list[TrackerName] = "none"
    """Where the loss curve goes beside the training report; one name or several. Sent are numbers, the line's name,
    the run's id and the recipe's digest."""
    logging_dir: str | None = None
    """Where trackers write. None: ``logs/<line>`` in FORGE_HOME for Dagster's runs, ``logs`` in `output_dir` for
    the library's."""
    run_name: str | None = None
    gpu_cost_per_hour: float | None = Field(default=None, ge=0)
    """Price of one device hour, in the provider's currency. None: the cost is not known, and stays None."""
    gpu_cost_currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    """Currency of that price (ISO 4217, for example ``EUR``), for the record."""

    _revision = field_validator("grpo_reward_model_revision")(check_revision)

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainingSection":
        if self.grpo_reward_model_revision and not self.grpo_reward_model:
            raise ValueError("grpo_reward_model_revision is set but grpo_reward_model is not; name the reward model")
        if self.rope_scaling is not None:
            check_rope_scaling(self.rope_scaling)
        return self

    @property
    def uses_packing(self) -> bool:
        return self.packing or self.sample_packing or self.trainer_type == "pretraining"

    @property
    def trackers(self) -> tuple[TrackerName, ...]:
        """`report_to` without repetitions; empty for none."""
        if self.report_to == "none":
            return ()
        return (self.report_to,) if isinstance(self.report_to, str) else tuple(dict.fromkeys(self.report_to))

    @property
    def effective_batch_size(self) -> int:
        """Rows per optimizer update on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
