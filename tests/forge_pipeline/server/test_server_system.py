"""Conformance rows G, I, H: what holds for every route, and what the server says about itself."""

import contextlib
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline import __version__
from forge_pipeline.errors import ConfigError
from forge_pipeline.server.settings import ServerSettings
from tests.forge_pipeline.server.served import Endless, Studio, check_envelope, in_thread, settings_for, wait_for

JSON_ROUTES = ["/api/start_training", "/api/jobs", "/api/playground/generate"]

# The seed's eleven, and the queue's seven.
OPERATIONS = {
    ("get", "/api/info"),
    ("get", "/api/health"),
    ("post", "/api/start_training"),
    ("get", "/api/training_status"),
    ("post", "/api/stop_training"),
    ("get", "/api/models"),
    ("get", "/api/models/{model_id}"),
    ("delete", "/api/models/{model_id}"),
    ("post", "/api/upload_dataset"),
    ("get", "/api/datasets"),
    ("post", "/api/playground/generate"),
    ("post", "/api/jobs"),
    ("get", "/api/jobs"),
    ("get", "/api/jobs/{job_id}"),
    ("get", "/api/jobs/{job_id}/events"),
    ("get", "/api/jobs/{job_id}/logs"),
    ("post", "/api/jobs/{job_id}/cancel"),
    ("post", "/api/jobs/{job_id}/retry"),
}


def test_an_unknown_route_is_404(server: Studio) -> None:
    check_envelope(server.get("/api/does_not_exist"), 404)


def test_a_wrong_method_is_405_and_names_the_right_one(server: Studio) -> None:
    reply = server.get("/api/start_training")
    check_envelope(reply, 405)
    assert reply.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/datasets", "/openapi.json", "/v1/models"])
def test_head_is_answered_as_get_is_without_the_body(server: Studio, path: str) -> None:
    head, get = server.http.head(path), server.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    ("address", "words"),
    {
        "/api/jobs?stats=failed": "it takes limit, after, status",
        "/api/models?limit=1&limit=2": "limit: comes 2 times",
        "/api/health?verbose=1": "it takes none",
        "/api/approvals?state=closed": "'open' or 'all'",
    }.items(),
)
def test_a_parameter_that_would_be_ignored_is_refused(server: Studio, address: str, words: str) -> None:
    assert words in check_envelope(server.get(address), 400)


def test_clients_of_openai_may_add_parameters_of_their_own(server: Studio) -> None:
    assert server.get("/v1/models?api-version=1").status_code == 200


@pytest.mark.parametrize("spelt", ["1_0", "+1", "1%20", "%201", "1.0", "\uff11", "1e0"])
def test_an_id_has_one_spelling(server: Studio, spelt: str) -> None:
    assert "plain digits" in check_envelope(server.http.request("DELETE", f"/api/models/{spelt}"), 400)


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{bad", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "' + b"a" * 2**20 + b'"}', "application/json", 413),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    server: Studio, route: str, content: bytes, content_type: str, status: int
) -> None:
    check_envelope(server.post(route, content=content, headers={"Content-Type": content_type}), status)


def test_no_rate_limit(server: Studio) -> None:
    assert {server.get("/api/health").status_code for _ in range(50)} == {200}


def test_info_lists_what_the_contract_names_and_says_what_can_run(server: Studio) -> None:
    info = server.get("/api/info").json()
    assert set(info["providers"]) >= {"huggingface", "unsloth"}
    assert set(info["strategies"]) >= {"sft", "qlora", "rlhf", "dpo"}
    assert set(info["tasks"]) == {"text-generation", "summarization", "extractive-question-answering"}
    assert info["version"] == server.get("/api/health").json()["version"] == __version__
    assert info["availability"]["strategies"]["sft"] == {"available": True, "reason": None}
    assert "pip install unsloth" in info["availability"]["providers"]["unsloth"]["reason"]


def test_health_needs_no_dagster_and_is_quick(server: Studio) -> None:
    began = time.monotonic()
    health = server.get("/api/health").json()
    assert health["status"] == "healthy"
    assert time.monotonic() - began < 1


def test_openapi_documents_the_error_envelope_and_never_422(server: Studio) -> None:
    schema = server.get("/openapi.json").json()
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    assert {(method, path) for path, methods in schema["paths"].items() for method in methods} >= OPERATIONS
    assert all("422" not in operation["responses"] for operation in operations)
    assert all(operation["responses"]["400"]["content"]["application/json"] for operation in operations)


def test_the_page_is_served_and_loads_nothing_from_elsewhere(server: Studio) -> None:
    page = server.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page.text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", ""])
def test_a_foreign_host_is_refused(server: Studio, host: str) -> None:
    check_envelope(server.get("/api/health", headers={"Host": host}), 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_a_foreign_origin_is_refused(server: Studio, origin: str) -> None:
    check_envelope(server.post("/api/stop_training", headers={"Origin": origin}), 403)


def test_the_servers_own_page_is_let_in(server: Studio) -> None:
    check_envelope(server.post("/api/stop_training", headers={"Origin": server.url}), 409)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    keys = [{"name": scope, "scope": scope, "sha256": hashlib.sha256(scope.encode()).hexdigest()} for scope in SCOPES]
    with in_thread(settings_for(tmp_path_factory.mktemp("locked"), api_keys=keys)) as studio:
        yield studio


SCOPES = ["read", "train", "admin"]


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [
        (None, "GET", "/api/health", 401),
        ("guess", "GET", "/api/health", 401),
        ("read", "GET", "/api/models", 200),
        ("read", "POST", "/api/stop_training", 403),
        ("train", "GET", "/api/models", 200),
        ("train", "POST", "/api/stop_training", 409),
        ("train", "DELETE", "/api/models/1", 403),
        ("admin", "DELETE", "/api/models/1", 404),
        ("admin", "POST", "/api/stop_training", 409),
        (None, "GET", "/", 200),
    ],
)
def test_a_key_opens_what_its_scope_says(locked: Studio, key: str | None, method: str, path: str, status: int) -> None:
    reply = locked.http.request(method, path, headers={"Authorization": f"Bearer {key}"} if key else {})
    assert reply.status_code == status
    if status >= 400:
        check_envelope(reply, status)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, "API key is mandatory"),
        ({"port": 99999}, "FORGE_PORT"),
        ({"environment": {"FORGE_API_KEYS": "ci:root:00"}}, "FORGE_API_KEYS"),
        ({"environment": {"FORGE_UPLOAD_LIMIT_BYTES": "0"}}, "FORGE_UPLOAD_LIMIT_BYTES"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerSettings.read(values.pop("environment", {}), **values)


def test_an_argument_wins_over_the_environment(tmp_path: Path) -> None:
    settings = ServerSettings.read({"FORGE_PORT": "1", "FORGE_HOME": str(tmp_path)}, port=2)
    assert (settings.port, settings.data_dir) == (2, tmp_path)


def test_a_second_server_on_the_same_data_directory_is_refused(server: Studio) -> None:
    from forge_pipeline.server.supervisor import exclusive

    with pytest.raises(ConfigError, match="another forge serve"), exclusive(server.data_dir):
        pass


def test_the_envelope_is_json_text(server: Studio) -> None:
    assert json.loads(server.get("/nowhere").text)["error"] == "Not Found"


def metric(text: str, name: str) -> float:
    (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
    return float(line.rsplit(" ", 1)[1])


def test_metrics_count_requests_by_route_and_show_the_training(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path), Endless()) as studio:
        studio.upload("rows.jsonl", b'{"input": "a", "output": "b"}\n' * 12)
        job_id = studio.start().json()["job_id"]
        for path in ("/api/jobs/a", "/api/jobs/b", f"/api/jobs/{job_id}", "/nowhere/1", "/nowhere/2"):
            studio.get(path)
        studio.http.request("PROPFIND", "/api/models", headers={"Host": "evil.example"})
        line = {"ts": 1.0, "stage": "fine_tune", "step": 3, "total": 9, "metrics": {"loss": 1.5}}
        (tmp_path / "progress" / f"run-{job_id}.jsonl").write_text(json.dumps(line) + "\n")
        reply = studio.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    text = reply.text
    requests = 'forge_requests_total{method="GET",route="%s",status="%s"}'
    assert metric(text, requests % ("/api/jobs/{job_id}", 404)) == 2
    assert metric(text, requests % ("/api/jobs/{job_id}", 200)) == 1
    assert metric(text, requests % ("none", 404)) == 2
    assert metric(text, 'forge_requests_total{method="other",route="none",status="403"}') == 1
    assert metric(text, 'forge_request_seconds_count{method="GET",route="/api/jobs/{job_id}"}') == 3
    assert metric(text, 'forge_jobs{status="training"}') + metric(text, 'forge_jobs{status="queued"}') == 1
    for name, value in {"training_step": 3, "training_steps": 9, "training_loss": 1.5, "loaded_models": 0}.items():
        assert metric(text, f"forge_{name}") == value
    assert metric(text, "process_resident_memory_bytes") > 1e6


def test_a_server_without_its_dagster_is_alive_and_not_ready(server: Studio) -> None:
    assert server.get("/api/live").json() == {"status": "alive"}
    wait_for(lambda: server.get("/api/health").json()["launcher"] != "not asked yet")
    reply = server.get("/api/ready")
    assert "launcher: " in check_envelope(reply, 503)
    assert int(reply.headers["Retry-After"]) > 0


def test_a_server_is_ready_until_something_it_needs_is_not_there(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path), Endless()) as studio:
        wait_for(lambda: studio.get("/api/ready").status_code == 200)
        assert studio.get("/api/ready").json() == {"status": "ready"}
        with contextlib.closing(sqlite3.connect(tmp_path / "registry.sqlite")) as registry:
            registry.execute("DROP TABLE models")
        assert "database: registry does not answer" in check_envelope(studio.get("/api/ready"), 503)


def test_a_probe_needs_no_key_and_everything_else_does(locked: Studio) -> None:
    assert locked.get("/api/live").status_code == 200
    assert locked.get("/api/ready").status_code in (200, 503)
    check_envelope(locked.get("/metrics"), 401)
