"""Listings of files: what somebody said that a directory holds.

Read are, known by their content:

    a manifest               JSON array of path, size and digest, as the artefact store keeps it
    manifests by name        ``evidence/manifests.json`` of a bundle, or the bundle's directory
    an in-toto statement     its subjects ``<name>/<path>``; bare, or signed in a DSSE envelope
    a model signature        OpenSSF Model Signing v1.0: bare, in an envelope, or in a Sigstore bundle
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_pipeline.annex_iv.manifest import MANIFEST_NAME
from forge_pipeline.attestation import MODEL_SIGNATURE_PREDICATE, Statement, key_id, load_verification_key
from forge_pipeline.attestation.dsse import verified_payload
from forge_pipeline.attestation.model_signature import SIGSTORE_BUNDLE
from forge_pipeline.attestation.signing import VerificationKey
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, loads_strict

PublicKey = VerificationKey | bytes | str | os.PathLike[str]

MANIFESTS_NAME = "evidence/manifests.json"
_MOST_READ = 1 << 27  # bytes of one listing


@dataclass(frozen=True)
class Listing:
    """What one directory should hold.

    Attributes:
        name: Of the artefact, as the listing calls it, for messages.
        files: Path -> digest.
        digest: The directory's identity, where the listing gives it.
        signed_by: Fingerprint of the key whose signature over the listing was checked.
    """

    name: str
    files: Mapping[str, Digest]
    digest: Digest | None = None
    signed_by: Digest | None = None

    @classmethod
    def of(cls, name: str, manifest: Manifest) -> "Listing":
        return cls(name, {entry.path: entry.digest for entry in manifest.entries}, manifest.digest)


def read_listings(path: Path, public_key: PublicKey | None = None) -> tuple[Listing, ...]:
    """The listings in a file, or in a bundle's directory.

    Args:
        public_key: As `attestation.load_verification_key` takes it; then what is read must be signed with it.

    Raises:
        OSError: The file cannot be read.
        IntegrityError: It holds no listing, or is not signed as asked.
    """
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        path = path / MANIFESTS_NAME
    with path.open("rb") as file:
        data = file.read(_MOST_READ + 1)
    try:
        if len(data) > _MOST_READ:
            raise ValueError(f"it is longer than {_MOST_READ} bytes")
        value = loads_strict(data)
        if isinstance(value, list) or (isinstance(value, dict) and _is_by_name(value)):
            if public_key is not None:
                raise IntegrityError(f"{path} is not signed; give a statement or a model signature beside a public key")
            return _manifests(path, value)
        if isinstance(value, dict):
            return (_from_statement(value, public_key),)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, IntegrityError):
            raise
        raise IntegrityError(f"{path} is not a listing of files: {error}") from error
    raise IntegrityError(f"{path} is not a listing of files: it holds {type(value).__name__}")


def fitting(listings: tuple[Listing, ...], actual: Manifest) -> Listing:
    """The listing that is meant: of these very files, else of the most of their paths."""
    paths = {entry.path for entry in actual.entries}
    return max(listings, key=lambda each: (each.digest == actual.digest, len(paths & each.files.keys())))


def manifest_from(rows: Any) -> Manifest:
    """A manifest from its JSON form.

    Raises:
        ValueError, LookupError, TypeError: It is none.
    """
    entries = [ManifestEntry(str(row["path"]), int(row["size"]), Digest(str(row["digest"]))) for row in rows]
    if len({entry.path for entry in entries}) != len(entries):
        raise ValueError("a file is listed twice")
    return Manifest(tuple(sorted(entries)))


def _is_by_name(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(each, dict) and "entries" in each for each in value.values())


def _manifests(path: Path, value: Any) -> tuple[Listing, ...]:
    if isinstance(value, list):
        return (Listing.of(path.name, manifest_from(value)),)
    return tuple(Listing.of(name, manifest_from(each["entries"])) for name, each in value.items())


def _from_statement(value: dict[str, Any], public_key: PublicKey | None) -> Listing:
    envelope = value.get("dsseEnvelope") if value.get("mediaType") == SIGSTORE_BUNDLE else value
    if not isinstance(envelope, dict):
        raise IntegrityError("the Sigstore bundle holds no dsseEnvelope")
    signed_by = None
    if public_key is not None:
        key = load_verification_key(public_key)
        payload, signed_by = verified_payload(envelope, key), key_id(key)
    elif "payload" in envelope:
        payload = _payload(envelope)
    else:
        return _listing(Statement.from_json(envelope), None)
    return _listing(Statement.parse(payload), signed_by)


def _payload(envelope: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(envelope["payload"]), validate=True)
    except binascii.Error as error:
        raise IntegrityError(f"the envelope's payload is not base64: {error}") from error


def _listing(statement: Statement, signed_by: Digest | None) -> Listing:
    about = statement.subjects[0]
    if statement.predicate_type == MODEL_SIGNATURE_PREDICATE:
        rows = [(str(row["name"]), Digest(f"sha256:{row['digest']}")) for row in statement.predicate["resources"]]
        root = Digest.of(b"".join(bytes.fromhex(digest.hex) for _, digest in rows))
        if root != about.digest:
            raise IntegrityError(f"the signature's subject is {about.digest}, but its files hash to {root}")
        digest = None
    else:
        rows = [(each.name.removeprefix(f"{about.name}/"), each.digest) for each in statement.subjects[1:]]
        digest = about.digest if about.is_directory else None
        if not rows and digest is None:
            raise IntegrityError("the statement names no files")
    if len(dict(rows)) != len(rows):
        raise IntegrityError("the statement lists a file twice")
    return Listing(about.name, dict(rows), digest, signed_by)
