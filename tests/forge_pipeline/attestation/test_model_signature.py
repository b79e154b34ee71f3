"""A model directory's signature: ours, and the same file in the hands of `model-signing`."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forge_pipeline.attestation import (
    MODEL_SIGNATURE_PREDICATE,
    envelope,
    model_signature,
    model_statement,
    statement,
    verify_model_signature,
)
from forge_pipeline.attestation.statement import Subject
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest

PEM = serialization.Encoding.PEM


def test_the_untouched_model_verifies(model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey) -> None:
    assert verify_model_signature(model_signature("model", manifest, p256), model, p256.public_key()) == []


def test_the_subject_is_the_digest_over_the_listed_digests(manifest: Manifest) -> None:
    value = model_statement("model", manifest)
    listed = [each["digest"] for each in value["predicate"]["resources"]]
    assert value["subject"][0]["digest"]["sha256"] == Digest.of(bytes.fromhex("".join(listed))).hex
    names = [each["name"] for each in value["predicate"]["resources"]]
    assert names == ["a/b.txt", "a.txt", "model.safetensors"]  # as paths sort, which is not as text sorts


CHANGED_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one byte": (lambda path: (path / "model.safetensors").write_bytes(bytes(99) + b"1"), "model.safetensors changed"),
    "a file more": (lambda path: (path / "evil.py").write_text(""), "evil.py was added"),
    "a file less": (lambda path: (path / "a.txt").unlink(), "a.txt is missing"),
    "two files swapped": (
        lambda path: ((path / "a.txt").write_text("one"), (path / "a" / "b.txt").write_text("two")),
        "a.txt changed",
    ),
}


@pytest.mark.parametrize("case", CHANGED_FILES)
def test_a_changed_model_is_named(case: str, model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey) -> None:
    change, words = CHANGED_FILES[case]
    signed = model_signature("model", manifest, p256)
    change(model)
    assert any(line.startswith(words) for line in verify_model_signature(signed, model, p256.public_key()))


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "media type": (lambda b: b.update(mediaType="application/json"), "mediaType is"),
    "hint": (lambda b: b["verificationMaterial"]["publicKey"].update(hint="00"), "signed with the key 00"),
    "no material": (lambda b: b.pop("verificationMaterial"), "lacks verificationMaterial"),
    "envelope gone": (lambda b: b.pop("dsseEnvelope"), "lacks verificationMaterial or dsseEnvelope"),
    "signature gone": (lambda b: b["dsseEnvelope"].update(signatures=[]), "carries no signature"),
    "payload": (lambda b: b["dsseEnvelope"].update(payload="e30="), "no signature is by the key"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_changed_bundle_is_refused(
    case: str, model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey
) -> None:
    change, words = TAMPERED[case]
    signed = copy.deepcopy(model_signature("model", manifest, p256))
    change(signed)
    with pytest.raises(IntegrityError, match=words):
        verify_model_signature(signed, model, p256.public_key())


def test_another_key_is_refused(model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IntegrityError, match="the given key is"):
        verify_model_signature(model_signature("model", manifest, p256), model, other.public_key())


def resigned(value: dict[str, Any], key: ec.EllipticCurvePrivateKey, manifest: Manifest) -> dict[str, Any]:
    return {**model_signature("model", manifest, key), "dsseEnvelope": envelope(value, key)}


def test_a_signed_list_must_agree_with_itself(
    model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey
) -> None:
    true = model_statement("model", manifest)["predicate"]
    wrong = statement([Subject("model", Digest.of(b"x"))], MODEL_SIGNATURE_PREDICATE, true)
    with pytest.raises(IntegrityError, match="but the listed files hash to"):
        verify_model_signature(resigned(wrong, p256, manifest), model, p256.public_key())
    sharded = {**true, "serialization": {**true["serialization"], "method": "shards"}}
    pieces = statement([Subject("model", Digest.of(b"x"))], MODEL_SIGNATURE_PREDICATE, sharded)
    with pytest.raises(IntegrityError, match="expected whole files by sha256"):
        verify_model_signature(resigned(pieces, p256, manifest), model, p256.public_key())
    other = statement([Subject("model", Digest.of(b"x"))], "urn:other", true)
    with pytest.raises(IntegrityError, match="predicateType is 'urn:other'"):
        verify_model_signature(resigned(other, p256, manifest), model, p256.public_key())


def test_a_path_that_the_signer_ignored_is_still_looked_at(
    model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey
) -> None:
    value = model_statement("model", manifest)
    value["predicate"]["serialization"]["ignore_paths"] = ["evil.py"]
    (model / "evil.py").write_text("")
    assert verify_model_signature(resigned(value, p256, manifest), model, p256.public_key()) == ["evil.py was added"]


def test_an_empty_model_and_files_of_git_are_not_signed(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntegrityError, match="holds no files"):
        model_statement("empty", Manifest.of_directory(tmp_path / "empty"))
    (model / ".gitattributes").write_text("")
    with pytest.raises(IntegrityError, match=r"holds \.gitattributes, which model-signing leaves out"):
        model_statement("model", Manifest.of_directory(model))


THEIRS = """
import json, sys
from pathlib import Path
import model_signing
model, signature, public = sys.argv[1:]
try:
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=Path(public)).verify(Path(model), Path(signature))
    print(json.dumps({"valid": True}))
except Exception as error:
    print(json.dumps({"valid": False, "error": str(error)}))
"""


@pytest.fixture(scope="module")
def model_signing_python() -> str:
    """A Python that has `model-signing` (and the pyOpenSSL>=26 that it forgets to ask for)."""
    if importlib.util.find_spec("model_signing"):
        return sys.executable
    if python := os.environ.get("MODEL_SIGNING_PYTHON"):
        return python
    pytest.skip("model-signing is not installed; MODEL_SIGNING_PYTHON may name a Python that has it")


def test_model_signing_verifies_our_signature(
    model: Path, manifest: Manifest, p256: ec.EllipticCurvePrivateKey, tmp_path: Path, model_signing_python: str
) -> None:
    public = tmp_path / "public.pem"
    public.write_bytes(p256.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    signature = tmp_path / "model.sig"
    signature.write_text(json.dumps(model_signature("model", manifest, p256)))

    def theirs() -> dict[str, Any]:
        command = [model_signing_python, "-c", THEIRS, str(model), str(signature), str(public)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    assert theirs() == {"valid": True}
    (model / "extra.bin").write_text("x")
    assert "extra.bin" in theirs()["error"]
    (model / "extra.bin").unlink()
    (model / "a.txt").write_text("TWO")
    assert "a.txt" in theirs()["error"]


def test_we_verify_the_signature_of_model_signing(
    model: Path, p256: ec.EllipticCurvePrivateKey, tmp_path: Path, model_signing_python: str
) -> None:
    private, signature = tmp_path / "private.pem", tmp_path / "theirs.sig"
    private.write_bytes(p256.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    code = (
        "import sys; from pathlib import Path; import model_signing\n"
        "config = model_signing.signing.Config().use_elliptic_key_signer(private_key=Path(sys.argv[2]))\n"
        "config.set_hashing_config(model_signing.hashing.Config()).sign(Path(sys.argv[1]), Path(sys.argv[3]))"
    )
    command = [model_signing_python, "-c", code, str(model), str(private), str(signature)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert verify_model_signature(json.loads(signature.read_text()), model, p256.public_key()) == []
