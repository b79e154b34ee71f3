"""Whether what another tool wrote is the adapter that was asked for.

(1) the files: a configuration and safetensors, no pickle; (2) the configuration: LoRA of
the recipe's rank and scale, for the base model that was given; (3) the tensors: pairs A
and B of that rank, each fitting a weight of the base model, all finite; (4) it has
learned: B starts at zero, and some of it has moved.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import canonical_json
from forge_pipeline.models.base import BaseModel

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_SETS = ("target_modules", "exclude_modules", "modules_to_save")


def verified_adapter(found: Path, config: ForgeConfig, base: BaseModel, output_dir: Path, *, tool: str) -> None:
    """Check the adapter in `found`, and copy it to `output_dir` with the base model named as the recipe names it.

    Raises:
        TrainingError: It is not what was asked for; what was found and expected is named.
    """
    settings = _settings(found, tool)
    _check_settings(settings, config, base, tool)
    _check_tensors(found / _WEIGHTS, config, base, tool)
    shutil.copyfile(found / _WEIGHTS, output_dir / _WEIGHTS)
    settings["base_model_name_or_path"] = base.name_or_path
    for key in _SETS:
        if isinstance(settings.get(key), list):
            settings[key] = sorted(settings[key])
    (output_dir / _CONFIG).write_bytes(canonical_json(settings))


def _settings(found: Path, tool: str) -> dict[str, Any]:
    there = sorted(path.name for path in found.iterdir()) if found.is_dir() else []
    lacking = [name for name in (_CONFIG, _WEIGHTS) if name not in there]
    if lacking:
        raise TrainingError(
            f"{tool} ended without a word, but wrote no {' and no '.join(lacking)}; it left "
            f"{', '.join(there) or 'nothing'}"
        )
    try:
        settings = json.loads((found / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{tool}: its {_CONFIG} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise TrainingError(f"{tool}: its {_CONFIG} holds {type(settings).__name__}; expected an object")
    return settings


def _check_settings(settings: Mapping[str, Any], config: ForgeConfig, base: BaseModel, tool: str) -> None:
    lora = config.lora
    expected = {
        "peft_type": "LORA",
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "use_dora": lora.effective_method == "dora",
        "use_rslora": lora.effective_method == "rslora",
    }
    for key, value in expected.items():
        got = settings.get(key, False if isinstance(value, bool) else None)
        if got != value:
            raise TrainingError(f"{tool}: its {_CONFIG} has {key} {got!r}; the recipe asks for {value!r}")
    named = settings.get("base_model_name_or_path")
    if named != base.path:
        raise TrainingError(f"{tool}: its adapter is for the base model {named!r}, but it was given {base.path!r}")


def _check_tensors(path: Path, config: ForgeConfig, base: BaseModel, tool: str) -> None:
    import torch
    from safetensors import SafetensorError, safe_open

    weights = _shapes_of_base(base)
    pairs = moved = 0
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                tensor = file.get_tensor(name)
                if not torch.isfinite(tensor).all():
                    raise TrainingError(
                        f"{tool}: {name} holds values that are not finite; lower training.learning_rate"
                    )
                module, _, part = name.removeprefix(_PREFIX).partition(".lora_")
                if part not in ("A.weight", "B.weight"):
                    continue
                pairs += 1
                moved += part == "B.weight" and bool(tensor.any())
                _check_shape(name, module, part, tuple(tensor.shape), weights, config, tool)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{tool}: its {_WEIGHTS} cannot be read: {error}") from error
    if not pairs:
        raise TrainingError(f"{tool}: its {_WEIGHTS} holds no LoRA weights")
    if not moved:
        raise TrainingError(
            f"{tool}: its adapter is as it was before training: every lora_B is zero, nothing was learned"
        )


def _check_shape(
    name: str,
    module: str,
    part: str,
    shape: tuple[int, ...],
    weights: Mapping[str, tuple[int, ...]] | None,
    config: ForgeConfig,
    tool: str,
) -> None:
    """A: (rank, inputs), B: (outputs, rank), for a base weight of (outputs, inputs)."""
    rank = shape[0] if part == "A.weight" else shape[1] if len(shape) == 2 else 0
    if len(shape) != 2 or (not config.lora.rank_pattern and rank != config.lora.r):
        raise TrainingError(f"{tool}: {name} is of shape {shape}; the recipe asks for rank {config.lora.r}")
    if weights is None:
        return
    weight = weights.get(f"{module}.weight")
    side = 1 if part == "A.weight" else 0
    if weight is None or weight[side] != shape[1 - rank_axis(part)]:
        raise TrainingError(
            f"{tool}: {name} is of shape {shape}, but the base model's {module}.weight is "
            f"{'not there' if weight is None else f'of shape {weight}'}; the adapter is for another model"
        )


def rank_axis(part: str) -> int:
    """Which axis of a LoRA weight is the rank."""
    return 0 if part == "A.weight" else 1


def _shapes_of_base(base: BaseModel) -> dict[str, tuple[int, ...]] | None:
    """Shape of every weight of a local base model; None where it is not here as safetensors."""
    from safetensors import safe_open

    files = sorted(Path(base.path).glob("*.safetensors")) if base.source != "hub" else []
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="np") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes or None
