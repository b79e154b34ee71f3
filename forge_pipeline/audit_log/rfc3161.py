"""RFC 3161 time stamps of checkpoints: an authority's word that a log was this far at that time.

A token covers a checkpoint's body (origin, size, root), so the checkpoint's signatures and how
it was pasted do not matter. It is the DER of the authority's response, which
``openssl ts -verify -data BODY -in TOKEN -CAfile ROOTS`` checks too. With it, entries cannot
be back-dated: a log that fits the checkpoint existed by then. That nothing was appended later,
or that an older copy was not put back, it does not say.

Needs the extra ``timestamp`` (rfc3161-client).
"""

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from forge_pipeline._optional import require
from forge_pipeline.audit_log.chain import Anchor
from forge_pipeline.audit_log.checkpoint import Checkpoint
from forge_pipeline.errors import EvidenceError

_MOST_BYTES = 1 << 17  # of a response; with its certificates it has a few thousand
_PURPOSE = "RFC 3161 time stamps"


@dataclass(frozen=True)
class TimestampResult:
    """What `verify_timestamp` found.

    Attributes:
        valid: Whether the token is the authority's, and covers this checkpoint.
        time: When the authority says it saw the checkpoint, if valid; aware.
        anchor: The log, size and root that it saw.
        reason: What does not hold, if invalid.
    """

    valid: bool
    anchor: Anchor
    time: datetime | None = None
    reason: str | None = None


def timestamp(checkpoint: str, tsa_url: str, *, timeout: float = 15.0) -> bytes:
    """Ask the authority at `tsa_url` for a token over `checkpoint`.

    That the answer is to this question is checked here (nonce, digest); whose it is, by `verify_timestamp`.

    Args:
        checkpoint: As `AuditLogger.checkpoint` gives it.
        tsa_url: ``http`` or ``https``. Redirects and proxies of the environment are not followed.
        timeout: Seconds for each wait on the network.

    Raises:
        ValueError: The text is not a checkpoint, or the URL is neither.
        OptionalDependencyError: The extra is not installed.
        EvidenceError: (an OSError) the authority could not be reached, refused, or answered another question.
    """
    client: Any = require("rfc3161_client", extra="timestamp", purpose=_PURPOSE)
    body = Checkpoint.parse(checkpoint).body.encode()
    if urlsplit(tsa_url).scheme not in ("http", "https"):
        raise ValueError(f"{tsa_url!r} is not the address of a time stamp authority; expected http:// or https://")
    builder = client.TimestampRequestBuilder().data(body).hash_algorithm(client.HashAlgorithm.SHA256)
    request = builder.build()
    token = _post(tsa_url, request.as_bytes(), timeout)
    try:
        response = client.decode_timestamp_response(token)
    except ValueError as error:
        raise EvidenceError(f"{tsa_url}: the answer is not an RFC 3161 response: {error}") from error
    if response.status not in (client.PKIStatus.GRANTED, client.PKIStatus.GRANTED_WITH_MODS):
        raise EvidenceError(f"{tsa_url}: the authority refused: {', '.join(response.status_string) or response.status}")
    stamped = response.tst_info
    if stamped.nonce != request.nonce or stamped.message_imprint.message != request.message_imprint.message:
        raise EvidenceError(f"{tsa_url}: the answer is to another question: its nonce or digest is not the one sent")
    return token


def verify_timestamp(checkpoint: str, token: bytes, roots: bytes | str | os.PathLike[str]) -> TimestampResult:
    """Check a token over `checkpoint`; nothing is sent.

    Args:
        roots: PEM certificates that are trusted: bytes, or the path of a file.

    Raises:
        OSError: The file of `roots` cannot be read.
        ValueError: The text is not a checkpoint, or `roots` holds no certificate.
        OptionalDependencyError: The extra is not installed.
    """
    from cryptography import x509

    client: Any = require("rfc3161_client", extra="timestamp", purpose=_PURPOSE)
    noted = Checkpoint.parse(checkpoint)
    certificates = x509.load_pem_x509_certificates(roots if isinstance(roots, bytes) else Path(roots).read_bytes())
    builder = client.VerifierBuilder()
    for certificate in certificates:
        builder = builder.add_root_certificate(certificate)
    try:
        response = client.decode_timestamp_response(token)
        builder.build().verify_message(response, noted.body.encode())
    except (client.VerificationError, ValueError) as error:
        return TimestampResult(False, noted.anchor, reason=f"the token does not hold: {error}")
    return TimestampResult(True, noted.anchor, time=response.tst_info.gen_time)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def _post(url: str, body: bytes, timeout: float) -> bytes:
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    request = urllib.request.Request(url, body, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=timeout) as response:
            answer: bytes = response.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise EvidenceError(f"{url}: the time stamp authority answered {error.code}") from error
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors; http.client's are both
        raise EvidenceError(f"{url}: the time stamp authority could not be reached: {error}") from error
    if len(answer) > _MOST_BYTES:
        raise EvidenceError(f"{url}: the answer is longer than {_MOST_BYTES} bytes; no time stamp is")
    return answer
