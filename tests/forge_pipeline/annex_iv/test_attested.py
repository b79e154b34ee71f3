"""A bundle with statements about its artefacts: they are in it, in the log, and it still verifies."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.annex_iv import bundle, verify_annex_iv_artifact
from forge_pipeline.annex_iv.attested import attested_inputs, model_facts
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.attestation import SigningKeys, verify_files
from forge_pipeline.audit_log import AuditLogger, read_entries

KEYS = SigningKeys(Ed25519PrivateKey.from_private_bytes(b"k" * 32), ec.derive_private_key(5, ec.SECP256R1()))


@pytest.fixture
def line(tmp_path: Path) -> Path:
    return tmp_path / "line"


def test_the_bundle_holds_the_statements_and_the_log_their_events(line: Path, tmp_path: Path) -> None:
    inputs = example_inputs(line)
    assert inputs.audit_log_path is not None
    logger = AuditLogger(str(inputs.audit_log_path.parent), run_id="run-example")
    inputs = attested_inputs(inputs, logger, keys=KEYS, packages={"torch": "2.13"})
    made = bundle(inputs, tmp_path / "bundle")
    result = verify_annex_iv_artifact(str(made.path / "annex_iv.json"))
    assert result.valid, result.reason
    folder = made.path / "evidence"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("attestations/*")}
    assert KEYS.statements is not None
    assert KEYS.model is not None
    publics = [KEYS.statements.public_key(), KEYS.model.public_key()]
    subjects = {name: artifact.digest for name, artifact in inputs.artifacts.items()}
    found = verify_files(files, publics, subjects)
    assert (found.problems, found.not_checked) == ((), ())
    events = [entry for entry in read_entries(made.path / "audit_log.jsonl") if entry.event == "bundle.attested"]
    assert len(events) == len(found.verified)


def test_a_changed_statement_breaks_the_bundle(line: Path, tmp_path: Path) -> None:
    made = bundle(attested_inputs(example_inputs(line), None, keys=KEYS, packages={}), tmp_path / "bundle")
    file = made.path / "evidence" / "attestations" / "fine_tuned_model.sig"
    file.write_bytes(file.read_bytes() + b" ")
    result = verify_annex_iv_artifact(str(made.path / "annex_iv.json"))
    assert not result.valid
    assert "fine_tuned_model.sig" in (result.reason or "")


def test_without_keys_nothing_is_logged(line: Path) -> None:
    inputs = example_inputs(line)
    assert inputs.audit_log_path is not None
    logger = AuditLogger(str(inputs.audit_log_path.parent), run_id="run-example")
    assert attested_inputs(inputs, logger, keys=SigningKeys(), packages={}).anchor == inputs.anchor


def test_the_model_is_called_by_the_key_it_was_recorded_under(line: Path) -> None:
    inputs = example_inputs(line)
    renamed = tuple(
        {**each, "asset_key": each["asset_key"].replace("example/", "studio/")} for each in inputs.materializations
    )
    assert model_facts(inputs).asset_key == "example/fine_tuned_model"
    facts = model_facts(replace(inputs, materializations=renamed))
    assert (facts.asset_key, facts.dataset.asset_key) == ("studio/fine_tuned_model", "studio/raw_dataset")
