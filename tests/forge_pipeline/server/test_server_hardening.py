"""What the server does with requests that mean harm, come twice, or come from nobody it knows."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.audit_log import read_entries, verify_audit_log
from forge_pipeline.cli.main import main
from forge_pipeline.errors import ConfigError
from forge_pipeline.server.api_keys import KeyFile, KeyRing
from forge_pipeline.server.errors import BusyError, ConflictError
from forge_pipeline.server.idempotency import KEPT, Claim, Replies, Reply
from forge_pipeline.server.launchers import LogLine
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.request_ids import RequestIdFilter
from forge_pipeline.server.security import Guard
from tests.forge_pipeline.server.served import (
    TRAINABLE,
    Endless,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)

LAUNCHER = Endless()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path_factory.mktemp("hardened")), LAUNCHER) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        yield studio


@pytest.fixture
def idle(served: Studio) -> Iterator[Studio]:
    """No training runs before or after."""
    yield served
    served.post("/api/stop_training")


def entries(studio: Studio) -> list[dict[str, Any]]:
    """What the server's own log says about acts, oldest first."""
    found = read_entries(str(studio.data_dir / "audit_log" / "api" / "audit_log.jsonl"))
    return [dict(entry.data) | {"event": entry.event} for entry in found if entry.event.startswith("api.")]


# --- bodies ---------------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[bytes, str]] = {
    "NaN": (b'{"learning_rate": NaN}', "not valid JSON"),
    "infinity": (b'{"learning_rate": -Infinity}', "not valid JSON"),
    "half of a surrogate pair": (rb'{"model_name": "\ud800"}', "not valid JSON"),
    "a nesting bomb": (b'{"a": ' + b"[" * 300_000 + b"]" * 300_000 + b"}", "not valid JSON"),
    "nested 65 levels": (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
    "an integer of 200,000 digits": (b'{"lora_r": ' + b"9" * 200_000 + b"}", ""),
    "an integer of 400 digits": (b'{"lora_r": ' + b"9" * 400 + b"}", "lora_r"),
    "UTF-16": ('{"task": "text-generation"}'.encode("utf-16"), "not valid JSON"),
    "a key twice": (b'{"task": "text-generation", "task": "summarization"}', "'task' more than once"),
    "a NUL in a name": (rb'{"task": "text-generation", "model_name": "a\u0000b", "dataset": "rows.jsonl"}', "NUL"),
    "1,000 unknown fields": (json.dumps({f"f{i}": 1 for i in range(1000)}).encode(), "more"),
}


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_strict_json_is_refused(served: Studio, body: bytes, words: str) -> None:
    reply = served.post("/api/start_training", content=body, headers={"Content-Type": "application/json"})
    detail = check_envelope(reply, 400)
    assert words in detail
    assert len(detail) < 5000


def test_a_chunked_body_over_the_limit_is_refused_whatever_it_claims(served: Studio) -> None:
    chunks = (b"a" * 2**16 for _ in range(40))
    check_envelope(
        served.post("/api/start_training", content=chunks, headers={"Content-Type": "application/json"}), 413
    )


def test_a_body_that_stops_coming_is_given_up(tmp_path: Path) -> None:
    async def reached(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing may get through")

    async def ask() -> list[Any]:
        sent: list[Any] = []
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            return first.pop() if first else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        settings = settings_for(tmp_path)
        guard = Guard(reached, settings, KeyRing((), tmp_path, always=False), body_within=0.05)
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/api/jobs", "headers": headers, "query_string": b""}
        await asyncio.wait_for(guard(scope, receive, send), 5)
        return sent

    assert asyncio.run(ask())[0]["status"] == 408


# --- where it comes from --------------------------------------------------------------------------------------------

SITES: dict[str, tuple[str, str, dict[str, str], int]] = {
    "an image on another page": ("GET", "/api/models", {"site": "cross-site", "mode": "no-cors", "dest": "image"}, 403),
    "a page on another port": ("GET", "/api/models", {"site": "same-site", "mode": "cors", "dest": "empty"}, 403),
    "a form on another page": (
        "POST",
        "/api/stop_training",
        {"site": "cross-site", "mode": "navigate", "dest": "document"},
        403,
    ),
    "a frame in another page": ("GET", "/", {"site": "cross-site", "mode": "navigate", "dest": "iframe"}, 403),
    "a link that a person follows": ("GET", "/", {"site": "cross-site", "mode": "navigate", "dest": "document"}, 200),
    "the page itself": ("GET", "/api/models", {"site": "same-origin", "mode": "cors", "dest": "empty"}, 200),
    "the address bar": ("GET", "/api/models", {"site": "none", "mode": "navigate", "dest": "document"}, 200),
}


@pytest.mark.parametrize(("method", "path", "fetch", "status"), SITES.values(), ids=SITES.keys())
def test_what_a_browser_says_about_the_asking_page_counts(
    served: Studio, method: str, path: str, fetch: dict[str, str], status: int
) -> None:
    headers = {f"Sec-Fetch-{name.title()}": value for name, value in fetch.items()}
    assert served.http.request(method, path, headers=headers).status_code == status


@pytest.mark.parametrize("hosts", [[], ["evil.example"], ["127.0.0.1", "evil.example"], ["127.0.0.1.evil.example"]])
def test_only_one_host_and_only_ours(served: Studio, hosts: list[str]) -> None:
    """DNS rebinding, by hand: a client library would not send two."""
    address = ("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
    lines = ["GET /api/models HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    with socket.create_connection(address) as connection:
        connection.sendall("\r\n".join(lines).encode())
        reply = connection.makefile("rb").readline()
    assert int(reply.split()[1]) in (400, 403)


# --- request ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brought", ["abc-1.2:3_4", "x" * 128])
def test_a_request_id_that_is_brought_comes_back(served: Studio, brought: str) -> None:
    assert served.get("/api/models", headers={"X-Request-ID": brought}).headers["X-Request-ID"] == brought


@pytest.mark.parametrize("brought", [None, "", "x" * 129, "a b", 'a"b', "é".encode("latin-1")])
def test_any_other_request_id_is_replaced(served: Studio, brought: Any) -> None:
    reply = served.get("/nowhere", headers={} if brought is None else {"X-Request-ID": brought})
    assert re.fullmatch("[0-9a-f]{16}", reply.headers["X-Request-ID"])


def test_a_failure_inside_is_the_envelope_with_the_id_that_its_log_line_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Endless):
        def log(self, run_id: str) -> list[LogLine]:
            raise RuntimeError("cannot read /srv/secret/place")

    caplog.handler.addFilter(names := RequestIdFilter())
    with in_thread(settings_for(tmp_path), Broken()) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        path = f"/api/jobs/{studio.start().json()['job_id']}/logs"
        reply = studio.get(path, headers={"X-Request-ID": "it-was-me"})
    caplog.handler.removeFilter(names)
    assert "it-was-me" in (detail := check_envelope(reply, 500))
    assert "secret" not in detail
    assert reply.headers["X-Request-ID"] == "it-was-me"
    (found,) = (record for record in caplog.records if record.name == "forge_pipeline.server.errors")
    assert found.request_id == "it-was-me"  # type: ignore[attr-defined]
    assert found.exc_info


# --- paths ----------------------------------------------------------------------------------------------------------

WORDS = {
    "no such file: '/home/ann lee/x y/rows.jsonl'": "no such file: '.../rows.jsonl'",
    'File "/usr/lib/python3/x.py", line 3': 'File ".../x.py", line 3',
    "sqlite:////var/lib/forge/registry.sqlite is locked": ".../registry.sqlite is locked",
    "file:///etc/passwd": ".../passwd",
    "under /tmp": "under ...",
    r"C:\Users\ann\rows.jsonl": ".../rows.jsonl",
    "/opt/forge/x.py:33: error": ".../x.py:33: error",
    "see GET /api/jobs/1, /v1/models or /openapi.json.": "see GET /api/jobs/1, /v1/models or /openapi.json.",
    "http://127.0.0.1:3000/runs/abc": "http://127.0.0.1:3000/runs/abc",
    "owner/name, a/b/c and 3/4": "owner/name, a/b/c and 3/4",
}


@pytest.mark.parametrize(("said", "shown"), WORDS.items())
def test_of_a_path_only_the_last_part_leaves_the_machine(said: str, shown: str) -> None:
    assert without_paths(said) == shown


def test_a_jobs_log_error_and_events_show_no_path(idle: Studio) -> None:
    started = idle.start().json()
    LAUNCHER.says = [LogLine(1.0, "error", "fine_tune", 'File "/srv/secret/place/train.py", line 1')]
    run = f"run-{started['job_id']}"
    progress = idle.data_dir / "progress" / f"{run}.jsonl"
    line = {"ts": 2.0, "stage": "fine_tune", "step": 1, "total": 3, "message": "reading /srv/secret/place/rows.jsonl"}
    progress.write_text(json.dumps(line) + "\n")
    for path in (f"/api/jobs/{started['job_id']}/logs", f"/api/jobs/{started['job_id']}", "/api/training_status"):
        assert "rows.jsonl" in (text := idle.get(path).text), path
        assert "/srv" not in text
    assert ".../train.py" in idle.get(f"/api/jobs/{started['job_id']}/logs").text


# --- the same request again -----------------------------------------------------------------------------------------


def test_the_same_start_again_gets_the_same_reply_and_one_job(idle: Studio) -> None:
    def start(key: str = "start-1", **changes: Any) -> Any:
        return idle.post("/api/start_training", json=idle.body(**changes), headers={"Idempotency-Key": key})

    before = len(idle.get("/api/jobs").json()["jobs"])
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: start(), range(4)))
    assert {reply.status_code for reply in replies} <= {200, 409}
    first = next(reply for reply in replies if reply.status_code == 200)
    again = start()
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(idle.get("/api/jobs").json()["jobs"]) == before + 1
    assert "another body" in check_envelope(start(num_train_epochs=2), 409)
    busy = start("start-2")
    assert "One training runs at a time" in check_envelope(busy, 409)
    assert int(busy.headers["Retry-After"]) > 0
    idle.post("/api/stop_training")
    assert start("start-2").status_code == 200  # what was refused has left nothing behind


def test_the_same_upload_again_is_stored_once_although_the_form_differs(served: Studio) -> None:
    def upload(rows: list[dict[str, Any]], boundary: str) -> Any:
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="once.jsonl"\r\n\r\n'.encode()
            + jsonl(rows)
            + f"\r\n--{boundary}--\r\n".encode()
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": "upload-1"}
        return served.post("/api/upload_dataset", content=body, headers=headers)

    first, again = upload(TRAINABLE, "aaa"), upload(TRAINABLE, "bbb")
    assert first.json() == again.json()
    assert [d["filename"] for d in served.get("/api/datasets").json()["datasets"]].count("once.jsonl") == 1
    assert not list((served.data_dir / "datasets").glob("once-2*"))
    assert not list((served.data_dir / "datasets").glob(".incoming*"))
    check_envelope(upload(TRAINABLE[:11], "ccc"), 409)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_400(served: Studio, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    check_envelope(served.post("/api/jobs", json=served.body(), headers=headers), 400)


def test_replies_are_kept_a_day_by_caller_and_survive_a_restart(tmp_path: Path) -> None:
    now = [1000.0]
    replies, claim = Replies(tmp_path / "r.sqlite", lambda: now[0]), Claim("ann", "/api/jobs", "k")
    assert replies.begin(claim, b"body") is None
    with pytest.raises(BusyError):
        replies.begin(claim, b"body")
    replies.finish(claim, Reply(200, "application/json", b"{}"))
    assert replies.begin(Claim("bob", "/api/jobs", "k"), b"body") is None
    replies.close()
    after = Replies(tmp_path / "r.sqlite", lambda: now[0])
    assert after.begin(claim, b"body") == Reply(200, "application/json", b"{}")
    with pytest.raises(ConflictError, match="the server ended"):
        after.begin(Claim("bob", "/api/jobs", "k"), b"body")
    now[0] += KEPT + 1
    assert after.begin(claim, b"another body") is None
    after.close()


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path), Endless()) as studio:
        yield studio


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["api-key", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_from_birth_to_end(guarded: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    """Every change counts from the next request on."""
    place = ("--data-dir", str(guarded.data_dir))

    def status(key: str, method: str = "GET", path: str = "/api/models") -> int:
        return guarded.http.request(method, path, headers={"Authorization": f"Bearer {key}"}).status_code

    assert guarded.get("/api/models").status_code == 200
    reader = run(capsys, "create", "dashboard", *place)
    assert re.fullmatch(r"forge_[\w-]{43}", reader)
    check_envelope(guarded.get("/api/models"), 401)
    assert guarded.get("/api/models").headers["WWW-Authenticate"] == "Bearer"
    assert (status(reader), status(reader, "POST", "/api/stop_training"), status("guess")) == (200, 403, 401)
    assert main(["api-key", "create", "dashboard", *place]) == 1  # the name is taken
    capsys.readouterr()

    admin = run(capsys, "create", "ann", "--scope", "admin", *place)
    assert status(admin, "POST", "/api/stop_training") == 409
    successor = run(capsys, "rotate", "ann", "--overlap-hours", "1", *place)
    assert (status(admin), status(successor)) == (200, 200)
    assert run(capsys, "rotate", "ann", "--overlap-hours", "0", *place) != successor
    assert (status(admin), status(successor)) == (401, 401)
    assert run(capsys, "revoke", "ann", *place).startswith("1 key of ann")
    run(capsys, "revoke", "dashboard", *place)
    assert status(reader) == 401  # no key is left, and the server stays closed

    stored = (guarded.data_dir / "api_keys.json").read_text()
    log = (guarded.data_dir / "audit_log" / "api" / "audit_log.jsonl").read_text()
    for secret in (reader, admin, successor):
        assert secret not in stored
        assert secret not in log
    changes = [(e["operation"], e["api_key"]) for e in entries(guarded) if e["event"] == "api.key_changed"]
    assert changes[:3] == [("created", "dashboard"), ("created", "ann"), ("rotated", "ann")]
    assert changes[-1] == ("revoked", "dashboard")
    assert "revoked" in run(capsys, "list", *place)


def test_a_file_of_keys_that_cannot_be_read_lets_nobody_in(guarded: Studio) -> None:
    secret, _ = KeyFile(guarded.data_dir).create("ann", "admin")
    headers = {"Authorization": f"Bearer {secret}"}
    assert guarded.get("/api/models", headers=headers).status_code == 200
    (guarded.data_dir / "api_keys.json").write_text("{}")
    check_envelope(guarded.get("/api/models", headers=headers), 500)
    check_envelope(guarded.get("/api/models"), 401)
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyFile(guarded.data_dir).read()


def test_when_a_key_was_used_last_is_kept(tmp_path: Path) -> None:
    file, ring = KeyFile(tmp_path), KeyRing((), tmp_path, always=True)
    secret, key = file.create("ann", "read")
    assert file.last_used() == {}
    assert [granted.name for granted in ring.granted(secret)] == ["ann"]
    ring.flush()
    assert file.last_used().keys() == {key.id}


def test_a_server_that_others_can_reach_asks_for_a_key_in_the_file_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="forge api-key create"):
        settings_for(tmp_path, host="0.0.0.0")
    KeyFile(tmp_path).create("ann", "admin")
    assert settings_for(tmp_path, host="0.0.0.0").host == "0.0.0.0"
    (tmp_path / "api_keys.json").unlink()
    assert KeyRing((), tmp_path, always=True).needed()


# --- the log of acts ------------------------------------------------------------------------------------------------


def test_acts_are_in_the_log_with_the_keys_name(guarded: Studio) -> None:
    secret, _ = KeyFile(guarded.data_dir).create("ann", "admin")
    guarded.http.headers["Authorization"] = f"Bearer {secret}"
    guarded.upload("rows.jsonl", jsonl(TRAINABLE))
    job_id = guarded.start().json()["job_id"]
    guarded.get("/api/models")
    guarded.post("/api/stop_training")
    guarded.http.delete("/api/models/7", headers={"X-Request-ID": "mine"})
    found = wait_for(lambda: len(acts := entries(guarded)) == 8 and acts)  # an answer is logged after it is sent
    assert {entry["api_key"] for entry in found} == {"ann"}
    answered = [(e["action"], e["target"], e["status"]) for e in found if e["event"] == "api.answered"]
    assert answered == [
        ("upload_dataset", "rows.jsonl", 200),
        ("start_training", job_id, 200),
        ("stop_training", job_id, 200),
        ("delete_model", "7", 404),
    ]
    assert found[-1]["request_id"] == "mine"
    assert secret not in json.dumps(found)
    assert verify_audit_log(str(guarded.data_dir / "audit_log" / "api" / "audit_log.jsonl")).valid


def test_what_cannot_be_logged_is_not_done(guarded: Studio) -> None:
    (guarded.data_dir / "audit_log").mkdir()
    (guarded.data_dir / "audit_log" / "api").write_text("a file where the log's directory should be")
    guarded_reply = guarded.upload("rows.jsonl", jsonl(TRAINABLE))
    assert "audit log" in check_envelope(guarded_reply, 503)
    assert guarded.get("/api/datasets").json() == {"datasets": []}
