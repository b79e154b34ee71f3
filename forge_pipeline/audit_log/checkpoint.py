"""Checkpoints: a log's size and root as text that fits into a ticket or a git note.

The text is a C2SP tlog-checkpoint: origin, size, base64 root, then a blank line and
C2SP signed-note signature lines, if there are keys:

    forge-pipeline/audit-log/6b1f0f2e-58f3-4d5e-8a10-0e2f0b8a9a11
    12
    47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=

    — forge-pipeline/audit-log/6b1f0f2e-... <base64 of key id and signature>

An Ed25519 line is the standard type 0x01. An HMAC line is of the private type 0xff,
for logs that have a secret only.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from forge_pipeline.audit_log.chain import Anchor, as_bytes, as_digest
from forge_pipeline.audit_log.keys import Fingerprints, HmacKey, LogKeys, signature_matches
from forge_pipeline.integrity import Digest

CHECKPOINT_SUFFIX = ".checkpoint"
_ORIGIN = "forge-pipeline/audit-log/"
_HMAC_TYPE = b"\xffforge-pipeline/hmac-sha256"
_MAX_CHARACTERS = 16_384
_NOTE = re.compile(
    rf"(?P<body>{re.escape(_ORIGIN)}(?P<log_id>[0-9a-f-]{{36}})\n(?P<size>0|[1-9][0-9]{{0,15}})\n(?P<root>[A-Za-z0-9+/]{{43}}=)\n)"
    r"\n(?P<signatures>(?:— [^\s+]+ [A-Za-z0-9+/]+={0,2}\n)*)"
)


@dataclass(frozen=True)
class Checkpoint:
    """A log's size and root, with who vouches for them.

    Attributes:
        anchor: The log, its size and root.
        signatures: (key name, key id and signature) of each signature line.
    """

    anchor: Anchor
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def body(self) -> str:
        """What the signatures cover."""
        root = base64.b64encode(as_bytes(self.anchor.root)).decode()
        return f"{_ORIGIN}{self.anchor.log_id}\n{self.anchor.size}\n{root}\n"

    @property
    def text(self) -> str:
        lines = [f"— {name} {base64.b64encode(raw).decode()}\n" for name, raw in self.signatures]
        return f"{self.body}\n{''.join(lines)}"

    @classmethod
    def make(cls, anchor: Anchor, keys: LogKeys) -> "Checkpoint":
        """The checkpoint of a log, signed with the keys at hand."""
        bare = cls(anchor)
        name, message = f"{_ORIGIN}{anchor.log_id}", bare.body.encode()
        signatures = []
        if keys.private is not None and keys.public is not None:
            signatures.append((name, _ed25519_id(name, keys) + keys.private.sign(message)))
        if keys.hmac is not None:
            signatures.append((name, _hmac_id(name, keys.hmac) + keys.hmac.tag(message)))
        return cls(anchor, tuple(signatures))

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a checkpoint; line ends and white space around it may have suffered from pasting.

        Raises:
            ValueError: It is not a checkpoint of an audit log of this package.
        """
        lines = [line.strip() for line in text[:_MAX_CHARACTERS].strip().splitlines()]
        cleaned = "\n".join(lines) + ("\n" if len(lines) > 3 else "\n\n")
        match = _NOTE.fullmatch(cleaned)
        if match is None:
            raise ValueError(
                f"not a checkpoint; expected three lines ({_ORIGIN}<log id>, size, base64 root), "
                "a blank line and signature lines"
            )
        anchor = Anchor(match["log_id"], int(match["size"]), as_digest(_base64(match["root"])))
        signatures = (line.split(" ")[1:] for line in match["signatures"].splitlines())
        return cls(anchor, tuple((name, _base64(value)) for name, value in signatures))

    def problem_with_signatures(self, keys: LogKeys, in_force: Fingerprints) -> str | None:
        """Why this checkpoint is not signed by the keys at hand that are `in_force`, or None."""
        name, message = f"{_ORIGIN}{self.anchor.log_id}", self.body.encode()
        values = [raw for signer, raw in self.signatures if signer == name]
        if keys.public is not None and in_force.ed25519 is not None:
            key_id = _ed25519_id(name, keys)
            mine = [raw[4:] for raw in values if raw[:4] == key_id]
            if not any(signature_matches(keys.public, raw, message) for raw in mine):
                return "its signature does not match" if mine else "it carries no signature by this key"
        if keys.hmac is not None and in_force.hmac is not None:
            key_id = _hmac_id(name, keys.hmac)
            mine = [raw[4:] for raw in values if raw[:4] == key_id]
            if not any(keys.hmac.matches(message, raw) for raw in mine):
                return "its HMAC line does not match" if mine else "it carries no HMAC line by this secret"
        return None


def _ed25519_id(name: str, keys: LogKeys) -> bytes:
    """C2SP signed-note: SHA-256(name, LF, type, public key), the first 4 bytes."""
    assert keys.public is not None
    return hashlib.sha256(name.encode() + b"\n\x01" + keys.public.public_bytes_raw()).digest()[:4]


def _hmac_id(name: str, key: HmacKey) -> bytes:
    fingerprint: Digest = key.fingerprint
    return hashlib.sha256(name.encode() + b"\n" + _HMAC_TYPE + as_bytes(fingerprint)).digest()[:4]


def _base64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 with stray bits")
    return raw
