"""`model.load_in_4bit` and its companions -> what bitsandbytes is told (QLoRA)."""

from typing import TYPE_CHECKING

from forge_pipeline.config import ForgeConfig
from forge_pipeline.models.devices import Device, can_load_in_4bit, computes_bfloat16

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

_SPELLINGS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def quantization_config(config: ForgeConfig, device: Device) -> "BitsAndBytesConfig | None":
    """The 4-bit settings of the frozen base; None where it stays unquantized."""
    if not can_load_in_4bit(config, device):
        return None
    from transformers import BitsAndBytesConfig

    section = config.model
    compute = _SPELLINGS.get(section.bnb_4bit_compute_dtype, section.bnb_4bit_compute_dtype)
    if compute == "auto":
        compute = "bfloat16" if computes_bfloat16(device) else "float16"
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=section.bnb_4bit_use_double_quant,
        bnb_4bit_quant_type=section.bnb_4bit_quant_type,
        bnb_4bit_compute_dtype=compute,
    )
