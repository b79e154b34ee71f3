"""The keys that sign statements: Ed25519, or EC P-256 where a tool knows nothing else.

The audit log's Ed25519 key signs provenance too. `model-signing` verifies EC keys only, so
a model's own signature needs a second key, FORGE_MODEL_SIGNING_KEY. A key is named by the
SHA-256 of its public key in DER, as in the audit log. The name is a hint for people: no
check believes it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from forge_pipeline.audit_log import AuditSettings
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest

MODEL_KEY_VARIABLE = "FORGE_MODEL_SIGNING_KEY"

SigningKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
VerificationKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class SigningKeys:
    """The keys at hand.

    Attributes:
        statements: Signs every statement; None leaves them unsigned.
        model: Signs the model directory for `model-signing`; EC P-256.
    """

    statements: SigningKey | None = field(default=None, repr=False)
    model: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "SigningKeys":
        """The keys whose PEM files FORGE_AUDIT_SIGNING_KEY and FORGE_MODEL_SIGNING_KEY name.

        Raises:
            ConfigError: A key cannot be used; variable, path and reason are named.
        """
        environ = os.environ if environ is None else environ
        return cls(AuditSettings.from_environment(environ).signing_key, _model_key(environ))


def load_signing_key(path: Path) -> SigningKey:
    """The key of an unencrypted PEM file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds neither an Ed25519 nor an EC P-256 private key.
    """
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:
        raise ValueError(f"{path}: the key is encrypted with a passphrase, which is not supported") from error
    if isinstance(loaded, Ed25519PrivateKey):
        return loaded
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and isinstance(loaded.curve, ec.SECP256R1):
        return loaded
    raise ValueError(f"{path}: the key is {_kind(loaded)}; expected Ed25519 or EC P-256")


def load_verification_key(key: VerificationKey | bytes | str | os.PathLike[str]) -> VerificationKey:
    """A public key from itself, PEM text, or the path of a PEM file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds neither an Ed25519 nor an EC P-256 public key.
    """
    if isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey):
        return key
    pem = key.encode() if isinstance(key, str) and key.lstrip().startswith("-----BEGIN") else key
    loaded = serialization.load_pem_public_key(pem if isinstance(pem, bytes) else Path(pem).read_bytes())
    if isinstance(loaded, Ed25519PublicKey):
        return loaded
    if isinstance(loaded, ec.EllipticCurvePublicKey) and isinstance(loaded.curve, ec.SECP256R1):
        return loaded
    raise ValueError(f"the public key is {_kind(loaded)}; expected Ed25519 or EC P-256")


def key_id(key: SigningKey | VerificationKey) -> Digest:
    """As ``openssl pkey -pubin -outform DER | sha256sum`` gives it."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey) else key
    return Digest.of(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def sign(key: SigningKey, message: bytes) -> bytes:
    """Ed25519 (RFC 8032), or ECDSA with SHA-256, its nonce from RFC 6979 where OpenSSL has that."""
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    try:
        return key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:  # OpenSSL before 3.2: equal inputs then give different, equally valid signatures
        return key.sign(message, ec.ECDSA(hashes.SHA256()))


def signature_matches(key: VerificationKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _model_key(environ: Mapping[str, str]) -> ec.EllipticCurvePrivateKey | None:
    path = environ.get(MODEL_KEY_VARIABLE, "")
    if not path:
        return None
    try:
        key = load_signing_key(Path(path))
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is Ed25519, which model-signing does not verify")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{MODEL_KEY_VARIABLE}: {path}: {error}; expected the path of an unencrypted EC P-256 key in PEM, "
            "as `openssl ecparam -name prime256v1 -genkey -noout` writes it"
        ) from error
    return key


def _kind(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return type(key).__name__
