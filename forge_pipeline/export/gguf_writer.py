"""A merged Hugging Face directory -> one GGUF file.

The bytes depend only on the directory, the quantization, the provenance and the versions of ``gguf``
and ggml: no time, host or path goes in, and tensors are written in the catalogue's order whatever
order the shards had. One tensor is in memory at a time.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError
from forge_pipeline.export.architectures import Architecture, read_architecture
from forge_pipeline.export.checkpoint import Checkpoint
from forge_pipeline.export.gguf_reader import TENSOR_TYPES
from forge_pipeline.export.quantize import (
    FILE_TYPES,
    TYPE_IDS,
    TypePolicy,
    native_library,
    needs_native_library,
    quantize_rows,
)
from forge_pipeline.export.tokenizer_metadata import TokenizerMetadata, read_tokenizer
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PROVENANCE_KEY = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_ROPE_FREQS = "rope_freqs.weight"


def write_gguf(
    hf_directory: Path,
    destination: Path,
    quantization: Quantization,
    provenance: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    progress: Report = silent,
) -> None:
    """Write the model in `hf_directory` as the GGUF file `destination`.

    Args:
        hf_directory: config.json, tokenizer.json, tokenizer_config.json and safetensors files.
        destination: Must not exist; on failure it is removed.
        quantization: Which tensor policy (see `quantize.TypePolicy`).
        provenance: Written as ``forge.<key>``; what stands here must be the same for the same model.
        name: ``general.name``.
        pre_tokenizer: llama.cpp's pre-tokenizer name, where the table does not know it.

    Raises:
        ExportError: The model cannot be exported; the message says what is missing.
        OptionalDependencyError: ``gguf``, or for K-quants ``xllamacpp``, is not installed.
    """
    gguf = require("gguf", extra="export", purpose="GGUF exports")
    if needs_native_library(quantization):
        native_library()
    architecture = read_architecture(_read_config(hf_directory))
    tokenizer = read_tokenizer(hf_directory, rows=architecture.vocabulary, pre_tokenizer=pre_tokenizer)
    checkpoint = Checkpoint(hf_directory)
    sources = _map_names(architecture, checkpoint)
    policy = TypePolicy(quantization, architecture.blocks, architecture.tied)
    writer = gguf.GGUFWriter(None, architecture.name)
    _add_metadata(writer, architecture, tokenizer, quantization, name, provenance or {})
    types = _add_table(writer, architecture, checkpoint, sources, policy)
    with destination.open("xb"):
        pass
    try:
        writer.write_header_to_file(destination)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for step, (target, type_name) in enumerate(types.items()):
            progress(Progress("export", step, len(types), f"{quantization}: {target}"))
            try:
                writer.write_tensor_data(quantize_rows(_tensor(architecture, checkpoint, sources, target), type_name))
            except ExportError as error:
                raise ExportError(f"{hf_directory}: tensor {sources.get(target, target)}: {error}") from error
    except BaseException:
        writer.close()
        destination.unlink()
        raise
    writer.close()


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{directory / 'config.json'} cannot be read: {error}") from error
    return config


def _map_names(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, str]:
    """GGUF name -> transformers name, in the order of the file.

    Raises:
        ExportError: A tensor is missing, or one is there that has no place in the file.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    number = {arch_name: arch for arch, arch_name in MODEL_ARCH_NAMES.items()}[architecture.name]
    names = get_tensor_name_map(MODEL_ARCH(number), architecture.blocks)
    found: dict[str, str] = {}
    for source in checkpoint:
        if source.endswith(".inv_freq") or (architecture.tied and source == "lm_head.weight"):
            continue  # computed by llama.cpp; the same matrix as the embedding
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(
                f"tensor {source} has no counterpart in the {architecture.name} architecture of llama.cpp"
            )
        found[target] = source
    needed = list(architecture.catalogue.required_names(architecture.blocks))
    needed += [] if architecture.tied else ["output.weight"]
    missing = [target for target in needed if target not in found]
    if missing:
        raise ExportError(f"the checkpoint has no tensor for {missing[0]} ({len(missing)} missing in all)")
    ordered = [target for target in architecture.catalogue.all_names(architecture.blocks) if target in found]
    strangers = sorted(set(found) - set(ordered))
    if strangers:
        raise ExportError(f"tensor {found[strangers[0]]} is not supported by the export of {architecture.model_type}")
    return {target: found[target] for target in ordered}


def _add_metadata(
    writer: Any,
    architecture: Architecture,
    tokenizer: TokenizerMetadata,
    quantization: Quantization,
    name: str | None,
    provenance: Mapping[str, str],
) -> None:
    writer.add_type("model")
    if name:
        writer.add_name(name)
    for key, value in architecture.metadata().items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    _add_tokenizer(writer, tokenizer)
    writer.add_quantization_version(2)  # ggml.h: GGML_QNT_VERSION
    writer.add_file_type(FILE_TYPES[quantization])
    for key, value in sorted(provenance.items()):
        if not _PROVENANCE_KEY.fullmatch(key):
            raise ExportError(f"provenance key {key!r} is not made of a-z, 0-9, _ and dots")
        writer.add_string(f"forge.{key}", value)


def _add_tokenizer(writer: Any, tokenizer: TokenizerMetadata) -> None:
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(list(tokenizer.tokens))
    if tokenizer.scores:
        writer.add_token_scores(list(tokenizer.scores))
        writer.add_add_space_prefix(tokenizer.adds_space_prefix)
    writer.add_token_types(list(tokenizer.types))
    writer.add_token_merges(list(tokenizer.merges))
    for key, index in tokenizer.special_ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(tokenizer.adds_eos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _add_table(
    writer: Any, architecture: Architecture, checkpoint: Checkpoint, sources: Mapping[str, str], policy: TypePolicy
) -> dict[str, str]:
    """Announce every tensor; return GGUF name -> ggml type in file order."""
    import numpy as np
    from gguf import GGMLQuantizationType

    shapes = {target: checkpoint.shape(source) for target, source in sources.items()}
    divisors = architecture.rope_divisors()
    if divisors is not None:
        shapes[_ROPE_FREQS] = divisors.shape
    sizes = architecture.catalogue.sizes({"general.architecture": architecture.name, **architecture.metadata()}) | {
        "vocabulary": architecture.vocabulary
    }
    types = {}
    for target in architecture.catalogue.all_names(architecture.blocks):
        if target not in shapes:
            continue
        dims = shapes[target][::-1]
        if dims != architecture.catalogue.dims(target, sizes):
            raise ExportError(
                f"tensor {sources.get(target, target)} has shape {shapes[target]}, which config.json contradicts"
            )
        types[target] = policy.type_of(target, dims)
        kind = TENSOR_TYPES[TYPE_IDS[types[target]]]
        nbytes = int(np.prod(dims)) // kind.block * kind.size
        writer.add_tensor_info(target, shapes[target], np.dtype(np.float32), nbytes, GGMLQuantizationType[kind.name])
    return types


def _tensor(
    architecture: Architecture, checkpoint: Checkpoint, sources: Mapping[str, str], target: str
) -> "npt.NDArray[np.float32]":
    if target == _ROPE_FREQS:
        divisors = architecture.rope_divisors()
        assert divisors is not None
        return divisors
    return architecture.convert(target, checkpoint.read(sources[target]))
