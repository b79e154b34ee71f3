"""A bundle's plots, drawn from its evidence: marks on a plane, which the page writes as SVG and the PDF as its own.

A chart is a list of marks in points, origin at the top left. Colours are roles (`INK`,
`GOOD`, ...), so that the page can take them from its style sheet. Every number is rounded
before it is written: equal evidence gives equal bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.measurements import measurements
from forge_pipeline.gates import Verdict
from forge_pipeline.training import LossPoint

Role = Literal["ink", "quiet", "line", "main", "other", "good", "bad", "open"]
Point = tuple[float, float]

_WIDTH = 640.0
_LABELS = 190.0  # room for names left of a row chart
_ROW = 22.0
_VERDICTS: dict[Verdict, Role] = {Verdict.PASSED: "good", Verdict.FAILED: "bad", Verdict.NOT_EVALUATED: "open"}
_MOST_ROWS = 40


@dataclass(frozen=True)
class Path:
    """Points joined by a line."""

    points: tuple[Point, ...]
    role: Role
    width: float = 1.0


@dataclass(frozen=True)
class Label:
    """Words; `at` is the start, middle or end of their base line."""

    at: Point
    words: str
    role: Role = "ink"
    anchor: Literal["start", "middle", "end"] = "start"
    size: float = 11.0


@dataclass(frozen=True)
class Box:
    """A filled rectangle from its top left corner."""

    at: Point
    width: float
    height: float
    role: Role


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    at: Point
    radius: float
    role: Role


Mark = Path | Label | Box | Dot


@dataclass(frozen=True)
class Chart:
    """A titled drawing; `description` says in words what it shows, for those who do not see it."""

    title: str
    description: str
    width: float
    height: float
    marks: tuple[Mark, ...]


def charts(evidence: Evidence) -> tuple[Chart, ...]:
    """The charts that the evidence has something to show for: loss, measurements, audit counts, gates."""
    found = (
        loss_chart(evidence.training.loss_history),
        measurement_chart(evidence),
        audit_chart(evidence),
        gate_chart(evidence),
    )
    return tuple(chart for chart in found if chart is not None)


def loss_chart(history: Sequence[LossPoint]) -> Chart | None:
    """Training and evaluation loss over optimizer steps; None below two points."""
    lines: dict[str, list[tuple[int, float]]] = {
        "training": [(point.step, point.loss) for point in history if point.loss is not None],
        "evaluation": [(point.step, point.eval_loss) for point in history if point.eval_loss is not None],
    }
    values = [value for line in lines.values() for _, value in line]
    steps = [step for line in lines.values() for step, _ in line]
    if len(values) < 2 or max(steps) == min(steps):
        return None
    low, high = _nice_range(values)
    left, right, top, bottom = 52.0, _WIDTH - 14, 14.0, 180.0

    def place(step: float, value: float) -> Point:
        x = left + (step - min(steps)) / (max(steps) - min(steps)) * (right - left)
        return x, bottom - (value - low) / (high - low) * (bottom - top)

    marks: list[Mark] = []
    for n in range(5):
        value = low + (high - low) * n / 4
        marks.append(Path((place(min(steps), value), place(max(steps), value)), "line", 0.5))
        marks.append(Label((left - 6, place(0, value)[1] + 4), f"{value:.3g}", "quiet", "end", 10))
    for step in (min(steps), max(steps)):
        marks.append(Label((place(step, low)[0], bottom + 16), f"step {step}", "quiet", "middle", 10))
    roles: dict[str, Role] = {"training": "main", "evaluation": "other"}
    for n, (name, line) in enumerate((name, line) for name, line in lines.items() if line):
        marks.append(Path(tuple(place(*point) for point in line), roles[name], 1.8))
        if len(line) < 60:
            marks += [Dot(place(*point), 2.2, roles[name]) for point in line]
        marks.append(Box((right - 90, top + 14 * n), 10, 3, roles[name]))
        marks.append(Label((right - 76, top + 14 * n + 5), name, "ink", "start", 10))
    words = "; ".join(f"{name} loss from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in lines.items() if line)
    return Chart("Loss", f"{words}, over steps {min(steps)} to {max(steps)}.", _WIDTH, bottom + 24, tuple(marks))


def measurement_chart(evidence: Evidence) -> Chart | None:
    """Each score with its 95 % interval, from 0 to 1, and the base model's beside it."""
    rows = measurements(evidence)[:_MOST_ROWS]
    if not rows:
        return None
    left, right = _LABELS, _WIDTH - 60

    def at(value: float) -> float:
        return left + min(max(value, 0.0), 1.0) * (right - left)

    bottom = 12 + _ROW * len(rows)
    marks: list[Mark] = [Path(((at(t / 4), 6), (at(t / 4), bottom)), "line", 0.5) for t in range(5)]
    marks += [Label((at(t / 4), bottom + 14), f"{t / 4:g}", "quiet", "middle", 10) for t in range(5)]
    for n, row in enumerate(rows):
        y = 12 + _ROW * n + _ROW / 2
        marks.append(Label((left - 8, y + 4), _short(f"{row.what} (n = {row.n})", 34), "ink", "end"))
        for end in row.interval or ():
            marks.append(Path(((at(end), y - 4), (at(end), y + 4)), "main", 2))
        if row.interval is not None:
            marks.append(Path(((at(row.interval[0]), y), (at(row.interval[1]), y)), "main", 2))
        if row.base is not None:
            marks += [Dot((at(row.base), y), 3.6, "other")]
        marks += [Dot((at(row.value), y), 4.2, "main"), Label((right + 8, y + 4), f"{row.value:.3f}", "ink")]
    marks.append(Dot((left, bottom + 30), 4.2, "main"))
    marks.append(Label((left + 10, bottom + 34), "this model, with its interval", "quiet", "start", 10))
    marks.append(Dot((left + 190, bottom + 30), 3.6, "other"))
    marks.append(Label((left + 200, bottom + 34), "base model", "quiet", "start", 10))
    words = "; ".join(
        f"{row.what} {row.value:.3f}" + (f" [{row.interval[0]:.3f}, {row.interval[1]:.3f}]" if row.interval else "")
        for row in rows
    )
    return Chart("Measurements", f"Scores with 95 % intervals: {words}.", _WIDTH, bottom + 42, tuple(marks))


def audit_chart(evidence: Evidence) -> Chart:
    """How many rows there are, and what the audit found in them, on a logarithmic scale."""
    audit = evidence.audit
    counts: list[tuple[str, int, Role]] = [
        (f"rows in {name}", n, "main") for name, n in evidence.provenance.rows.items()
    ]
    counts.append(("duplicates and near-duplicates", audit.duplicate_count, "open"))
    counts += [(f"personal data: {name}", n, "open") for name, n in sorted(audit.pii_summary.items())]
    counts += [(f"secrets: {name}", n, "bad") for name, n in sorted(audit.secrets_summary.items())]
    counts.append(("rows left out as broken", evidence.provenance.skipped_count, "open"))
    counts = counts[:_MOST_ROWS]
    most = max(1, *(n for _, n, _ in counts))
    left, right = _LABELS, _WIDTH - 70
    marks: list[Mark] = []
    for index, (name, n, role) in enumerate(counts):
        y = 6 + _ROW * index
        width = math.log1p(n) / math.log1p(most) * (right - left)
        marks.append(Label((left - 8, y + 14), _short(name, 34), "ink", "end"))
        marks.append(Box((left, y + 4), max(width, 0.8), _ROW - 8, role))
        marks.append(Label((left + width + 6, y + 14), f"{n:,}", "ink"))
    words = "; ".join(f"{name}: {n:,}" for name, n, _ in counts)
    return Chart(
        "Data audit", f"Counts on a logarithmic scale. {words}.", _WIDTH, 12 + _ROW * len(counts), tuple(marks)
    )


def gate_chart(evidence: Evidence) -> Chart | None:
    """One row for each gate: its verdict, and what was observed against which threshold."""
    if not evidence.gates:
        return None
    marks: list[Mark] = []
    for n, gate in enumerate(evidence.gates[:_MOST_ROWS]):
        y, role = 6 + _ROW * n, _VERDICTS[gate.verdict]
        marks.append(Label((_LABELS - 8, y + 14), _short(gate.gate, 34), "ink", "end"))
        marks.append(Box((_LABELS, y + 4), 90, _ROW - 8, role))
        marks.append(Label((_LABELS + 100, y + 14), gate.verdict.value.replace("_", " "), role))
        held = (
            f"{gate.metric or 'observed'} {gate.observed:.4g}" if gate.observed is not None else "nothing was measured"
        )
        against = f", threshold {gate.threshold:.4g}" if gate.threshold is not None else ""
        marks.append(Label((_LABELS + 190, y + 14), _short(held + against, 50), "quiet"))
    words = "; ".join(f"{gate.gate} {gate.verdict.value.replace('_', ' ')}" for gate in evidence.gates)
    height = 12 + _ROW * min(len(evidence.gates), _MOST_ROWS)
    return Chart("Gates", f"{words}.", _WIDTH, height, tuple(marks))


def as_svg(chart: Chart) -> str:
    """The chart as one ``<svg>`` element; roles become classes."""
    label = escape(f"{chart.title}. {chart.description}")
    body = "".join(_svg_mark(mark) for mark in chart.marks)
    size = f'viewBox="0 0 {_n(chart.width)} {_n(chart.height)}"'
    return f'<svg class="chart" role="img" aria-label="{label}" {size}>{body}</svg>'


def _svg_mark(mark: Mark) -> str:
    if isinstance(mark, Path):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in mark.points)
        return f'<polyline class="s-{mark.role}" stroke-width="{_n(mark.width)}" points="{points}"/>'
    x, y = (_n(part) for part in mark.at)
    if isinstance(mark, Label):
        place = f'x="{x}" y="{y}" text-anchor="{mark.anchor}" font-size="{_n(mark.size)}"'
        return f'<text class="f-{mark.role}" {place}>{escape(mark.words)}</text>'
    if isinstance(mark, Box):
        size = f'width="{_n(mark.width)}" height="{_n(mark.height)}"'
        return f'<rect class="f-{mark.role}" x="{x}" y="{y}" {size}/>'
    return f'<circle class="f-{mark.role}" cx="{x}" cy="{y}" r="{_n(mark.radius)}"/>'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _nice_range(values: Iterable[float]) -> tuple[float, float]:
    """A range around `values` that is never empty, from 0 where that costs little room."""
    values = list(values)
    low, high = min(values), max(values)
    if low >= 0 and low <= 0.6 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
