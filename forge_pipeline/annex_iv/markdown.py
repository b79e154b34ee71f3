"""The Markdown pages of a bundle share these few pieces."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from forge_pipeline.annex_iv.evidence import DeclaredBy, Evidence
from forge_pipeline.annex_iv.measurements import Measurement
from forge_pipeline.gates import GateDecision, overall_verdict

SYNTHETIC = "Synthetic example: no real system, model or data."

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def escape(text: str) -> str:
    """Provider's text as Markdown that shows exactly that text, on one line."""
    return " ".join(text.translate(_SPECIAL).split())


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def status_line(evidence: Evidence) -> str:
    """What a reader must know before anything else: released or not, which model, when."""
    words = ["**Released.**" if evidence.released else "**Not released.**"]
    if evidence.run.synthetic:
        words.append(f"**{SYNTHETIC}**")
    verdict = overall_verdict(evidence.gates).value.replace("_", " ")
    words.append(f"Gates: {verdict}. Model `{evidence.subjects['fine_tuned_model']}`, {evidence.run.generated_at}.")
    return " ".join(words)


def gate_table(gates: Iterable[GateDecision]) -> list[str]:
    """One row for each gate, with the numbers behind it."""
    lines = ["| Gate | Verdict | Observed | Threshold | Items | Reason |", "|---|---|---|---|---|---|"]
    for each in gates:
        verdict = each.verdict.value.replace("_", " ")
        observed, threshold = number(each.observed), number(each.threshold)
        lines.append(f"| {each.gate} | {verdict} | {observed} | {threshold} | {each.n or ''} | {escape(each.reason)} |")
    return lines


def declared_words(by: DeclaredBy) -> str:
    """Who stated it, and when, in one sentence."""
    who = f"Stated by {by.provider}" if by.provider else "Stated by a provider who is not named"
    if by.at is None:
        return f"{who}, in recipe {by.recipe.short}; the log in this bundle does not say who resolved it, and when."
    return f"{who}, in recipe {by.recipe.short}, put on record by {by.operator} at {by.at} (log entry {by.log_seq})."


def measurement_table(rows: Iterable[Measurement]) -> list[str]:
    """One row for each measurement, with its interval and the base model's value."""
    lines = [
        "| What | Metric | Items | Value | 95 % interval | Base model | Difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        difference = number(each.difference) + (
            f" ({interval(each.difference_interval)})" if each.difference_interval else ""
        )
        lines.append(
            f"| {escape(each.what)} | {escape(each.metric)} | {each.n or ''} | {number(each.value)} | "
            f"{interval(each.interval)} | {number(each.base)} | {difference} |"
        )
    return lines


def interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def value_lines(value: Any, indent: int = 0) -> list[str]:
    """A JSON value as nested Markdown bullets."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        lines = []
        for key, part in value.items():
            if isinstance(part, Mapping | list | tuple) and part:
                lines += [f"{pad}- {escape(str(key))}:", *value_lines(part, indent + 1)]
            else:
                lines.append(f"{pad}- {escape(str(key))}: {scalar(part)}")
        return lines
    if isinstance(value, list | tuple):
        lines = []
        for part in value:
            if isinstance(part, Mapping):
                lines.append(f"{pad}- " + "; ".join(f"{escape(str(k))}: {scalar(v)}" for k, v in part.items()))
            else:
                lines.append(f"{pad}- {scalar(part)}")
        return lines
    return [f"{pad}- {scalar(value)}"]


def scalar(value: Any) -> str:
    """A JSON value on one line."""
    if value is None or value in ([], {}, ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    return escape(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))
