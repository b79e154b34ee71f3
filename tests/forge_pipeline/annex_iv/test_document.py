"""Which points are auto, declared, missing or not applicable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs, PointEntry, build_document, bundle
from forge_pipeline.annex_iv.example import example_config, example_inputs
from forge_pipeline.config.evaluation import SafetySection
from forge_pipeline.errors import EvidenceError, IntegrityError
from forge_pipeline.integrity import Digest


def entries_of(inputs: BundleInputs, folder: Path) -> dict[str, PointEntry]:
    return {entry.point: entry for entry in build_document(bundle(inputs, folder / "bundle").evidence)}


def with_compliance(inputs: BundleInputs, folder: Path, **compliance: Any) -> BundleInputs:
    return replace(inputs, config=example_config(folder / "recipe", **compliance))


def test_the_example_has_every_status(example: BundleInputs, tmp_path: Path) -> None:
    statuses = {point: entry.status for point, entry in entries_of(example, tmp_path).items()}
    assert statuses == {
        "1(a)": "declared", "1(b)": "declared", "1(c)": "auto", "1(d)": "auto", "1(e)": "declared",
        "1(f)": "not_applicable", "1(g)": "missing", "1(h)": "missing",
        "2(a)": "auto", "2(b)": "declared", "2(c)": "auto", "2(d)": "declared", "2(e)": "missing", "2(f)": "missing",
        "2(g)": "auto", "2(h)": "auto",
        "3": "declared", "4": "missing", "5": "declared", "6": "auto", "7": "missing", "8": "not_applicable",
        "9": "missing",
    }  # fmt: skip


def test_a_recipe_of_the_letter_x_declares_nothing(example: BundleInputs, tmp_path: Path) -> None:
    names = ("provider_name", "system_name", "intended_purpose", "known_limitations", "system_version")
    everything = dict.fromkeys(entries_of(example, tmp_path), "x")
    inputs = with_compliance(
        example, tmp_path, **dict.fromkeys(names, "x"), declarations=everything, risk_classification=None
    )
    entries = entries_of(inputs, tmp_path / "x")
    declared = [point for point, entry in entries.items() if entry.status == "declared"]
    assert declared == ["2(d)", "5"]  # from data.governance and risk_assessment, which still say something
    missing = {point for point, entry in entries.items() if entry.status == "missing"}
    assert {"1(a)", "1(b)", "3", "4", "7", "9"} <= missing


def test_with_every_declaration_the_bundle_is_complete(example: BundleInputs, tmp_path: Path) -> None:
    missing = bundle(example, tmp_path / "before").missing_fields
    said = {point: f"What the provider says about point {point}." for point in missing}
    said["1(g)"] = "not applicable: the system has no user interface"
    section = example.config.compliance
    assert section is not None
    inputs = with_compliance(example, tmp_path, declarations={**section.declarations, **said})
    made = bundle(inputs, tmp_path / "after")
    assert made.complete
    assert made.missing_fields == []
    assert made.manifest["released"] is False  # complete is about content, not about a release


@pytest.mark.parametrize("tier", ["high-risk", "unknown", None])
def test_the_declaration_of_conformity_is_missing_unless_the_provider_says_low_risk(
    example: BundleInputs, tmp_path: Path, tier: str | None
) -> None:
    config = example_config(tmp_path / "recipe")
    risk = config.risk_assessment
    assert risk is not None
    assert config.compliance is not None
    # model_copy, because a valid high-risk recipe would need a safety evaluation here
    config = config.model_copy(
        update={
            "compliance": config.compliance.model_copy(update={"risk_classification": tier}),
            "risk_assessment": risk.model_copy(update={"risk_category": None}),
        }
    )
    if tier == "high-risk":
        evaluation = config.evaluation.model_copy(update={"safety": SafetySection(enabled=True)})
        config = config.model_copy(update={"evaluation": evaluation})
    entries = entries_of(replace(example, config=config), tmp_path)
    assert entries["8"].status == "missing"
    assert entries["5"].status == "missing"


def test_a_source_without_licence_leaves_2d_missing(example: BundleInputs, tmp_path: Path) -> None:
    entries = entries_of(example, tmp_path)
    facts = entries["2(d)"].value["facts"]
    assert facts["rows"] == {"train": 34, "validation": 6}
    silent = example.config.data.model_copy(update={"governance": None})
    config = example.config.model_copy(update={"data": silent})
    entries = entries_of(replace(example, config=config), tmp_path / "silent")
    assert entries["2(d)"].status == "missing"
    assert entries["2(d)"].value["awaiting"] == ["data.governance.collection_method"]


def test_without_an_evaluation_2g_is_missing(example: BundleInputs, tmp_path: Path) -> None:
    entry = entries_of(replace(example, benchmark=None), tmp_path)["2(g)"]
    assert entry.status == "missing"
    assert entry.value["awaiting"] == ["a benchmark or a safety evaluation of this model"]


def test_the_next_version_names_its_parent_and_what_changed(example: BundleInputs, tmp_path: Path) -> None:
    parent = bundle(example, tmp_path / "first").as_parent()
    inputs = with_compliance(example, tmp_path, system_version="0.2")
    entries = entries_of(replace(inputs, parent=parent), tmp_path)
    assert entries["1(a)"].value["facts"]["previous_version"]["manifest_hash"] == parent.manifest_hash
    facts = entries["6"].value["facts"]
    assert facts["artefacts_changed"] == []
    changed = {each["key"]: (each["before"], each["now"]) for each in facts["recipe_changes"]}
    assert changed["compliance.system_version"] == ("0.1", "0.2")


def test_every_evidence_reference_is_a_file_or_artefact_of_the_bundle(example: BundleInputs, tmp_path: Path) -> None:
    made = bundle(example, tmp_path / "made")
    known = {entry["path"]: entry["digest"] for entry in made.manifest["files"]} | made.manifest["subjects"]
    for entry in made.manifest["points"]:
        for each in entry["evidence"]:
            if each["kind"] != "log":
                assert known[each["name"]] == each["digest"], entry["point"]


def test_artefacts_of_another_run_are_refused(example: BundleInputs, tmp_path: Path) -> None:
    stranger = replace(example.benchmark, subject=Digest.of(b"another model"))  # type: ignore[type-var]
    with pytest.raises(IntegrityError, match="the benchmark report is about"):
        bundle(replace(example, benchmark=stranger), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_directory_that_changed_is_refused(tmp_path: Path) -> None:
    inputs = example_inputs(tmp_path / "example")
    (inputs.model.path / "extra.txt").write_text("added")
    with pytest.raises(IntegrityError, match="fine_tuned_model"):
        bundle(inputs, tmp_path / "bundle")


def test_a_log_shorter_than_its_anchor_is_refused(example: BundleInputs, tmp_path: Path) -> None:
    assert example.anchor is not None
    with pytest.raises(EvidenceError, match="the anchor says"):
        bundle(replace(example, anchor=replace(example.anchor, size=example.anchor.size + 1)), tmp_path / "bundle")


def test_the_copied_log_ends_at_the_anchor(tmp_path: Path) -> None:
    from forge_pipeline.annex_iv import verify_annex_iv_artifact
    from forge_pipeline.audit_log import AuditLogger, AuditSettings

    inputs = example_inputs(tmp_path / "example")
    assert inputs.audit_log_path is not None
    assert inputs.anchor is not None
    later = AuditLogger.with_settings(inputs.audit_log_path.parent, AuditSettings("somebody"))
    later.log_event("acme.later", note="after the anchor")
    made = bundle(inputs, tmp_path / "bundle")
    assert len((made.path / "audit_log.jsonl").read_bytes().splitlines()) == inputs.anchor.size
    assert verify_annex_iv_artifact(str(made.path / "annex_iv.json")).valid


def test_a_declared_point_names_recipe_provider_operator_and_time(example: BundleInputs, tmp_path: Path) -> None:
    from forge_pipeline.config import config_digest

    entries = entries_of(example, tmp_path)
    by = entries["1(b)"].declared_by
    assert by is not None
    assert (by.recipe, by.provider) == (config_digest(example.config), "Example Provider")
    assert (by.operator, by.at, by.log_seq) == ("synthetic-operator", "2026-11-21T12:00:00.000000Z", 1)
    assert entries["1(c)"].declared_by is None  # facts alone
    assert entries["8"].declared_by == by  # not applicable, because the provider classified the system


def test_who_declared_is_not_known_where_the_log_does_not_say(example: BundleInputs, tmp_path: Path) -> None:
    other = with_compliance(example, tmp_path, system_version="0.9")  # the log names another recipe
    for name, inputs in (("other", other), ("none", replace(example, audit_log_path=None, anchor=None))):
        by = entries_of(inputs, tmp_path / name)["1(b)"].declared_by
        assert by is not None
        assert by.provider == "Example Provider"
        assert (by.operator, by.at, by.log_seq) == (None, None, None)


def test_2g_has_a_table_with_intervals(example: BundleInputs, tmp_path: Path) -> None:
    rows = entries_of(example, tmp_path)["2(g)"].value["facts"]["measurements"]
    assert [row["what"] for row in rows] == ["held_out"]
    low, high = rows[0]["interval"]
    assert low < 0.9 < high
    assert (rows[0]["n"], rows[0]["base"], rows[0]["difference_interval"]) == (40, 0.25, (0.5, 0.8))
    text = (tmp_path / "bundle" / "instructions_for_use.md").read_text("utf-8")
    assert "95 % interval" in text


def test_measured_memory_is_told_and_the_hardware_stays_the_providers_word(
    example: BundleInputs, tmp_path: Path
) -> None:
    from forge_pipeline.training import ResourceUsage

    usage = ResourceUsage(1.0, 3 * 10**9, None, 1.0, None, None, "Some CPU", None)
    silent = with_compliance(replace(example, usage=usage), tmp_path, declarations={})
    entry = entries_of(silent, tmp_path)["1(e)"]
    assert entry.status == "missing"
    assert entry.value["facts"]["training_peak_memory_bytes"] == 3 * 10**9
    text = (tmp_path / "bundle" / "instructions_for_use.md").read_text("utf-8")
    assert "3.00 GB of memory" in text


def test_extra_files_are_evidence_that_the_manifest_covers(example: BundleInputs, tmp_path: Path) -> None:
    from forge_pipeline.annex_iv import verify_annex_iv_artifact
    from forge_pipeline.annex_iv.verify_bundle import verify as verify_without_package

    extra = {"attestations/model.dsse.json": b"{}", "ml_bom.cdx.json": b'{"bomFormat":"CycloneDX"}'}
    made = bundle(replace(example, extra_files=extra), tmp_path / "bundle")
    points = {entry["point"]: entry for entry in made.manifest["points"]}
    assert points["2(h)"]["value"]["facts"]["attached"] == {name: Digest.of(data) for name, data in extra.items()}
    path = str(made.path / "annex_iv.json")
    assert verify_annex_iv_artifact(path).valid
    (made.path / "evidence" / "ml_bom.cdx.json").write_bytes(b"{}")
    assert "evidence/ml_bom.cdx.json changed" in (verify_annex_iv_artifact(path).reason or "")
    assert verify_without_package(str(made.path))[1]


@pytest.mark.parametrize(
    "name", ["../out.json", "/tmp/out.json", "a/../../b", "a\\b", "", ".", "run.json", "gates.json", "C:x", "a//b"]
)
def test_an_extra_file_has_a_plain_path_of_its_own(example: BundleInputs, tmp_path: Path, name: str) -> None:
    with pytest.raises(EvidenceError, match="extra_files names"):
        bundle(replace(example, extra_files={name: b"{}"}), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
