"""Annex XI and XII, the one-third rule from declarations, and the draft of the training-content summary."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs, build_document, bundle
from forge_pipeline.annex_iv.content_summary import SECTIONS, build_summary
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.example import example_config
from forge_pipeline.annex_iv.gpai import ANNEX_XI, ANNEX_XII, GPAI_DECLARATIONS
from forge_pipeline.annex_iv.regime import load_regime
from forge_pipeline.config import compliance
from forge_pipeline.integrity import loads_strict
from forge_pipeline.training import ResourceUsage


@pytest.fixture
def declaring(
    example: BundleInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Evidence, dict[str, Any]]]:
    """Bundle of the example with more declarations; the recipe takes the keys of this module beside Annex IV's."""
    monkeypatch.setattr(compliance, "ANNEX_IV_POINTS", (*compliance.ANNEX_IV_POINTS, *GPAI_DECLARATIONS))
    given = example_config(tmp_path / "given").compliance
    assert given is not None

    def make(declarations: dict[str, str] | None = None, **changes: Any) -> tuple[Evidence, dict[str, Any]]:
        config = example_config(tmp_path / "recipe", declarations={**given.declarations, **(declarations or {})})
        made = bundle(replace(example, config=config, **changes), tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}")
        return made.evidence, {
            **made.manifest,
            "summary": loads_strict((made.path / "training_content_summary.json").read_bytes()),
        }

    return make


def by_point(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["point"]: entry for entry in entries}


GPU = ResourceUsage(3600.0, 10**10, 100.0, 3600.0, 3600.0, None, "NVIDIA H200", None)


def test_every_point_has_the_digest_of_its_text() -> None:
    digests = load_regime().text_digests
    assert {point.id for point in (*ANNEX_XI, *ANNEX_XII)} <= set(digests)
    assert len({name for name in digests if name.startswith("IV ")}) == 23


def test_the_example_answers_what_was_measured_and_leaves_the_rest_missing(declaring: Any) -> None:
    _, manifest = declaring()
    statuses = {name: entry["status"] for name, entry in by_point(manifest["annex_xi"] + manifest["annex_xii"]).items()}
    assert statuses == {
        "XI 1(a)": "declared", "XI 1(b)": "missing", "XI 1(c)": "missing", "XI 1(d)": "auto", "XI 1(e)": "auto",
        "XI 1(f)": "missing", "XI 2(a)": "missing", "XI 2(b)": "declared", "XI 2(c)": "declared", "XI 2(d)": "auto",
        "XI 2(e)": "missing",
        "XII 1(a)": "declared", "XII 1(b)": "missing", "XII 1(c)": "missing", "XII 1(d)": "declared",
        "XII 1(e)": "auto", "XII 1(f)": "auto", "XII 1(g)": "auto", "XII 1(h)": "missing", "XII 2(a)": "missing",
        "XII 2(b)": "auto", "XII 2(c)": "declared",
    }  # fmt: skip
    assert manifest["gpai_missing"] == [name for name, status in statuses.items() if status == "missing"]


def test_one_declaration_answers_both_annexes(declaring: Any) -> None:
    said = {"XI 1(b)": "No use in weapons.", "XI 1(f)": "Apache-2.0", "XI 1(c)": "not applicable: it is not released"}
    _, manifest = declaring(said)
    entries = by_point(manifest["annex_xi"] + manifest["annex_xii"])
    for point in ("XI 1(b)", "XII 1(b)", "XI 1(f)", "XII 1(h)"):
        assert entries[point]["status"] == "declared"
        assert entries[point]["declared_by"]["provider"] == "Example Provider"
    assert entries["XI 1(c)"]["status"] == entries["XII 1(c)"]["status"] == "not_applicable"


@pytest.mark.parametrize("text", ["x", "TODO", "n/a", "  ", "lorem ipsum dolor", "not applicable: -"])
def test_a_placeholder_declares_nothing_here_either(declaring: Any, text: str) -> None:
    _, manifest = declaring(dict.fromkeys(("XI 1(b)", "summary 3.1"), text))
    assert by_point(manifest["annex_xi"])["XI 1(b)"]["status"] == "missing"
    assert by_point(manifest["summary"]["sections"])["summary 3.1"]["status"] == "missing"
    if text.strip():
        assert "compliance.declarations['XI 1(b)']" in manifest["placeholders"]


def test_the_one_third_rule_takes_the_declared_compute_of_the_original(declaring: Any) -> None:
    _, manifest = declaring({"GPAI base_training_flop": "1.8e22, as its model card says"})
    rule = manifest["one_third_rule"]
    assert rule["base_training_flop"] == 1.8e22
    assert rule["threshold_flop"] == pytest.approx(6e21)
    assert rule["method"] == "architecture"
    assert rule["verdict"] == "below"


@pytest.mark.parametrize(
    ("said", "threshold"), [("yes, it is on the list", 1e25 / 3), ("no", 1e23 / 3), ("maybe", 1e23 / 3)]
)
def test_systemic_risk_of_the_original_moves_the_threshold(declaring: Any, said: str, threshold: float) -> None:
    _, manifest = declaring({"GPAI base_systemic_risk": said})
    assert manifest["one_third_rule"]["threshold_flop"] == pytest.approx(threshold)


def test_the_hardware_method_stands_beside_the_architectures(declaring: Any) -> None:
    _, manifest = declaring(usage=GPU)
    rule = manifest["one_third_rule"]
    assert rule["hardware_flop"] == pytest.approx(3600 * 9.89e14)
    assert rule["hardware_is_upper_limit"] is True
    assert any("upper limit" in words for words in rule["assumptions"])
    _, manifest = declaring({"GPAI device_utilization": "0.4, profiled"}, usage=GPU)
    assert manifest["one_third_rule"]["hardware_flop"] == pytest.approx(0.4 * 3600 * 9.89e14)
    assert manifest["one_third_rule"]["hardware_is_upper_limit"] is False


def test_energy_is_measured_else_estimated_else_missing(declaring: Any) -> None:
    def energy(usage: ResourceUsage | None) -> dict[str, Any]:
        return by_point(declaring(usage=usage)[1]["annex_xi"])["XI 2(e)"]

    assert energy(None)["status"] == "missing"
    assert energy(GPU)["value"]["facts"]["energy_kwh_at_most"] == pytest.approx(0.7)
    assert energy(replace(GPU, gpu_seconds=None, energy_kwh=0.25))["value"]["facts"]["energy_kwh"] == 0.25
    assert energy(replace(GPU, device_name="Nobody's Accelerator"))["status"] == "missing"


def test_the_summary_is_a_draft_and_says_what_is_missing(declaring: Any) -> None:
    _, manifest = declaring()
    summary = manifest["summary"]
    assert [section["point"] for section in summary["sections"]] == [point.id for point in SECTIONS]
    assert summary["label"] == manifest["training_content_summary"]["label"] == "draft"
    assert summary["missing"] == ["summary 1.2", "summary 1.3", "summary 2.5", "summary 3.1", "summary 3.2"]
    sections = by_point(summary["sections"])
    assert sections["summary 1.3"]["value"]["facts"]["tokens"] == {"train": 408, "validation": 72}
    assert sections["summary 1.3"]["value"]["facts"]["rows"] == {"train": 34, "validation": 6}
    assert sections["summary 1.3"]["value"]["facts"]["languages"]["train"] == [{"code": "en", "count": 34}]
    source = sections["summary 2.5"]["value"]["facts"]["sources"][0]
    assert (source["license"], source["origin"], source["category"]) == (
        "CC0-1.0",
        "written for this example",
        "synthetic",
    )


def test_with_every_section_stated_the_summary_is_complete(declaring: Any) -> None:
    said = {section: f"What the provider says about {section}." for section in ("1.2", "1.3", "2.5", "3.1", "3.2")}
    _, manifest = declaring({f"summary {section}": text for section, text in said.items()})
    assert manifest["summary"]["label"] == "complete"
    assert manifest["summary"]["missing"] == []


@pytest.mark.parametrize(
    ("category", "section", "missing"),
    [
        ("public", "summary 2.1", False),
        ("licensed", "summary 2.2", False),
        ("private_other", "summary 2.2", False),
        ("crawled", "summary 2.3", True),  # crawler, period and behaviour are nowhere else
        ("user", "summary 2.4", True),
        ("synthetic", "summary 2.5", True),  # nobody has said what generated the rows
        ("other", "summary 2.6", True),  # also what a recipe says when nobody chose
    ],
)
def test_a_source_stands_in_the_section_of_its_category(
    evidence: Evidence, category: Any, section: str, missing: bool
) -> None:
    sources = tuple(replace(source, category=category) for source in evidence.provenance.sources)
    evidence = replace(evidence, provenance=replace(evidence.provenance, sources=sources))
    found = {entry.point: entry for entry in build_summary(evidence)}
    listed = {point for point, entry in found.items() if isinstance(entry.value.get("facts", {}).get("sources"), list)}
    assert listed == {section, "summary 2.5"} - ({"summary 2.5"} if category != "synthetic" else set())
    assert (found[section].status == "missing") is missing


def test_a_licence_that_is_a_placeholder_keeps_the_section_open(evidence: Evidence) -> None:
    sources = tuple(
        replace(source, category="public", license="TODO", origin="x") for source in evidence.provenance.sources
    )
    evidence = replace(evidence, provenance=replace(evidence.provenance, sources=sources))
    found = {entry.point: entry for entry in (*build_summary(evidence), *build_document(evidence))}
    for point in ("summary 2.1", "2(d)"):
        assert found[point].status == "missing"
        assert any("licence of" in words for words in found[point].value["awaiting"])
        assert any("origin of" in words for words in found[point].value["awaiting"])
