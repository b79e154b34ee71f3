"""A recipe and a device -> what has to be in memory at once: the input of simulation and formula.

The arguments come from `training.arguments`, so that what is simulated is what would be run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forge_pipeline.config import ForgeConfig
from forge_pipeline.models.devices import Device, can_load_in_4bit, choose_dtype, computes_bfloat16, pick_device
from forge_pipeline.training.arguments import build_arguments
from forge_pipeline.training.methods import method_for

Head = Literal["fused", "logits", "score"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Passes:
    """The forward passes of one training step.

    Attributes:
        rows: Rows of the model's batch for each row of the trainer's: 2 where chosen and rejected go together.
        head: What follows the last layer. ``fused``: log-probabilities in tiles (TRL 1.16), ``logits``: all
            of them at once (`trl.experimental`), ``score``: one number a row (reward models).
        before, after: Passes without gradient before the one with it, and while its activations are kept.
        generates: Whether completions are sampled first.
    """

    rows: int = 1
    head: Head = "fused"
    before: int = 0
    after: int = 0
    generates: bool = False


_PASSES = {
    "dpo": Passes(rows=2, after=1),
    "kto": Passes(before=1, after=2),
    "orpo": Passes(rows=2, head="logits"),
    "simpo": Passes(rows=2, head="logits"),
    "reward": Passes(rows=2, head="score"),
    "grpo": Passes(generates=True),
    "rlhf": Passes(generates=True, before=1),
}


@dataclass(frozen=True)
class TrainingPlan:
    """Attributes:
    weights: dtype of the base weights; in 4 bits that of what is not quantized.
    autocast: dtype that matrix products are cast to, or None.
    compute: dtype that 4-bit weights are unpacked to.
    rows: Rows of one micro batch as the trainer counts them.
    length: Tokens a row, completion included.
    completion: Tokens sampled for each prompt; 0 where nothing is sampled.
    has_reference: Whether a second copy of the weights is compared with.
    """

    device: Device
    passes: Passes
    method: str
    weights: str
    autocast: str | None
    four_bit: bool
    double_quant: bool
    compute: str
    checkpointing: bool
    rows: int
    accumulation: int
    length: int
    completion: int
    optim: str
    attention: str
    packed: bool
    has_reference: bool
    galore_rank: int | None

    @property
    def model_rows(self) -> int:
        """Rows of the model's batch."""
        return 1 if self.packed else self.rows * self.passes.rows

    @property
    def model_length(self) -> int:
        """Tokens of each of them; packed rows lie one after another in one."""
        return self.rows * self.length if self.packed else self.length

    @property
    def generated_rows(self) -> int:
        """Completions that are sampled at once: TRL samples for all micro batches of an update."""
        return self.rows * self.accumulation if self.completion else 0

    @property
    def trains_every_weight(self) -> bool:
        return self.method == "none"


def plan_training(config: ForgeConfig, device: Device) -> TrainingPlan:
    """What `config` does on a device of the kind `device`, which need not be in this machine.

    Raises:
        ConfigError, ModelError: Settings that training would refuse.
    """
    training, lora = config.training, config.lora
    is_here = device == pick_device()
    dtype = choose_dtype(config, device, training=True) if is_here else _dtype_elsewhere(config, device)
    bfloat16 = computes_bfloat16(device) if is_here else device == "cuda"
    arguments = build_arguments(
        config, device=device, dtype=dtype, bfloat16=bfloat16, rows=1, validation_rows=0, work_dir=Path(), keep=False
    )
    autocast = "bfloat16" if arguments.get("bf16") else "float16" if arguments.get("fp16") else None
    passes = _PASSES.get(training.trainer_type, Passes())
    completion = training.grpo_max_completion_length if passes.generates else 0
    method = method_for(config)
    divergence = {"grpo": training.grpo_beta, "rlhf": training.rlhf_beta}.get(training.trainer_type, 0.0)
    every_weight = lora.effective_method == "none"
    asked = config.model.bnb_4bit_compute_dtype
    compute = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "bfloat16"}.get(asked, asked)
    return TrainingPlan(
        device=device,
        passes=passes,
        method=lora.effective_method,
        weights=dtype,
        autocast=autocast,
        four_bit=not every_weight
        and (can_load_in_4bit(config, device) if is_here else _quantizes_elsewhere(config, device)),
        double_quant=config.model.bnb_4bit_use_double_quant,
        compute=compute,
        checkpointing=bool(arguments.get("gradient_checkpointing")),
        rows=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        length=config.model.max_length + completion,
        completion=completion,
        optim=str(arguments.get("optim", training.optim)),
        attention=config.model.attn_implementation,
        packed=training.uses_packing or training.padding_free,
        has_reference=every_weight and (method.needs_reference or divergence > 0),
        galore_rank=training.galore_rank if training.galore_enabled else None,
    )


def _dtype_elsewhere(config: ForgeConfig, device: Device) -> str:
    """`choose_dtype` for a device that this machine does not have: a CUDA device of today computes in bfloat16."""
    if config.model.dtype != "auto":
        return choose_dtype(config, device, training=True)
    return "bfloat16" if device == "cuda" and config.lora.effective_method != "none" else "float32"


def _quantizes_elsewhere(config: ForgeConfig, device: Device) -> bool:
    """`can_load_in_4bit` for a device that this machine does not have, with bitsandbytes there."""
    if config.model.load_in_4bit == "auto":
        return device == "cuda" and config.lora.effective_method not in ("none", "pissa")
    return config.model.load_in_4bit and device != "mps"
