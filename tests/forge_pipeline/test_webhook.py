"""Webhooks against a real server on this machine: shapes, refusals, retries, signatures."""

import hashlib
import hmac
import http.server
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forge_pipeline import _http, webhook
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import WebhookError
from forge_pipeline.integrity import Digest
from forge_pipeline.webhook import Notification, WebhookNotifier, payload_for, style_of


@dataclass
class Endpoint:
    """A server that records what it is sent, and answers as told."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    trickle: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/T0K3N?x=1"

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.requests[-1][1])


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.requests.append(({**self.headers, "path": self.path}, body))
            if found.trickle:
                for _ in range(100):
                    self.wfile.write(b"H")
                    time.sleep(0.1)
            self.send_response(found.answers.pop(0) if found.answers else 204)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is what is tested
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(webhook, "_RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.delenv("FORGE_WEBHOOK_SECRET", raising=False)


def notifier(**section: Any) -> WebhookNotifier:
    return WebhookNotifier(
        ForgeConfig(
            model={"name_or_path": "m"},
            lora={},
            training={"trainer_type": "sft", "output_dir": "out"},
            data={"dataset_name_or_path": "d.jsonl"},
            webhook={"allow_private_destinations": True, "timeout": 2, **section} if section else None,
        )
    )


def test_every_notification_reaches_a_generic_endpoint_with_all_its_fields(endpoint) -> None:
    told = notifier(url=endpoint.url)
    base = {"version": 1, "run_name": "r", "metrics": {}, "reason": None, "model_path": None}
    expected = [
        (told.notify_start("r"), {"event": "training.start", "status": "started"}),
        (
            told.notify_success("r", {"eval_loss": 0.43, "bad": float("nan")}),
            {"event": "training.success", "status": "success", "metrics": {"eval_loss": 0.43}},
        ),
        (
            told.notify_failure("r", "x" * 5000),
            {"event": "training.failure", "status": "failure", "reason": "x" * 2048},
        ),
        (told.notify_reverted("r", "loss"), {"event": "training.reverted", "status": "reverted", "reason": "loss"}),
        (
            told.notify_awaiting_approval("r", "out/model"),
            {"event": "approval.required", "status": "awaiting_approval", "model_path": "out/model"},
        ),
    ]
    assert [delivery for delivery, _ in expected] == [webhook.Delivery(True, 1, 204)] * 5
    assert [json.loads(body) for _, body in endpoint.requests] == [{**base, **fields} for _, fields in expected]
    headers, _ = endpoint.requests[0]
    assert (headers["path"], headers["Content-Type"]) == ("/hook/T0K3N?x=1", "application/json")
    assert "X-Forge-Signature" not in headers


def test_the_recipe_says_which_events_are_told(endpoint) -> None:
    told = notifier(url=endpoint.url, notify_on_start=False, notify_on_success=False, notify_on_failure=False)
    for delivery in (told.notify_start("r"), told.notify_success("r", {}), told.notify_failure("r", "x")):
        assert (delivery.delivered, delivery.attempts) == (False, 0)
    assert told.notify_awaiting_approval("r", "out/model").delivered
    assert len(endpoint.requests) == 1


def test_without_a_webhook_section_or_url_nothing_happens() -> None:
    assert not notifier().notify_start("r").delivered
    assert "no webhook is configured" in str(notifier(timeout=1).notify_failure("r", "x").reason)


def test_the_url_may_come_from_the_environment(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("MY_WEBHOOK", endpoint.url)
    assert notifier(url_env="MY_WEBHOOK").notify_start("r").delivered


def test_a_body_is_signed_when_there_is_a_secret(endpoint, monkeypatch) -> None:
    monkeypatch.setenv("FORGE_WEBHOOK_SECRET", "s3cret")
    assert notifier(url=endpoint.url).notify_start("r").delivered
    headers, body = endpoint.requests[0]
    moment, tag = (part.partition("=")[2] for part in headers["X-Forge-Signature"].split(","))
    assert tag == hmac.new(b"s3cret", moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert abs(int(moment) - time.time()) < 60


def test_a_receiver_tells_a_signed_request_from_any_other() -> None:
    body, secret = b'{"a": 1}', b"s3cret"
    tag = hmac.new(secret, b"1000." + body, hashlib.sha256).hexdigest()
    header = f"t=1000,v1={tag}"
    assert webhook.signature_holds(secret, header, body, now=1200)
    refused = {
        "another body": (secret, header, body + b" ", 1000.0),
        "another secret": (b"other", header, body, 1000.0),
        "another time": (secret, f"t=1001,v1={tag}", body, 1000.0),
        "too old": (secret, header, body, 1301.0),
        "from the future": (secret, header, body, 600.0),
        "no tag": (secret, "t=1000", body, 1000.0),
        "nothing": (secret, "", body, 1000.0),
        "letters for a time": (secret, f"t=x,v1={tag}", body, 1000.0),
        "a tag that is no ASCII": (secret, "t=1000,v1=ü", body, 1000.0),
    }
    for name, (key, value, data, now) in refused.items():
        assert not webhook.signature_holds(key, value, data, now=now), name


def test_what_was_sent_is_named_by_its_digest(endpoint) -> None:
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert delivery.payload_digest == Digest.of(endpoint.requests[0][1])
    assert (delivery.event, delivery.was_wanted) == ("training.start", True)
    assert not notifier(url=endpoint.url, notify_on_start=False).notify_start("r").was_wanted


def test_a_body_without_end_is_not_read(endpoint) -> None:
    endpoint.answers, endpoint.headers = [200], {"Content-Length": str(2**40)}
    began = time.monotonic()
    assert notifier(url=endpoint.url).notify_start("r").delivered
    assert time.monotonic() - began < 1.5


def test_headers_without_end_are_cut_off(endpoint) -> None:
    endpoint.answers, endpoint.headers = [200], {f"X-{number}": "y" * 1000 for number in range(2000)}
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert not delivery.delivered
    assert "HTTPException" in str(delivery.reason) or "LineTooLong" in str(delivery.reason)


def test_a_name_that_resolves_anew_gains_nothing(endpoint, monkeypatch) -> None:
    """Rebinding: public when it is looked at, loopback a moment later. Only the first answer is ever used."""
    asked, reached = [], []

    def resolve(host, port, *_, **__):
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address, timeout):
        reached.append(address[0])
        raise TimeoutError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(TimeoutError):
        _http.post_json(f"http://rebinding.example:{endpoint.port}/", {}, timeout=1)
    assert (asked, reached) == (["rebinding.example"], ["93.184.215.14"])
    with pytest.raises(WebhookError, match=r"127\.0\.0\.1"):
        _http.post_json(f"http://rebinding.example:{endpoint.port}/", {}, timeout=1)
    assert endpoint.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(WebhookError, match=r"10\.0\.0\.1"):
        _http.post_json("http://both.example/", {}, timeout=1)


METADATA = ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "100.100.100.200"]


@pytest.mark.parametrize("host", METADATA)
def test_a_metadata_service_is_refused_whatever_the_recipe_allows(host) -> None:
    delivery = notifier(url=f"http://{host}/latest/", allow_private_destinations=True).notify_start("r")
    assert (delivery.delivered, delivery.attempts) == (False, 0)
    assert "metadata service" in str(delivery.reason)


def test_a_card_stays_below_what_teams_takes_and_holds_no_link() -> None:
    metrics = {f"metric_{number}": 0.5 for number in range(5000)}
    told = Notification("training.failure", "[run](http://x)", "failure", metrics, reason="[r](http://x)" + "ü" * 2000)
    for style in ("teams", "slack"):
        assert len(json.dumps(payload_for(style, told)).encode()) < 28_000
    assert "](" not in json.dumps(payload_for("teams", told))


PASSING = {"one": [503], "two": [500, 429], "a timeout of the peer": [408]}


@pytest.mark.parametrize("answers", PASSING.values(), ids=PASSING.keys())
def test_a_passing_failure_is_tried_again_as_the_same_delivery(answers, endpoint) -> None:
    endpoint.answers = list(answers)
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert (delivery.delivered, delivery.attempts) == (True, len(answers) + 1)
    assert len({headers["X-Forge-Delivery"] for headers, _ in endpoint.requests}) == 1


def test_three_failures_are_enough_and_are_logged_without_the_url(endpoint, caplog) -> None:
    endpoint.answers = [500] * 5
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 3, 500)
    assert "127.0.0.1" in caplog.text
    assert "T0K3N" not in caplog.text + str(delivery)


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_by_the_endpoint_is_final(status, endpoint) -> None:
    endpoint.answers = [status]
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, status)


def test_a_redirect_is_not_followed(endpoint) -> None:
    endpoint.answers, endpoint.headers = [307], {"Location": endpoint.url}
    delivery = notifier(url=endpoint.url).notify_start("r")
    assert "redirect" in str(delivery.reason)
    assert len(endpoint.requests) == 1


def test_nobody_there_is_an_outcome_not_an_error(endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        delivery = notifier(url=f"http://127.0.0.1:{free.getsockname()[1]}/").notify_start("r")
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 3, None)
    assert "ConnectionRefusedError" in str(delivery.reason)


def test_an_endpoint_that_trickles_is_cut_off_at_the_deadline(endpoint) -> None:
    endpoint.trickle = True
    began = time.monotonic()
    with pytest.raises((OSError, http.client.HTTPException)):
        _http.post_json(endpoint.url, {}, timeout=0.4, allow_private=True)
    assert time.monotonic() - began < 3


REFUSED = {
    "loopback": "http://127.0.0.1/",
    "loopback by name": "http://localhost/",
    "loopback as one number": "http://2130706433/",
    "loopback, short": "http://127.1/",
    "IPv6 loopback": "http://[::1]/",
    "IPv4 in IPv6": "http://[::ffff:127.0.0.1]/",
    "private": "http://10.0.0.1/",
    "link-local (cloud metadata)": "http://169.254.169.254/latest/meta-data",
    "carrier-grade NAT": "http://100.64.0.1/",
    "unspecified": "http://0.0.0.0/",
    "another scheme": "file:///etc/passwd",
    "no host": "https:///x",
    "credentials": "http://user:password@127.0.0.1/",
    "a port that is none": "http://127.0.0.1:99999/",
    "nothing of the sort": "hooks",
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED.keys())
def test_a_destination_that_is_not_public_is_refused_at_once(url) -> None:
    delivery = notifier(url=url, allow_private_destinations=False).notify_start("r")
    assert (delivery.delivered, delivery.attempts) == (False, 0)
    with pytest.raises(WebhookError):
        _http.post_json(url, {}, timeout=1)


def test_a_private_address_names_the_key_that_allows_it(endpoint) -> None:
    delivery = notifier(url=endpoint.url, allow_private_destinations=False).notify_start("r")
    assert "webhook.allow_private_destinations: true" in str(delivery.reason)
    assert endpoint.requests == []


def test_plain_http_is_refused_where_https_is_required(endpoint) -> None:
    assert "plain http" in str(notifier(url=endpoint.url, require_https=True).notify_start("r").reason)
    assert endpoint.requests == []


NOT_PUBLIC = [
    "168.63.129.16",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::1",
    "64:ff9b:1::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2001:0:0:0:0:0:80ff:fffe",
    "224.0.0.1",
    "::",
    "fe80::1",
    "fc00::1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "::ffff:10.0.0.1",
    "192.168.1.1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address) -> None:
    assert not _http.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public(address) -> None:
    assert _http.is_public(ipaddress.ip_address(address))


STYLES = {
    "https://hooks.slack.com/services/T/B/X": "slack",
    "https://acme.webhook.office.com/webhookb2/x": "teams",
    "https://prod-7.westus.logic.azure.com/workflows/x": "teams",
    "https://default1.env.api.powerplatform.com/powerautomate/x": "teams",
    "https://prod.flow.microsoft.com/x": "teams",
    "https://example.com/hooks.slack.com": "generic",
    "https://hooks.slack.com.example.com/": "generic",
    "https://nothooks.slack.com/": "generic",
    "https://evilwebhook.office.com/": "generic",
}


@pytest.mark.parametrize(("url", "style"), STYLES.items())
def test_the_host_alone_decides_the_shape(url, style) -> None:
    assert style_of(url) == style


FAILED = Notification("training.failure", "run <!channel>", "failure", {"loss": 0.5}, reason="a & b")


def test_slack_gets_text_and_an_attachment_and_cannot_be_made_to_mention_anyone() -> None:
    payload = payload_for("slack", FAILED)
    assert payload["text"] == "run &lt;!channel&gt;: failure"
    (attachment,) = payload["attachments"]
    assert attachment["color"] == "danger"
    assert [f["title"] for f in attachment["fields"]] == ["event", "loss", "reason"]
    assert attachment["fields"][2]["value"] == "a &amp; b"
    assert "<" not in json.dumps(payload)


def test_teams_gets_an_adaptive_card() -> None:
    payload = payload_for("teams", FAILED)
    card = payload["attachments"][0]["content"]
    assert (payload["type"], card["type"]) == ("message", "AdaptiveCard")
    assert payload["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {"title": "reason", "value": "a & b"} in card["body"][1]["facts"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1: (certificate file, key file)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "cert.pem", directory / "key.pem"


def test_https_trusts_the_bundle_that_the_recipe_names_and_nobody_else(certificate) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"https://localhost:{server.server_address[1]}/"
        assert notifier(url=url, require_https=True, tls_ca_bundle=str(certificate[0])).notify_start("r").delivered
        untrusted = notifier(url=url, require_https=True).notify_start("r")
        assert "CERTIFICATE_VERIFY_FAILED" in str(untrusted.reason)
        by_address = notifier(url=url.replace("localhost", "127.0.0.1"), tls_ca_bundle=str(certificate[0]))
        assert "CERTIFICATE_VERIFY_FAILED" in str(by_address.notify_start("r").reason)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
