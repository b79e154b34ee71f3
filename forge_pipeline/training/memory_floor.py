"""`check_memory`: refuse, before weights are loaded, a fine-tune that no luck could fit into this device.

Counted is only what must be there at once, from the shapes of the base model: its weights, a second copy where
the method compares with one, and, where every weight is trained, gradients and optimizer states. No
activations, no adapter, nothing of the libraries; and against all the memory the device has, used or not, with
swap. So what is refused here cannot run. What is let through may still not fit: `forge fit-check` says.
"""

import math
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models.architecture import build_skeleton, read_architecture
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.devices import Device, can_load_in_4bit, choose_dtype
from forge_pipeline.models.heads import head_for
from forge_pipeline.models.memory import device_memory, format_memory, swap_bytes
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.training.methods import method_for
from forge_pipeline.training.optimizers import optimizer_name

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_ADAMW = ("adamw_torch", "adamw_torch_fused")  # two float32 states a weight; of others less may be enough
_UNKEPT_GRADIENTS = ("lomo", "layerwise")  # each is used and dropped while backward still runs


def check_memory(
    config: ForgeConfig, base: BaseModel, device: Device, *, world_size: int = 1, room: int | None = None
) -> None:
    """Refuse what cannot fit; see the module's docstring. Does nothing where `training.fit_check` is false.

    Args:
        world_size: Processes that train together; with several, weights may be sharded and nothing is refused.
        room: Bytes to hold it against; None takes all that the device has.

    Raises:
        ModelError: With the parts, and what would help.
    """
    sharded = world_size > 1 or bool(config.distributed and config.distributed.strategy)
    if not config.training.fit_check or sharded:
        return
    parts = memory_floor(config, base, device)
    if room is None:
        room = device_memory(device).total + (swap_bytes() if device == "cpu" else 0)
    needed = sum(parts.values())
    if needed <= room:
        return
    listed = ", ".join(f"{name} {format_memory(size)}" for name, size in parts.items())
    raise ModelError(
        f"model.name_or_path: {base.name_or_path} cannot be trained this way on this {device}: {listed} make "
        f"{format_memory(needed)} before the first row, and there are {format_memory(room)} in all. {_advice(config)} "
        "forge fit-check RECIPE searches for what fits; training.fit_check: false tries anyway"
    )


def memory_floor(config: ForgeConfig, base: BaseModel, device: Device) -> dict[str, int]:
    """Bytes by part that training needs at the least.

    Raises:
        ModelError: The base model's configuration cannot be read.
    """
    with quiet_libraries():
        skeleton = build_skeleton(config, read_architecture(config, base), head_for(config, base))
    values = _values(skeleton)
    element = _BYTES[choose_dtype(config, device, training=True)]
    if config.lora.effective_method != "none":
        packed = _linear_values(skeleton) if can_load_in_4bit(config, device) else 0
        return {"weights": round((values - packed) * element + packed / 2)}
    parts = {"weights": round(values * element)}
    if method_for(config).needs_reference:
        parts["reference"] = round(values * element)
    optimizer = optimizer_name(config, device)
    if not any(word in optimizer for word in _UNKEPT_GRADIENTS):
        parts["gradients"] = round(values * element)
    if optimizer in _ADAMW:
        parts["optimizer"] = round(values * 2 * element)
    return parts


def _values(model: Any) -> int:
    """Weights of a model; tied ones count once."""
    return sum(math.prod(weight.shape) for weight in model.parameters())


def _linear_values(model: Any) -> int:
    """Weights that 4-bit loading packs: those of linear layers, but the head."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return sum(
        math.prod(layer.weight.shape) for layer in model.modules() if isinstance(layer, Linear) and layer is not head
    )


def _advice(config: ForgeConfig) -> str:
    if config.lora.effective_method == "none":
        return "Set lora.method: lora, which trains an adapter on frozen weights; or take a smaller base model."
    if config.model.load_in_4bit is False:
        return "Set model.load_in_4bit: true (QLoRA), or take a smaller base model."
    return "Take a smaller base model, or a device with more memory."
