"""Which device computes, and in which precision. The one place that decides it.

CPU rule, measured on SmolLM2-135M with LoRA: bfloat16 weights without autocast train
1.7 times as fast as TRL's default (bfloat16 autocast and checkpointing) and 1.5 times
as fast as float32, on CPUs that have bfloat16 instructions; elsewhere float32. Training *every* weight keeps float32
weights, because an AdamW update is smaller than bfloat16 can add, and takes bfloat16
autocast where the device has it.
"""

import importlib.util
import logging
from typing import Literal

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ModelError, OptionalDependencyError

_log = logging.getLogger(__name__)

Device = Literal["cuda", "mps", "cpu"]
_SPELLINGS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def pick_device() -> Device:
    """The accelerator that torch sees, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(device: Device) -> str:
    """The device as its maker calls it."""
    import platform

    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def computes_bfloat16(device: Device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, so that it is faster than float32 there."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_dtype(config: ForgeConfig, device: Device, dtype: str = "auto", *, training: bool = False) -> str:
    """The name of the torch dtype that the base model's weights are loaded in.

    Args:
        config: Its `model.dtype` decides where `dtype` is ``auto``.
        device: Where the weights will be used.
        dtype: A torch dtype's name or short form, or ``auto``.
        training: Whether the weights are loaded to train on.

    Raises:
        ModelError: `dtype` is none of those, or training every weight in half precision was asked for.
    """
    asked = dtype if dtype != "auto" else config.model.dtype
    asked = _SPELLINGS.get(asked, asked)
    every_weight = training and config.lora.effective_method == "none"
    if every_weight and asked in ("bfloat16", "float16"):
        raise ModelError(
            f"model.dtype: {asked} weights cannot be trained directly, because updates vanish in rounding; "
            "use auto or float32 with lora.method: none"
        )
    if asked in ("float32", "bfloat16", "float16"):
        return asked
    if asked != "auto":
        raise ModelError(f"dtype: found {asked!r}; expected auto, float32, bfloat16 or float16")
    return "bfloat16" if not every_weight and computes_bfloat16(device) else "float32"


def can_load_in_4bit(config: ForgeConfig, device: Device) -> bool:
    """Whether the frozen base is quantized to 4 bits on this device.

    ``auto`` quantizes on CUDA devices, where it is fast, and never elsewhere: on a CPU it costs about a fifth of the
    speed. ``true`` is done wherever bitsandbytes can.

    Raises:
        ConfigError: It was asked for, and cannot be on this device or with this method.
        OptionalDependencyError: It was asked for, and bitsandbytes is not installed.
    """
    asked, method = config.model.load_in_4bit, config.lora.effective_method
    installed = importlib.util.find_spec("bitsandbytes") is not None
    if asked == "auto":
        if device != "cuda" or method in ("none", "pissa"):
            return False
        if config.distributed is not None and config.distributed.strategy in ("deepspeed", "fsdp"):
            return False  # they share out the weights, which 4-bit ones are not made for
        if not installed:
            _log.warning("the base model stays unquantized: bitsandbytes is not installed (pip install bitsandbytes)")
        return installed
    if not asked:
        return False
    if device == "mps":
        raise ConfigError("model.load_in_4bit: not done on Apple GPUs by this version; write auto or false")
    if method == "pissa":
        raise ConfigError(
            "model.load_in_4bit: pissa takes the adapter out of the unrounded base weights; write load_in_4bit: false, "
            "or lora.method: lora"
        )
    if not installed:
        raise OptionalDependencyError(
            "model.load_in_4bit needs the module 'bitsandbytes', which is not installed. "
            "Install it with: pip install 'forge-pipeline[qlora]', or write load_in_4bit: auto"
        )
    return True


def check_precision(config: ForgeConfig, device: Device) -> None:
    """Refuse a precision or an attention kernel that this device cannot train with.

    Raises:
        ConfigError: With the key and what would work here.
    """
    section = config.model
    asked = _SPELLINGS.get(section.dtype, section.dtype)
    if asked == "float16" and device == "cpu":
        raise ConfigError(
            "model.dtype: float16 cannot be trained on a CPU, where gradients underflow and nothing scales them; write "
            "auto, bfloat16 or float32"
        )
    if asked == "bfloat16" and not computes_bfloat16(device):
        if device == "cuda":
            raise ConfigError(
                f"model.dtype: {device_name(device)} does not compute in bfloat16; write auto, float16 or float32"
            )
        _log.warning(
            "model.dtype: bfloat16 is emulated on this %s, and slower than float32; auto picks float32", device
        )
    if section.attn_implementation == "flash_attention_2":
        if device != "cuda":
            raise ConfigError(
                f"model.attn_implementation: flash_attention_2 needs a CUDA device, and this run uses {device}; write "
                "auto or sdpa"
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise OptionalDependencyError(
                "model.attn_implementation: flash_attention_2 needs the module 'flash_attn', which is not installed. "
                "Install it with: pip install flash-attn, or write auto or sdpa"
            )
        if choose_dtype(config, device, training=True) == "float32":
            raise ConfigError(
                "model.attn_implementation: flash_attention_2 computes in half precision only, and the weights are "
                "float32 here; write sdpa"
            )
