"""The audit's report as one self-contained page: no script, no font, no request to anywhere.

Charts are inline SVG. What was found is never shown, only where it stands and its shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from forge_pipeline.dataset_audit.report import AuditReport

if TYPE_CHECKING:
    from jinja2 import Template

_SHOWN_FINDINGS = 200
_BAR_WIDTH = 360  # pixels of the longest bar


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: `share` of the longest, 0 to 1; `kind` is its colour."""

    label: str
    value: int
    share: float
    kind: str = "plain"

    @property
    def width(self) -> int:
        return max(1, round(self.share * _BAR_WIDTH)) if self.value else 0


def page(report: AuditReport, name: str) -> str:
    """The report as HTML.

    Args:
        report: What the audit found.
        name: The dataset's or the model line's name.
    """
    tiers = {kind: entry["tier"] for kind, entry in report.pii_severity.get("by_type", {}).items()}
    return _template().render(
        name=name,
        report=report,
        gates=report.gates,
        pii=_bars(report.pii_summary, tiers),
        secrets=_bars(report.secrets_summary, dict.fromkeys(report.secrets_summary, "critical")),
        quality=_bars(report.quality_summary.get("by_check", {})),
        languages={split: _language_bars(facts) for split, facts in report.splits.items()},
        lengths=_lengths(report),
        repeats=report.near_duplicate_summary,
        overlap=report.cross_split_overlap.get("pairs", {}),
        shown=report.findings[:_SHOWN_FINDINGS],
        bar_width=_BAR_WIDTH,
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))


def _bars(counts: Mapping[str, int], kinds: Mapping[str, str] | None = None) -> list[Bar]:
    longest = max(counts.values(), default=0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Bar(label, value, value / longest if longest else 0, (kinds or {}).get(label, "plain"))
        for label, value in ordered
    ]


def _language_bars(facts: Mapping[str, Any]) -> list[Bar]:
    counts = facts.get("languages") or {entry["code"]: entry["count"] for entry in facts.get("languages_top3", [])}
    return _bars(counts)[:12]


def _lengths(report: AuditReport) -> list[dict[str, Any]]:
    """Rows of the table of lengths: characters by split, then tokens by split where they were counted."""
    rows = [
        {"split": split, "unit": "characters", **facts["text_length"]}
        for split, facts in report.splits.items()
        if facts.get("text_length")
    ]
    rows += [{"split": split, "unit": "tokens", **facts} for split, facts in report.token_lengths.items() if facts]
    return rows
