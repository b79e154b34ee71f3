"""A LoRA adapter as a GGUF file of its own, to be loaded by llama.cpp beside a GGUF file of its base model.

llama.cpp adds to each weight W of the base ``alpha / rank * B A``, with one alpha for the file and the rank of
each pair, and takes the pair by the weight's name: ``blk.0.attn_q.weight.lora_a`` is A of shape (rank, in),
``….lora_b`` is B of shape (out, rank). So
- B's rows change places where W's do (RoPE, see `architectures`); A stays as it is;
- whatever else scales a pair in PEFT (rsLoRA's root, patterns of ranks and alphas) is multiplied into B;
- what is no such sum is refused: DoRA's magnitudes, whole modules and trained biases beside the adapter, a
  PiSSA start that was not subtracted, and adapters on a matrix that serves as embedding and output at once.

The file holds float32 or float16. It depends only on the adapter's files, the base's config.json and the provenance.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from forge_pipeline._optional import require
from forge_pipeline.errors import ExportError
from forge_pipeline.export.architectures import read_architecture
from forge_pipeline.export.checkpoint import Checkpoint, widen
from forge_pipeline.export.gguf_header import Entry, TensorRow, pack_header, padding
from forge_pipeline.export.gguf_writer import TargetNames, new_file, provenance_entries, read_config
from forge_pipeline.export.quantize import FILE_TYPES, TYPE_IDS, quantize_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PAIR: Final = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))"
)
_TIED: Final = ("token_embd.weight", "output.weight")
_ORDINARY_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
_REFUSED: Final[Mapping[str, str]] = {
    "use_dora": "DoRA's magnitudes",
    "modules_to_save": "whole modules beside the adapter",
    "trainable_token_indices": "trained token rows",
    "layer_replication": "replicated layers",
    "lora_bias": "biases inside the adapter",
    "target_parameters": "adapters on the parameters of experts",
    "alora_invocation_tokens": "an invocation sequence (aLoRA)",
    "arrow_config": "a router over adapters",
    "use_qalora": "QA-LoRA's pooling",
}


def export_adapter_gguf(
    adapter_directory: Path,
    base_directory: Path,
    destination: Path,
    *,
    quantization: Literal["f32", "f16"] = "f32",
    provenance: Mapping[str, str] | None = None,
    name: str | None = None,
) -> None:
    """Write the LoRA adapter in `adapter_directory` as the GGUF file `destination`.

    Args:
        adapter_directory: ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT writes them.
        base_directory: The base model's directory, of which config.json is read.
        destination: Must not exist; on failure it is removed.
        provenance: Written as ``forge.<key>``.
        name: ``general.name``.

    Raises:
        ExportError: It is not such an adapter, or belongs to a model that cannot be exported.
        OptionalDependencyError: ``gguf`` is not installed.
    """
    require("gguf", extra="export", purpose="GGUF exports")
    settings = _read_settings(adapter_directory / "adapter_config.json")
    architecture = read_architecture(read_config(base_directory))
    checkpoint = Checkpoint(adapter_directory, "adapter_model")
    pairs = _pairs(checkpoint)
    names = TargetNames(architecture)
    sizes = architecture.catalogue.sizes({"general.architecture": architecture.name, **architecture.metadata()})
    sizes |= {"vocabulary": architecture.vocabulary}
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for module, (a, b) in pairs.items():
        target, _ = names.of(f"{module}.weight")
        dims = architecture.catalogue.dims(target, sizes)
        first, second = (widen(checkpoint.stored(each), checkpoint.kind(each)) for each in (a, b))
        if target in _TIED and architecture.tied:
            raise ExportError(f"{adapter_directory}: an adapter on {module}, which is embedding and output at once")
        if (
            dims != (first.shape[-1], second.shape[0])[:: -1 if "embedding" in a else 1]
            or len(first) != second.shape[1]
        ):
            raise ExportError(
                f"{adapter_directory}: {module}: A {first.shape} and B {second.shape} do not fit a weight of "
                f"{dims and dims[::-1]} in {base_directory}; it is another model's adapter"
            )
        factor = _factor(settings, module, rank=len(first))
        second = architecture.convert(target, second if factor == 1.0 else second * second.dtype.type(factor))
        # llama.cpp looks rows of an embedding's A up, and so has them one after the other.
        tensors[f"{target}.lora_a"] = first.T if "embedding" in a else first
        tensors[f"{target}.lora_b"] = second
    _write(destination, architecture.name, tensors, settings, quantization, provenance or {}, name)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    kind = settings.get("peft_type")
    faults = [words for key, words in _REFUSED.items() if settings.get(key)]
    if kind != "LORA":
        faults.insert(0, f"peft_type {kind!r}, not LORA")
    if settings.get("bias", "none") != "none":
        faults.append("trained biases")
    if settings.get("init_lora_weights", True) not in _ORDINARY_STARTS:
        faults.append(f"weights that start from {settings['init_lora_weights']!r} of a changed base")
    if faults:
        raise ExportError(
            f"{path}: llama.cpp's adapters have no {faults[0]}; export the merged model instead (export.adapter: false)"
        )
    return settings


def _pairs(checkpoint: Checkpoint) -> dict[str, tuple[str, str]]:
    """Module name to the names of its A and B."""
    found: dict[str, dict[str, str]] = {}
    for name in checkpoint:
        if name.endswith(".base_layer.weight"):
            continue  # PEFT's copy of the frozen embedding, where it has an adapter
        pair = _PAIR.fullmatch(name)
        if pair is None:
            raise ExportError(
                f"adapter tensor {name} is neither A nor B of a pair, which llama.cpp's adapters are made of"
            )
        found.setdefault(pair["module"], {})[pair["linear"] or pair["embedding"]] = name
    lonely = [module for module, pair in found.items() if len(pair) != 2]
    if lonely or not found:
        raise ExportError(f"the adapter has one half of {lonely[0]}" if lonely else "the adapter holds no tensors")
    return {module: (pair["A"], pair["B"]) for module, pair in sorted(found.items())}


def _factor(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """How much larger PEFT's scale of the pair is than ``alpha / rank``, llama.cpp's."""
    alpha = float(settings["lora_alpha"])
    own = float(_of_pattern(settings.get("alpha_pattern") or {}, module, alpha))
    scale = own / math.sqrt(rank) if settings.get("use_rslora") else own / rank
    return scale / (alpha / rank)


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: the first key that is the module's name, or a regular expression for the end of it."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _write(
    destination: Path,
    architecture: str,
    tensors: "Mapping[str, npt.NDArray[np.float32]]",
    settings: Mapping[str, Any],
    quantization: Literal["f32", "f16"],
    provenance: Mapping[str, str],
    name: str | None,
) -> None:
    type_name = quantization.upper()
    metadata: dict[str, Entry] = {"general.architecture": architecture, "general.type": "adapter"}
    metadata |= {"general.name": name} if name else {}
    metadata |= {"adapter.type": "lora", "adapter.lora.alpha": float(settings["lora_alpha"])}
    metadata |= {"general.file_type": FILE_TYPES[quantization]} | provenance_entries(provenance)
    width = {"F32": 4, "F16": 2}[type_name]
    rows = [
        TensorRow(target, values.shape[::-1], TYPE_IDS[type_name], values.size * width)
        for target, values in tensors.items()
    ]
    with new_file(destination) as file:
        file.write(pack_header(metadata, rows))
        for target, values in tensors.items():
            try:
                encoded = quantize_rows(values, type_name)
            except ExportError as error:
                raise ExportError(f"adapter tensor {target}: {error}") from error
            file.write(encoded.tobytes())
            file.write(padding(encoded.nbytes))
