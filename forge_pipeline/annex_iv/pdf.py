"""``annex_iv.pdf``: the bundle's page as a PDF, the same bytes for the same evidence, library and fonts.

Written by ReportLab (BSD), which the extra ``pdf`` installs; without it a bundle has no PDF
and says so. The file holds no time, no random identifier and no compressed stream, whose
bytes would differ between versions of zlib. Fonts are embedded: DejaVu Sans where matplotlib
brings it, else Bitstream Vera, which ReportLab brings and which knows Latin letters alone. A
character that the font does not have stands as ``?``, and the last page counts them.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.annex_iv import charts
from forge_pipeline.annex_iv.compute import compute_of
from forge_pipeline.annex_iv.content_summary import SECTIONS, build_summary, summary_label
from forge_pipeline.annex_iv.declarations import placeholders_in, stated_name
from forge_pipeline.annex_iv.document import PointEntry, missing_fields
from forge_pipeline.annex_iv.evidence import Evidence, PdfWriter
from forge_pipeline.annex_iv.gpai import ANNEX_XI, ANNEX_XII, build_annex_xi, build_annex_xii
from forge_pipeline.annex_iv.markdown import SYNTHETIC, declared_words, interval, number
from forge_pipeline.annex_iv.measurements import measurements
from forge_pipeline.annex_iv.points import POINTS, Point
from forge_pipeline.annex_iv.regime import Regime
from forge_pipeline.annex_iv.versions import changes_since
from forge_pipeline.gates import overall_verdict
from forge_pipeline.integrity import Digest

PDF_NAME = "annex_iv.pdf"

_STATUS = {
    "auto": ("from evidence", "#1a7f37"),
    "declared": ("declared by the provider", "#1a7f37"),
    "not_applicable": ("not applicable", "#666666"),
    "missing": ("missing", "#c1272d"),
}
_COLOURS: dict[charts.Role, str] = {
    "ink": "#111111", "quiet": "#555555", "line": "#cccccc", "main": "#1f5fbf", "other": "#8a8a8a",
    "good": "#1a7f37", "bad": "#c1272d", "open": "#9a6700",
}  # fmt: skip
_FONT, _BOLD = "ForgeSans", "ForgeSans-Bold"


@dataclass(frozen=True)
class _Fonts:
    regular: Path
    bold: Path


@cache
def pdf_writer() -> PdfWriter | None:
    """What would write a PDF here; None where ReportLab is not installed."""
    try:
        library = f"reportlab {version('reportlab')}"
    except PackageNotFoundError:
        return None
    fonts = _fonts()
    return PdfWriter(library, Digest.of(fonts.regular.read_bytes() + fonts.bold.read_bytes()))


def render_pdf(evidence: Evidence, entries: Sequence[PointEntry], regime: Regime) -> bytes:
    """The PDF.

    Raises:
        OptionalDependencyError: ReportLab is not installed.
    """
    story = _Story(evidence)
    _write(story, evidence, entries, regime)
    buffer = io.BytesIO()
    document = _module("platypus").SimpleDocTemplate(
        buffer,
        pagesize=(595.28, 841.89),  # A4, in points
        leftMargin=54,
        rightMargin=54,
        topMargin=54,
        bottomMargin=54,
        title=story.known(f"{stated_name(evidence.config)}: Annex IV documentation"),
        author=story.known(evidence.run.generator),
        subject=story.known(f"{regime.title} ({regime.id})"),
        lang="en",
        invariant=1,
        pageCompression=0,
    )
    document.build(story.parts, onFirstPage=story.footer, onLaterPages=story.footer)
    return buffer.getvalue()


def _write(story: "_Story", evidence: Evidence, entries: Sequence[PointEntry], regime: Regime) -> None:
    """The document, part by part."""
    story.heading(f"{stated_name(evidence.config)}: Annex IV documentation", 1)
    story.text(f"{regime.title} ({regime.id}). Made {evidence.run.generated_at} by {evidence.run.generator}.", "quiet")
    _write_status(story, evidence)
    story.heading("Gates", 2)
    story.table(
        ["Gate", "Verdict", "Observed", "Threshold", "Items", "Reason"],
        [
            [
                g.gate,
                g.verdict.value.replace("_", " "),
                number(g.observed),
                number(g.threshold),
                str(g.n or ""),
                g.reason,
            ]
            for g in evidence.gates
        ],
        [80, 62, 52, 52, 41, 200],
    )
    for chart in charts.charts(evidence):
        story.chart(chart)
    _write_measurements(story, evidence)
    story.heading("Annex IV, point by point", 2)
    missing = missing_fields(entries)
    story.text(f"Missing points: {', '.join(missing)}." if missing else "No point is missing.")
    _write_entries(story, POINTS, entries)
    _write_gpai(story, evidence)
    sections = build_summary(evidence)
    story.heading(f"Training content, public summary: {summary_label(sections)}", 2)
    _write_entries(story, SECTIONS, sections)
    _write_previous(story, evidence)
    story.heading("Which text of the law", 2)
    story.table(
        ["Applies from", "What", "Reference"],
        [[d.applies_from, d.what, d.reference] for d in regime.dates],
        [75, 300, 112],
    )
    story.table(
        ["Kept", "At least", "Reference"], [[r.what, r.least, r.reference] for r in regime.retention], [225, 150, 112]
    )
    _write_log(story, evidence)


def _write_status(story: "_Story", evidence: Evidence) -> None:
    verdict = overall_verdict(evidence.gates).value.replace("_", " ")
    story.text(f"{'Released' if evidence.released else 'Not released'}. Gates: {verdict}.", "bold")
    if evidence.run.synthetic:
        story.text(SYNTHETIC, "bold")
    story.text(f"Model {evidence.subjects['fine_tuned_model']}")
    if placeholders := placeholders_in(evidence.config):
        story.text(f"Filled in, but stating nothing: {', '.join(placeholders)}.")


def _write_measurements(story: "_Story", evidence: Evidence) -> None:
    rows = [
        [m.what, m.metric, str(m.n or ""), number(m.value), interval(m.interval), number(m.base), number(m.difference)]
        for m in measurements(evidence)
    ]
    if rows:
        header = ["What", "Metric", "Items", "Value", "95 % interval", "Base model", "Difference"]
        story.table(header, rows, [106, 80, 42, 46, 96, 50, 67])


def _write_entries(story: "_Story", points: Sequence[Point], entries: Sequence[PointEntry]) -> None:
    for point, entry in zip(points, entries, strict=True):
        words, colour = _STATUS[entry.status]
        story.heading(f"{entry.point} {entry.title}", 3)
        story.text(point.asks, "quiet")
        story.text(f"Status: {words}.", "bold", colour)
        for key, title in (
            ("reason", ""),
            ("statement", ""),
            ("awaiting", "To be stated:"),
            ("facts", "Recorded:"),
            ("not_stated", "Not stated:"),
        ):
            if entry.value.get(key):
                if title:
                    story.text(title)
                story.value(entry.value[key])
            if key == "statement" and entry.declared_by is not None:
                story.text(declared_words(entry.declared_by), "quiet")
        if entry.evidence:
            names = "; ".join(f"{each.name} ({each.digest.short})" for each in entry.evidence)
            story.text(f"Evidence: {names}.", "quiet")


def _write_gpai(story: "_Story", evidence: Evidence) -> None:
    compute = compute_of(evidence)
    story.heading("General-purpose AI: the modification", 2)
    story.text(f"One-third rule: {compute.verdict} the threshold ({compute.threshold_used}).", "bold")
    story.value(
        {
            "modification, by the architecture (FLOP)": compute.modification_flop,
            "modification, by the hardware (FLOP)": compute.hardware_flop,
            "threshold (FLOP)": compute.threshold_flop,
            "assumptions": list(compute.assumptions),
        }
    )
    story.heading("Annex XI, section 1", 2)
    _write_entries(story, ANNEX_XI, build_annex_xi(evidence))
    story.heading("Annex XII", 2)
    _write_entries(story, ANNEX_XII, build_annex_xii(evidence))


def _write_previous(story: "_Story", evidence: Evidence) -> None:
    parent = evidence.run.parent
    story.heading("Previous version", 2)
    if parent is None:
        story.text("No earlier bundle of this line was given: this is the first version.")
    else:
        story.value(changes_since(parent, evidence))


def _write_log(story: "_Story", evidence: Evidence) -> None:
    anchor = evidence.run.anchor
    story.heading("Audit log", 2)
    if anchor is None:
        story.text("No audit log was given to this bundle: nothing here says who ran what, and when.")
    else:
        story.text(f"{anchor.size} entries, log {anchor.log_id}, root {anchor.root}.")
    story.text("The files beside this one hold the evidence; verify_bundle.py checks them with nothing but Python.")
    if story.unknown:
        story.text(f"{story.unknown} characters are not in the font and stand as ?; index.html shows them.")


class _Story:
    """What the document is made of, in order."""

    def __init__(self, evidence: Evidence) -> None:
        platypus, style = _module("platypus"), _module("lib.styles").ParagraphStyle
        self._known = _register_fonts()
        base = {"fontName": _FONT, "fontSize": 8.5, "leading": 11.5, "wordWrap": "LTR", "splitLongWords": 1}
        self._styles = {
            "plain": style("plain", **base, spaceAfter=2),
            "quiet": style("quiet", **(base | {"fontSize": 7.5, "leading": 10, "textColor": "#555555"})),
            "bold": style("bold", **(base | {"fontName": _BOLD})),
            "cell": style("cell", **(base | {"fontSize": 7.5, "leading": 9.5})),
            "head": style("head", **(base | {"fontName": _BOLD, "fontSize": 7.5, "leading": 9.5})),
        }
        for level, size in ((1, 17), (2, 13), (3, 10)):
            self._styles[f"h{level}"] = style(
                f"h{level}", fontName=_BOLD, fontSize=size, leading=size * 1.3, spaceBefore=size * 0.8, keepWithNext=1
            )
        self._paragraph, self._spacer = platypus.Paragraph, platypus.Spacer
        self._foot = self.known(f"{stated_name(evidence.config)} · {evidence.subjects['fine_tuned_model']}")
        self.unknown = 0
        self.parts: list[Any] = []

    def known(self, words: str) -> str:
        """`words` with ``?`` for what the font cannot show, on one line."""
        return "".join(c if ord(c) in self._known else "?" for c in " ".join(words.split()))

    def _markup(self, words: str) -> str:
        shown = self.known(words)
        self.unknown += shown.count("?") - words.count("?")
        return escape(shown, quote=False)

    def heading(self, words: str, level: int) -> None:
        self.parts.append(self._paragraph(self._markup(words), self._styles[f"h{level}"]))

    def text(self, words: str, style: str = "plain", colour: str | None = None, indent: int = 0) -> None:
        markup = self._markup(words)
        if colour is not None:
            markup = f'<font color="{colour}">{markup}</font>'
        chosen = self._styles[style]
        if indent:
            chosen = type(chosen)(f"{style}-{indent}", parent=chosen, leftIndent=10 * indent)
        self.parts.append(self._paragraph(markup, chosen))

    def value(self, value: Any, indent: int = 1) -> None:
        """A JSON value as indented lines."""
        if isinstance(value, Mapping):
            for key, part in value.items():
                if isinstance(part, Mapping | list | tuple) and part:
                    self.text(f"{key}:", indent=indent)
                    self.value(part, indent + 1)
                else:
                    self.text(f"{key}: {_scalar(part)}", indent=indent)
        elif isinstance(value, list | tuple):
            for part in value:
                if isinstance(part, Mapping):
                    self.text("; ".join(f"{key}: {_scalar(each)}" for key, each in part.items()), indent=indent)
                else:
                    self.text(_scalar(part), indent=indent)
        else:
            self.text(_scalar(value), indent=indent)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[float]) -> None:
        platypus = _module("platypus")
        cells = [[self._paragraph(self._markup(each), self._styles["head"]) for each in header]]
        cells += [[self._paragraph(self._markup(each), self._styles["cell"]) for each in row] for row in rows]
        lines = [("LINEBELOW", (0, 0), (-1, -1), 0.4, "#cccccc"), ("VALIGN", (0, 0), (-1, -1), "TOP")]
        self.parts.append(
            platypus.Table(cells, colWidths=list(widths), repeatRows=1, style=platypus.TableStyle(lines), spaceAfter=8)
        )

    def chart(self, chart: charts.Chart) -> None:
        shapes, colour_of = _module("graphics.shapes"), _module("lib.colors").HexColor
        scale = 487.0 / chart.width
        group = shapes.Group(transform=(scale, 0, 0, -scale, 0, chart.height * scale))
        for mark in chart.marks:
            colour = colour_of(_COLOURS[mark.role])
            if isinstance(mark, charts.Path):
                flat = [part for point in mark.points for part in point]
                group.add(shapes.PolyLine(flat, strokeColor=colour, strokeWidth=mark.width))
            elif isinstance(mark, charts.Box):
                group.add(shapes.Rect(*mark.at, mark.width, mark.height, fillColor=colour, strokeColor=None))
            elif isinstance(mark, charts.Dot):
                group.add(shapes.Circle(*mark.at, mark.radius, fillColor=colour, strokeColor=None))
            else:
                words = self._markup(mark.words).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
                upright = shapes.Group(
                    transform=(1, 0, 0, -1, *mark.at)
                )  # the plane is upside down, the letters are not
                look = {"fontName": _FONT, "fontSize": mark.size, "textAnchor": mark.anchor, "fillColor": colour}
                upright.add(shapes.String(0, 0, words, **look))
                group.add(upright)
        drawing = shapes.Drawing(487.0, chart.height * scale)
        drawing.add(group)
        self.heading(chart.title, 3)
        self.parts += [drawing, self._spacer(1, 4)]
        self.text(chart.description, "quiet")

    def footer(self, canvas: Any, document: Any) -> None:
        """Which system and model, and the page's number, on every page."""
        canvas.setFont(_FONT, 6.5)
        canvas.drawString(54, 30, self._foot)
        canvas.drawRightString(541.28, 30, str(document.page))


def _module(name: str) -> ModuleType:
    return require(f"reportlab.{name}", extra="pdf", purpose="PDF documents")


def _scalar(value: Any) -> str:
    if value is None or value in ([], {}, ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_scalar(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_scalar(part) for part in value)
    return str(value)


@cache
def _register_fonts() -> frozenset[int]:
    """Make the fonts known to ReportLab; returns the code points that both have."""
    metrics, fonts = _module("pdfbase.pdfmetrics"), _fonts()
    for name, path in ((_FONT, fonts.regular), (_BOLD, fonts.bold)):
        metrics.registerFont(_module("pdfbase.ttfonts").TTFont(name, str(path)))
    known = [frozenset(metrics.getFont(name).face.charToGlyph) for name in (_FONT, _BOLD)]
    return known[0] & known[1]


@cache
def _fonts() -> _Fonts:
    """The fonts to embed; neither library is imported to find them."""
    found = find_spec("matplotlib")
    if found is not None and found.submodule_search_locations:
        folder = Path(found.submodule_search_locations[0], "mpl-data", "fonts", "ttf")
        if (folder / "DejaVuSans.ttf").is_file() and (folder / "DejaVuSans-Bold.ttf").is_file():
            return _Fonts(folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf")
    reportlab = find_spec("reportlab")
    assert reportlab is not None
    assert reportlab.submodule_search_locations
    folder = Path(reportlab.submodule_search_locations[0], "fonts")
    return _Fonts(folder / "Vera.ttf", folder / "VeraBd.ttf")
