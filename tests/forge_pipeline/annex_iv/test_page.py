"""The page and the PDF: self-contained, with the plots, the same bytes every time."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from forge_pipeline.annex_iv import BundleInputs, build_document, bundle, verify_annex_iv_artifact
from forge_pipeline.annex_iv import bundle as bundle_function
from forge_pipeline.annex_iv.charts import as_svg, charts, loss_chart
from forge_pipeline.annex_iv.evidence import Evidence, PdfWriter
from forge_pipeline.annex_iv.example import example_config
from forge_pipeline.annex_iv.pdf import pdf_writer, render_pdf
from forge_pipeline.annex_iv.regime import load_regime
from forge_pipeline.integrity import Digest
from forge_pipeline.training import LossPoint


@pytest.fixture(scope="module")
def pages(finished: Path) -> list[str]:
    return [page.extract_text() for page in PdfReader(finished / "annex_iv.pdf").pages]


class References(HTMLParser):
    """Everything that a page could load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [(name, value or "") for name, value in attrs if name in ("href", "src", "action", "srcset")]


def test_the_page_loads_nothing_and_runs_nothing(finished: Path) -> None:
    parser = References()
    parser.feed((finished / "index.html").read_text("utf-8"))
    assert not parser.tags & {"script", "link", "img", "iframe", "object", "form"}
    for name, value in parser.found:
        assert name == "href"
        assert value.startswith("#") or (finished / value).is_file(), value


def test_the_page_holds_every_plot_as_svg(finished: Path, evidence: Evidence) -> None:
    text = (finished / "index.html").read_text("utf-8")
    assert [chart.title for chart in charts(evidence)] == ["Loss", "Measurements", "Data audit", "Gates"]
    for chart in charts(evidence):
        assert as_svg(chart) in text
        root = ET.fromstring(as_svg(chart))
        width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
        for element in root:
            for key, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if key in element.attrib:
                    assert 0 <= float(element.attrib[key]) <= limit, chart.title


def test_a_loss_that_cannot_be_drawn_is_left_out() -> None:
    assert loss_chart(()) is None
    assert loss_chart([LossPoint(1, 0.1, 2.0, 1e-5, None)]) is None
    flat = loss_chart([LossPoint(1, 0.1, 2.0, 1e-5, None), LossPoint(2, 0.2, 2.0, 1e-5, 2.0)])
    assert flat is not None
    assert "training loss from 2 to 2" in flat.description


def test_the_page_names_who_declared_what_and_when(finished: Path) -> None:
    text = (finished / "index.html").read_text("utf-8")
    assert "put on record by synthetic-operator at 2026-11-21T12:00:00.000000Z (log entry 1)" in text


def test_the_pdf_says_what_the_page_says(pages: list[str], evidence: Evidence) -> None:
    text = "\n".join(pages)
    for entry in build_document(evidence):
        assert f"{entry.point} {entry.title}" in text
    for words in (
        "Synthetic example",
        "Not released",
        "Annex XI, section 1",
        "One-third rule: below",
        "summary: draft",
    ):
        assert words in text, words
    assert all("Sums, a synthetic example" in page for page in pages)  # the footer


def test_the_pdf_holds_no_time_and_no_random_id(finished: Path) -> None:
    reader = PdfReader(finished / "annex_iv.pdf")
    assert reader.metadata is not None
    assert reader.metadata.title == "Sums, a synthetic example: Annex IV documentation"
    assert reader.metadata.creation_date_raw == reader.metadata.modification_date_raw == "D:20000101000000+00'00'"
    assert str(reader.root_object["/Lang"]) == "en"


def test_the_pdf_is_the_same_bytes_in_another_process(finished: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from forge_pipeline.annex_iv import AnnexIvBundle, build_document, load_regime\n"
        "from forge_pipeline.annex_iv.pdf import render_pdf\n"
        "evidence = AnnexIvBundle.open(Path(sys.argv[1])).evidence\n"
        "sys.stdout.buffer.write(render_pdf(evidence, build_document(evidence), load_regime()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(finished)],
        capture_output=True, check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"},
    )  # fmt: skip
    assert done.stdout == (finished / "annex_iv.pdf").read_bytes()


def test_provider_text_cannot_become_markup_in_the_pdf_and_unknown_characters_are_counted(
    example: BundleInputs, tmp_path: Path
) -> None:
    hostile = "<b>bold</b> & <font color=red>red</font> <para> \u4e2d\u6587 purposes of a system."
    made = bundle(replace(example, config=example_config(tmp_path / "r", intended_purpose=hostile)), tmp_path / "b")
    text = "\n".join(page.extract_text() for page in PdfReader(made.path / "annex_iv.pdf").pages)
    flat = " ".join(text.split())
    assert "<b>bold</b> & <font color=red>red</font> <para> ?? purposes of a system." in flat
    assert "characters are not in the font and stand as ?" in flat
    assert verify_annex_iv_artifact(str(made.path / "annex_iv.json")).valid


@pytest.fixture
def module() -> Any:
    return sys.modules[bundle_function.__module__]


def test_without_the_library_the_bundle_says_so_and_is_valid(
    example: BundleInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    monkeypatch.setattr(module, "pdf_writer", lambda: None)
    made = bundle(example, tmp_path / "bundle")
    assert not (made.path / "annex_iv.pdf").exists()
    assert made.manifest["pdf"] is None
    assert "There is no PDF: the extra pdf was not installed" in (made.path / "index.html").read_text("utf-8")
    result = verify_annex_iv_artifact(str(made.path / "annex_iv.json"))
    assert result.valid, result.reason


def test_another_library_leaves_the_pdf_unchecked_and_says_so(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge_pipeline.annex_iv import verify

    for here in (None, PdfWriter("reportlab 0.1", Digest.of(b"other fonts"))):
        monkeypatch.setattr(verify, "pdf_writer", lambda here=here: here)
        result = verify_annex_iv_artifact(str(finished / "annex_iv.json"))
        assert result.valid
        assert any("whether annex_iv.pdf follows" in words for words in result.not_checked)


def test_the_same_writer_makes_the_same_pdf(finished: Path, evidence: Evidence) -> None:
    assert pdf_writer() == evidence.run.pdf
    made = render_pdf(evidence, build_document(evidence), load_regime())
    assert made == (finished / "annex_iv.pdf").read_bytes()
    assert len(PdfReader(BytesIO(made)).pages) < 40
