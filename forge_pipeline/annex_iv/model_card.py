"""``model_card.md``: the model card, in the form that Hugging Face reads."""

from pathlib import PurePath

from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.declarations import compliance_of, stated, stated_name
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import escape, gate_table, status_line


def render_model_card(evidence: Evidence) -> str:
    """The card. Front matter says only what is known: no language, licence or task is guessed."""
    sections = [
        _front_matter(evidence),
        [f"# {escape(stated_name(evidence.config))}", "", status_line(evidence), ""],
        _purpose(evidence),
        _training(evidence),
        _data(evidence),
        _measurements(evidence),
        ["## Gates", "", *gate_table(evidence.gates), ""],
        _files(evidence),
    ]
    return "\n".join(line for section in sections for line in section)


def _front_matter(evidence: Evidence) -> list[str]:
    import yaml

    base, record = evidence.model_record.base_model, evidence.model_record
    values: dict[str, object] = {"library_name": "peft" if record.kind == "adapter" else "transformers"}
    if base.source == "hub":  # the field holds Hub ids; a path of this machine would mean nothing there
        values["base_model"] = base.name_or_path
        values["base_model_relation"] = "adapter" if record.kind == "adapter" else "finetune"
    values["tags"] = [record.trainer_type, record.kind]
    return ["---", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip(), "---", ""]


def _purpose(evidence: Evidence) -> list[str]:
    section = compliance_of(evidence.config)
    purpose, limits = stated(section.intended_purpose), stated(section.known_limitations)
    return [
        "## Intended purpose",
        "",
        escape(purpose) if purpose else "Missing: the provider has not stated it.",
        "",
        "## Known limitations",
        "",
        escape(limits) if limits else "Missing: the provider has not stated them.",
        "",
    ]


def _training(evidence: Evidence) -> list[str]:
    training, base, compute = evidence.training, evidence.model_record.base_model, compute_of(evidence)
    revision = f" at revision `{base.revision_resolved}`" if base.revision_resolved else ""
    flop = f"{compute.modification_flop:.2e} FLOP" if compute.modification_flop else "not known"
    lines = [
        "## Training",
        "",
        f"- base model: {escape(_base_name(evidence))}{revision}, licence {escape(base.license or 'not stated')}",
        f"- method: {training.trainer_type} ({training.trainer_class}), seed {training.seed}",
        f"- parameters: {training.trainable_parameters:,} trained of {training.total_parameters:,}",
        f"- steps: {training.steps}, epochs: {training.epochs:g}, rows a step: {training.effective_batch_size}",
    ]
    if training.train_loss is not None:
        lines.append(f"- training loss: {training.train_loss:.4g}")
    if training.eval_loss is not None:
        lines.append(f"- evaluation loss: {training.eval_loss:.4g}")
    lines.append(f"- compute: {flop} ({compute.verdict} the one-third threshold for modified general-purpose models)")
    return [*lines, ""]


def _base_name(evidence: Evidence) -> str:
    """As the recipe names it; of a local directory the last part only."""
    base = evidence.model_record.base_model
    return PurePath(base.name_or_path).name if base.source == "local" else base.name_or_path


def _data(evidence: Evidence) -> list[str]:
    lines = ["## Data", "", "| Source | Licence | Origin | Rows | Digest |", "|---|---|---|---|---|"]
    for source in evidence.provenance.sources:
        lines.append(
            f"| {escape(source.name)} | {escape(source.license or 'not stated')} | "
            f"{escape(source.origin or 'not stated')} | {source.rows_read} | {source.digest or ''} |"
        )
    rows = ", ".join(f"{name} {count}" for name, count in evidence.provenance.rows.items())
    return [*lines, "", f"Rows by split: {rows}. Dataset `{evidence.subjects['raw_dataset']}`.", ""]


def _measurements(evidence: Evidence) -> list[str]:
    result = evidence.benchmark
    if result is None or not result.scores:
        return ["## Benchmark", "", "Not evaluated.", ""]
    lines = ["## Benchmark", "", "| Task | Base model | This model |", "|---|---|---|"]
    for task, score in sorted(result.scores.items()):
        base = result.base_scores.get(task)
        lines.append(f"| {escape(task)} | {'' if base is None else f'{base:.3f}'} | {score:.3f} |")
    return [*lines, "", f"Items: {result.items}.", ""]


def _files(evidence: Evidence) -> list[str]:
    if evidence.export is None:
        return []
    lines = ["## Files", "", "| File | Quantization | Bytes | Digest |", "|---|---|---|---|"]
    lines += [
        f"| {file.name} | {file.quantization} | {file.size} | `{file.digest}` |" for file in evidence.export.files
    ]
    return [*lines, ""]
