"""``technical_documentation.md``: the document for people, point by point."""

from collections.abc import Sequence

from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.content_summary import SECTIONS, build_summary, summary_label
from forge_pipeline.annex_iv.declarations import stated_name
from forge_pipeline.annex_iv.document import PointEntry, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.gpai import ANNEX_XI, ANNEX_XII, build_annex_xi, build_annex_xii
from forge_pipeline.annex_iv.markdown import (
    bullets,
    declared_words,
    escape,
    gate_table,
    measurement_table,
    status_line,
    value_lines,
)
from forge_pipeline.annex_iv.measurements import measurements
from forge_pipeline.annex_iv.points import POINTS
from forge_pipeline.annex_iv.regime import Regime

_WORDS = {
    "auto": "from evidence",
    "declared": "declared by the provider",
    "not_applicable": "not applicable",
    "missing": "**missing**",
}


def render_technical_documentation(evidence: Evidence, entries: Sequence[PointEntry], regime: Regime) -> str:
    """The whole document."""
    missing = missing_fields(tuple(entries))
    lines = [
        f"# Technical documentation: {escape(stated_name(evidence.config))}",
        "",
        status_line(evidence),
        "",
        f"Written against {regime.title} (`{regime.id}`), Annex IV. "
        "It supports the provider's documentation and judges nothing in the provider's place.",
        "",
        f"Missing points: {', '.join(missing)}." if missing else "No point is missing.",
        "",
    ]
    for point, entry in zip(POINTS, entries, strict=True):
        lines += entry_lines(point.asks, entry)
        if entry.point == "2(g)" and (rows := measurements(evidence)):
            lines += ["Test results:", "", *measurement_table(rows), ""]
    lines += ["## Gates", "", *gate_table(evidence.gates), "", *_gpai(evidence), *_regime(regime)]
    return "\n".join(lines)


def render_content_summary(evidence: Evidence, regime: Regime) -> str:
    """``training_content_summary.md``."""
    sections, template = build_summary(evidence), regime.training_content_summary
    missing, label = missing_fields(sections), summary_label(sections)
    lines = [
        f"# Training content of {escape(stated_name(evidence.config))}: public summary",
        "",
        f"**{label.capitalize()}.** {status_line(evidence)}",
        "",
        f"On the {template.template} ({template.reference}). It is about what was used in this fine-tune; the summary "
        "of the model that was modified is its provider's.",
        "",
        f"Missing sections: {', '.join(missing)}." if missing else "No section is missing.",
        "",
    ]
    for section, entry in zip(SECTIONS, sections, strict=True):
        lines += entry_lines(section.asks, entry)
    return "\n".join(lines)


def _gpai(evidence: Evidence) -> list[str]:
    compute = compute_of(evidence)
    lines = [
        "## General-purpose AI: the modification",
        "",
        "What Annex XI (section 1) and Annex XII ask of providers of general-purpose AI models, of this fine-tune.",
        "",
        f"One-third rule: **{compute.verdict}** the threshold ({compute.threshold_used}). "
        f"Modification {_flop(compute.modification_flop)} by the architecture, {_flop(compute.hardware_flop)} by the "
        f"hardware; threshold {_flop(compute.threshold_flop)}.",
        "",
        bullets(compute.assumptions),
        "",
    ]
    for points, entries in ((ANNEX_XI, build_annex_xi(evidence)), (ANNEX_XII, build_annex_xii(evidence))):
        for point, entry in zip(points, entries, strict=True):
            lines += entry_lines(point.asks, entry)
    return lines


def _flop(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2e} FLOP"


def entry_lines(asks: str, entry: PointEntry) -> list[str]:
    """One entry as a Markdown section."""
    lines = [f"## {entry.point} {entry.title}", "", f"*{asks}*", "", f"Status: {_WORDS[entry.status]}.", ""]
    if entry.value.get("reason"):
        lines += [escape(str(entry.value["reason"])), ""]
    statement = entry.value.get("statement")
    if isinstance(statement, str):
        lines += [escape(statement), ""]
    elif statement:
        lines += ["Stated by the provider:", "", *value_lines(statement), ""]
    if entry.declared_by is not None:
        lines += [escape(declared_words(entry.declared_by)), ""]
    if entry.value.get("awaiting"):
        lines += ["To be stated:", "", bullets(entry.value["awaiting"]), ""]
    if entry.value.get("facts"):
        lines += ["Recorded:", "", *value_lines(entry.value["facts"]), ""]
    if entry.value.get("not_stated"):
        lines += ["Not stated:", "", bullets(entry.value["not_stated"]), ""]
    if entry.evidence:
        lines += ["Evidence:", ""]
        lines += [f"- {each.kind} {escape(each.name)} `{each.digest}`" for each in entry.evidence]
        lines.append("")
    return lines


def _regime(regime: Regime) -> list[str]:
    lines = ["## Dates", "", "| Applies from | What | Reference |", "|---|---|---|"]
    lines += [f"| {each.applies_from} | {each.what} | {each.reference} |" for each in regime.dates]
    lines += ["", "| Kept | At least | Reference |", "|---|---|---|"]
    lines += [f"| {each.what} | {each.least} | {each.reference} |" for each in regime.retention]
    return [*lines, ""]
