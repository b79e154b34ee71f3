"""DSSE: bytes, what kind they are, and signatures over both.

What is signed is the pre-authentication encoding, so that neither the payload nor its type
can be exchanged, and nothing has to be parsed before it is verified.

Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from forge_pipeline.attestation.signing import SigningKey, VerificationKey, key_id, sign, signature_matches
from forge_pipeline.attestation.statement import Statement
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import canonical_json

IN_TOTO_PAYLOAD = "application/vnd.in-toto+json"


def envelope(statement: Mapping[str, Any], signer: SigningKey) -> dict[str, Any]:
    """The statement's canonical bytes, signed.

    Raises:
        ValueError: It is not representable as canonical JSON.
    """
    payload = canonical_json(dict(statement))
    signature = sign(signer, pre_authentication_encoding(IN_TOTO_PAYLOAD, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": IN_TOTO_PAYLOAD,
        "signatures": [{"keyid": key_id(signer).hex, "sig": base64.b64encode(signature).decode()}],
    }


def verify(envelope: Mapping[str, Any], public_key: VerificationKey, *, predicate_type: str | None = None) -> Statement:
    """The statement in an envelope, after its signature was checked:

    (1) it is an envelope, its payload an in-toto statement by type;
    (2) one of its signatures is by `public_key`, over exactly these bytes and this type;
    (3) the payload is a statement of version 1, without duplicate keys;
    (4) its predicate is of `predicate_type`, where one is given.

    Whether the subject is still what it was is not checked here: see `Statement.differences`.

    Raises:
        IntegrityError: Naming the check that failed, what was found and what was expected.
    """
    payload = verified_payload(envelope, public_key)
    parsed = Statement.parse(payload)  # (3)
    if predicate_type is not None and parsed.predicate_type != predicate_type:  # (4)
        raise IntegrityError(f"the statement's predicateType is {parsed.predicate_type!r}; expected {predicate_type!r}")
    return parsed


def verified_payload(envelope: Mapping[str, Any], public_key: VerificationKey) -> bytes:
    """Steps (1) and (2) of `verify`."""
    signatures, payload = envelope.get("signatures"), unverified_payload(envelope)  # (1)
    if not isinstance(signatures, list) or not signatures:
        raise IntegrityError("the envelope carries no signature; an unsigned statement proves nothing")
    message = pre_authentication_encoding(IN_TOTO_PAYLOAD, payload)
    named = []
    for number, each in enumerate(signatures):  # (2); every one is tried, because a keyid is only a hint
        if not isinstance(each, Mapping):
            raise IntegrityError(f"signatures[{number}] is not a JSON object")
        if signature_matches(public_key, _decoded(each.get("sig"), f"signatures[{number}].sig"), message):
            return payload
        named.append(str(each.get("keyid") or "a key without a name"))
    ours = key_id(public_key).hex
    if ours in named:
        raise IntegrityError(f"the signature of key {ours} does not match: payload, type or signature was changed")
    raise IntegrityError(f"no signature is by the key {ours}; the envelope names {', '.join(named)}")


def unverified_payload(envelope: Mapping[str, Any]) -> bytes:
    """Step (1) of `verify` alone: the payload, whoever made it.

    Raises:
        IntegrityError: It is no envelope of an in-toto statement.
    """
    if envelope.get("payloadType") != IN_TOTO_PAYLOAD:
        raise IntegrityError(f"payloadType is {envelope.get('payloadType')!r}; expected {IN_TOTO_PAYLOAD!r}")
    return _decoded(envelope.get("payload"), "payload")


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """``PAE(type, body)`` of DSSE v1: both with their lengths in bytes, so that nothing can move between them."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decoded(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise IntegrityError(f"{where} is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"{where} is not base64: {error}") from error
