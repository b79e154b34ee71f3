"""A model without values: the architecture's own modules on `meta`, cut to a number of layers.

Decoder layers are alike, or repeat with a period (Gemma alternates kinds of attention), after some first
ones that may differ (dense layers before experts). So a shallow model tells what each further period costs,
and `Depths` says at which two depths to look.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  # itself imported only where it is used

from forge_pipeline.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "attn_layer_indices")
_MOST_IN_FULL = 4


@dataclass(frozen=True)
class Depths:
    """Where to look: at `near` and `far` layers; each further period adds as much as between the two.

    Attributes:
        layers: What the model really has.
        period: Layers after which the kinds repeat.
    """

    layers: int
    near: int
    far: int
    period: int

    @property
    def stretch(self) -> float:
        """How many times the difference between far and near is added to near."""
        return (self.layers - self.near) / (self.far - self.near) if self.far > self.near else 0.0


def text_config(config: "PretrainedConfig") -> "PretrainedConfig":
    """The language model's part of a configuration."""
    found: PretrainedConfig = config.get_text_config(decoder=True)
    return found


def depths_of(config: "PretrainedConfig", *, in_full: bool = False) -> Depths:
    """Two depths of the architecture, equal where it is shallow, irregular or `in_full` is asked for."""
    text = text_config(config)
    layers = int(text.num_hidden_layers)
    whole = Depths(layers, layers, layers, 1)
    if in_full:
        return whole
    first, period = _regularity(text, layers)
    offset = first + (layers - first) % period
    near, far = offset + 2 * period, offset + 3 * period
    return whole if far >= layers or layers <= _MOST_IN_FULL else Depths(layers, near, far, period)


def _regularity(text: Any, layers: int) -> tuple[int, int]:
    """Layers at the start that differ from the rest, and the period of the rest."""
    first = int(getattr(text, "first_k_dense_replace", 0) or 0)
    period = int(getattr(text, "decoder_sparse_step", 1) or 1)
    if getattr(text, "mlp_only_layers", None):
        return 0, layers
    kinds = [list(zip(*_layer_lists(text, layers), strict=True))] if _layer_lists(text, layers) else []
    for sequence in kinds:
        period = max(period, _period(sequence[first:]))
    return first, period


def _layer_lists(text: Any, layers: int) -> list[Sequence[Any]]:
    values = (getattr(text, name, None) for name in _LAYER_LISTS)
    return [value for value in values if isinstance(value, (list, tuple)) and len(value) == layers]


def _period(kinds: Sequence[Any]) -> int:
    return next(
        (p for p in range(1, len(kinds)) if all(kinds[i] == kinds[i - p] for i in range(p, len(kinds)))),
        len(kinds) or 1,
    )


def cut_to(config: "PretrainedConfig", layers: int) -> "PretrainedConfig":
    """A copy of the configuration with its first `layers` layers."""
    shallow = copy.deepcopy(config)
    text = text_config(shallow)
    before = int(text.num_hidden_layers)
    text.num_hidden_layers = layers
    for name in _LAYER_LISTS:
        value = getattr(text, name, None)
        if isinstance(value, (list, tuple)) and len(value) == before:
            setattr(text, name, type(value)(value[:layers]))
    return shallow


def build_skeleton(
    config: "PretrainedConfig", dtype: str, *, attention: str = "sdpa", head: str = "fused"
) -> "PreTrainedModel":
    """The architecture on `meta`.

    Args:
        head: ``score`` builds the sequence classifier of a reward model, anything else the language model.

    Raises:
        ModelError: transformers has no causal language model of this architecture.
    """
    import transformers

    options = {"dtype": getattr(torch, dtype), "attn_implementation": "eager" if attention == "eager" else "sdpa"}
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    auto = transformers.AutoModelForCausalLM
    if head == "score":
        auto, config.num_labels = transformers.AutoModelForSequenceClassification, 1
        if text_config(config).pad_token_id is None:  # training takes the tokenizer's
            config.pad_token_id = text_config(config).pad_token_id = 0
    with torch.device("meta"):
        try:
            model: PreTrainedModel = auto.from_config(config, **options)
        except ValueError as error:
            if "attention" not in str(error) and "scaled_dot_product" not in str(error):
                raise ModelError(f"{config.model_type}: {error}") from error
            model = auto.from_config(config, **(options | {"attn_implementation": "eager"}))
    return model


def parameter_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each weight; a tied one counts once."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def decoder_layers(model: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The decoder's layers in order; empty where they are not one list of `count`."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def materialize(model: torch.nn.Module) -> None:
    """Move a model from `meta` to fake tensors on the CPU, inside `FakeTensorMode`. Tied weights stay tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the original is kept, so that its id stays its own
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is None:
                    continue
                if id(value) not in made:
                    fresh = torch.empty(value.shape, dtype=value.dtype)
                    if isinstance(value, torch.nn.Parameter):
                        fresh = torch.nn.Parameter(fresh, requires_grad=value.requires_grad)
                    made[id(value)] = (fresh, value)
                store[name] = made[id(value)][0]
