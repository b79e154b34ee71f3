"""A merge tensor by tensor: what will be written, planned from tables alone, then written.

A plan is made only where it is certain that the result is what transformers would save: every
parameter of the model, by its own name and shape, lies in the base model's safetensors or in the
adapter. Everything is checked before the first byte is written.

Where the base model was rounded to 4 bits under the adapter, each weight that was rounded then is
rounded again here by bitsandbytes itself, or taken from the published 4-bit checkpoint, and
dequantized, before the update is added; see `quantization`.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models.adapter_weights import AdapterWeights, NotStreamableError
from forge_pipeline.models.architecture import build_skeleton, changed, read_architecture
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.devices import Device, pick_device
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.models.heads import Head
from forge_pipeline.models.hub import hub_token, is_offline
from forge_pipeline.models.quantization import QuantizationRecord, settings_of
from forge_pipeline.models.shards import INDEX, WEIGHTS, ShardedTensors, TensorShape, indexed_files, write_shards

if TYPE_CHECKING:
    import torch

Values = Callable[[str], "torch.Tensor"]


@dataclass(frozen=True)
class Plan:
    """A model that can be written without being loaded.

    Attributes:
        skeleton: The model on the meta device, with the configuration that is written.
        names: Parameters that are written, by the skeleton's names.
        values: Makes one of them.
    """

    skeleton: Any
    names: tuple[str, ...]
    values: Values

    def write(self, directory: Path, dtype: str, max_shard_bytes: int) -> None:
        """Configuration and weights; floating-point tensors in `dtype`, others as they are.

        Raises:
            ModelError: A merged weight is not finite.
        """
        import torch

        kind = getattr(torch, dtype)
        state = self.skeleton.state_dict()
        shapes = [
            TensorShape(name, tuple(state[name].shape), kind if state[name].is_floating_point() else state[name].dtype)
            for name in self.names
        ]
        own = self.skeleton.config
        own.dtype = dtype
        own.architectures = [type(self.skeleton).__name__]
        own.save_pretrained(str(directory))
        if self.skeleton.can_generate():
            self.skeleton.generation_config.save_pretrained(str(directory))
        with torch.no_grad():
            write_shards(directory, shapes, self.values, max_shard_bytes=max_shard_bytes)


def plan_merge(config: ForgeConfig, model: ModelDirectory, base: BaseModel) -> Plan:
    """An adapter on its base model.

    Raises:
        NotStreamableError: Only in memory.
        ModelError: The base model cannot be read, or the adapter's file is damaged.
    """
    import torch

    record = model.record
    skeleton, published = _skeleton(config, base, record.head, record.architecture)
    source = _hub_source(config, base)
    weights = _weights_of(base.path, source)
    adapter = AdapterWeights.open(model.path, skeleton)
    tied = _settle_tying(skeleton, weights, adapter)
    device = pick_device()
    read = _reader(skeleton, weights, record.quantization, published, device)
    where = _found(skeleton, weights, adapter.replaced, tied, packed=published is not None)

    def values(name: str) -> "torch.Tensor":
        # PEFT saves an embedding that it adapts whole as well, as the base has it.
        if name in adapter.replaced and name not in adapter.updates:
            return adapter.tensors.read(adapter.replaced[name])
        if name in adapter.replaced:
            value = adapter.tensors.read(adapter.replaced[name]).to(device, torch.float32, copy=True)
        else:
            value = read(where[name])
        return adapter.applied(name, value) if name in adapter.updates else value

    _take_generation_config(skeleton, base.path, source)
    return Plan(skeleton, tuple(name for name in skeleton.state_dict() if name not in tied), values)


def plan_full(config: ForgeConfig, model: ModelDirectory) -> Plan:
    """A full model, written again.

    Raises:
        NotStreamableError: Only in memory.
        ModelError: It cannot be read.
    """
    record = model.record
    own = replace(_as_base(config, model), path=str(model.path))
    skeleton, published = _skeleton(config, own, record.head, None)
    if published is not None:
        raise NotStreamableError("its weights are quantized")
    weights = _weights_of(str(model.path), {})
    tied = _settle_tying(skeleton, weights, None)
    where = _found(skeleton, weights, {}, tied, packed=False)
    _take_generation_config(skeleton, str(model.path), {})
    names = tuple(name for name in skeleton.state_dict() if name not in tied)
    return Plan(skeleton, names, lambda name: weights.read(where[name]))


def _as_base(config: ForgeConfig, model: ModelDirectory) -> BaseModel:
    return BaseModel(config.model.name_or_path, str(model.path), None, None, "local", model.digest, None)


def _skeleton(
    config: ForgeConfig, base: BaseModel, head: Head, changes: Mapping[str, Any] | None
) -> tuple[Any, Mapping[str, Any] | None]:
    """The model on the meta device; and how its published weights are quantized, if they are."""
    found = read_architecture(config, base)
    if config.model.trust_remote_code and getattr(found, "auto_map", None):
        raise NotStreamableError("its code comes with the model")
    published = getattr(found, "quantization_config", None)
    if published is not None:
        published = published if isinstance(published, dict) else published.to_dict()
        if not published.get("load_in_4bit"):
            raise NotStreamableError(f"its weights are quantized ({published.get('quant_method')})")
        del found.quantization_config
    return build_skeleton(config, changed(found, changes or {}), head), published


def _hub_source(config: ForgeConfig, base: BaseModel) -> dict[str, Any]:
    if base.source != "hub":
        return {"local_files_only": True}
    return {"revision": base.revision, "token": hub_token(config), "local_files_only": is_offline(config)}


def _weights_of(path: str, source: Mapping[str, Any]) -> ShardedTensors:
    """The safetensors of a directory or, fetched or cached, of a Hub id."""
    from transformers.utils import cached_file

    def fetched(name: str) -> Path | None:
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **source)
        return Path(found) if found else None

    try:
        index = fetched(INDEX)
        if index is not None:
            if not Path(path).is_dir():
                for name in _shard_names(index):
                    fetched(name)
            return ShardedTensors(indexed_files(index))
        single = fetched(WEIGHTS)
    except OSError as error:
        raise ModelError(f"{path}: its weights cannot be fetched: {error}") from error
    if single is None:
        raise NotStreamableError("its weights are not in safetensors")
    return ShardedTensors([single])


def _shard_names(index: Path) -> list[str]:
    import json

    return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))


def _settle_tying(skeleton: Any, weights: ShardedTensors, adapter: AdapterWeights | None) -> dict[str, str]:
    """Parameters that share another's values and are not written: theirs -> the other's.

    PEFT unties what an adapter saved whole, and says so in the configuration; so does this.
    """
    tied: dict[str, str] = dict(skeleton.all_tied_weights_keys)
    own = {*tied, *tied.values()}
    if any(target in weights and origin in weights for target, origin in tied.items()):
        raise NotStreamableError("it holds weights twice that should be shared")
    if adapter is None or not own & adapter.parameters:
        return tied
    if own & set(adapter.updates) or len(tied) > 1 or not skeleton.config.get_text_config().tie_word_embeddings:
        raise NotStreamableError("it changes weights that other layers share")
    skeleton.config.get_text_config().tie_word_embeddings = False
    return {}


def _found(
    skeleton: Any, weights: ShardedTensors, replaced: Iterable[str], tied: Mapping[str, str], *, packed: bool
) -> dict[str, str]:
    """Parameter -> its name in the files. Names of shared values may stand for each other."""
    partners = dict(skeleton.all_tied_weights_keys)
    partners |= {origin: target for target, origin in partners.items()}
    where: dict[str, str] = {}
    for name, parameter in skeleton.state_dict().items():
        if name in tied or name in set(replaced):
            continue
        stored = next((each for each in (name, partners.get(name)) if each and each in weights), None)
        if stored is None:
            raise NotStreamableError(f"its files name their tensors otherwise (there is no {name})")
        is_packed = packed and f"{stored}.absmax" in weights
        if not is_packed and weights.shape(stored) != tuple(parameter.shape):
            raise NotStreamableError(f"its {name} has the shape {weights.shape(stored)}, not {tuple(parameter.shape)}")
        where[name] = stored
    return where


def _reader(
    skeleton: Any,
    weights: ShardedTensors,
    rounding: QuantizationRecord | None,
    published: Mapping[str, Any] | None,
    device: Device,
) -> Values:
    """Makes a base weight as the adapter was trained on it, in float32, in memory of its own."""
    import torch

    if rounding is None:
        if published is not None:
            raise NotStreamableError("its weights are quantized, and the record does not say so")
        return lambda name: weights.read(name).to(device, torch.float32, copy=True)
    dtype: torch.dtype = getattr(torch, rounding.dtype)
    rounded = set() if published is not None else _rounded_weights(skeleton, rounding)

    def read(name: str) -> "torch.Tensor":
        value = weights.read(name)
        if f"{name}.absmax" in weights:
            value = _dequantized(_stored(weights, name, value, device))
        elif name in rounded:
            value = _dequantized(_quantized(value.to(device, dtype), rounding, device))
        if not value.is_floating_point():
            return value
        return value.to(device, dtype).to(torch.float32, copy=True)

    return read


def _rounded_weights(skeleton: Any, rounding: QuantizationRecord) -> set[str]:
    """Parameters that transformers would put into 4 bits when it loads this model."""
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    settings = settings_of(rounding)
    skip = HfQuantizer.get_modules_to_not_convert(
        skeleton, settings.llm_int8_skip_modules, skeleton._keep_in_fp32_modules
    )
    kinds = {name: type(module).__name__ for name, module in skeleton.named_modules()}
    replaced = replace_with_bnb_linear(
        copy.deepcopy(skeleton), modules_to_not_convert=skip, quantization_config=settings
    )
    names = [name for name, module in replaced.named_modules() if type(module).__name__ == "Linear4bit"]
    if any(kinds[name] == "Conv1D" for name in names):
        raise NotStreamableError("its linear layers are stored on their side, and were rounded upright")
    return {f"{name}.weight" for name in names}


def _quantized(value: "torch.Tensor", rounding: QuantizationRecord, device: Device) -> Any:
    Params4bit = require("bitsandbytes", extra="qlora", purpose="4-bit base models").nn.Params4bit  # noqa: N806

    packed = Params4bit(
        value.contiguous(), requires_grad=False, compress_statistics=rounding.double, quant_type=rounding.kind
    )
    return packed.to(device)


def _stored(weights: ShardedTensors, name: str, value: "torch.Tensor", device: Device) -> Any:
    Params4bit = require("bitsandbytes", extra="qlora", purpose="4-bit base models").nn.Params4bit  # noqa: N806

    stats = {each.removeprefix(f"{name}."): weights.read(each) for each in weights if each.startswith(f"{name}.")}
    return Params4bit.from_prequantized(data=value, quantized_stats=stats, requires_grad=False, device=device)


def _dequantized(packed: Any) -> "torch.Tensor":
    from bitsandbytes.functional import dequantize_4bit

    value: torch.Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return value


def _take_generation_config(skeleton: Any, path: str, source: Mapping[str, Any]) -> None:
    """The base model's own settings of generation, where it has any; else what its configuration implies."""
    if not skeleton.can_generate():
        return
    from transformers import GenerationConfig

    try:
        skeleton.generation_config = GenerationConfig.from_pretrained(path, **source)
    except OSError:  # the base model has none
        return
