"""`check_compatibility`: does the recipe fit the base model and the device? Asked before any weights are loaded.

(1) precision and kernels against the device; (2) the base model's configuration against the
head that the recipe trains; (3) what the recipe changes in it; (4) module names of the
adapter, against a skeleton without weights; (5) attention that would let packed rows see
each other; (6) the projections of GaLore; (7) kernels that are optional.
Everything a person can get wrong here otherwise shows after minutes of loading, or never.
"""

import importlib.util
import re
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ModelError, OptionalDependencyError
from forge_pipeline.models.adapters import check_adapter
from forge_pipeline.models.architecture import build_skeleton, changed, planned_changes, read_architecture
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.devices import Device, can_load_in_4bit, check_precision
from forge_pipeline.models.heads import HEADS, head_for
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv")


def check_compatibility(config: ForgeConfig, base: BaseModel, device: Device) -> None:
    """Refuse what cannot be trained, from the base model's ``config.json`` alone.

    Args:
        base: Found already.
        device: Where training will run.

    Raises:
        ConfigError: A key of the recipe does not fit; the message names what would.
        ModelError: The base model is of an architecture that cannot be trained this way, or cannot be read.
        OptionalDependencyError: Something the recipe asks for is not installed.
    """
    with quiet_libraries():
        check_precision(config, device)  # (1)
        can_load_in_4bit(config, device)
        found = read_architecture(config, base)  # (2)
        _check_architecture(config, base, found)
        if changes := planned_changes(config, found):  # (3)
            found = changed(found, changes)
        head = head_for(config, base)
        skeleton = build_skeleton(config, found, head)
        if HEADS[head].modules and config.lora.effective_method == "pissa":
            raise ConfigError(
                "lora.method: pissa cannot save the head that this trainer trains beside the adapter; write lora"
            )
        if getattr(found, "quantization_config", None) is not None:
            _check_quantized(config, found)
        check_adapter(config, skeleton)  # (4)
        if config.training.uses_packing or config.training.padding_free:  # (5)
            _check_rows_stay_apart(config, skeleton)
        if config.training.galore_enabled and config.training.galore_target_modules:  # (6)
            _check_galore_targets(config.training.galore_target_modules, skeleton)
        if config.training.use_liger_kernel:  # (7)
            _check_liger(found, device)


def _check_architecture(config: ForgeConfig, base: BaseModel, found: "PretrainedConfig") -> None:
    if head_for(config, base) != "causal-lm":
        return
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    named = f"model.name_or_path: {base.name_or_path} is a {found.model_type} model"
    if found.is_encoder_decoder:
        raise ModelError(
            f"{named}, an encoder-decoder, and {config.training.trainer_type} trains causal language models; name "
            "one, or write model.task: summarization with trainer_type: sft"
        )
    # Encoders have causal classes too, which see the whole text unless `is_decoder` says otherwise.
    if getattr(found, "is_decoder", None) is False and type(found) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(f"{named}, an encoder that reads a text from both sides and writes none; name a causal model")
    own_code = config.model.trust_remote_code and getattr(found, "auto_map", None)
    if type(found) not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise ModelError(f"{named}, of which transformers has no causal language model; name another base model")


def _check_quantized(config: ForgeConfig, found: "PretrainedConfig") -> None:
    """Weights that were published quantized: an adapter can stand on them, nothing else."""
    method = _quantization_method(found.quantization_config)
    if config.lora.effective_method == "none":
        raise ModelError(
            f"model.name_or_path: its weights are quantized ({method}) and cannot be trained whole; use an adapter "
            "(lora.method: lora), or name the unquantized model"
        )


def _quantization_method(settings: Any) -> str:
    value = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(value, "value", value))


def _check_rows_stay_apart(config: ForgeConfig, skeleton: Any) -> None:
    """Rows laid end to end are kept apart by positions that begin anew; the attention mask must follow them."""
    key = "training.packing" if config.training.uses_packing else "training.padding_free"
    found = skeleton.config.get_text_config()
    kind = type(skeleton).__name__
    recurrent = {layer for layer in getattr(found, "layer_types", None) or () if layer.startswith(_RECURRENT)}
    if recurrent:
        raise ConfigError(
            f"{key}: {kind} has {min(recurrent)} layers, whose state runs on from one row into the next; remove it"
        )
    import inspect
    import sys

    source = inspect.getsource(sys.modules[type(skeleton).__module__])
    positions = "position_ids" in inspect.signature(skeleton.forward).parameters
    if getattr(found, "alibi", False) or not positions or "create_causal_mask" not in source:
        raise ConfigError(
            f"{key}: the attention of {kind} does not follow positions that begin anew, so that a row would see the "
            "ones before it; remove it"
        )


def _check_galore_targets(targets: list[str], skeleton: Any) -> None:
    """transformers' own rule: a part of a linear layer's name, or a regular expression for all of it."""
    linear = [name for name, module in skeleton.named_modules() if type(module).__name__ == "Linear"]
    for target in targets:
        try:
            hit = any(target in name or re.fullmatch(target, name) for name in linear)
        except re.error as error:
            raise ConfigError(f"training.galore_target_modules: {target!r}: {error}") from error
        if not hit:
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ConfigError(f"training.galore_target_modules: {target!r} matches no linear layer. There are: {names}")


def _check_liger(found: "PretrainedConfig", device: Device) -> None:
    if device != "cuda":
        raise ConfigError(
            f"training.use_liger_kernel: its kernels run on CUDA devices, and this run uses {device}; remove it"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise OptionalDependencyError(
            "training.use_liger_kernel needs the module 'liger_kernel', which is not installed. "
            "Install it with: pip install liger-kernel, or remove it"
        )
    kernels = require("liger_kernel.transformers.monkey_patch", extra="liger", purpose="Liger kernels")
    if found.model_type not in kernels.MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(kernels.MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ConfigError(f"training.use_liger_kernel: it knows {known}, and not {found.model_type}; remove it")
