"""The typed client against real servers, and against the description of the API."""

import json
import pickle
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_pipeline.client import ForgeApiError, ForgeClient, ForgeUnreachableError, StartBody
from forge_pipeline.client.transfers import keep
from forge_pipeline.errors import IntegrityError
from forge_pipeline.server.api_keys import KeyFile
from forge_pipeline.server.app import create_app
from forge_pipeline.server.launchers import RunState, RunStatus
from forge_pipeline.server.schemas import StartTraining
from tests.forge_pipeline.server.served import TRAINABLE, Endless, Studio, in_thread, jsonl, settings_for, wait_for
from tests.forge_pipeline.server.served_models import register

LAUNCHER = Endless()
BODY = StartBody(task="text-generation", model_name="tiny/model", dataset="rows.jsonl")

# The client of the seed, with its host replaced and nothing else.
SEED_EXAMPLE = """
import requests

# Start training
response = requests.post(
    'http://localhost:8000/api/start_training',
    json={
        'task': 'text-generation',
        'model_name': 'meta-llama/Llama-3.2-3B',
        'provider': 'unsloth',
        'dataset': '/path/to/dataset.jsonl',
        'num_train_epochs': 3
    }
)

print(response.json())

# Check status
status = requests.get('http://localhost:8000/api/training_status')
print(status.json())
"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path_factory.mktemp("client")), LAUNCHER) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        yield studio


@pytest.fixture
def forge(studio: Studio) -> Iterator[ForgeClient]:
    with ForgeClient(studio.url) as client:
        yield client
        studio.post("/api/stop_training")


def said(code: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    exec(compile(code, "<the seed's example>", "exec"), {})  # it is the code under test
    return [dict(eval(line)) for line in capsys.readouterr().out.splitlines()]  # it prints dicts


def test_the_seeds_example_runs_as_it_stands(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    """Where Unsloth is missing, its start is refused by name; its shape of the status is always there."""
    started, status = said(SEED_EXAMPLE.replace("http://localhost:8000", studio.url), capsys)
    assert started["status_code"] == 400
    assert "unsloth" in started["detail"]
    assert status["status"] == "idle"


def test_the_seeds_example_starts_what_this_machine_can_run(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    here = {"http://localhost:8000": studio.url, "unsloth": "huggingface", "/path/to/dataset.jsonl": "rows.jsonl"}
    code = SEED_EXAMPLE
    for theirs, ours in here.items():
        code = code.replace(theirs, ours)
    started, status = said(code, capsys)
    studio.post("/api/stop_training")
    assert started["status"] == "started"
    assert status["job_id"] == started["job_id"]
    assert status["total_epochs"] == 3


def test_a_training_from_upload_to_its_end(forge: ForgeClient, studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(jsonl(TRAINABLE))
    uploaded = forge.upload_dataset(tmp_path / "mine.jsonl")
    assert (uploaded.num_examples, uploaded.validation.valid) == (12, True)
    assert "mine.jsonl" in [dataset.filename for dataset in forge.datasets()]
    started = forge.start_training(**{**BODY, "dataset": uploaded.filename, "num_train_epochs": 4})
    statuses = forge.watch(timeout=20)
    assert next(statuses).job_id == started.job_id
    seen: list[float] = []

    def work() -> None:
        progress = studio.data_dir / "progress" / f"run-{started.job_id}.jsonl"
        for step in range(1, 5):
            with progress.open("a") as file:
                line = {
                    "ts": time.time(),
                    "stage": "fine_tune",
                    "step": step,
                    "total": 4,
                    "metrics": {"loss": 2 / step},
                }
                file.write(json.dumps(line) + "\n")
            time.sleep(0.3)
        LAUNCHER.runs[f"run-{started.job_id}"] = RunStatus(RunState.SUCCEEDED)

    thread = threading.Thread(target=work)
    thread.start()
    job = forge.wait(started.job_id, on_progress=lambda job: seen.append(job.progress), timeout=30, every=0.1)
    thread.join()
    assert (job.status, job.progress, job.loss) == ("completed", 100, 0.5)
    assert seen == sorted(seen)
    assert len(seen) > 2
    watched = next(status for status in statuses if status.has_ended)
    assert (watched.status, watched.job_id) == ("completed", job.job_id)
    statuses.close()  # type: ignore[attr-defined]
    assert [event.status for event in forge.job_events(job.job_id)][-1] == "completed"
    assert forge.job_logs(job.job_id).lines[-1].metrics == {"loss": 0.5}
    assert job.job_id in [each.job_id for each in forge.every_job(page=1)]


def test_a_refusal_says_what_the_server_said(forge: ForgeClient) -> None:
    forge.start_training(**BODY)
    with pytest.raises(ForgeApiError, match="409 Conflict: One training runs at a time") as refused:
        forge.start_training(**BODY)
    error = pickle.loads(pickle.dumps(refused.value))
    assert (error.status_code, error.retry_after) == (409, 30.0)
    assert error.request_id == refused.value.request_id
    with pytest.raises(TimeoutError, match=r"after 0\.2 s"):
        forge.wait(forge.jobs(limit=1).jobs[0].job_id, timeout=0.2, every=0.1)
    assert forge.stop_training().status == "stopped"
    with pytest.raises(ForgeApiError, match="404"):
        forge.model(77)


def test_a_queued_job_is_cancelled_and_retried(forge: ForgeClient) -> None:
    forge.start_training(**BODY)
    job = forge.queue_job(priority=3, **BODY)
    assert (job.status, job.position, job.priority) == ("queued", 1, 3)
    assert forge.cancel_job(job.job_id).status == "stopped"
    again = forge.retry_job(job.job_id)
    assert again.retry_of == job.job_id
    forge.cancel_job(again.job_id)


def test_a_key_opens_the_door_also_for_the_websocket(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path), Endless()) as studio:
        secret, _ = KeyFile(tmp_path).create("ann", "read")
        with ForgeClient(studio.url) as stranger:
            assert stranger.is_alive()
            with pytest.raises(ForgeApiError, match="401"):
                stranger.info()
            with pytest.raises(ForgeApiError, match="403"):
                next(stranger.watch(timeout=5))
        with ForgeClient(studio.url, secret) as ann:
            assert ann.info().version == ann.health().version
            assert next(ann.watch(timeout=5)).status == "idle"
            assert "forge_websocket_clients" in ann.metrics()
            wait_for(ann.is_ready)
            with pytest.raises(ForgeApiError, match="403"):
                ann.stop_training()


def test_nobody_there_is_said_so() -> None:
    with ForgeClient("http://127.0.0.1:9", retries=0) as client:
        assert not client.is_alive()
        with pytest.raises(ForgeUnreachableError, match="Is `forge serve` running there"):
            client.info()
        with pytest.raises(ForgeUnreachableError):
            next(client.watch())


def test_a_models_files_come_whole_and_its_answers_in_pieces(
    forge: ForgeClient, studio: Studio, tiny_model: Path, tmp_path: Path
) -> None:
    model_id = register(studio, tiny_model, "asked", chat=True)
    model = forge.model(model_id)
    assert model_id in [each.id for each in forge.models().models]
    assert model_id in [each.id for each in forge.models(limit=100).models]
    found = {artifact.kind: artifact for artifact in forge.artifacts(model_id)}
    assert found["model"].available
    assert found["gguf"].why
    card = forge.download(model_id, "card", tmp_path)
    assert card.name == found["card"].name
    files = forge.download(model_id, "model", tmp_path / "model.zip")
    assert found["model"].digest == model.uid
    assert zipfile.ZipFile(files).testzip() is None
    with pytest.raises(ForgeApiError, match="404"):
        forge.download(model_id, "gguf", tmp_path / "no.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([card.name, "model.zip"])

    whole = forge.generate(model_id, "Count", max_new_tokens=6, temperature=0.0)
    assert "".join(forge.generate_stream(model_id, "Count", max_new_tokens=6, temperature=0.0)) == whole.generated_text
    turns = [{"role": "user", "content": "Count"}]
    chat = forge.chat(str(model_id), turns, max_completion_tokens=6, temperature=0.0)
    assert "".join(forge.chat_stream(str(model_id), turns, max_completion_tokens=6, temperature=0.0)) == chat.text
    assert forge.served_model("asked") in forge.served_models()
    assert forge.delete_model(model_id).status == "deleted"


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/zip"])
def test_bytes_that_are_not_what_the_digest_says_are_not_kept(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/a.txt", "other bytes")
    headers = {"etag": f'"sha256:{"0" * 64}"', "content-type": kind}
    request = httpx.Request("GET", "http://server/x")
    reply = httpx.Response(200, headers=headers, content=archive.read_bytes(), request=request)
    with pytest.raises(IntegrityError, match="nothing was kept"):
        keep(reply, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_repeated_start_is_one_job(studio: Studio) -> None:
    """The connection breaks after the server has taken the request; the client asks again by itself."""
    with ForgeClient(studio.url) as client:
        http, lost = client._server.http, [1]
        real = http._transport

        class Breaking(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                reply = real.handle_request(request)
                if lost and request.method == "POST":
                    lost.pop()
                    reply.read()
                    raise httpx.RemoteProtocolError("the peer closed the connection")
                return reply

        http._transport = Breaking()
        before = len(client.jobs().jobs)
        started = client.start_training(**BODY)
        assert len(client.jobs().jobs) == before + 1
        assert client.training_status().job_id == started.job_id
        http._transport = real
        client.stop_training()


# One call of each method; what comes back does not matter here.
CALLS: dict[str, Callable[[ForgeClient], object]] = {
    "info": lambda c: c.info(),
    "health": lambda c: c.health(),
    "live": lambda c: c.is_alive(),
    "ready": lambda c: c.ready(),
    "metrics": lambda c: c.metrics(),
    "start_training": lambda c: c.start_training(**BODY),
    "training_status": lambda c: c.training_status(),
    "stop_training": lambda c: c.stop_training(),
    "validate": lambda c: c.validate({}),
    "queue_job": lambda c: c.queue_job(**BODY),
    "jobs": lambda c: c.jobs(),
    "job": lambda c: c.job("a"),
    "job_events": lambda c: c.job_events("a"),
    "job_logs": lambda c: c.job_logs("a"),
    "cancel_job": lambda c: c.cancel_job("a"),
    "retry_job": lambda c: c.retry_job("a"),
    "models": lambda c: c.models(limit=3, after=2, task="t", base_model="b", sort="s"),
    "model": lambda c: c.model(1),
    "delete_model": lambda c: c.delete_model(1),
    "artifacts": lambda c: c.artifacts(1),
    "download": lambda c: c.download(1, "gguf", "x", name="n"),
    "push_model": lambda c: c.push_model(1, "a/b"),
    "export_model": lambda c: c.export_model(1, quantizations=["f16"]),
    "roll_back": lambda c: c.roll_back(1, reason="r"),
    "upload_dataset": lambda c: c.upload_dataset(__file__),
    "datasets": lambda c: c.datasets(),
    "dataset": lambda c: c.dataset("a/b"),
    "delete_dataset": lambda c: c.delete_dataset("a"),
    "dataset_audit": lambda c: c.dataset_audit("a"),
    "dataset_audit_page": lambda c: c.dataset_audit_page("a"),
    "generate": lambda c: c.generate(1, "p"),
    "chat": lambda c: c.chat("1", []),
    "served_models": lambda c: c.served_models(),
    "served_model": lambda c: c.served_model("m"),
    "approvals": lambda c: c.approvals(),
    "approval": lambda c: c.approval("a"),
    "decide": lambda c: c.decide("a", "granted", model="m", reason="r"),
    "approval_bundle": lambda c: c.approval_bundle("a", "x"),
}


def test_every_operation_of_the_api_has_a_method_and_no_method_calls_anything_else() -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method.lower(), request.url.raw_path.decode().partition("?")[0]))
        return httpx.Response(418, json={"error": "Teapot", "detail": "none", "status_code": 418})

    with ForgeClient("http://server") as client:
        client._server.http._transport = httpx.MockTransport(answer)
        for name, call in CALLS.items():
            if name == "live":
                assert not call(client)
            else:
                with pytest.raises(ForgeApiError, match="418"):
                    call(client)
    document = create_app(settings_for(Path("nowhere"))).openapi()["paths"]
    offered = {(method, path) for path, methods in document.items() for method in methods}
    fits = {operation: re.compile(re.sub(r"\{\w+\}", "[^/]+", operation[1])) for operation in offered}
    called = {o for o in offered for method, path in asked if method == o[0] and fits[o].fullmatch(path)}
    assert offered - called == set()
    assert all(any(m == o[0] and fits[o].fullmatch(p) for o in offered) for m, p in asked)


def test_the_typed_start_body_has_the_servers_fields() -> None:
    assert StartBody.__annotations__.keys() == StartTraining.model_fields.keys()


def test_the_readme_of_the_module_names_methods_that_exist() -> None:
    import forge_pipeline.client as module

    example = module.__doc__ or ""
    assert all(hasattr(ForgeClient, name) for name in re.findall(r"forge\.(\w+)\(", example))
