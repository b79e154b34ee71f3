"""``index.html``: the bundle on one page, self-contained, without scripts."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from forge_pipeline.annex_iv.charts import as_svg, charts
from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.content_summary import build_summary, summary_label
from forge_pipeline.annex_iv.declarations import placeholders_in, stated_name
from forge_pipeline.annex_iv.document import STATUSES, PointEntry, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.gpai import build_annex_xi, build_annex_xii
from forge_pipeline.annex_iv.markdown import SYNTHETIC, declared_words, interval, number
from forge_pipeline.annex_iv.measurements import measurements
from forge_pipeline.annex_iv.regime import Regime
from forge_pipeline.annex_iv.versions import changes_since
from forge_pipeline.gates import Verdict, overall_verdict
from forge_pipeline.integrity import Manifest

_WORDS = {"auto": "from evidence", "declared": "declared", "missing": "missing", "not_applicable": "not applicable"}


def render_page(evidence: Evidence, entries: Sequence[PointEntry], regime: Regime, listed: Manifest) -> str:
    """The page.

    Args:
        evidence, entries, regime: What the bundle says.
        listed: The bundle's other files, all but the manifest and this page.
    """
    template = Template((files("forge_pipeline.annex_iv") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{stated_name(evidence.config)}: Annex IV documentation"),
        subtitle=escape(f"{regime.title} ({regime.id}) · made {evidence.run.generated_at} by {evidence.run.generator}"),
        banner=_banner(evidence),
        contents=_CONTENTS,
        gates=_gates(evidence),
        charts="".join(f"<h3>{escape(each.title)}</h3>{as_svg(each)}" for each in charts(evidence)),
        measurements=_measurements(evidence),
        summary=escape(_summary(entries)),
        points=_points(entries),
        one_third=_one_third(evidence),
        annex_xi=_points(build_annex_xi(evidence)),
        annex_xii=_points(build_annex_xii(evidence)),
        content_label=_content_label(evidence),
        content=_points(build_summary(evidence)),
        previous=_previous(evidence),
        dates=_dates(regime),
        pdf=escape(pdf_words(evidence)),
        files=_files(listed),
        log=_log(evidence),
    )


_CONTENTS = "<nav>{}</nav>".format(
    "".join(
        f'<a href="#{anchor}">{words}</a>'
        for anchor, words in (
            ("gates", "Gates"),
            ("measurements", "Measurements"),
            ("annex-iv", "Annex IV"),
            ("gpai", "Annex XI and XII"),
            ("training-content", "Training content"),
            ("previous", "Previous version"),
            ("law", "Law"),
            ("files", "Files"),
            ("log", "Audit log"),
        )
    )
)


def pdf_words(evidence: Evidence) -> str:
    """Whether there is a PDF, and if not, why."""
    if evidence.run.pdf is None:
        return "There is no PDF: the extra pdf was not installed where this bundle was made. This page can be printed."
    return f"annex_iv.pdf says the same as this page; it was written by {evidence.run.pdf.library}."


def _measurements(evidence: Evidence) -> str:
    rows = [
        [
            escape(each.what),
            escape(each.metric),
            str(each.n or ""),
            number(each.value),
            interval(each.interval),
            number(each.base),
            number(each.difference) + (f" ({interval(each.difference_interval)})" if each.difference_interval else ""),
        ]
        for each in measurements(evidence)
    ]
    if not rows:
        return "<p>Nothing was measured.</p>"
    header = ["What", "Metric", "Items", "Value", "95 % interval", "Base model", "Difference"]
    return _table(header, rows, numbers={2, 3, 4, 5, 6})


def _one_third(evidence: Evidence) -> str:
    compute = compute_of(evidence)
    kind = {"below": "passed", "above": "failed", "undetermined": "not_evaluated"}[compute.verdict]
    figures = [
        ("by the architecture, 6·P·D", compute.modification_flop),
        (
            "by the hardware, N·L·H·U" + (" (upper limit)" if compute.hardware_is_upper_limit else ""),
            compute.hardware_flop,
        ),
        ("threshold", compute.threshold_flop),
    ]
    rows = [[escape(words), "not known" if value is None else f"{value:.2e} FLOP"] for words, value in figures]
    return (
        f"<p>One-third rule: {_mark(kind, compute.verdict)} the threshold ({escape(compute.threshold_used)}).</p>"
        f"{_table(['Training compute', 'FLOP'], rows, numbers={1})}"
        f"<details><summary>assumptions</summary>{_json(compute.assumptions)}</details>"
    )


def _content_label(evidence: Evidence) -> str:
    sections = build_summary(evidence)
    missing = missing_fields(sections)
    words = f" Missing: {', '.join(missing)}." if missing else ""
    return escape(f"{summary_label(sections).capitalize()}, for this fine-tune alone.{words}")


def _previous(evidence: Evidence) -> str:
    parent = evidence.run.parent
    if parent is None:
        return "<p>No earlier bundle of this line was given: this is the first version.</p>"
    return f"<p>Made after the bundle <code>{parent.manifest_hash}</code>.</p>{_json(changes_since(parent, evidence))}"


def _dates(regime: Regime) -> str:
    dates = [[escape(each.applies_from), escape(each.what), escape(each.reference)] for each in regime.dates]
    kept = [[escape(each.what), escape(each.least), escape(each.reference)] for each in regime.retention]
    return _table(["Applies from", "What", "Reference"], dates) + _table(["Kept", "At least", "Reference"], kept)


def _banner(evidence: Evidence) -> str:
    verdict = overall_verdict(evidence.gates)
    kind = "released" if evidence.released else "failed" if verdict is Verdict.FAILED else ""
    words = "Released" if evidence.released else "Not released"
    synthetic = f"<p><strong>{SYNTHETIC}</strong></p>" if evidence.run.synthetic else ""
    model = evidence.subjects["fine_tuned_model"]
    return (
        f'<div class="banner {kind}"><p><strong>{words}.</strong> Gates: {verdict.value.replace("_", " ")}.</p>'
        f"{synthetic}<p>Model <code>{model}</code></p>{_placeholders(evidence)}</div>"
    )


def _placeholders(evidence: Evidence) -> str:
    keys = placeholders_in(evidence.config)
    return f"<p>Filled in, but stating nothing: {escape(', '.join(keys))}.</p>" if keys else ""


def _gates(evidence: Evidence) -> str:
    rows = [
        [
            escape(each.gate),
            _mark(each.verdict.value, each.verdict.value.replace("_", " ")),
            number(each.observed),
            number(each.threshold),
            str(each.n or ""),
            escape(each.reason),
        ]
        for each in evidence.gates
    ]
    return _table(["Gate", "Verdict", "Observed", "Threshold", "Items", "Reason"], rows, numbers={2, 3, 4})


def _summary(entries: Sequence[PointEntry]) -> str:
    counts = {status: sum(entry.status == status for entry in entries) for status in STATUSES}
    return ", ".join(f"{count} {_WORDS[status]}" for status, count in counts.items() if count) + "."


def _points(entries: Sequence[PointEntry]) -> str:
    rows = [
        [
            f"<strong>{entry.point}</strong>",
            escape(entry.title),
            _mark(entry.status, _WORDS[entry.status]),
            _value(entry),
        ]
        for entry in entries
    ]
    return _table(["Point", "Asks for", "Status", "Answer"], rows)


def _value(entry: PointEntry) -> str:
    parts = []
    if entry.value.get("reason"):
        parts.append(f"<p>{escape(str(entry.value['reason']))}</p>")
    if entry.value.get("statement"):
        parts.append(_json(entry.value["statement"]))
    if entry.declared_by is not None:
        parts.append(f'<p class="quiet">{escape(declared_words(entry.declared_by))}</p>')
    for key, words in (("awaiting", "To be stated"), ("not_stated", "Not stated")):
        if entry.value.get(key):
            parts.append(f"<p>{words}:</p>{_json(entry.value[key])}")
    if entry.value.get("facts"):
        parts.append(f"<details><summary>recorded facts</summary>{_json(entry.value['facts'])}</details>")
    if entry.evidence:
        names = "".join(f"<li>{escape(each.name)} <code>{each.digest}</code></li>" for each in entry.evidence)
        parts.append(f"<details><summary>evidence</summary><ul>{names}</ul></details>")
    return "".join(parts)


def _json(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<ul>" + "".join(f"<li>{escape(str(key))}: {_json(part)}</li>" for key, part in value.items()) + "</ul>"
    if isinstance(value, list | tuple):
        return "<ul>" + "".join(f"<li>{_json(part)}</li>" for part in value) + "</ul>" if value else "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value))


def _files(listed: Manifest) -> str:
    rows = [
        [f'<a href="{escape(entry.path)}">{escape(entry.path)}</a>', f"{entry.size:,}", f"<code>{entry.digest}</code>"]
        for entry in listed.entries
    ]
    return _table(["File", "Bytes", "Digest"], rows, numbers={1})


def _log(evidence: Evidence) -> str:
    anchor = evidence.run.anchor
    if anchor is None:
        return "<p>No audit log was given to this bundle: nothing here says who ran what, and when.</p>"
    keys = ", ".join(f"{name} {value}" for name, value in evidence.log_keys.items() if value)
    return (
        f"<p>Keys that the log began with: {escape(keys) or 'none; entries are neither signed nor tagged'}.</p>"
        f"<p>{anchor.size} entries, log <code>{escape(anchor.log_id)}</code>, root <code>{escape(anchor.root)}</code>. "
        "Whoever holds this root elsewhere can tell a log that was rewritten from one that only grew.</p>"
    )


def _mark(kind: str, words: str) -> str:
    return f'<span class="mark {kind}">{escape(words)}</span>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = ()) -> str:
    """An HTML table; cells are HTML already, those of the columns `numbers` are set right."""
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    body = "".join(f"<tr>{''.join(_cell(cell, n in numbers) for n, cell in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: str, is_number: bool) -> str:
    return f'<td class="number">{content}</td>' if is_number else f"<td>{content}</td>"
