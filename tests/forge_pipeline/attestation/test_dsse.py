"""Envelopes: what is signed is what is read, and nothing in between can be exchanged."""

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.attestation import envelope, key_id, statement, subjects_of, verify
from forge_pipeline.attestation.dsse import pre_authentication_encoding
from forge_pipeline.attestation.signing import sign
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest

CLAIM = statement(subjects_of("line/model", Digest.of(b"model")), "https://example.org/claim/v1", {"passed": True})
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def test_the_encoding_is_the_one_of_the_specification() -> None:
    """The vector of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_statement_comes_back(ed25519: Ed25519PrivateKey, p256: ec.EllipticCurvePrivateKey) -> None:
    for key in (ed25519, p256):
        read = verify(envelope(CLAIM, key), key.public_key(), predicate_type="https://example.org/claim/v1")
        assert (read.digest, read.predicate) == (Digest.of(b"model"), {"passed": True})


def test_equal_statements_give_equal_envelopes(ed25519: Ed25519PrivateKey) -> None:
    assert envelope(CLAIM, ed25519) == envelope(json.loads(json.dumps(CLAIM)), ed25519)


def payload(signed: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(base64.b64decode(signed["payload"]))
    change(value)
    signed["payload"] = base64.b64encode(json.dumps(value).encode()).decode()


def flip_signature(signed: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(signed["signatures"][0]["sig"]))
    raw[0] ^= 1
    signed["signatures"][0]["sig"] = base64.b64encode(raw).decode()


def sign_by_another(signed: dict[str, Any]) -> None:
    signed.update(envelope(CLAIM, OTHER))


def sign_by_another_under_the_name(signed: dict[str, Any]) -> None:
    keyid = signed["signatures"][0]["keyid"]
    signed.update(envelope(CLAIM, OTHER))
    signed["signatures"][0]["keyid"] = keyid


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "claim changed": (lambda e: payload(e, lambda s: s["predicate"].update(passed=False)), "does not match"),
    "subject digest changed": (
        lambda e: payload(e, lambda s: s["subject"][0]["digest"].update(sha256="0" * 64)),
        "does not match",
    ),
    "subject added": (lambda e: payload(e, lambda s: s["subject"].append(s["subject"][0])), "does not match"),
    "spaces added": (lambda e: payload(e, lambda s: None), "does not match"),
    "payload type changed": (lambda e: e.update(payloadType="application/json"), "payloadType is 'application/json'"),
    "payload type gone": (lambda e: e.pop("payloadType"), "payloadType is None"),
    "payload gone": (lambda e: e.pop("payload"), "payload is missing"),
    "payload not base64": (lambda e: e.update(payload="%%"), "payload is not base64"),
    "signature changed": (flip_signature, "does not match"),
    "signature not base64": (lambda e: e["signatures"][0].update(sig="%"), r"signatures\[0\].sig is not base64"),
    "signature gone": (lambda e: e["signatures"][0].pop("sig"), r"signatures\[0\].sig is missing"),
    "signatures gone": (lambda e: e.pop("signatures"), "carries no signature"),
    "no signature left": (lambda e: e.update(signatures=[]), "carries no signature"),
    "a signature is no object": (lambda e: e.update(signatures=["x"]), "is not a JSON object"),
    "signed by another key": (sign_by_another, f"the envelope names {key_id(OTHER).hex}"),
    "signed by another key in our name": (sign_by_another_under_the_name, "does not match"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_is_refused(case: str, ed25519: Ed25519PrivateKey) -> None:
    tamper, words = TAMPERED[case]
    signed = copy.deepcopy(envelope(CLAIM, ed25519))
    tamper(signed)
    with pytest.raises(IntegrityError, match=words):
        verify(signed, ed25519.public_key())


def test_the_key_name_is_only_a_hint(ed25519: Ed25519PrivateKey) -> None:
    signed = envelope(CLAIM, ed25519)
    signed["signatures"][0]["keyid"] = "whatever"
    assert verify(signed, ed25519.public_key()).digest == Digest.of(b"model")


def test_one_of_two_signatures_by_the_key_is_enough(ed25519: Ed25519PrivateKey) -> None:
    signed = envelope(CLAIM, OTHER)
    signed["signatures"] += envelope(CLAIM, ed25519)["signatures"]
    assert verify(signed, ed25519.public_key()).predicate == {"passed": True}


SIGNED_NONSENSE = {
    "a key twice": (b'{"_type":"a","_type":"b"}', "duplicate key"),
    "no JSON": (b"hello", "not JSON"),
    "another version": (b'{"_type":"https://in-toto.io/Statement/v0.1"}', "_type is"),
    "a list": (b"[]", "not a JSON object"),
    "no subject": (b'{"_type":"https://in-toto.io/Statement/v1","subject":[]}', "subject is empty"),
    "short digest": (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"ab"}}],'
        b'"predicateType":"p","predicate":{}}',
        "no sha256 digest",
    ),
}


@pytest.mark.parametrize("case", SIGNED_NONSENSE)
def test_a_signature_does_not_make_nonsense_a_statement(case: str, ed25519: Ed25519PrivateKey) -> None:
    data, words = SIGNED_NONSENSE[case]
    kind = "application/vnd.in-toto+json"
    signature = sign(ed25519, pre_authentication_encoding(kind, data))
    signed = {
        "payload": base64.b64encode(data).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
    }
    with pytest.raises(IntegrityError, match=words):
        verify(signed, ed25519.public_key())


def test_a_statement_of_another_kind_is_not_taken_for_the_expected_one(ed25519: Ed25519PrivateKey) -> None:
    with pytest.raises(IntegrityError, match=r"expected 'https://slsa\.dev/provenance/v1'"):
        verify(envelope(CLAIM, ed25519), ed25519.public_key(), predicate_type="https://slsa.dev/provenance/v1")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(claim=st.dictionaries(st.text(), _JSON, max_size=4))
def test_any_claim_comes_back_as_it_was(claim: dict[str, Any]) -> None:
    value = statement(subjects_of("a", Digest.of(b"a")), "urn:x", claim)
    assert dict(verify(envelope(value, OTHER), OTHER.public_key()).predicate) == claim


@given(junk=_JSON)
def test_junk_is_refused_and_never_crashes(junk: Any) -> None:
    signed = envelope(CLAIM, OTHER)
    for member in ("payload", "payloadType", "signatures"):
        with pytest.raises(IntegrityError):
            verify({**signed, member: junk}, OTHER.public_key())


def test_securesystemslib_verifies_the_envelope(ed25519: Ed25519PrivateKey, p256: ec.EllipticCurvePrivateKey) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    exceptions = pytest.importorskip("securesystemslib.exceptions")
    for key in (ed25519, p256):
        public = signer.SSlibKey.from_crypto(key.public_key(), keyid=key_id(key).hex)
        theirs = dsse.Envelope.from_dict(copy.deepcopy(envelope(CLAIM, key)))
        assert list(theirs.verify([public], 1)) == [key_id(key).hex]
        theirs.payload += b" "
        with pytest.raises(exceptions.VerificationError):
            theirs.verify([public], 1)


def test_we_verify_the_envelope_of_securesystemslib(ed25519: Ed25519PrivateKey) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    theirs = dsse.Envelope(json.dumps(CLAIM).encode(), "application/vnd.in-toto+json", {})
    theirs.sign(signer.CryptoSigner(ed25519))
    assert verify(theirs.to_dict(), ed25519.public_key()).predicate == {"passed": True}
