"""One person's decision, or its revocation, as it is logged and signed."""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from forge_pipeline.audit_log.keys import load_private_key, public_key_fingerprint, signature_matches
from forge_pipeline.errors import ConfigError, IntegrityError
from forge_pipeline.integrity import Digest, canonical_json, json_digest
from forge_pipeline.registry import ApprovalDecision

Identity = Literal["stated", "api_key", "signed"]
"""How the name is known, weakest first: somebody said so, a server knew the API key, a private key signed."""


@dataclass(frozen=True)
class Approval:
    """One person's decision about one request, as it is logged and signed.

    Attributes:
        subject, bundle, policy_digest: What was decided about: model directory, bundle shown, recipe.
        decided_at, expires_at: ISO 8601 in UTC.
        shown: Asset -> digest of the artefacts and reports that the person was shown.
        role: What the person spoke for.
        identity: How `approver` is known.
        key: Fingerprint of the approver's public key (SHA-256 of its DER); None: not signed.
        public_key: That key, 32 raw bytes in base64.
        signature: Ed25519 over the record without it, in base64.
    """

    request_id: str
    subject: Digest
    bundle: Digest
    policy_digest: Digest
    decision: ApprovalDecision
    approver: str
    reason: str
    decided_at: str
    expires_at: str
    shown: dict[str, Digest] = field(default_factory=dict)
    role: str | None = None
    identity: Identity = "stated"
    key: Digest | None = None
    public_key: str | None = None
    signature: str | None = None

    @property
    def about(self) -> tuple[str, Digest, Digest, Digest]:
        return (self.request_id, self.subject, self.bundle, self.policy_digest)

    @property
    def digest(self) -> Digest:
        """Of the whole record; a revocation names it."""
        return json_digest(asdict(self))

    def bytes_to_sign(self) -> bytes:
        return b"forge-pipeline approval v1\n" + canonical_json(asdict(replace(self, signature=None)))

    def signature_holds(self) -> bool:
        """Whether the signature matches, and the key is the one named."""
        return _holds(self.key, self.public_key, self.signature, self.bytes_to_sign())

    def signed(self, private: Ed25519PrivateKey) -> Self:
        unsigned = replace(self, identity="signed", key=fingerprint(private), public_key=_raw(private))
        return replace(unsigned, signature=_signature(private, unsigned.bytes_to_sign()))


@dataclass(frozen=True)
class Revocation:
    """A decision taken back by the person who made it.

    Attributes:
        approval: Digest of the decision's record.
        revoked_at: ISO 8601 in UTC.
        key, public_key, signature: As in `Approval`; a signed decision is revoked with the same key.
    """

    request_id: str
    subject: Digest
    approval: Digest
    approver: str
    reason: str
    revoked_at: str
    key: Digest | None = None
    public_key: str | None = None
    signature: str | None = None

    def bytes_to_sign(self) -> bytes:
        return b"forge-pipeline approval revocation v1\n" + canonical_json(asdict(replace(self, signature=None)))

    def signed(self, private: Ed25519PrivateKey) -> Self:
        unsigned = replace(self, key=fingerprint(private), public_key=_raw(private))
        return replace(unsigned, signature=_signature(private, unsigned.bytes_to_sign()))

    def revokes(self, approval: Approval) -> bool:
        """Whether it is about exactly this decision and by the same person: the same key, or else the same name."""
        if self.approval != approval.digest or same_name(self.approver) != same_name(approval.approver):
            return False
        if approval.key is None:
            return True
        return self.key == approval.key and _holds(self.key, self.public_key, self.signature, self.bytes_to_sign())


def read_approval(record: Mapping[str, Any]) -> Approval:
    """An approval from its JSON form.

    Raises:
        IntegrityError: It is not one.
    """
    approval: Approval = _read(Approval, record, "an approval")
    return approval


def read_revocation(record: Mapping[str, Any]) -> Revocation:
    """A revocation from its JSON form; raises as `read_approval`."""
    revocation: Revocation = _read(Revocation, record, "a revocation")
    return revocation


def _read(kind: Any, record: Mapping[str, Any], words: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(record))
    except ValidationError as error:
        raise IntegrityError(f"not {words} record: {error}") from error


def approver_key(path: Path) -> Ed25519PrivateKey:
    """The key that a person decides with.

    Raises:
        ConfigError: It cannot be used; path and reason are named.
    """
    try:
        return load_private_key(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"approver key {path}: {error}; expected an unencrypted Ed25519 key in PEM, as "
            "`openssl genpkey -algorithm ed25519` writes it"
        ) from error


def fingerprint(private: Ed25519PrivateKey) -> Digest:
    return public_key_fingerprint(private.public_key())


def same_name(name: str) -> str:
    """Names that differ in case and spaces alone are one person's."""
    return " ".join(name.casefold().split())


def _raw(private: Ed25519PrivateKey) -> str:
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _signature(private: Ed25519PrivateKey, message: bytes) -> str:
    return base64.b64encode(private.sign(message)).decode()


def _holds(key: Digest | None, public_key: str | None, signature: str | None, message: bytes) -> bool:
    if signature is None or public_key is None:
        return False
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        raw = base64.b64decode(signature, validate=True)
    except ValueError:
        return False
    return public_key_fingerprint(public) == key and signature_matches(public, raw, message)
