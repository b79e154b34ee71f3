"""What authenticates a log: an HMAC secret, an Ed25519 key, both or neither.

The HMAC key is HKDF-SHA256(secret, salt = log_id): a tag of one log means nothing in
another, and no part of the line under test chooses the key. Whoever can check a tag
could also have made it, so an auditor is served by signatures. Both cover a context
string first, so that nothing signed elsewhere with the same key passes for an entry.

A log names its keys' fingerprints in its first entry, or in an ``audit.keys_added``
entry later. From there on every entry and checkpoint must carry them; they can be
added, never dropped, so that stripping them is not a way to rewrite the log.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from forge_pipeline.audit_log.entry import Entry
from forge_pipeline.integrity import Digest

_ENTRY_CONTEXT = b"forge-pipeline audit log v1 entry\n"
_HKDF_TAG = b"forge-pipeline audit log v1 hmac"
_HKDF_FINGERPRINT = b"forge-pipeline audit log v1 hmac fingerprint"


@dataclass(frozen=True)
class Fingerprints:
    """The keys in force in a log. None: no key of that kind.

    Attributes:
        hmac: Of the secret, for this log only; it does not let anyone compute tags.
        ed25519: SHA-256 of the public key's SubjectPublicKeyInfo in DER.
    """

    hmac: Digest | None = None
    ed25519: Digest | None = None

    def to_json(self) -> dict[str, str | None]:
        return {"hmac": self.hmac, "ed25519": self.ed25519}

    @classmethod
    def from_json(cls, value: object) -> "Fingerprints":
        """Raises ValueError unless `value` is what `to_json` wrote."""
        if not isinstance(value, Mapping) or value.keys() != {"hmac", "ed25519"}:
            raise ValueError("data.keys is not an object with 'hmac' and 'ed25519'")
        found = {name: value[name] for name in ("hmac", "ed25519")}
        if not all(item is None or isinstance(item, str) for item in found.values()):
            raise ValueError("data.keys: a fingerprint is neither null nor a digest")
        return cls(**{name: None if item is None else Digest(item) for name, item in found.items()})

    def is_extended_by(self, later: "Fingerprints") -> bool:
        """Whether `later` keeps every key named here."""
        return self.hmac in (None, later.hmac) and self.ed25519 in (None, later.ed25519)


class HmacKey:
    """The key that a secret gives for one log."""

    def __init__(self, secret: str, log_id: str) -> None:
        self._key = _derive(secret, log_id, _HKDF_TAG)
        self.fingerprint = Digest.of(_derive(secret, log_id, _HKDF_FINGERPRINT))

    def tag(self, message: bytes) -> bytes:
        return hmac.digest(self._key, message, "sha256")

    def matches(self, message: bytes, tag: bytes) -> bool:
        return hmac.compare_digest(self.tag(message), tag)


@dataclass(frozen=True)
class LogKeys:
    """The keys at hand for one log, on the writing side and on the reading side."""

    hmac: HmacKey | None = None
    private: Ed25519PrivateKey | None = None
    public: Ed25519PublicKey | None = None

    @classmethod
    def of(
        cls, log_id: str, *, secret: str | None, private: Ed25519PrivateKey | None = None, public: Any = None
    ) -> "LogKeys":
        """Keys for the log `log_id`; the public key follows from the private one."""
        if private is not None:
            public = private.public_key()
        return cls(None if secret is None else HmacKey(secret, log_id), private, public)

    @property
    def fingerprints(self) -> Fingerprints:
        return Fingerprints(
            None if self.hmac is None else self.hmac.fingerprint,
            None if self.public is None else public_key_fingerprint(self.public),
        )

    def authenticate(self, entry: Entry, in_force: Fingerprints | None = None) -> Entry:
        """`entry` with the tag and the signature that these keys give, of the kinds `in_force` (None: of all)."""
        if self.hmac is not None and (in_force is None or in_force.hmac is not None):
            entry = replace(entry, hmac=self.hmac.tag(_ENTRY_CONTEXT + entry.bytes_to_tag()).hex())
        if self.private is not None and (in_force is None or in_force.ed25519 is not None):
            signature = self.private.sign(_ENTRY_CONTEXT + entry.bytes_to_sign())
            entry = replace(entry, sig=base64.b64encode(signature).decode())
        return entry

    def problem_with(self, entry: Entry, in_force: Fingerprints) -> str | None:
        """Why `entry` is not authenticated as a log with the keys `in_force` asks, or None.

        Tags and signatures are computed only where the key is at hand; that they are
        there is always checked.
        """
        if (entry.hmac is None) != (in_force.hmac is None):
            return "it carries no HMAC tag" if entry.hmac is None else "it carries an HMAC tag of an unnamed key"
        if (entry.sig is None) != (in_force.ed25519 is None):
            return "it carries no signature" if entry.sig is None else "it carries a signature of an unnamed key"
        if self.hmac and entry.hmac:
            message = _ENTRY_CONTEXT + entry.bytes_to_tag()
            if not self.hmac.matches(message, bytes.fromhex(entry.hmac)):
                return "its HMAC tag does not match"
        if self.public and entry.sig:
            message = _ENTRY_CONTEXT + entry.bytes_to_sign()
            if not signature_matches(self.public, base64.b64decode(entry.sig), message):
                return "its signature does not match"
        return None


def signature_matches(public: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def public_key_fingerprint(key: Ed25519PublicKey) -> Digest:
    """As ``openssl pkey -pubin -outform DER | sha256sum`` gives it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Digest(f"sha256:{hashlib.sha256(der).hexdigest()}")


def load_public_key(key: Ed25519PublicKey | bytes | str | os.PathLike[str]) -> Ed25519PublicKey:
    """A public key from itself, PEM text, or the path of a PEM file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It does not hold an Ed25519 public key.
    """
    if isinstance(key, Ed25519PublicKey):
        return key
    pem = key.encode() if isinstance(key, str) and key.lstrip().startswith("-----BEGIN") else key
    loaded = serialization.load_pem_public_key(pem if isinstance(pem, bytes) else Path(pem).read_bytes())
    if not isinstance(loaded, Ed25519PublicKey):
        raise ValueError(f"the public key is {type(loaded).__name__}; expected Ed25519")
    return loaded


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key of an unencrypted PKCS#8 PEM file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It does not hold such a key.
    """
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:
        raise ValueError(f"{path}: the key is encrypted with a passphrase, which is not supported") from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ValueError(f"{path}: the key is {type(loaded).__name__}; expected Ed25519")
    return loaded


def _derive(secret: str, log_id: str, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=log_id.encode(), info=info).derive(secret.encode())
