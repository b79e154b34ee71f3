"""`training.optim` and `training.galore_*` -> what the Trainer is told, and what galore-torch needs besides.

GaLore (Zhao et al. 2024, arXiv:2403.03507) trains every weight and keeps the optimizer's
moments of a low-rank projection of the gradients. transformers calls galore-torch 1.0 for
it, which leaves three things to do here, all measured with transformers 5.23:

- its optimizer is made without the recipe's weight decay, so that is set before the first step;
- its state holds objects, which torch refuses to load from a checkpoint unless they are named (of the
  layer-by-layer forms a checkpoint holds no state at all, so a resumed run is not the same as a straight one);
- its 8-bit class hands bitsandbytes 0.50 its arguments in the wrong places (a list by position that
  has changed since) and waits for a CUDA device on every step, so the 8-bit forms are refused.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, OptionalDependencyError
from forge_pipeline.models.devices import Device

if TYPE_CHECKING:
    from transformers import TrainerCallback

_BITSANDBYTES = ("bitsandbytes", "forge-pipeline[qlora]")
_GALORE = ("galore_torch", "forge-pipeline[galore]")
_APOLLO = ("apollo_torch", "apollo-torch")
_TORCHAO = ("torchao", "torchao")
_SCHEDULE_FREE = ("schedulefree", "schedulefree")
_LOMO = ("lomo_optim", "lomo-optim")

OPTIMIZERS: dict[str, tuple[str, str] | None] = {
    "auto": None,
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "adafactor": None,
    "sgd": None,
    "adagrad": None,
    "rmsprop": None,
    "adamw_bnb_8bit": _BITSANDBYTES,
    "adamw_8bit": _BITSANDBYTES,
    "paged_adamw_32bit": _BITSANDBYTES,
    "paged_adamw_8bit": _BITSANDBYTES,
    "ademamix": _BITSANDBYTES,
    "ademamix_8bit": _BITSANDBYTES,
    "paged_ademamix_32bit": _BITSANDBYTES,
    "paged_ademamix_8bit": _BITSANDBYTES,
    "lion_32bit": _BITSANDBYTES,
    "lion_8bit": _BITSANDBYTES,
    "paged_lion_32bit": _BITSANDBYTES,
    "paged_lion_8bit": _BITSANDBYTES,
    "rmsprop_bnb": _BITSANDBYTES,
    "rmsprop_bnb_8bit": _BITSANDBYTES,
    "rmsprop_bnb_32bit": _BITSANDBYTES,
    "adamw_torch_4bit": _TORCHAO,
    "adamw_torch_8bit": _TORCHAO,
    "apollo_adamw": _APOLLO,
    "apollo_adamw_layerwise": _APOLLO,
    "schedule_free_adamw": _SCHEDULE_FREE,
    "schedule_free_sgd": _SCHEDULE_FREE,
    "schedule_free_radam": _SCHEDULE_FREE,
    "lomo": _LOMO,
    "adalomo": _LOMO,
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
"""What `training.optim` may be -> the module it needs, and what to install for it."""


def optimizer_name(config: ForgeConfig, device: Device = "cpu") -> str:
    """What the Trainer calls the optimizer.

    `auto` is AdamW: fused on CUDA, where it is one kernel for all weights and makes no copy of them.
    """
    training = config.training
    if training.galore_enabled:
        return training.galore_optim
    if training.optim != "auto":
        return training.optim
    return "adamw_torch_fused" if device == "cuda" else "adamw_torch"


def optimizer_arguments(config: ForgeConfig, device: Device = "cpu") -> dict[str, Any]:
    """`optim` and its companions."""
    training, name = config.training, optimizer_name(config, device)
    if name.startswith("apollo_"):
        return {"optim": name, "optim_target_modules": "all-linear"}
    if not training.galore_enabled:
        return {"optim": name}
    arguments = {
        "rank": training.galore_rank,
        "update_proj_gap": training.galore_update_proj_gap,
        "scale": training.galore_scale,
        "proj_type": training.galore_proj_type,
    }
    return {
        "optim": name,
        "optim_args": ",".join(f"{key}={value}" for key, value in arguments.items()),
        "optim_target_modules": training.galore_target_modules or "all-linear",
    }


def check_optimizer(config: ForgeConfig) -> None:
    """Refuse an optimizer that is not one, cannot run, or is not installed. Imports nothing.

    Raises:
        ConfigError: With the key and the fix.
        OptionalDependencyError: With the pip line.
    """
    training, name = config.training, optimizer_name(config)
    if training.galore_enabled:
        _check_galore(config)
        needs: tuple[str, str] | None = _GALORE
    elif name.startswith("galore_"):
        raise ConfigError(f"training.optim: for {name} write galore_enabled: true and galore_optim: {name}")
    elif name not in OPTIMIZERS:
        raise ConfigError(f"training.optim: found {name!r}; expected one of {', '.join(OPTIMIZERS)}")
    else:
        needs = OPTIMIZERS[name]
    if name.startswith("apollo_") and config.lora.effective_method != "none":
        raise ConfigError(f"training.optim: {name} projects the gradients of whole weights; it needs lora.method: none")
    if name.endswith("layerwise"):
        _check_layerwise(config, name)
    key = "training.galore_enabled" if training.galore_enabled else "training.optim"
    for module, package in filter(None, (needs, _BITSANDBYTES if training.galore_enabled else None)):
        if importlib.util.find_spec(module) is None:
            raise OptionalDependencyError(
                f"{key}: {name} needs the module {module!r}, which is not installed. "
                f"Install it with: pip install '{package}'"
            )


def prepare_optimizer(config: ForgeConfig) -> "list[TrainerCallback]":
    """What a Trainer needs beside its arguments; nothing for most optimizers."""
    if not config.training.galore_enabled:
        return []
    from torch.serialization import add_safe_globals
    from transformers import TrainerCallback

    galore = require("galore_torch.galore_projector", extra="galore", purpose="GaLore optimizers")
    add_safe_globals([galore.GaLoreProjector])

    class GaloreGroups(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """After the optimizer's state was loaded, where there is one."""
            optimizer = kwargs["optimizer"]
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            each = getattr(optimizer, "optimizer_dict", None)
            for inner in each.values() if each else (optimizer,):
                _complete_groups(inner, args.weight_decay)

    return [GaloreGroups()]


def _complete_groups(optimizer: Any, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        if "rank" not in group:
            continue  # norms and embeddings: no decay
        group["weight_decay"] = weight_decay
        for parameter in group["params"]:
            projector = optimizer.state.get(parameter, {}).get("projector")
            if projector is not None:
                projector.ortho_matrix = _moved(projector.ortho_matrix, parameter.device)


def _moved(matrix: Any, device: Any) -> Any:
    """A projection, or the pair of a two-sided one, on the device of its weight: a checkpoint lies on the CPU."""
    return [part.to(device) for part in matrix] if isinstance(matrix, list) else matrix.to(device)


def _check_galore(config: ForgeConfig) -> None:
    training = config.training
    if config.lora.effective_method != "none":
        raise ConfigError(
            "training.galore_enabled: GaLore trains every weight, and an adapter's are of low rank already; set "
            "lora.method: none, or galore_enabled: false"
        )
    if "8bit" in training.galore_optim:
        raise ConfigError(
            f"training.galore_optim: {training.galore_optim} does not work with today's bitsandbytes (galore-torch 1.0 "
            "calls it as it was in 2024); write galore_adamw, or galore_enabled: false and optim: adamw_8bit"
        )
    if training.optim not in ("auto", "adamw_torch"):
        raise ConfigError(
            f"training.optim: found {training.optim!r} beside galore_enabled, which takes galore_optim; remove it"
        )


def _check_layerwise(config: ForgeConfig, name: str) -> None:
    """Layer by layer, an update is made while the gradients are still being computed."""
    if config.training.gradient_accumulation_steps != 1:
        raise ConfigError(
            f"training.gradient_accumulation_steps: {name} updates each layer at once and cannot accumulate; write 1"
        )
