"""A LoRA adapter on disk, and what it makes of one weight of its base model.

The arithmetic is PEFT's own, in float32 and in PEFT's order, so that a sum is the same to the bit as
``merge_and_unload(safe_merge=True)``:

- LoRA (arXiv 2106.09685): ``W + s * B A`` with ``s = alpha / r``; rsLoRA (arXiv 2312.03732): ``s = alpha / sqrt(r)``;
- DoRA (arXiv 2402.09353): ``m / ||W + s * B A|| * (W + s * B A)``, the norm along each output's inputs;
- PiSSA (arXiv 2404.02948) is stored here as the ordinary LoRA that it amounts to (`writing.write_adapter`);
- modules saved whole, and biases, replace the base model's.

Every other kind is refused with its name (`NotStreamableError`), and is PEFT's to merge.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import ModelError
from forge_pipeline.models.shards import ShardedTensors

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
# Fields of LoraConfig that change neither the sum nor where it is made, or that are dealt with below.
_KNOWN = frozenset({
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "use_dora", "task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
    "inference_mode", "runtime_config", "megatron_core", "qalora_group_size",
})  # fmt: skip
_ORDINARY_STARTS = (True, False, "gaussian", "orthogonal")


class NotStreamableError(Exception):
    """This merge has to be made in memory; the message says why. Never leaves `merging`."""


@dataclass(frozen=True)
class _Update:
    """The names of one weight's low-rank parts."""

    low: str
    high: str
    scaling: float
    magnitude: str | None
    transposed: bool
    embedding: bool


@dataclass(frozen=True)
class AdapterWeights:
    """What an adapter does to which parameter of its base model.

    Attributes:
        replaced: Parameter -> name in the adapter's file; saved whole.
        updates: Parameter -> its low-rank update.
    """

    tensors: ShardedTensors
    replaced: Mapping[str, str] = field(default_factory=dict)
    updates: Mapping[str, _Update] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: Path, skeleton: Any) -> "AdapterWeights":
        """Read the adapter's configuration and its table of tensors.

        Args:
            skeleton: The base model on the meta device.

        Raises:
            NotStreamableError: It is of a kind that only PEFT can merge.
            ModelError: Its file is damaged, or holds a tensor that belongs nowhere in the base model.
        """
        from peft import PeftConfig

        file = directory / "adapter_model.safetensors"
        if not file.is_file():
            raise NotStreamableError("its weights are not in safetensors")
        settings = PeftConfig.from_pretrained(str(directory))
        _check_kind(settings)
        tensors = ShardedTensors([file])
        modules, parameters = dict(skeleton.named_modules()), set(skeleton.state_dict())
        replaced: dict[str, str] = {}
        updates: dict[str, _Update] = {}
        for name in tensors:
            inner = name.removeprefix(_PREFIX)
            module, found, rest = inner.partition(".lora_")
            if not found:
                parameter = inner.replace(".base_layer.", ".")
                if parameter not in parameters:
                    raise NotStreamableError(f"its tensor {name} belongs to no parameter of the base model")
                replaced[parameter] = name
            elif rest in ("A.weight", "embedding_A"):
                updates[f"{module}.weight"] = _update(tensors, settings, name, module, modules.get(module))
            elif rest not in ("B.weight", "embedding_B", "magnitude_vector", "magnitude_vector.weight"):
                raise NotStreamableError(f"its tensor {name} is of a kind not known here")
        return cls(tensors, replaced, updates)

    @property
    def parameters(self) -> set[str]:
        """Every parameter that is not the base model's own afterwards."""
        return {*self.replaced, *self.updates}

    def applied(self, name: str, weight: "torch.Tensor") -> "torch.Tensor":
        """The merged parameter, in float32.

        Args:
            weight: The base model's, float32, on the device that computes, and nobody else's: it is changed.

        Raises:
            ModelError: The sum is not finite.
        """
        import torch

        if name not in self.updates:
            return weight
        update = self.updates[name]
        low = self.tensors.read(update.low).to(weight.device, torch.float32)
        high = self.tensors.read(update.high).to(weight.device, torch.float32)
        delta = high @ low
        if update.transposed or update.embedding:
            delta = delta.T
        delta = delta * update.scaling if update.scaling != 1 else delta
        summed = weight.add_(delta)
        if update.magnitude is not None:
            magnitude = self.tensors.read(update.magnitude).to(weight.device, torch.float32)
            norm = torch.linalg.norm(summed.T if update.transposed else summed, dim=1)
            factor = (magnitude / norm).view(-1, 1)
            summed = (factor.T if update.transposed else factor) * summed
        if not torch.isfinite(summed).all():
            raise ModelError(f"cannot be merged: the sum in {name} is not finite; the adapter seems to be broken")
        return summed


def _check_kind(settings: Any) -> None:
    kind = str(getattr(settings.peft_type, "value", settings.peft_type))
    if kind != "LORA":
        raise NotStreamableError(f"it is a {kind} adapter")
    if settings.init_lora_weights not in _ORDINARY_STARTS:
        raise NotStreamableError(f"it starts from the base model's own weights ({settings.init_lora_weights})")
    unknown = [key for key, value in vars(settings).items() if key not in _KNOWN and not key.startswith("_") and value]
    if unknown:
        raise NotStreamableError(f"its configuration has {', '.join(sorted(unknown))}")


def _update(tensors: ShardedTensors, settings: Any, low: str, name: str, module: Any) -> _Update:
    kind = type(module).__name__
    if kind not in ("Linear", "Conv1D", "Embedding"):
        raise NotStreamableError(f"it adapts {name}, a {kind}")
    embedding = kind == "Embedding"
    high = low.replace("lora_embedding_A", "lora_embedding_B") if embedding else low.replace("lora_A.", "lora_B.")
    if high not in tensors:
        raise ModelError(f"the adapter has {low} but no {high}; its file is damaged")
    stem = low.partition(".lora_")[0]
    magnitudes = (f"{stem}.lora_magnitude_vector", f"{stem}.lora_magnitude_vector.weight")
    magnitude = next((each for each in magnitudes if each in tensors), None)
    if settings.use_dora and (embedding or magnitude is None):
        raise NotStreamableError(f"it has a DoRA update on {name}, a {kind}")
    rank, alpha = _rank_and_alpha(settings, name)
    if tensors.shape(low)[0] != rank:
        raise NotStreamableError(f"{low} has rank {tensors.shape(low)[0]}, and its configuration says {rank}")
    scaling = alpha / (math.sqrt(rank) if settings.use_rslora else rank)
    return _Update(low, high, scaling, magnitude if settings.use_dora else None, kind == "Conv1D", embedding)


def _rank_and_alpha(settings: Any, name: str) -> tuple[int, float]:
    from peft.utils.other import get_pattern_key

    rank = settings.rank_pattern.get(get_pattern_key(settings.rank_pattern.keys(), name), settings.r)
    alpha = settings.alpha_pattern.get(get_pattern_key(settings.alpha_pattern.keys(), name), settings.lora_alpha)
    return int(rank), alpha
