"""The export stage: adapter folded in float32, written at every quantization of the recipe, measured.

If the recipe asks for the adapter alone too, it is measured beside its base model in float16.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ExportError
from forge_pipeline.export.adapter_gguf import export_adapter_gguf
from forge_pipeline.export.fidelity import Reference
from forge_pipeline.export.gguf_reader import GgufHeader, read_gguf
from forge_pipeline.export.gguf_verify import bits_per_weight, tensor_types
from forge_pipeline.export.gguf_writer import write_gguf, write_ggufs
from forge_pipeline.export.llama_cpp import runtime_name
from forge_pipeline.export.modelfile import gguf_context, gguf_stops, gguf_template, render_modelfile
from forge_pipeline.export.result import ADAPTER, EXPORT_REPORT_FILE, ExportReport, Fidelity, GgufFile, GgufModel
from forge_pipeline.export.tokenizer_metadata import read_chat_template
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.models import ModelDirectory, merge, resolve_base_model
from forge_pipeline.models.hub import hub_token, is_offline
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
    if model.record.head != "causal-lm":
        raise ExportError(
            f"{model.path} ends in a {model.record.head} head; llama.cpp's GGUF carries language models here. Set "
            "export.enabled: false for this line, and deliver its directory"
        )
    if config.export.adapter and (model.record.kind != "adapter" or model.record.earlier):
        raise ExportError(
            f"export.adapter: {model.path} is not an adapter on the recipe's base model alone (it is a full model, or "
            "goes on from an earlier stage), so there is no file to load beside that base; set it to false"
        )
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
        paths = {each: staging / _file_name(config, each) for each in config.export.quantizations}
        if paths:
            write_ggufs(
                merged.path,
                paths,
                forge,
                name=config.name,
                pre_tokenizer=config.export.pre_tokenizer,
                progress=progress,
            )
        headers = {str(each): (path, read_gguf(path)) for each, path in paths.items()}
        measured: dict[str, Fidelity] = {}
        reference = None
        if settings.enabled and runtime_name() and held_out_texts:
            progress(Progress("export", 0, None, "comparing with the merged model"))
            reference = Reference(merged.path, held_out_texts, settings, Path(work))
        if reference is not None and reference.prompts:
            measured = {str(each): reference.compare(path, each) for each, path in paths.items()}
        if config.export.adapter:
            path, base = staging / _file_name(config, ADAPTER), _base_directory(config)
            export_adapter_gguf(model.path, base, path, provenance=forge, name=config.name)
            headers[ADAPTER] = (path, read_gguf(path))
            if measured and reference is not None:
                beside = Path(work, "base.f16.gguf")
                write_gguf(base, beside, "f16", pre_tokenizer=config.export.pre_tokenizer)
                measured[ADAPTER] = reference.compare(beside, ADAPTER, adapter=path)
        files = [_describe(path, each, header, measured.get(each)) for each, (path, header) in headers.items()]
        template = read_chat_template(merged.path)
        whole = [header.metadata for each, (_, header) in headers.items() if each != ADAPTER]
        _, first = next(iter(headers.values()))
        report = ExportReport(
            model_digest=model.digest,
            architecture=str(first.metadata["general.architecture"]),
            files=tuple(files),
            chat_template_equal=all(each.get("tokenizer.chat_template") == template for each in whole)
            if whole
            else None,
            runtime=runtime_name() if measured else None,
        )
        write_report(staging / EXPORT_REPORT_FILE, report)
        if whole:
            write_file(staging / "Modelfile", _modelfile(files[0].name, first).encode())
    return GgufModel.open(output_dir)


def _base_directory(config: ForgeConfig) -> Path:
    """The recipe's base model on this machine, where training has brought it."""
    base = resolve_base_model(config)
    if base.source != "hub":
        return Path(base.path)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            base.path,
            revision=base.revision,
            token=hub_token(config),
            local_files_only=is_offline(config),
            allow_patterns=["*.json", "*.safetensors", "*.jinja"],
        )
    )


def _file_name(config: ForgeConfig, quantization: str) -> str:
    # Beside the quantizations, a name that stands after f16 when sorted.
    return f"{config.name}.{'lora' if quantization == ADAPTER else quantization}.gguf"


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


def _describe(path: Path, quantization: str, header: GgufHeader, fidelity: Fidelity | None) -> GgufFile:
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
    """What ``ollama create`` reads. A template that cannot be translated is left to Ollama, and a comment says why."""
    metadata = header.metadata
    context, stops = min(gguf_context(metadata, file_name), 4096), gguf_stops(metadata)
    try:
        return render_modelfile(f"./{file_name}", context=context, template=gguf_template(metadata), stops=stops)
    except ExportError as error:
        why = " ".join(str(error).split())
        return f"# no TEMPLATE: {why}\n" + render_modelfile(f"./{file_name}", context=context)
