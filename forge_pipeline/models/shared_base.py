"""One copy of a base model in memory, and the adapters over it: who speaks is switched, not loaded.

`what_to_load` says which weights a fine-tuned model needs, without loading any; two models that need the same share
them. Laws: an adapter answers the same beside others as alone, and with every adapter off the base model
answers as if there had never been one.

Not for several threads at once: an adapter is switched on for all who use the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest
from forge_pipeline.models.architecture import build_skeleton, changed, read_architecture
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.devices import choose_dtype, pick_device
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.models.heads import Head, head_for
from forge_pipeline.models.loading import check_same_base, load_weights
from forge_pipeline.models.quantization import QuantizationRecord, dequantized, settings_of
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class WeightsKey:
    """Equal keys load equal weights.

    Attributes:
        path, revision, digest: Where they lie, and what lies there.
        changes: What the recipe changed in the configuration, as sorted text.
        alone: The adapter that nothing can be loaded beside; None: they may be shared.
    """

    path: str
    revision: str | None
    digest: Digest | None
    head: Head
    dtype: str
    rounding: QuantizationRecord | None
    changes: str
    attention: str
    trust_remote_code: bool
    alone: Digest | None = None


@dataclass(frozen=True)
class Weights:
    """Weights that can be loaded.

    Attributes:
        config: A recipe that names how (attention, token, trust).
        base: What lies on disk; for a model all of whose weights were trained, the model itself.
    """

    key: WeightsKey
    config: ForgeConfig
    base: BaseModel
    changes: dict[str, Any] | None

    def size(self) -> int:
        """Bytes that they will take, from the shapes alone.

        Raises:
            ModelError: The configuration cannot be read, or nothing can be made of it.
        """
        found = read_architecture(self.config, self.base)
        with quiet_libraries():
            skeleton = build_skeleton(self.config, changed(found, self.changes or {}), self.key.head)
        return sum(int(weight.numel()) for weight in skeleton.parameters()) * _BYTES[self.key.dtype]

    def load(self) -> "PreTrainedModel":
        """Into memory, in evaluation mode, on the best device.

        Raises:
            ModelError: They cannot be loaded.
        """
        device, rounding = pick_device(), self.key.rounding
        model = load_weights(
            self.config,
            self.base,
            device=device,
            dtype=rounding.dtype if rounding else self.key.dtype,
            quantization=settings_of(rounding) if rounding else None,
            head=self.key.head,
            changes=self.changes,
        )
        if rounding:
            model = dequantized(model, self.key.dtype)
        return model.to(device).eval()


def what_to_load(config: ForgeConfig, model: ModelDirectory) -> Weights:
    """The weights under a fine-tuned model: its base model's for an adapter, else its own.

    Raises:
        ModelError: There is no such base model, or the adapter was trained on another one.
    """
    record = model.record
    if record.kind == "full":
        own = BaseModel(str(model.path), str(model.path), None, None, "local", model.digest, None)
        return _weights(config, own, record.head, None, None)
    if record.earlier:
        raise ModelError(
            f"{model.path} holds an adapter for the model of the stage {record.earlier[-1].name!r}, not for "
            f"{record.base_model.name_or_path}; ask the merged model of its line"
        )
    base = resolve_base_model(config)
    check_same_base(model, base)
    weights = _weights(config, base, record.head, record.quantization, record.architecture)
    alone = None if _can_share(model.path) else model.digest
    return replace(weights, key=replace(weights.key, alone=alone))


def base_to_load(config: ForgeConfig, model: ModelDirectory) -> Weights:
    """The base model that a model started from which has no adapter to switch off.

    Raises:
        ModelError: There is no such base model.
    """
    base = resolve_base_model(config)
    return _weights(config, base, head_for(config, base), None, model.record.architecture)


class SharedBase:
    """Weights in memory.

    Attributes:
        size: Bytes of the parameters in memory, adapters included.
    """

    def __init__(self, weights: Weights) -> None:
        self._model: Any = weights.load()
        self._adapters: list[str] = []
        self.size = _size(self._model)

    def add(self, name: str, adapter: ModelDirectory) -> None:
        """Put an adapter on; `name` without a dot."""
        peft = require("peft", extra="train", purpose="Adapters")
        with quiet_libraries():
            if self._adapters:
                self._model.load_adapter(str(adapter.path), adapter_name=name)
            else:
                self._model = peft.PeftModel.from_pretrained(self._model, str(adapter.path), adapter_name=name)
        self._adapters.append(name)
        self._model.eval()
        self._model.to(pick_device())
        self.size = _size(self._model)

    def remove(self, name: str) -> None:
        """Take an adapter off; with the last one goes everything that PEFT put around the weights."""
        self._adapters.remove(name)
        if self._adapters:
            self._model.set_adapter(self._adapters[0], inference_mode=True)
            self._model.delete_adapter(name)
        else:
            self._model = self._model.unload()
        self.size = _size(self._model)

    @contextmanager
    def speaking(self, name: str | None) -> Iterator["PreTrainedModel"]:
        """The model with one adapter on, or for None with none: the base model."""
        if name is not None:
            self._model.set_adapter(name, inference_mode=True)
            yield self._model
        elif self._adapters:
            with self._model.disable_adapter():
                yield self._model
        else:
            yield self._model


def _weights(
    config: ForgeConfig,
    base: BaseModel,
    head: Head,
    rounding: QuantizationRecord | None,
    changes: dict[str, Any] | None,
) -> Weights:
    key = WeightsKey(
        path=base.path,
        revision=base.revision,
        digest=base.digest,
        head=head,
        dtype=choose_dtype(config, pick_device()),
        rounding=rounding,
        changes=repr(sorted((changes or {}).items())),
        attention=config.model.attn_implementation,
        trust_remote_code=config.model.trust_remote_code,
    )
    return Weights(key, config, base, changes)


def _can_share(adapter: Path) -> bool:
    """Whether PEFT holds this adapter beside others: it changes no bias and no fused experts of the base model."""
    peft = require("peft", extra="train", purpose="Adapters")
    settings = peft.PeftConfig.from_pretrained(str(adapter))
    return (
        settings.peft_type == "LORA"
        and settings.bias == "none"
        and not settings.target_parameters
        and not settings.trainable_token_indices
    )


def _size(model: Any) -> int:
    """Bytes of the parameters; tied ones count once."""
    return sum(int(weight.numel() * weight.element_size()) for weight in model.parameters())
