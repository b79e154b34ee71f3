"""The next version: what changed since the one before, and the proof that the log only grew."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import AnnexIvBundle, BundleInputs, build_example_bundle, bundle, verify_annex_iv_artifact
from forge_pipeline.annex_iv.example import example_config, example_inputs
from forge_pipeline.annex_iv.manifest import manifest_hash
from forge_pipeline.annex_iv.verify_bundle import check_given_parent
from forge_pipeline.annex_iv.verify_bundle import verify as verify_without_package
from forge_pipeline.annex_iv.versions import differences
from forge_pipeline.audit_log import AuditLogger, AuditSettings
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest, canonical_json, loads_strict


@dataclass(frozen=True)
class Two:
    """A bundle, and that of the version after it; the line's log went on in between."""

    first: AnnexIvBundle
    second: AnnexIvBundle
    inputs: BundleInputs


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("versions")
    inputs = example_inputs(folder / "inputs")
    first = bundle(inputs, folder / "first")
    assert inputs.audit_log_path is not None
    assert inputs.benchmark is not None
    logger = AuditLogger.with_settings(inputs.audit_log_path.parent, AuditSettings("somebody"))
    logger.log_event("compliance.bundle_written", digest=first.digest)
    better = replace(inputs.benchmark, scores={"held_out": 0.95}, average_score=0.95)
    later = replace(
        inputs,
        config=example_config(folder / "inputs", system_version="0.2"),
        benchmark=better,
        anchor=logger.anchor(),
        parent=first.as_parent(),
        environment={**inputs.environment, "git_commit": "0" * 40},
    )
    return Two(first, bundle(later, folder / "second"), later)


def stdlib(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(directory / "verify_bundle.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def verify(made: Path, parent: Path | None = None) -> Any:
    return verify_annex_iv_artifact(
        str(made / "annex_iv.json"), parent=str(parent / "annex_iv.json") if parent else None
    )


def test_the_second_version_verifies_with_and_without_the_first(two: Two) -> None:
    alone = verify(two.second.path)
    assert alone.valid, alone.reason
    assert "the previous version's bundle, which was not given" in alone.not_checked
    both = verify(two.second.path, two.first.path)
    assert both.valid, both.reason
    assert "the previous version's bundle, which was not given" not in both.not_checked


def test_the_bundles_own_verifier_agrees(two: Two) -> None:
    assert stdlib(two.second.path).returncode == 0
    done = stdlib(two.second.path, "--parent", str(two.first.path))
    assert done.returncode == 0, done.stdout


def test_what_changed_is_listed(two: Two) -> None:
    points = {entry["point"]: entry["value"] for entry in two.second.manifest["points"]}
    facts = points["6"]["facts"]
    assert facts["since"] == two.first.manifest["manifest_hash"]
    assert facts["artefacts_changed"] == []
    assert {"key": "compliance.system_version", "before": "0.1", "now": "0.2"} in facts["recipe_changes"]
    assert facts["base_model_changes"] == []
    assert facts["code_changes"] == [{"key": "git_commit", "before": None, "now": "0" * 40}]
    delta = next(each for each in facts["metrics"] if each["metric"] == "benchmark.held_out")
    assert (delta["before"], delta["now"]) == (0.9, 0.95)
    assert delta["difference"] == pytest.approx(0.05)
    assert points["1(a)"]["facts"]["previous_version"]["audit_log"].startswith("extends the parent's")


def test_the_first_version_says_that_it_is(two: Two) -> None:
    assert two.first.manifest["consistency_proof"] is None
    assert "the first version" in (two.first.path / "index.html").read_text("utf-8")
    assert not verify(two.first.path, two.second.path).valid  # it names no parent


@pytest.mark.parametrize("proof", [None, [], ["sha256:" + "0" * 64]])
def test_another_proof_is_rejected_by_both(two: Two, tmp_path: Path, proof: list[str] | None) -> None:
    """The forger changes the evidence and the manifest alike."""
    made = Path(shutil.copytree(two.second.path, tmp_path / "bundle"))
    run = loads_strict((made / "evidence" / "run.json").read_bytes())
    (made / "evidence" / "run.json").write_bytes(canonical_json({**run, "consistency_proof": proof}))
    manifest = {**two.second.manifest, "consistency_proof": proof}
    data = (made / "evidence" / "run.json").read_bytes()
    for entry in manifest["files"]:
        if entry["path"] == "evidence/run.json":
            entry |= {"size": len(data), "digest": Digest.of(data)}
    manifest["manifest_hash"] = manifest_hash(manifest)
    (made / "annex_iv.json").write_bytes(canonical_json(manifest))
    assert not verify(made).valid
    assert any("does not extend" in problem for problem in verify_without_package(str(made))[1])


def test_another_bundle_is_not_the_parent(two: Two, tmp_path: Path) -> None:
    other = build_example_bundle(tmp_path / "other").parent
    assert "this one names" in (verify(two.second.path, other).reason or "")
    assert check_given_parent(two.second.manifest, str(other))
    done = stdlib(two.second.path, "--parent", str(other))
    assert done.returncode == 6
    assert "is not the one named" in done.stdout


def test_a_parent_that_was_touched_is_rejected_by_both(two: Two, tmp_path: Path) -> None:
    touched = Path(shutil.copytree(two.first.path, tmp_path / "touched"))
    (touched / "model_card.md").write_text("another card")
    assert "the previous version's bundle" in (verify(two.second.path, touched).reason or "")
    assert stdlib(two.second.path, "--parent", str(touched)).returncode == 6


def test_no_bundle_is_made_when_the_log_was_rewritten_since_the_parent(two: Two, tmp_path: Path) -> None:
    parent = two.inputs.parent
    assert parent is not None
    assert parent.audit_log is not None
    rewritten = replace(parent, audit_log=replace(parent.audit_log, root="sha256:" + "1" * 64))
    with pytest.raises(EvidenceError, match="the log was rewritten since"):
        bundle(replace(two.inputs, parent=rewritten), tmp_path / "bundle")
    longer = replace(parent, audit_log=replace(parent.audit_log, size=10_000))
    with pytest.raises(EvidenceError, match="shorter than that of the parent"):
        bundle(replace(two.inputs, parent=longer), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_another_log_is_no_proof_and_is_said(two: Two, tmp_path: Path) -> None:
    parent = two.inputs.parent
    assert parent is not None
    assert parent.audit_log is not None
    other = replace(parent, audit_log=replace(parent.audit_log, log_id="00000000-0000-4000-8000-000000000000"))
    made = bundle(replace(two.inputs, parent=other), tmp_path / "bundle")
    assert made.manifest["consistency_proof"] is None
    assert verify(made.path).valid
    assert "not comparable" in (made.path / "technical_documentation.md").read_text("utf-8")


def test_differences_name_the_path_of_each_key() -> None:
    before, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(before, now) == [
        {"key": "a.c", "before": 2, "now": 4},
        {"key": "d", "before": 3, "now": None},
        {"key": "e", "before": None, "now": 5},
    ]
