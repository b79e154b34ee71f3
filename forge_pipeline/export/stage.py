"""The export stage: adapter folded in float32, written at every quantization of the recipe, measured."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError
from forge_pipeline.export.fidelity import Reference
from forge_pipeline.export.gguf_reader import GgufHeader, read_gguf
from forge_pipeline.export.gguf_verify import bits_per_weight, tensor_types
from forge_pipeline.export.gguf_writer import write_gguf
from forge_pipeline.export.llama_cpp import runtime_name
from forge_pipeline.export.result import EXPORT_REPORT_FILE, ExportReport, Fidelity, GgufFile, GgufModel
from forge_pipeline.export.tokenizer_metadata import read_chat_template
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.models import ModelDirectory, merge
from forge_pipeline.progress import Progress, Report, silent


def gguf(
    config: ForgeConfig,
    model: ModelDirectory,
    held_out_texts: Sequence[str],
    output_dir: Path,
    *,
    progress: Report = silent,
    provenance: Mapping[str, str] | None = None,
) -> GgufModel:
    """Export `model` at each of `config.export.quantizations`.

    Args:
        held_out_texts: Texts that were not trained on, as the model sees them (chat template applied).
            Without any, or without ``xllamacpp``, fidelity is not measured, and its gate says so.
        output_dir: Must not exist, or be empty.
        provenance: Values that are the same for the same inputs; ``forge.<key>`` in every file's metadata,
            beside model_digest, config_digest, dataset_digest and the base model's identity.

    Raises:
        ExportError: The model cannot be exported, or llama.cpp does not run what was written.
        OptionalDependencyError: ``gguf``, or for K-quants ``xllamacpp``, is not installed.
        FileExistsError: `output_dir` holds something.
    """
    settings = config.export.fidelity
    output_dir = Path(output_dir)
    with (
        publishing(output_dir) as staging,
        tempfile.TemporaryDirectory(prefix=".export.", dir=output_dir.parent) as work,
    ):
        merged = model
        if model.record.kind == "adapter":
            progress(Progress("export", 0, None, "folding the adapter into the base model"))
            merged = merge(config, model, Path(work, "merged"))
        forge = _provenance(model) | dict(provenance or {})
        for quantization in config.export.quantizations:
            destination = staging / _file_name(config, quantization)
            write_gguf(
                merged.path,
                destination,
                quantization,
                forge,
                name=config.name,
                pre_tokenizer=config.export.pre_tokenizer,
                progress=progress,
            )
        headers = {each: read_gguf(staging / _file_name(config, each)) for each in config.export.quantizations}
        measured: dict[Quantization, Fidelity] = {}
        if settings.enabled and runtime_name() and held_out_texts:
            progress(Progress("export", 0, None, "comparing with the merged model"))
            reference = Reference(merged.path, held_out_texts, settings, Path(work))
            for quantization in config.export.quantizations if reference.prompts else ():
                measured[quantization] = reference.compare(staging / _file_name(config, quantization), quantization)
        files = [
            _describe(staging / _file_name(config, each), each, header, measured.get(each))
            for each, header in headers.items()
        ]
        template = read_chat_template(merged.path)
        report = ExportReport(
            model_digest=model.digest,
            architecture=str(next(iter(headers.values())).metadata["general.architecture"]),
            files=tuple(files),
            chat_template_equal=all(
                header.metadata.get("tokenizer.chat_template") == template for header in headers.values()
            ),
            runtime=runtime_name() if measured else None,
        )
        write_report(staging / EXPORT_REPORT_FILE, report)
        write_file(staging / "Modelfile", _modelfile(files[0].name, next(iter(headers.values()))).encode())
    return GgufModel.open(output_dir)


def _file_name(config: ForgeConfig, quantization: Quantization) -> str:
    return f"{config.name}.{quantization}.gguf"


def _provenance(model: ModelDirectory) -> dict[str, str]:
    """What the model's own record says, but for paths of the machine it was made on."""
    record = model.record
    base = record.base_model
    known = {
        "model_digest": model.digest,
        "config_digest": record.config_digest,
        "dataset_digest": record.dataset_digest,
        "trainer_type": record.trainer_type,
        "base_model": None if base.source == "local" else base.name_or_path,
        "base_model_revision": base.revision_resolved,
        "base_model_digest": base.digest,
        "base_model_license": base.license,
    }
    return {key: str(value) for key, value in known.items() if value}


def _describe(path: Path, quantization: Quantization, header: GgufHeader, fidelity: Fidelity | None) -> GgufFile:
    return GgufFile(
        name=path.name,
        quantization=quantization,
        size=path.stat().st_size,
        digest=Digest.of_file(path),
        tensor_types=tensor_types(header),
        bits_per_weight=round(bits_per_weight(header), 4),
        fidelity=fidelity,
    )


def _modelfile(file_name: str, header: GgufHeader) -> str:
    """What ``ollama create`` reads. Ollama takes the chat template from the GGUF file's metadata."""
    tokens, eos = header.metadata.get("tokenizer.ggml.tokens"), header.metadata.get("tokenizer.ggml.eos_token_id")
    context = header.metadata.get(f"{header.metadata['general.architecture']}.context_length")
    if not isinstance(context, int):
        raise ExportError(f"{file_name} names no context length")
    lines = [f"FROM ./{file_name}", f"PARAMETER num_ctx {min(context, 4096)}"]
    if isinstance(tokens, list) and isinstance(eos, int):
        lines.append(f'PARAMETER stop "{tokens[eos]}"')
    return "\n".join(lines) + "\n"
