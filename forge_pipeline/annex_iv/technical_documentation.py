"""``technical_documentation.md``: the document for people, point by point."""

from collections.abc import Sequence

from forge_pipeline.annex_iv.declarations import stated_name
from forge_pipeline.annex_iv.document import PointEntry, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import bullets, escape, gate_table, status_line, value_lines
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
        lines += _point(point.asks, entry)
    lines += ["## Gates", "", *gate_table(evidence.gates), "", *_regime(regime)]
    return "\n".join(lines)


def _point(asks: str, entry: PointEntry) -> list[str]:
    lines = [f"## {entry.point} {entry.title}", "", f"*{asks}*", "", f"Status: {_WORDS[entry.status]}.", ""]
    if entry.value.get("reason"):
        lines += [escape(str(entry.value["reason"])), ""]
    statement = entry.value.get("statement")
    if isinstance(statement, str):
        lines += [escape(statement), ""]
    elif statement:
        lines += ["Stated by the provider:", "", *value_lines(statement), ""]
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
