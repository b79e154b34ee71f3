"""``model_card.md``: the model card, in the form that Hugging Face reads.

The front matter holds what `huggingface_hub.ModelCardData` knows: base model and relation,
Hub datasets, and a model-index with each metric's items, standard error and interval. It says
only what is known: no language and no licence is guessed. A licence of the result is the
provider's to state; the base model's and the datasets' stand in the text.
"""

import re
from pathlib import PurePath
from typing import Any

from forge_pipeline.annex_iv.attested import considerations, measured
from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.declarations import compliance_of, stated, stated_name, stated_version
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import bullets, escape, gate_table, number, scalar, status_line
from forge_pipeline.attestation import Metric
from forge_pipeline.evaluation import PairedComparison

_HUB = re.compile(r"hub:(?P<name>[^@]+)(@(?P<commit>.+))?")
_METRIC_IDS = {"acc": "accuracy", "em": "exact_match"}  # as the Hub calls them; the others have the same name there


def render_model_card(evidence: Evidence) -> str:
    """The card. Front matter says only what is known: no language and no licence is guessed."""
    metrics = measured(evidence.config, evidence.benchmark, evidence.safety)
    sections = [
        _front_matter(evidence, metrics),
        [f"# {escape(stated_name(evidence.config))}", "", status_line(evidence), ""],
        _purpose(evidence),
        _training(evidence),
        _hyper_parameters(evidence),
        _data(evidence),
        _measurements(evidence, metrics),
        ["## Gates", "", *gate_table(evidence.gates), ""],
        _files(evidence),
        _digests(evidence),
    ]
    return "\n".join(line for section in sections for line in section)


# What stands on a model's last layer (`ModelRecord.head`) -> what the Hub calls its task.
PIPELINE_TAGS = {
    "causal-lm": "text-generation",
    "seq2seq-lm": "summarization",
    "question-answering": "question-answering",
    "sequence-classification": "text-classification",
}


def _front_matter(evidence: Evidence, metrics: tuple[Metric, ...]) -> list[str]:
    import yaml

    base, record = evidence.model_record.base_model, evidence.model_record
    values: dict[str, Any] = {
        "library_name": "peft" if record.kind == "adapter" else "transformers",
        "pipeline_tag": PIPELINE_TAGS[record.head],
    }
    if base.source == "hub":  # the field holds Hub ids; a path of this machine would mean nothing there
        values["base_model"] = base.name_or_path
        values["base_model_relation"] = "adapter" if record.kind == "adapter" else "finetune"
    datasets = [found["name"] for each in evidence.provenance.sources if (found := _HUB.fullmatch(each.uri))]
    if datasets:
        values["datasets"] = list(dict.fromkeys(datasets))
    values["tags"] = [record.trainer_type, record.kind]
    if metrics:
        values["metrics"] = list(dict.fromkeys(_METRIC_IDS.get(each.name, each.name) for each in metrics))
        values["model-index"] = [{"name": stated_name(evidence.config), "results": [_result(each) for each in metrics]}]
    return ["---", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip(), "---", ""]


def _result(metric: Metric) -> dict[str, Any]:
    """One entry of a model-index; what the Hub has no field for stands in the metric's arguments."""
    low, high = metric.interval or (None, None)  # two names, since the Hub's library drops nulls out of lists
    facts: dict[str, Any] = {
        "n": metric.n,
        "stderr": metric.stderr,
        "interval_low": low,
        "interval_high": high,
        "level": metric.level if metric.interval is not None else None,
        "method": metric.method,
        "base_model_value": metric.base_value,
        "task_digest": None if metric.task_digest is None else str(metric.task_digest),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    value: dict[str, Any] = {
        "type": _METRIC_IDS.get(metric.name, metric.name),
        "value": metric.value,
        "name": metric.name,
        **({"args": known} if known else {}),
    }
    return {
        "task": {"type": "text-generation", "name": metric.task},
        "dataset": {"type": metric.task, "name": metric.task},
        "metrics": [value],
    }


def _purpose(evidence: Evidence) -> list[str]:
    said = considerations(evidence.config)
    limits = stated(compliance_of(evidence.config).known_limitations)
    lines = ["## Intended purpose", ""]
    lines += [escape(each) for each in said.use_cases] or ["Missing: the provider has not stated it."]
    lines += ["", "## Known limitations", ""]
    lines += [escape(limits) if limits else "Missing: the provider has not stated them.", ""]
    if said.misuse:
        lines += ["## Foreseeable misuse", "", bullets(said.misuse), ""]
    if said.mitigations:
        lines += ["Measures against it:", "", bullets(said.mitigations), ""]
    return lines


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
        f"- number format: {training.dtype}, on {training.device}",
    ]
    if training.train_loss is not None:
        lines.append(f"- training loss: {training.train_loss:.4g}")
    if training.eval_loss is not None:
        lines.append(f"- evaluation loss: {training.eval_loss:.4g}")
    lines.append(f"- compute: {flop} ({compute.verdict} the one-third threshold for modified general-purpose models)")
    if evidence.usage is not None and evidence.usage.energy_kwh is not None:
        of = evidence.usage.energy_of or "CPU packages"
        lines.append(f"- energy of the {of}: {evidence.usage.energy_kwh:.4g} kWh")
    return [*lines, ""]


def _base_name(evidence: Evidence) -> str:
    """As the recipe names it; of a local directory the last part only."""
    base = evidence.model_record.base_model
    return PurePath(base.name_or_path).name if base.source == "local" else base.name_or_path


def _hyper_parameters(evidence: Evidence) -> list[str]:
    values = {name: value for name, value in sorted(evidence.training.arguments.items()) if value is not None}
    if not values:
        return []
    rows = [f"| {escape(name)} | {scalar(value)} |" for name, value in values.items()]
    return ["### Hyper-parameters", "", "| Name | Value |", "|---|---|", *rows, ""]


def _data(evidence: Evidence) -> list[str]:
    lines = ["## Data", "", "| Source | Licence | Origin | Rows | Digest |", "|---|---|---|---|---|"]
    for source in evidence.provenance.sources:
        lines.append(
            f"| {escape(source.name)} | {escape(source.license or 'not stated')} | "
            f"{escape(source.origin or 'not stated')} | {source.rows_read} | {source.digest or ''} |"
        )
    rows = ", ".join(f"{name} {count}" for name, count in evidence.provenance.rows.items())
    return [*lines, "", f"Rows by split: {rows}. Dataset `{evidence.subjects[evidence.dataset_asset]}`.", ""]


def _measurements(evidence: Evidence, metrics: tuple[Metric, ...]) -> list[str]:
    lines = ["## Evaluation", ""]
    if not metrics:
        return [*lines, "Not evaluated.", ""]
    lines += [
        "| Measured on | Metric | Items | Base model | This model | Interval | Standard error |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {escape(each.task)} | {escape(each.name)} | {each.n if each.n is not None else ''} | "
        f"{number(each.base_value)} | {number(each.value)} | {_interval(each)} | {number(each.stderr)} |"
        for each in metrics
    ]
    comparisons = evidence.benchmark.comparisons if evidence.benchmark else ()
    if comparisons:
        lines += ["", "This model less the base model, on the same items:", "", *map(_difference, comparisons)]
    return [*lines, ""]


def _interval(metric: Metric) -> str:
    if metric.interval is None:
        return ""
    low, high = metric.interval
    share = f"{metric.level:.0%}".replace("%", " %")
    if low is None:
        return f"at most {number(high)} ({share}, {escape(metric.method or '')})"
    return f"{number(low)} to {number(high)} ({share}, {escape(metric.method or '')})"


def _difference(each: PairedComparison) -> str:
    words = f"- {escape(each.task)}: {each.difference:+.4g}"
    if each.interval is not None:
        words += f", 95 % interval {each.interval[0]:+.4g} to {each.interval[1]:+.4g}"
    if each.p_value is not None:
        words += f", exact McNemar p = {each.p_value:.3g}"
    return words


def _files(evidence: Evidence) -> list[str]:
    if evidence.export is None:
        return []
    lines = ["## Files", "", "| File | Quantization | Bytes | Digest |", "|---|---|---|---|"]
    lines += [
        f"| {file.name} | {file.quantization} | {file.size} | `{file.digest}` |" for file in evidence.export.files
    ]
    return [*lines, ""]


def _digests(evidence: Evidence) -> list[str]:
    """What ties this card to the artefacts, the recipe and the log."""
    lines = ["## Digests", "", "| What | Digest |", "|---|---|"]
    lines += [f"| {name} | `{digest}` |" for name, digest in sorted(evidence.subjects.items())]
    lines.append(f"| resolved recipe | `{evidence.model_record.config_digest}` |")
    if evidence.run.anchor is not None:
        lines.append(f"| audit log at {evidence.run.anchor.size} entries | `{evidence.run.anchor.root}` |")
    version = stated_version(evidence.config)
    return [*lines, "", f"Version {escape(version)}." if version else "No version is stated.", ""]
