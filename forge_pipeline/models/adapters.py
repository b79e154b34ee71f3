"""The `lora:` and `model.moe:` sections -> PEFT's configuration, and what of them fits a base model.

A name that matches no module is an error here. PEFT stops only where *no* name matches, and
says nothing of a rank for a module that does not exist.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

_ADAPTABLE = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D", "Embedding")
_SHOWN = 24


def lora_config(config: ForgeConfig, model: Any = None) -> "LoraConfig | None":
    """What PEFT is told; None where every weight is trained.

    Args:
        model: The base model, or its skeleton; needed only where the recipe trains experts (`model.moe`).

    Raises:
        ConfigError: The recipe trains experts of a model that has none.
    """
    section = config.lora
    if section.effective_method == "none":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        bias=section.bias,
        target_modules="all-linear" if section.target_modules == ["all-linear"] else list(section.target_modules),
        target_parameters=_expert_targets(config, model) or None,
        modules_to_save=list(section.modules_to_save) if section.modules_to_save else None,
        rank_pattern=dict(section.rank_pattern),
        alpha_pattern=dict(section.alpha_pattern),
        task_type=section.task_type,
        use_dora=section.effective_method == "dora",
        use_rslora=section.effective_method == "rslora",
        init_lora_weights="pissa" if section.effective_method == "pissa" else True,
    )


def check_adapter(config: ForgeConfig, skeleton: Any) -> None:
    """Refuse names that match nothing in the base model, and adapters that PEFT or TRL would refuse later.

    Args:
        skeleton: The base model on the meta device.

    Raises:
        ConfigError: With the names that exist.
    """
    section = config.lora
    if section.effective_method == "none":
        if config.model.moe is not None:
            raise ConfigError("model.moe: lora.method: none trains every expert anyway; remove model.moe")
        return
    modules = {name: module for name, module in skeleton.named_modules() if name}
    targeted = _targeted_modules(config, skeleton, modules)
    for name in section.modules_to_save or ():
        if not _ending_in(name, modules):
            raise ConfigError(
                f"lora.modules_to_save: no module is called {name!r}. There are: {_listed(_last_parts(modules))}"
            )
    for key, pattern in (("rank_pattern", section.rank_pattern), ("alpha_pattern", section.alpha_pattern)):
        for name in pattern:
            if not _matches_any(key, name, targeted):
                raise ConfigError(
                    f"lora.{key}: {name!r} matches no module that gets an adapter. Those are: "
                    f"{_listed(_last_parts(targeted))}"
                )
    if section.effective_method == "pissa" and (section.modules_to_save or section.bias != "none"):
        # PEFT writes the difference from the adapter's start, which it keeps without either.
        raise ConfigError(
            "lora.method: pissa goes with bias: none and without modules_to_save; change one, or write lora"
        )
    if config.model.moe is not None:
        _check_experts(config, skeleton)


def expert_parameters(model: Any) -> dict[str, "torch.nn.Parameter"]:
    """The fused experts of a model: name of a parameter -> weights of shape (experts, rows, columns)."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and "experts" in name.split(".")
    }


def settle_adapter(config: ForgeConfig, model: Any) -> None:
    """What is left to do once PEFT or TRL has put the adapter on the base model.

    TRL turns the adapter on a quantized base into bfloat16, where steps of usual learning rates vanish in
    rounding (a weight of 0.01 moves by 4e-5 or not at all); it is kept in float32, as on any other base.
    """
    hold_other_experts(config, model)
    if getattr(model, "is_loaded_in_4bit", False):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def hold_other_experts(config: ForgeConfig, model: Any) -> None:
    """Let only the experts of `model.moe.experts_to_train` learn; the adapters of the others stay at zero.

    PEFT keeps the adapters of all experts of a weight in two matrices. The rows and columns of the experts
    that do not learn get no gradient, so their product stays what it is at the start: nothing.

    Args:
        model: With its adapters.
    """
    numbers = config.model.moe.expert_numbers if config.model.moe else None
    if not numbers:
        return
    import torch

    for module in model.modules():
        experts = getattr(module, "num_experts", 0)
        if type(module).__name__ != "ParamWrapper" or experts < 2:
            continue
        learns = torch.zeros(experts)
        learns[list(numbers)] = 1.0
        for low, high in zip(module.lora_A.values(), module.lora_B.values(), strict=True):
            rank = low.weight.shape[0] // experts
            # (experts * rank, in), expert by expert; (out, rank * experts), rank by rank.
            low.weight.register_hook(_masking(learns.repeat_interleave(rank)[:, None]))
            high.weight.register_hook(_masking(learns.repeat(rank)[None, :]))


def _masking(mask: Any) -> Any:
    return lambda gradient: gradient * mask.to(gradient.device, gradient.dtype)


def _expert_targets(config: ForgeConfig, model: Any) -> list[str]:
    """The names that PEFT calls `target_parameters`, without the number of the layer."""
    moe = config.model.moe
    if moe is None or moe.expert_numbers == ():
        return []
    if model is None:
        raise TypeError("lora_config needs the base model where the recipe has model.moe")
    found = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in expert_parameters(model)})
    if not found:
        raise ConfigError(
            f"model.moe: {model.config.model_type} has no fused experts; remove model.moe, or name the experts' linear "
            "layers in lora.target_modules"
        )
    return found


def _check_experts(config: ForgeConfig, skeleton: Any) -> None:
    moe, section = config.model.moe, config.lora
    assert moe is not None
    if moe.quantize_experts:
        raise ConfigError(
            "model.moe.quantize_experts: bitsandbytes quantizes linear layers, and experts are fused into one weight "
            "each; write false"
        )
    targets = _expert_targets(config, skeleton)
    if not targets:
        return
    # PEFT's wrapper of a fused weight: its input never meets dropout, and it knows no variants.
    if section.dropout:
        raise ConfigError(f"lora.dropout: found {section.dropout}; adapters on experts have none, so write 0.0")
    if section.effective_method in ("dora", "pissa"):
        raise ConfigError(
            f"lora.method: {section.effective_method} does not work on fused experts; write lora or rslora, or "
            "model.moe.experts_to_train: none"
        )
    experts = min(parameter.shape[0] for parameter in expert_parameters(skeleton).values())
    beyond = [number for number in moe.expert_numbers or () if number >= experts]
    if beyond:
        raise ConfigError(
            f"model.moe.experts_to_train: there is no expert {beyond[0]}; a layer has {experts}, numbered from 0"
        )


def _targeted_modules(config: ForgeConfig, skeleton: Any, modules: dict[str, Any]) -> list[str]:
    """Names of the modules that get an adapter."""
    section = config.lora
    head = skeleton.get_output_embeddings()
    heads = {name for name, module in modules.items() if head is not None and module is head}
    adaptable = {name for name, module in modules.items() if _is_adaptable(module)}
    linear = {name for name in adaptable if type(modules[name]).__name__ != "Embedding"}
    if section.target_modules == ["all-linear"]:
        return sorted(linear - heads)
    targeted: set[str] = set()
    for target in section.target_modules:
        named = _ending_in(target, modules)
        if not named:
            raise ConfigError(
                f"lora.target_modules: no module of {config.model.name_or_path} is called {target!r}. Linear layers "
                f"there: {_listed(_last_parts(linear - heads))}; [all-linear] takes them all"
            )
        if named & heads:
            raise ConfigError(
                f"lora.target_modules: {target!r} is the language model's head, whose adapter the trainer would never "
                "train; remove it, or put it in lora.modules_to_save"
            )
        if not named <= adaptable:
            kind = type(modules[min(named - adaptable)]).__name__
            raise ConfigError(
                f"lora.target_modules: {target!r} is a {kind}, which takes no adapter. Linear layers there: "
                f"{_listed(_last_parts(linear - heads))}"
            )
        if any(modules[name] is skeleton.get_input_embeddings() for name in named) and _is_tied(skeleton):
            raise ConfigError(
                f"lora.target_modules: {target!r} shares its weights with the head, which an adapter leaves alone and "
                f"a merge would change; remove it, or write modules_to_save: [{target}]"
            )
        targeted |= named
    return sorted(targeted)


def _is_tied(skeleton: Any) -> bool:
    return bool(getattr(skeleton.config.get_text_config(), "tie_word_embeddings", False))


def _is_adaptable(module: Any) -> bool:
    return any(kind.__name__ in _ADAPTABLE for kind in type(module).__mro__)


def _ending_in(name: str, modules: Iterable[str]) -> set[str]:
    """PEFT's rule for names: the whole name, or its end after a dot."""
    return {module for module in modules if module == name or module.endswith(f".{name}")}


def _matches_any(key: str, pattern: str, names: Iterable[str]) -> bool:
    """PEFT's rule for patterns: a regular expression for the whole name, or for its end after a dot."""
    try:
        compiled = re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise ConfigError(f"lora.{key}: {pattern!r} is no regular expression: {error}") from error
    return any(compiled.match(name) for name in names)


def _last_parts(names: Iterable[str]) -> list[str]:
    return sorted({part for name in names if not (part := name.rpartition(".")[2]).isdigit()})


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
