"""Time stamps by a real authority: OpenSSL's, behind a local HTTP server."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forge_pipeline.audit_log import AuditLogger, Checkpoint, timestamp, verify_timestamp
from forge_pipeline.errors import EvidenceError, OptionalDependencyError

pytest.importorskip("rfc3161_client", reason="needs the extra 'timestamp'")
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which plays the authority")

# Without the root among the `certs`: OpenSSL does not sort that set, as DER asks, and the client insists on it.
CONFIG = """
[tsa]
default_tsa = here
[here]
dir = {place}
serial = $dir/serial
crypto_device = builtin
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
[extensions]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass
class Authority:
    """An RFC 3161 authority at `url`, whose root is `roots`."""

    place: Path
    url: str = ""
    answer: bytes | None = None  # in place of its own
    status: int = 200
    asked: list[bytes] = field(default_factory=list)

    @property
    def roots(self) -> Path:
        return self.place / "ca.pem"

    def reply(self, query: bytes) -> bytes:
        self.asked.append(query)
        (self.place / "query.tsq").write_bytes(query)
        arguments = "ts -reply -config tsa.cnf -queryfile query.tsq -out reply.tsr"
        openssl(self.place, *arguments.split())
        return (self.place / "reply.tsr").read_bytes()


def openssl(place: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)


def make_authority(place: Path, name: str) -> Authority:
    place.mkdir(exist_ok=True)
    (place / "tsa.cnf").write_text(CONFIG.format(place=place))
    (place / "serial").write_text("01")
    new = f"req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN={name}-root".split()
    openssl(place, *new, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(place, *f"req -newkey rsa:2048 -nodes -keyout tsa.key -out tsa.csr -subj /CN={name}".split())
    sign = "x509 -req -in tsa.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tsa.pem -days 20"
    openssl(place, *sign.split(), "-extfile", "tsa.cnf", "-extensions", "extensions")
    return Authority(place)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Authority]:
    authority = make_authority(tmp_path_factory.mktemp("authority"), "clock")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            body = authority.reply(query) if authority.answer is None else authority.answer
            self.send_response(authority.status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        authority.url = f"http://127.0.0.1:{server.server_port}/tsa"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield authority
        server.shutdown()
        thread.join()


@pytest.fixture
def authority(served) -> Iterator[Authority]:
    yield served
    served.answer, served.status = None, 200


@pytest.fixture
def checkpoint(tmp_path, settings_for) -> str:
    return AuditLogger.with_settings(tmp_path / "log", settings_for("signed")).checkpoint()


def test_a_checkpoint_is_stamped_and_the_stamp_says_when(authority, checkpoint) -> None:
    token = timestamp(checkpoint, authority.url)
    result = verify_timestamp(checkpoint, token, authority.roots)
    assert result.valid, result.reason
    assert result.anchor == Checkpoint.parse(checkpoint).anchor
    assert result.time is not None
    assert abs(result.time - datetime.now(UTC)) < timedelta(minutes=1)
    assert verify_timestamp(checkpoint, token, authority.roots.read_bytes()) == result


def test_the_stamp_covers_what_the_checkpoint_says_not_how_it_was_pasted_or_signed(authority, checkpoint) -> None:
    token = timestamp(checkpoint, authority.url)
    unsigned = Checkpoint(Checkpoint.parse(checkpoint).anchor).text
    pasted = "\n".join("  " + line for line in unsigned.splitlines())
    assert verify_timestamp(pasted, token, authority.roots).valid


def test_openssl_agrees(authority, checkpoint) -> None:
    (authority.place / "body").write_bytes(Checkpoint.parse(checkpoint).body.encode())
    (authority.place / "token.tsr").write_bytes(timestamp(checkpoint, authority.url))
    openssl(authority.place, "ts", "-verify", "-data", "body", "-in", "token.tsr", "-CAfile", "ca.pem")


def test_a_stamp_of_another_checkpoint_or_authority_does_not_hold(
    authority, checkpoint, tmp_path, settings_for
) -> None:
    token = timestamp(checkpoint, authority.url)
    later = AuditLogger.with_settings(tmp_path / "log", settings_for("signed"))
    later.log_event("acme.counted", number=1)
    assert not verify_timestamp(later.checkpoint(), token, authority.roots).valid
    stranger = make_authority(tmp_path / "stranger", "stranger")
    result = verify_timestamp(checkpoint, token, stranger.roots)
    assert (result.valid, result.time) == (False, None)
    assert result.reason


def test_no_changed_byte_of_a_token_holds_with_another_time(authority, checkpoint) -> None:
    token = timestamp(checkpoint, authority.url)
    time = verify_timestamp(checkpoint, token, authority.roots).time
    for place in range(0, len(token), 11):
        changed = token[:place] + bytes([token[place] ^ 0x01]) + token[place + 1 :]
        result = verify_timestamp(checkpoint, changed, authority.roots)
        assert not result.valid or result.time == time, place
    for text in (b"", b"\x30", token[:-1], b"no token"):
        assert not verify_timestamp(checkpoint, text, authority.roots).valid


def test_an_answer_that_is_none_is_refused(authority, checkpoint) -> None:
    authority.answer = b"<html>welcome</html>"
    with pytest.raises(EvidenceError, match="not an RFC 3161 response"):
        timestamp(checkpoint, authority.url)
    authority.answer = bytes(1 << 18)
    with pytest.raises(EvidenceError, match="longer than"):
        timestamp(checkpoint, authority.url)


def test_a_refusal_of_the_authority_is_named(authority, checkpoint) -> None:
    query = authority.place / "unwanted.tsq"
    openssl(authority.place, "ts", "-query", "-digest", "00" * 48, "-sha384", "-out", str(query))  # not among `digests`
    authority.answer = authority.reply(query.read_bytes())
    with pytest.raises(EvidenceError, match="the authority refused"):
        timestamp(checkpoint, authority.url)
    assert not verify_timestamp(checkpoint, authority.answer, authority.roots).valid


def test_an_answer_to_an_earlier_question_is_refused(authority, checkpoint) -> None:
    authority.answer = timestamp(checkpoint, authority.url)
    with pytest.raises(EvidenceError, match="another question"):
        timestamp(checkpoint, authority.url)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_refusal_of_the_server_is_named(status, authority, checkpoint) -> None:
    authority.answer, authority.status = b"", status
    with pytest.raises(EvidenceError, match=str(status)):
        timestamp(checkpoint, authority.url)


def test_an_authority_that_is_not_there_is_named(checkpoint) -> None:
    with pytest.raises(EvidenceError, match="could not be reached"):
        timestamp(checkpoint, "http://127.0.0.1:1/tsa")
    with pytest.raises(ValueError, match="expected http"):
        timestamp(checkpoint, "file:///etc/passwd")
    with pytest.raises(ValueError, match="not a checkpoint"):
        timestamp("the log was fine on Friday", "http://127.0.0.1:1/tsa")


def test_without_the_extra_the_pip_line_is_named(checkpoint, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(OptionalDependencyError, match=r"forge-pipeline\[timestamp\]"):
        timestamp(checkpoint, "http://127.0.0.1:1/tsa")
