"""A merged Hugging Face directory -> GGUF files, one for each quantization.

The bytes depend only on the directory, the quantization, the provenance and the versions of ``gguf``
and ggml: no time, host or path goes in, and tensors are written in the catalogue's order whatever
order the shards had. Some rows of one tensor are in memory at a time, read once for all files.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from forge_pipeline._optional import require
from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError
from forge_pipeline.export.architectures import Architecture, read_architecture
from forge_pipeline.export.checkpoint import Checkpoint, widen
from forge_pipeline.export.gguf_header import Entry, TensorRow, pack_header, padding
from forge_pipeline.export.gguf_reader import TENSOR_TYPES
from forge_pipeline.export.quantize import (
    FILE_TYPES,
    TYPE_IDS,
    TypePolicy,
    encode_rows,
    native_library,
    needs_native_library,
)
from forge_pipeline.export.tokenizer_metadata import TokenizerMetadata, read_tokenizer
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    import numpy.typing as npt

_PROVENANCE_KEY: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_EXPERT: Final = re.compile(r"(?P<layer>.*)\.(?:mlp|block_sparse_moe)\.experts\.(?P<number>\d+)\.(?P<part>\w+)\.weight")
_MIXTRAL_PARTS: Final = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_CHUNK: Final = 1 << 20  # values in memory at once, of one tensor


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
    """Write the model in `hf_directory` as the GGUF file `destination`: `write_ggufs` for one file."""
    write_ggufs(
        hf_directory, {quantization: destination}, provenance, name=name, pre_tokenizer=pre_tokenizer, progress=progress
    )


def write_ggufs(
    hf_directory: Path,
    destinations: Mapping[Quantization, Path],
    provenance: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    pre_tokenizer: str | None = None,
    progress: Report = silent,
) -> None:
    """Write the model in `hf_directory` as a GGUF file for each quantization.

    Args:
        hf_directory: config.json, tokenizer.json, tokenizer_config.json and safetensors files.
        destinations: Quantization (a tensor policy, see `quantize.TypePolicy`) to file. No file may exist; on
            failure those that were begun are removed.
        provenance: Written as ``forge.<key>``; what stands here must be the same for the same model.
        name: ``general.name``.
        pre_tokenizer: llama.cpp's pre-tokenizer name, where the table does not know it.

    Raises:
        ExportError: The model cannot be exported; the message says what is missing.
        OptionalDependencyError: ``gguf``, or for K-quants ``xllamacpp``, is not installed.
    """
    require("gguf", extra="export", purpose="GGUF exports")
    if any(map(needs_native_library, destinations)):
        native_library()
    architecture = read_architecture(read_config(hf_directory))
    tokenizer = read_tokenizer(hf_directory, rows=architecture.vocabulary, pre_tokenizer=pre_tokenizer)
    tensors = _Tensors(architecture, Checkpoint(hf_directory))
    metadata = _metadata(architecture, tokenizer, name) | provenance_entries(provenance or {})
    tables = {}
    for each in destinations:
        policy = TypePolicy(each, architecture.blocks, architecture.tied, architecture.experts)
        tables[each] = {target: policy.type_of(target, dims) for target, dims in tensors.dims.items()}
    with ExitStack() as opened:
        files = {}
        for each, path in destinations.items():
            files[each] = opened.enter_context(new_file(path))
            files[each].write(
                pack_header(metadata | {"general.file_type": FILE_TYPES[each]}, _rows(tensors, tables[each]))
            )
        for step, target in enumerate(tensors.dims):
            progress(Progress("export", step, len(tensors.dims), f"{', '.join(destinations)}: {target}"))
            try:
                _write_tensor(tensors, target, [(files[each], table[target]) for each, table in tables.items()])
            except ExportError as error:
                source = tensors.sources.get(target, (target,))[0]
                raise ExportError(f"{hf_directory}: tensor {source}: {error}") from error


def provenance_entries(provenance: Mapping[str, str]) -> dict[str, Entry]:
    """``forge.<key>`` for each entry, in the order of the keys.

    Raises:
        ExportError: A key is not made of a-z, 0-9, _ and dots.
    """
    for key in provenance:
        if not _PROVENANCE_KEY.fullmatch(key):
            raise ExportError(f"provenance key {key!r} is not made of a-z, 0-9, _ and dots")
    return {f"forge.{key}": value for key, value in sorted(provenance.items())}


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that must not exist; removed again if the block fails."""
    with path.open("xb") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


def _write_tensor(tensors: "_Tensors", target: str, outputs: list[tuple[BinaryIO, str]]) -> None:
    sizes = dict.fromkeys((file for file, _ in outputs), 0)
    for stored, kind in tensors.chunks(target):
        encoded: dict[str, Any] = {}
        for file, type_name in outputs:
            if type_name not in encoded:
                encoded[type_name] = encode_rows(stored, kind, type_name)
            encoded[type_name].tofile(file)
            sizes[file] += encoded[type_name].nbytes
    for file, size in sizes.items():
        file.write(padding(size))


def _rows(tensors: "_Tensors", types: Mapping[str, str]) -> list[TensorRow]:
    rows = []
    for target, dims in tensors.dims.items():
        kind = TENSOR_TYPES[TYPE_IDS[types[target]]]
        rows.append(TensorRow(target, dims, TYPE_IDS[types[target]], math.prod(dims) // kind.block * kind.size))
    return rows


class _Tensors:
    """The tensors of a GGUF file: what they are made of, and their rows.

    Attributes:
        sources: GGUF name to transformers names, several where they are stacked.
        dims: GGUF name to dimensions, row length first, in the order of the file.

    Raises:
        ExportError: A tensor is missing, is there and has no place, or has another shape than config.json says.
    """

    def __init__(self, architecture: Architecture, checkpoint: Checkpoint) -> None:
        self._architecture, self._checkpoint = architecture, checkpoint
        self.sources = _map_names(architecture, checkpoint)
        self._computed = architecture.computed()
        shapes: dict[str, tuple[int, ...]] = {target: values.shape for target, values in self._computed.items()}
        for target, sources in self.sources.items():
            shape = {checkpoint.shape(source) for source in sources}
            stacked = (len(sources),) if target.endswith("_exps.weight") else ()
            if len(shape) != 1:
                raise ExportError(f"the experts of {target} have different shapes: {sorted(shape)}")
            shapes[target] = (*stacked, *shape.pop())
        metadata = {"general.architecture": architecture.name, **architecture.metadata()}
        sizes = architecture.catalogue.sizes(metadata) | {"vocabulary": architecture.vocabulary}
        self.dims = {
            target: shapes[target][::-1]
            for target in architecture.catalogue.all_names(architecture.blocks)
            if target in shapes
        }
        for target, dims in self.dims.items():
            if dims != architecture.catalogue.dims(target, sizes):
                source = self.sources.get(target, (target,))[0]
                raise ExportError(f"tensor {source} has shape {shapes[target]}, which config.json contradicts")

    def chunks(self, target: str) -> "Iterator[tuple[npt.NDArray[Any], str]]":
        """Its values in order, some rows at a time, and how they are stored (see `Checkpoint.kind`)."""
        if target in self._computed:
            yield self._computed[target], "F32"
            return
        length = self.dims[target][0]
        step = max(1, _CHUNK // length)
        if self._architecture.is_interleaved(target):
            step = max(1, step // self._architecture.head_size) * self._architecture.head_size
        if len(self.dims[target]) == 1:
            step = length
        for source in self.sources[target]:
            kind, rows = self._checkpoint.kind(source), self._checkpoint.shape(source)[0]
            for start in range(0, rows, step):
                stored = self._checkpoint.stored(source, start, start + step)
                if stored.ndim == 1:  # norms, to which something may be added
                    stored, kind = widen(stored, kind), "F32"
                yield self._architecture.convert(target, stored), kind


def read_config(directory: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{directory / 'config.json'} cannot be read: {error}") from error
    return config


def _map_names(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    names = TargetNames(architecture)
    found: dict[str, dict[int, str]] = {}
    for source in checkpoint:
        if source.endswith(".inv_freq") or (architecture.tied and source == "lm_head.weight"):
            continue  # computed by llama.cpp; the same matrix as the embedding
        target, expert = names.of(source)
        found.setdefault(target, {})[expert] = source
    needed = list(architecture.catalogue.required_names(architecture.blocks))
    needed += [] if architecture.tied else ["output.weight"]
    missing = [target for target in needed if target not in found]
    if missing:
        raise ExportError(f"the checkpoint has no tensor for {missing[0]} ({len(missing)} missing in all)")
    ordered = [target for target in architecture.catalogue.all_names(architecture.blocks) if target in found]
    strangers = sorted(set(found) - set(ordered))
    if strangers:
        source = next(iter(found[strangers[0]].values()))
        raise ExportError(f"tensor {source} is not supported by the export of {architecture.model_type}")
    for target in ordered:
        experts = architecture.experts if target.endswith("_exps.weight") else 1
        if sorted(found[target]) != list(range(experts)):
            raise ExportError(f"{target} is made of {len(found[target])} tensors; expected {experts}")
    return {target: tuple(source for _, source in sorted(found[target].items())) for target in ordered}


class TargetNames:
    """GGUF names of an architecture's tensors, by their transformers names."""

    def __init__(self, architecture: Architecture) -> None:
        from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

        number = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[architecture.name]
        self._names = get_tensor_name_map(MODEL_ARCH(number), architecture.blocks)
        self._architecture = architecture.name

    def of(self, source: str) -> tuple[str, int]:
        """The GGUF name and, of a stacked tensor, the place.

        Raises:
            ExportError: The architecture has no such tensor.
        """
        expert = _EXPERT.fullmatch(source)
        name, place = source, 0
        if expert:
            part = _MIXTRAL_PARTS.get(expert["part"], expert["part"])
            name, place = f"{expert['layer']}.mlp.experts.{part}.weight", int(expert["number"])
        target = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(
                f"tensor {source} has no counterpart in the {self._architecture} architecture of llama.cpp"
            )
        return target, place


def _metadata(architecture: Architecture, tokenizer: TokenizerMetadata, name: str | None) -> dict[str, Entry]:
    metadata: dict[str, Entry] = {"general.architecture": architecture.name, "general.type": "model"}
    shown = _general_name(name or "", tokenizer.name_part)
    if shown:
        metadata["general.name"] = shown
    metadata |= architecture.metadata() | _tokenizer(tokenizer)
    metadata["general.quantization_version"] = 2  # ggml.h: GGML_QNT_VERSION
    return metadata


def _general_name(name: str, part: str | None) -> str:
    """The name with `part` in it; without one, not so that llama.cpp takes the tokenizer for another's."""
    if part is None:
        return re.sub(r"(?i)(phi|modern)-?(3|bert)", r"\1_\2", name)
    return name if part.lower() in name.lower() else f"{name} {part}".strip()


def _tokenizer(tokenizer: TokenizerMetadata) -> dict[str, Entry]:
    entries: dict[str, Entry] = {"model": tokenizer.model, "pre": tokenizer.pre, "tokens": tokenizer.tokens}
    if tokenizer.scores:
        entries |= {"scores": tokenizer.scores, "add_space_prefix": tokenizer.adds_space_prefix}
    entries["token_type"] = tokenizer.types
    if tokenizer.merges:
        entries["merges"] = tokenizer.merges
    entries |= {f"{key}_token_id": index for key, index in tokenizer.special_ids.items()}
    entries |= {"add_bos_token": tokenizer.adds_bos, "add_eos_token": tokenizer.adds_eos}
    keys = {f"tokenizer.ggml.{key}": value for key, value in entries.items()}
    return keys | ({"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})
