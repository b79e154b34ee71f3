"""``index.html``: the bundle on one page, self-contained, without scripts."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from forge_pipeline.annex_iv.declarations import stated_name
from forge_pipeline.annex_iv.document import STATUSES, PointEntry
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.markdown import SYNTHETIC, number
from forge_pipeline.annex_iv.regime import Regime
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
        gates=_gates(evidence),
        summary=escape(_summary(entries)),
        points=_points(entries),
        files=_files(listed),
        log=_log(evidence),
    )


def _banner(evidence: Evidence) -> str:
    verdict = overall_verdict(evidence.gates)
    kind = "released" if evidence.released else "failed" if verdict is Verdict.FAILED else ""
    words = "Released" if evidence.released else "Not released"
    synthetic = f"<p><strong>{SYNTHETIC}</strong></p>" if evidence.run.synthetic else ""
    model = evidence.subjects["fine_tuned_model"]
    return (
        f'<div class="banner {kind}"><p><strong>{words}.</strong> Gates: {verdict.value.replace("_", " ")}.</p>'
        f"{synthetic}<p>Model <code>{model}</code></p></div>"
    )


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
    return (
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
