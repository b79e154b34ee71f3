"""`forge verify`: exit codes 0, 1 and 6, what people read, and JSON whose members stay."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.gguf_fuzz import sound_parts
from forge_pipeline.attestation import envelope, model_signature, statement, subjects_of
from forge_pipeline.audit_log import LOG_FILE, AuditLogger
from forge_pipeline.integrity import Digest, Manifest, canonical_json

Forge = Callable[..., Any]

COMMON = {"schema", "what", "path", "valid", "reason", "assurance", "not_checked"}
MEMBERS = {
    "log": {"entries_count", "first_invalid_index", "failure", "log_id", "root", "chain_head", "checks", "openings",
            "redacted_openings"},
    "bundle": {"missing_fields", "manifest_hash_actual", "manifest_hash_expected", "complete"},
    "gguf": {"digest", "checks"},
    "integrity": {"kind", "digest", "added", "removed", "changed", "links", "pickles", "compared_with"},
    "attestation": {"predicate_type", "subject", "digest", "files", "key"},
}  # fmt: skip


@pytest.fixture
def evidence(tmp_path: Path, example_bundle: Path) -> dict[str, list[str]]:
    """One sound thing of each kind: what follows ``forge verify``."""
    shutil.copytree(example_bundle, tmp_path / "bundle")
    shutil.copytree(example_bundle, tmp_path / "artefact")
    (tmp_path / "artefact" / "annex_iv.json").unlink()
    (tmp_path / "model.gguf").write_bytes(sound_parts().join())
    logger = AuditLogger(str(tmp_path / "log"), run_id="r")
    for digest in (Digest.of_file(tmp_path / "model.gguf"), Manifest.of_directory(tmp_path / "artefact").digest):
        logger.log_event(
            "artifact.materialized", asset_key="x/y", digest=digest, files=1, inputs={}, code_version="1", kind="X"
        )
    key, manifest = Ed25519PrivateKey.generate(), Manifest.of_directory(tmp_path / "artefact")
    write_key(key, tmp_path / "key.pem")
    made = envelope(statement(subjects_of("artefact", manifest), "https://example.org/x", {}), key)
    (tmp_path / "made.dsse.json").write_bytes(canonical_json(made))
    return {
        "log": ["log", f"log/{LOG_FILE}"],
        "bundle": ["bundle", "bundle"],
        "gguf": ["gguf", "model.gguf", "--audit-log", f"log/{LOG_FILE}"],
        "integrity": ["integrity", "artefact", "--listing", "made.dsse.json", "--public-key", "key.pem"],
        "attestation": ["attestation", "made.dsse.json", "--public-key", "key.pem", "--directory", "artefact"],
    }


def write_key(key: Any, path: Path) -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "log": lambda root: edit(root / "log" / LOG_FILE, b'"kind":"X"', b'"kind":"Y"'),
    "bundle": lambda root: (root / "bundle" / "model_card.md").write_text("# Better"),
    "gguf": lambda root: edit(root / "model.gguf", b"to be broken", b"not to be it"),
    "integrity": lambda root: (root / "artefact" / "extra.txt").write_text("x"),
    "attestation": lambda root: (root / "artefact" / "model_card.md").write_text("# Better"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_sound_evidence_ends_with_0_and_damaged_with_6(
    kind: str, evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    done = forge("verify", *evidence[kind])
    assert (done.code, done.err) == (0, ""), done.out
    assert "every check held" in done.out
    DAMAGE[kind](tmp_path)
    done = forge("verify", *evidence[kind])
    assert (done.code, done.err) == (6, ""), done.out
    assert "NOT VALID" in done.out
    assert "because" in done.out


@pytest.mark.parametrize("kind", MEMBERS)
def test_json_has_the_members_that_are_documented_in_either_case(
    kind: str, evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    for valid in (True, False):
        document = json.loads(forge("verify", *evidence[kind], "--json").out)
        if kind == "log" or valid:
            assert set(document) == COMMON | MEMBERS[kind]
        assert set(document) >= COMMON
        assert (document["schema"], document["what"]) == ("forge-pipeline/verify/1", kind)
        assert document["valid"] is valid
        assert (document["reason"] is None) is valid
        assert (document["assurance"] is not None) is valid
        if valid:
            DAMAGE[kind](tmp_path)


@pytest.mark.parametrize("kind", MEMBERS)
def test_what_cannot_be_read_ends_with_1_and_one_message(
    kind: str, evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    _, _, *options = evidence[kind]
    done = forge("verify", kind, "nowhere", *options)
    assert (done.code, done.out) == (1, "")
    assert "nowhere" in done.err
    assert "Traceback" not in done.err


USAGE: dict[str, list[str]] = {
    "tags without a secret": ["log", "log/audit_log.jsonl", "--require-hmac"],
    "a key that is none, for a log": ["log", "log/audit_log.jsonl", "--public-key", "model.gguf"],
    "a checkpoint that is none": ["log", "log/audit_log.jsonl", "--checkpoint", "model.gguf"],
    "an attestation without a key": ["attestation", "made.dsse.json"],
    "a key that is none, for an attestation": ["attestation", "made.dsse.json", "--public-key", "made.dsse.json"],
    "an attestation that is no JSON": ["attestation", "model.gguf", "--public-key", "key.pem"],
    "a directory with nothing to hold it against": ["integrity", "log"],
    "a key without a listing": ["integrity", "artefact", "--public-key", "key.pem"],
    "a kind that there is not": ["weights", "x"],
    "a directory as GGUF": ["gguf", "log"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE.keys())
def test_a_question_that_cannot_be_asked_ends_with_1(
    arguments: list[str], evidence: dict[str, list[str]], forge: Forge
) -> None:
    done = forge("verify", *arguments)
    assert done.code == 1, done.out + done.err
    assert "Traceback" not in done.err


def test_the_checks_of_a_log_are_printed_by_number_with_what_was_not_checked(
    evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    done = forge("verify", *evidence["log"])
    numbered = [line.strip() for line in done.out.splitlines() if line.strip().startswith("(")]
    assert [line.split(")")[0] for line in numbered] == [f"({number}" for number in range(1, len(numbered) + 1)]
    assert len(numbered) >= 8
    assert any("passed: " in line for line in numbered)
    assert any("not checked: " in line for line in numbered)
    assert "not checked     " in done.out
    DAMAGE["log"](tmp_path)
    assert "failed: " in forge("verify", *evidence["log"]).out


def test_the_log_that_is_meant_can_be_named(evidence: dict[str, list[str]], forge: Forge) -> None:
    log_id = json.loads(forge("verify", *evidence["log"], "--json").out)["log_id"]
    assert forge("verify", *evidence["log"], "--expected-log-id", log_id).code == 0
    assert forge("verify", *evidence["log"], "--expected-log-id", "0" * 8).code == 6


def test_valid_and_complete_are_told_apart(evidence: dict[str, list[str]], forge: Forge, tmp_path: Path) -> None:
    done = forge("verify", *evidence["bundle"])
    lines = [line.split() for line in done.out.splitlines()]
    assert ["valid", "yes:"] in [line[:2] for line in lines]
    assert ["complete", "no:"] in [line[:2] for line in lines]


def test_a_gguf_that_no_log_names_says_so_and_one_that_another_log_names_is_refused(
    evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    done = forge("verify", "gguf", "model.gguf", "--json")
    document = json.loads(done.out)
    assert (done.code, document["assurance"]) == (0, "form")
    assert any("no audit log was given" in gap for gap in document["not_checked"])
    digest = document["digest"]
    assert json.loads(forge("verify", "gguf", "model.gguf", "--digest", digest, "--json").out)["assurance"] == "kept"
    assert forge("verify", "gguf", "model.gguf", "--digest", "sha256:" + "0" * 64).code == 6
    AuditLogger(str(tmp_path / "other"), run_id="r").log_event("pipeline.started")
    assert forge("verify", "gguf", "model.gguf", "--audit-log", f"other/{LOG_FILE}").code == 6


def test_an_attestation_is_refused_with_another_key_predicate_or_payload(
    evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    write_key(Ed25519PrivateKey.generate(), tmp_path / "other.pem")
    assert forge("verify", "attestation", "made.dsse.json", "--public-key", "other.pem").code == 6
    other_claim = ["--public-key", "key.pem", "--predicate-type", "https://example.org/y"]
    assert forge("verify", "attestation", "made.dsse.json", *other_claim).code == 6
    (tmp_path / "bare.json").write_text("{}")
    assert forge("verify", "attestation", "bare.json", "--public-key", "key.pem").code == 6
    document = json.loads(forge("verify", "attestation", "made.dsse.json", "--public-key", "key.pem", "--json").out)
    assert (document["subject"], document["assurance"]) == ("artefact", "signed")
    assert any("no --directory was given" in gap for gap in document["not_checked"])


def test_a_model_signature_is_verified_with_its_files(
    evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(key, tmp_path / "ec.pem")
    signed = model_signature("artefact", Manifest.of_directory(tmp_path / "artefact"), key)
    (tmp_path / "model.sig").write_bytes(canonical_json(signed))
    options = ["--public-key", "ec.pem", "--directory", "artefact"]
    assert forge("verify", "attestation", "model.sig", *options).code == 0
    (tmp_path / "artefact" / "extra.txt").write_text("x")
    done = forge("verify", "attestation", "model.sig", *options)
    assert done.code == 6
    assert "extra.txt was added" in done.out


def test_an_exported_file_is_held_against_a_listing(
    evidence: dict[str, list[str]], forge: Forge, tmp_path: Path
) -> None:
    (tmp_path / "artefact" / "weights.gguf").write_bytes(b"weights")
    manifest = Manifest.of_directory(tmp_path / "artefact")
    (tmp_path / "manifest.json").write_bytes(canonical_json([asdict(entry) for entry in manifest.entries]))
    (tmp_path / "weights.gguf").write_bytes(b"weights")
    command = ["verify", "integrity", "artefact", "--listing", "manifest.json", "--exported", "weights.gguf"]
    assert forge(*command).code == 0
    (tmp_path / "weights.gguf").write_bytes(b"weightz")
    done = forge(*command, "--json")
    assert (done.code, json.loads(done.out)["changed"]) == (6, ["manifest.json/weights.gguf"])
