"""Checkpoints are C2SP notes: what they say, who signed them, and what is not one."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.audit_log import Anchor, Checkpoint
from forge_pipeline.audit_log.keys import Fingerprints, LogKeys
from forge_pipeline.integrity import Digest

LOG_ID = "6b1f0f2e-58f3-4d5e-8a10-0e2f0b8a9a11"
ANCHOR = Anchor(LOG_ID, 12, Digest.of(b""))
BODY = f"forge-pipeline/audit-log/{LOG_ID}\n12\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def test_an_unsigned_checkpoint_is_three_lines() -> None:
    assert Checkpoint(ANCHOR).text == BODY + "\n"
    assert Checkpoint.parse(BODY) == Checkpoint.parse(BODY + "\n") == Checkpoint(ANCHOR)


def test_the_signature_line_is_a_signed_note_by_the_specification() -> None:
    """C2SP signed-note: key id = SHA-256(name, LF, 0x01, key)[:4]; the signature covers the text to its last LF."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    text = Checkpoint.make(ANCHOR, LogKeys.of(LOG_ID, secret=None, private=key)).text
    body, blank, line = text.rpartition("\n\n")
    dash, name, value = line.rstrip("\n").split(" ")
    raw = base64.b64decode(value)
    public = key.public_key()
    assert (body + "\n", blank, dash, name) == (BODY, "\n\n", "—", f"forge-pipeline/audit-log/{LOG_ID}")
    assert raw[:4] == hashlib.sha256(name.encode() + b"\n\x01" + public.public_bytes_raw()).digest()[:4]
    public.verify(raw[4:], BODY.encode())


def test_every_checkpoint_reads_back() -> None:
    keys = LogKeys.of(LOG_ID, secret="a secret of some length", private=Ed25519PrivateKey.generate())
    signed = Checkpoint.make(ANCHOR, keys)
    assert len(signed.signatures) == 2
    assert Checkpoint.parse(signed.text) == signed
    assert signed.problem_with_signatures(keys, keys.fingerprints) is None


def test_a_cosignature_of_somebody_else_does_no_harm() -> None:
    keys = LogKeys.of(LOG_ID, secret=None, private=Ed25519PrivateKey.generate())
    text = Checkpoint.make(ANCHOR, keys).text + "— witness.example/w1 " + base64.b64encode(bytes(76)).decode() + "\n"
    assert Checkpoint.parse(text).problem_with_signatures(keys, keys.fingerprints) is None


def test_who_did_not_sign_is_named() -> None:
    keys = LogKeys.of(LOG_ID, secret="a secret of some length", private=Ed25519PrivateKey.generate())
    bare = Checkpoint(ANCHOR)
    assert bare.problem_with_signatures(keys, keys.fingerprints) == "it carries no signature by this key"
    only_hmac = Fingerprints(hmac=keys.fingerprints.hmac)
    assert bare.problem_with_signatures(keys, only_hmac) == "it carries no HMAC line by this secret"
    assert bare.problem_with_signatures(LogKeys(), keys.fingerprints) is None
    name, raw = Checkpoint.make(ANCHOR, keys).signatures[0]
    spoiled = Checkpoint(ANCHOR, ((name, raw[:-1] + bytes([raw[-1] ^ 1])),))
    assert spoiled.problem_with_signatures(keys, keys.fingerprints) == "its signature does not match"


NOT_A_CHECKPOINT = {
    "nothing": "",
    "prose": "all is well",
    "another origin": BODY.replace("forge-pipeline/", "example.com/"),
    "a size with a leading zero": BODY.replace("\n12\n", "\n012\n"),
    "a negative size": BODY.replace("\n12\n", "\n-1\n"),
    "a root that is too short": BODY.replace("47DEQ", ""),
    "base64 with stray bits": BODY.replace("SuFU=", "SuFV="),
    "a fourth line": BODY + "more\n",
    "a signature that is none": BODY + "\n— name\n",
}


@pytest.mark.parametrize("text", NOT_A_CHECKPOINT.values(), ids=NOT_A_CHECKPOINT.keys())
def test_what_is_not_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Checkpoint.parse(text)
