"""OpenSSF Model Signing v1.0: one signature over every file of a model directory.

The payload is an in-toto statement whose predicate lists each file with its SHA-256; its one
subject is the SHA-256 over those digests, in the order of the list. The signature goes into
a Sigstore bundle v0.3 with a bare public key, which ``model_signing verify key`` reads. That
tool knows EC keys only, names them by the SHA-256 of their PEM text, and leaves out of its
comparison what git keeps beside a model (.git, .gitattributes, ...); a directory that holds
such files is refused here, since two verifiers would then disagree about it.

Source: https://github.com/sigstore/model-transparency, `model_signing/_signing/signing.py` at 1.1.1
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forge_pipeline.attestation.dsse import envelope, verified_payload
from forge_pipeline.attestation.statement import Statement, Subject, statement
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest

MODEL_SIGNATURE_PREDICATE = "https://model_signing/signature/v1.0"
SIGSTORE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"

_LEFT_OUT = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
_SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}


def model_statement(name: str, manifest: Manifest) -> dict[str, Any]:
    """The statement about a model directory, unsigned.

    Args:
        name: What the model is called; no check depends on it.

    Raises:
        IntegrityError: The directory is empty, or holds files of git.
    """
    if not manifest.entries:
        raise IntegrityError(f"{name} holds no files; there is nothing to sign")
    if hidden := sorted(each.path for each in manifest.entries if PurePosixPath(each.path).parts[0] in _LEFT_OUT):
        raise IntegrityError(
            f"{name} holds {hidden[0]}, which model-signing leaves out of its comparison; remove the files of git"
        )
    entries = sorted(manifest.entries, key=lambda entry: PurePosixPath(entry.path))
    resources = [{"name": each.path, "algorithm": "sha256", "digest": each.digest.hex} for each in entries]
    predicate = {"serialization": dict(_SERIALIZATION), "resources": resources}
    return statement([Subject(name, _root(each.digest for each in entries))], MODEL_SIGNATURE_PREDICATE, predicate)


def model_signature(name: str, manifest: Manifest, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """A Sigstore bundle over the model directory, as ``model_signing sign key`` writes it (``model.sig``).

    Raises:
        IntegrityError: As `model_statement`.
    """
    signed = envelope(model_statement(name, manifest), key)
    signed["signatures"] = [{"sig": each["sig"], "keyid": ""} for each in signed["signatures"]]
    return {
        "mediaType": SIGSTORE_BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": signed,
    }


def verify_model_signature(
    bundle: Mapping[str, Any], directory: Path, public_key: ec.EllipticCurvePublicKey
) -> list[str]:
    """Where `directory` differs from what was signed, one sentence each; empty when nothing does.

    (1) the bundle is of version 0.3 and meant for this key; (2) its envelope is signed by it;
    (3) the statement is a model signature by files; (4) the listed digests give the subject's;
    (5) the directory holds exactly these files, those included that the signer says it ignores.

    Raises:
        IntegrityError: One of (1) to (4) failed, so that nothing can be said about the files.
    """
    if bundle.get("mediaType") != SIGSTORE_BUNDLE:  # (1)
        raise IntegrityError(f"mediaType is {bundle.get('mediaType')!r}; expected {SIGSTORE_BUNDLE!r}")
    material, signed = bundle.get("verificationMaterial"), bundle.get("dsseEnvelope")
    if not isinstance(material, Mapping) or not isinstance(signed, Mapping):
        raise IntegrityError("the bundle lacks verificationMaterial or dsseEnvelope")
    key = material.get("publicKey")
    hint = key.get("hint") if isinstance(key, Mapping) else None
    if hint and hint != _hint(public_key):
        raise IntegrityError(f"the bundle is signed with the key {hint}; the given key is {_hint(public_key)}")
    parsed = Statement.parse(verified_payload(signed, public_key))  # (2)
    expected = _signed_files(parsed)
    actual = Manifest.of_directory(directory)
    found = {entry.path: entry.digest for entry in actual.entries}
    words = [f"{path} is missing" for path in expected if path not in found]
    words += [f"{path} was added" for path in found if path not in expected]
    words += [
        f"{path} changed: signed as {digest}, found {found[path]}"
        for path, digest in expected.items()
        if path in found and found[path] != digest
    ]
    return sorted(words)  # (5)


def _signed_files(parsed: Statement) -> dict[str, Digest]:
    """Steps (3) and (4) of `verify_model_signature`."""
    if parsed.predicate_type != MODEL_SIGNATURE_PREDICATE:
        raise IntegrityError(f"predicateType is {parsed.predicate_type!r}; expected {MODEL_SIGNATURE_PREDICATE!r}")
    try:
        serialization_of = parsed.predicate["serialization"]
        if (serialization_of["method"], serialization_of["hash_type"]) != ("files", "sha256"):
            raise IntegrityError(f"serialization is {serialization_of!r}; expected whole files by sha256")
        files = [(each["name"], Digest(f"sha256:{each['digest']}")) for each in parsed.predicate["resources"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"the predicate is not a model signature: {error!r}") from error
    root = _root(digest for _, digest in files)
    if root != parsed.digest:
        raise IntegrityError(f"the subject is {parsed.digest}, but the listed files hash to {root}")
    if len(dict(files)) != len(files):
        raise IntegrityError("the statement lists a file twice")
    return dict(files)


def _root(digests: Any) -> Digest:
    return Digest.of(b"".join(bytes.fromhex(each.hex) for each in digests))


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()
