"""`model.load_in_4bit` and its companions -> what bitsandbytes is told (QLoRA).

The adapter learns on top of the *rounded* base weights and corrects their rounding. So the
record of a model says how its base was quantized, and whoever loads or merges the adapter
gets those very weights back, dequantized: what is evaluated, merged and exported is what was
trained. (Adding it to the unrounded base gives another model.)

On a CPU, bitsandbytes repacks a weight the first time a module runs in evaluation mode, on
processors with AVX-512 BF16. That rounds the scales again, cannot be undone exactly, has no
backward, and fails on sizes that are no multiple of 64; it is turned off here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.models.devices import Device, can_load_in_4bit, computes_bfloat16

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

_SPELLINGS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class QuantizationRecord:
    """How the base weights were rounded before they were trained on.

    Attributes:
        kind: The 4-bit number format.
        double: Whether the scales were quantized as well.
        dtype: Of the weights before, and of the dequantized ones.
    """

    kind: Literal["nf4", "fp4"]
    double: bool
    dtype: Literal["float32", "bfloat16", "float16"]


def quantization_config(config: ForgeConfig, device: Device) -> "BitsAndBytesConfig | None":
    """The 4-bit settings of the frozen base; None where it stays unquantized.

    Raises:
        ConfigError, OptionalDependencyError: As `can_load_in_4bit`.
    """
    if not can_load_in_4bit(config, device):
        return None
    section = config.model
    compute = _SPELLINGS.get(section.bnb_4bit_compute_dtype, section.bnb_4bit_compute_dtype)
    if compute == "auto":
        half = "float32" if device == "cpu" else "float16"
        compute = "bfloat16" if computes_bfloat16(device) else half
    return _settings(section.bnb_4bit_quant_type, section.bnb_4bit_use_double_quant, compute)


def record_of(config: ForgeConfig, model: Any, dtype: str) -> QuantizationRecord | None:
    """What to record about a base model as it was loaded; None where it was not quantized."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return None
    section = config.model
    return QuantizationRecord(section.bnb_4bit_quant_type, section.bnb_4bit_use_double_quant, dtype)  # type: ignore[arg-type]


def settings_of(record: QuantizationRecord) -> "BitsAndBytesConfig":
    """The settings that give a recorded base model's weights again."""
    return _settings(record.kind, record.double, record.dtype)


def keep_packing(model: Any) -> Any:
    """Leave the quantized weights in memory as they are, in evaluation too. See the module's docstring."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def dequantized(model: "PreTrainedModel", dtype: str) -> "PreTrainedModel":
    """The rounded weights as ordinary ones, in `dtype`; the model can be saved, merged into and exported."""
    import torch

    model = model.dequantize()
    model.is_loaded_in_4bit = False
    return model.to(getattr(torch, dtype))


def _settings(kind: str, double: bool, compute: str) -> "BitsAndBytesConfig":
    require("bitsandbytes", extra="qlora", purpose="4-bit base models")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=compute,
    )
