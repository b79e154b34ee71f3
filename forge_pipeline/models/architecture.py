"""A base model's configuration: read without its weights, changed as the recipe asks, built as a skeleton.

What the recipe changes (`training.rope_scaling`, `training.sliding_window_attention`) is a
small mapping of configuration attributes. It is set before the weights are loaded, kept in
the model's record, set again whenever the adapter is loaded, and lies in the ``config.json``
of every full or merged model: what is served is what was trained.

A skeleton is the model on torch's ``meta`` device: every module and parameter by name, type
and shape, and not a byte of weights. A 70-billion-parameter model takes about a second.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.rope import rope_type
from forge_pipeline.errors import ConfigError, ModelError
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.heads import HEADS, Head
from forge_pipeline.models.hub import hub_token, is_offline

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Changes = dict[str, Any]
"""Attribute of a model's configuration -> its new value; JSON only."""


def read_architecture(config: ForgeConfig, base: BaseModel) -> "PretrainedConfig":
    """The base model's own configuration, from its ``config.json`` alone.

    Raises:
        ModelError: It is not there, gated, not readable, or of an architecture that transformers does not know.
    """
    transformers = require("transformers", extra="train", purpose="Models")
    source: dict[str, Any] = {"local_files_only": True}
    if base.source == "hub":
        source = {"revision": base.revision, "token": hub_token(config), "local_files_only": is_offline(config)}
    try:
        found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
            base.path, trust_remote_code=config.model.trust_remote_code, **source
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model.name_or_path: {base.name_or_path}: {_why_unread(error)}") from error
    return found


def planned_changes(config: ForgeConfig, found: "PretrainedConfig") -> Changes | None:
    """What the recipe changes in a base model's configuration; None for nothing.

    Raises:
        ConfigError: The architecture has no rotary positions or no sliding window, or the values do not fit it.
    """
    training = config.training
    changes: Changes = {}
    if training.rope_scaling is not None:
        changes |= _stretched(training.rope_scaling, found)
    if training.sliding_window_attention is not None:
        changes |= _windowed(training.sliding_window_attention, found)
    return changes or None


def changed(found: "PretrainedConfig", changes: Mapping[str, Any]) -> "PretrainedConfig":
    """A copy of a configuration with `changes` set; `found` stays as it is."""
    result = copy.deepcopy(found)
    for name, value in changes.items():
        setattr(result, name, copy.deepcopy(value))
    return result


def build_skeleton(config: ForgeConfig, found: "PretrainedConfig", head: Head) -> "PreTrainedModel":
    """The model that `found` describes, with the head the recipe needs, on the meta device.

    Raises:
        ModelError: transformers has no such model for this architecture.
    """
    transformers = require("transformers", extra="train", purpose="Models")
    from accelerate import init_empty_weights

    kind = HEADS[head]
    own = copy.deepcopy(found)
    for name, value in kind.options.items():
        setattr(own, name, value)
    try:
        with init_empty_weights(include_buffers=True):
            model: PreTrainedModel = getattr(transformers, kind.auto_class).from_config(
                own, trust_remote_code=config.model.trust_remote_code
            )
    except (ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.name_or_path: {config.model.name_or_path} is a {found.model_type} model, of which "
            f"{kind.auto_class} makes nothing: {str(error).splitlines()[0]}"
        ) from error
    return model


def _stretched(values: Mapping[str, Any], found: "PretrainedConfig") -> Changes:
    """`training.rope_scaling` in transformers 5's spelling, ``rope_parameters``."""
    own = getattr(found, "rope_parameters", None)
    if not own or getattr(found, "alibi", False):
        raise ConfigError(
            f"training.rope_scaling: {found.model_type} models have no rotary positions to stretch; remove it"
        )
    layers = "full_attention" if isinstance(own.get("full_attention"), dict) else None
    before = own[layers] if layers else own
    if before.get("rope_type", "default") != "default":
        raise ConfigError(
            f"training.rope_scaling: the positions of {found.name_or_path or found.model_type} are stretched already "
            f"({before['rope_type']}); remove it"
        )
    kind = str(rope_type(values))
    after = {key: value for key, value in values.items() if key not in ("type", "rope_type")}
    after = {key: before[key] for key in ("rope_theta", "partial_rotary_factor") if key in before} | after
    after["rope_type"] = kind
    changes: Changes = {}
    if kind in ("yarn", "longrope"):
        original = int(after.setdefault("original_max_position_embeddings", found.max_position_embeddings))
        # Servers take the longest text from here; the other two types keep it, because dynamic reads it as "before".
        if "factor" in after:
            changes["max_position_embeddings"] = int(original * after["factor"])
    if kind == "longrope":
        _check_frequencies(after, found)
    changes["rope_parameters"] = {**own, layers: after} if layers else after
    return changes


def _check_frequencies(values: Mapping[str, Any], found: "PretrainedConfig") -> None:
    heads = getattr(found, "head_dim", None) or found.hidden_size // found.num_attention_heads
    wanted = int(heads * values.get("partial_rotary_factor", 1.0)) // 2
    for key in ("short_factor", "long_factor"):
        if len(values[key]) != wanted:
            raise ConfigError(
                f"training.rope_scaling.{key}: found {len(values[key])} factors; this model has {wanted} rotary "
                "frequencies in a head, and needs one factor for each"
            )


def _windowed(window: int, found: "PretrainedConfig") -> Changes:
    """`training.sliding_window_attention`: every layer that may have a window gets this one.

    Where an architecture says layer by layer which of them have a window (Gemma) that stays; where it
    says it of none (Qwen), all get it.
    """
    if not hasattr(found, "sliding_window"):
        raise ConfigError(
            f"training.sliding_window_attention: {found.model_type} models have no sliding window; remove it, or "
            "shorten model.max_length"
        )
    changes: Changes = {"sliding_window": window}
    if hasattr(found, "use_sliding_window"):
        changes |= {"use_sliding_window": True, "max_window_layers": 0}
    kinds = getattr(found, "layer_types", None)
    if kinds and "sliding_attention" not in kinds:
        changes["layer_types"] = ["sliding_attention" if kind == "full_attention" else kind for kind in kinds]
    return changes


def _why_unread(error: Exception) -> str:
    text = str(error).strip("'\"\n ")
    first = text.splitlines()[0] if text else type(error).__name__
    if "gated" in text.lower() or "401" in text or "403" in text:
        return (
            f"it is gated or private, and no token with access was given ({first}). Ask for access on its page, "
            "then set HF_TOKEN"
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return f"transformers does not know its architecture ({first})"
    return f"its configuration cannot be read: {first}"
