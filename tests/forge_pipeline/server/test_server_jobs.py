"""Conformance rows T1 to T4, S, X, M, N, D and W: jobs from start to end, on a real Dagster.

The server is a process of its own and supervises its webserver and daemon; the code
location is the small one of `served.DEFINITIONS`, behind the contract's real keys.
"""

import json
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.forge_pipeline.server.served import ServerProcess, Studio, check_envelope, in_thread, settings_for, wait_for

STATUS_KEYS = {
    "status": str,
    "progress": (int, float),
    "current_epoch": int,
    "total_epochs": int,
    "current_step": int,
    "total_steps": int,
    "loss": (int, float, type(None)),
    "learning_rate": (int, float, type(None)),
}
LONG = {"num_train_epochs": 3000}  # 0.1 s an epoch


def check_status(status: dict[str, Any]) -> None:
    for key, kind in STATUS_KEYS.items():
        assert isinstance(status[key], kind), f"{key}: {status[key]!r}"
        assert not isinstance(status[key], bool)
    assert 0 <= status["progress"] <= 100
    if status["status"] == "training":
        assert status["current_step"] <= status["total_steps"] or status["total_steps"] == 0
        assert 1 <= status["current_epoch"] <= status["total_epochs"]
        if status["total_steps"]:
            assert abs(status["progress"] - 100 * status["current_step"] / status["total_steps"]) <= 1


@contextmanager
def watching(studio: Studio) -> Iterator[ClientConnection]:
    with connect(studio.url.replace("http", "ws") + "/ws/training", proxy=None) as socket:
        yield socket


@pytest.fixture
def running(studio: Studio) -> Iterator[dict[str, Any]]:
    """A long job that is training; stopped afterwards if the test did not do that itself."""
    assert studio.start(**LONG).status_code == 200
    yield studio.until("training")
    studio.post("/api/stop_training")


def test_a_fresh_server_is_idle_with_every_key_there(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path)) as fresh:
        status = fresh.status()
        check_status(status)
        assert (status["status"], status["progress"], status["total_steps"], status["loss"]) == ("idle", 0, 0, None)
        with watching(fresh) as socket:
            assert json.loads(socket.recv(timeout=2)) == status
        assert fresh.get("/api/models").json() == {"models": []}
        assert fresh.get("/api/models", follow_redirects=False).status_code == 200
        check_envelope(fresh.post("/api/stop_training"), 409)


@pytest.mark.slow
def test_a_job_from_start_to_model(studio: Studio) -> None:
    """T1, T11, S1, S3, S4, S6, M2, M3, N1 to N3, W2 to W5."""
    before = {model["id"] for model in studio.get("/api/models").json()["models"]}
    messages: list[dict[str, Any]] = []
    with watching(studio) as socket:
        snapshot = json.loads(socket.recv(timeout=2))
        check_status(snapshot)
        body = {
            "max_seq_length": 2048,
            "num_train_epochs": 12,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.001,
        }
        started = studio.start(strategy="sft", **body).json()
        assert started["status"] == "started"
        assert started["job_id"]
        first = studio.status()
        assert first["job_id"] == started["job_id"]
        assert first["status"] in ("queued", "starting", "training")
        while not messages or messages[-1]["status"] != "completed":
            messages.append(json.loads(socket.recv(timeout=60)))
    for message in messages:
        check_status(message)
    steps = [message["current_step"] for message in messages]
    assert steps == sorted(steps)
    assert len({step for step in steps if step}) >= 2
    last = studio.status()
    assert last["status"] == "completed"
    assert (last["progress"], last["current_step"], last["total_steps"], last["current_epoch"]) == (100, 12, 12, 12)
    assert {key: last[key] for key in STATUS_KEYS} == {key: messages[-1][key] for key in STATUS_KEYS}

    (model,) = (item for item in studio.get("/api/models").json()["models"] if item["id"] not in before)
    assert type(model["id"]) is int
    assert (model["base_model"], model["task"]) == ("tiny/model", "text-generation")
    assert model["created_at"].endswith("Z")
    assert model["size_mb"] > 0
    details = studio.get(f"/api/models/{model['id']}").json()
    assert details | model == details
    assert (details["provider"], details["strategy"]) == ("huggingface", "sft")
    assert details["training_params"] == {"num_epochs": 12, "batch_size": 4, "learning_rate": 0.001}
    metrics = details["metrics"]
    assert abs(metrics["perplexity"] - math.exp(metrics["final_loss"])) / metrics["perplexity"] < 0.01


def test_a_second_start_is_409_and_the_first_job_goes_on(studio: Studio, running: dict[str, Any]) -> None:
    assert running["job_id"] in check_envelope(studio.start(), 409)
    later = wait_for(lambda: (s := studio.status())["current_step"] > running["current_step"] and s)
    assert later["job_id"] == running["job_id"]
    assert studio.get("/api/health").elapsed.total_seconds() < 1


def test_of_five_parallel_starts_one_gets_through(studio: Studio) -> None:
    with ThreadPoolExecutor(5) as pool:
        codes = sorted(reply.status_code for reply in pool.map(lambda _: studio.start(**LONG), range(5)))
    assert codes == [200, 409, 409, 409, 409]
    assert studio.post("/api/stop_training").json()["status"] == "stopped"


def test_a_stopped_job_is_gone_adds_no_model_and_frees_the_way(studio: Studio) -> None:
    """X1, X2, X3, X5."""
    before = studio.get("/api/models").json()
    studio.start(**LONG)
    studio.until("training")
    wait_for(lambda: studio.status()["current_step"] > 2)
    trainer = int((studio.data_dir / "trainer.pid").read_text())
    reply = studio.post("/api/stop_training").json()
    assert reply["status"] == "stopped"
    assert isinstance(reply["message"], str)
    status = studio.status()
    assert status["status"] == "stopped"
    wait_for(lambda: not is_alive(trainer), timeout=30)
    assert studio.status()["current_step"] == status["current_step"]
    assert studio.get("/api/models").json() == before
    check_envelope(studio.post("/api/stop_training"), 409)
    assert studio.start(num_train_epochs=1).status_code == 200
    studio.until("completed")


def test_stop_right_after_start_stops(studio: Studio) -> None:
    studio.start(**LONG)
    assert studio.post("/api/stop_training").json()["status"] == "stopped"
    assert studio.status()["status"] == "stopped"


def test_a_failed_job_says_why_and_the_next_may_start(studio: Studio) -> None:
    studio.start(model_name="owner/missing")
    failed = studio.until("failed", "completed")
    assert failed["status"] == "failed"
    assert failed["error"] == "fine_tuned_model: ModelError: there is no such model"
    studio.start(num_train_epochs=1, dataset="preferences.jsonl", strategy="dpo")
    assert studio.until("failed", "completed")["status"] == "completed"


def test_a_model_is_deleted_once_with_its_files(studio: Studio) -> None:
    """M4, M5, D1 to D5."""
    for _ in range(2):
        studio.start(num_train_epochs=1)
        studio.until("completed")
    *_, first, second = studio.get("/api/models").json()["models"]
    assert (first["id"], first["name"], first["uid"]) != (second["id"], second["name"], second["uid"])
    job_id = studio.get(f"/api/models/{second['id']}").json()["job_id"]
    files = studio.data_dir / "models" / job_id
    assert files.is_dir()
    reply = studio.http.delete(f"/api/models/{second['id']}").json()
    assert reply["status"] == "deleted"
    assert isinstance(reply["message"], str)
    assert not files.exists()
    assert not list(files.parent.glob(".deleted*"))
    assert second["id"] not in [model["id"] for model in studio.get("/api/models").json()["models"]]
    check_envelope(studio.get(f"/api/models/{second['id']}"), 404)
    check_envelope(studio.http.delete(f"/api/models/{second['id']}"), 404)
    check_envelope(studio.post("/api/playground/generate", json={"model_id": second["id"], "prompt": "a"}), 404)


@pytest.mark.parametrize("model_id", ["999999", "0", "-1", "abc", "1.5", "9" * 30, "../..%2f", "%00"])
def test_a_model_that_is_not_there_is_404_or_400(studio: Studio, model_id: str) -> None:
    for method in ("GET", "DELETE"):
        check_envelope(studio.http.request(method, f"/api/models/{model_id}"), 400, 404)


def test_a_watcher_that_dies_or_talks_nonsense_disturbs_nobody(studio: Studio, running: dict[str, Any]) -> None:
    with watching(studio) as good, watching(studio) as bad:
        with watching(studio) as victim:
            victim.socket.close()  # no goodbye
        bad.send("garbage")
        bad.send(b"\xff\x00")
        good.recv(timeout=2)
        seen = [json.loads(good.recv(timeout=10))["current_step"] for _ in range(3)]
        assert seen == sorted(seen)
    assert studio.status()["job_id"] == running["job_id"]


def test_the_websocket_is_for_websockets_and_for_our_pages(studio: Studio) -> None:
    check_envelope(studio.get("/ws/training"), *range(400, 500))
    with (
        pytest.raises(InvalidStatus),
        connect(studio.url.replace("http", "ws") + "/ws/training", origin="http://evil.example", proxy=None),
    ):
        pass


@pytest.mark.slow
def test_a_watcher_sees_the_server_go(server_process: ServerProcess, studio: Studio) -> None:
    """S7, M6, L4: a restart in the middle of a job, in order; nothing of the old run is left."""
    models, datasets = studio.get("/api/models").json(), studio.get("/api/datasets").json()
    studio.start(**LONG)
    job_id = studio.until("training")["job_id"]
    wait_for(lambda: studio.status()["current_step"] > 2)
    trainer = int((studio.data_dir / "trainer.pid").read_text())
    with watching(studio) as socket:
        stopping = threading.Thread(target=server_process.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed):
            drain(socket)
        stopping.join()
    assert not is_alive(trainer)
    assert not marked(studio.data_dir)
    again = server_process.start()
    status = again.status()
    assert (status["status"], status["job_id"]) == ("failed", job_id)
    assert "server was stopped" in status["error"]
    assert again.get("/api/models").json() == models
    assert again.get("/api/datasets").json() == datasets
    studio.http = again.http
    studio.url = again.url


@pytest.mark.slow
def test_after_a_crash_the_job_is_failed_with_the_reason_and_nothing_runs_on(
    server_process: ServerProcess, studio: Studio
) -> None:
    """S7 again, the hard way: SIGKILL to the server while it trains."""
    studio.start(**LONG)
    job_id = studio.until("training")["job_id"]
    wait_for(lambda: studio.status()["current_step"] > 2)
    trainer = int((studio.data_dir / "trainer.pid").read_text())
    server_process.kill()
    again = server_process.start()
    studio.http, studio.url = again.http, again.url
    assert studio.status()["status"] in ("training", "failed")
    failed = studio.until("failed", timeout=90)
    assert failed["job_id"] == job_id
    assert "server was stopped" in failed["error"]
    assert not is_alive(trainer)
    assert studio.start(num_train_epochs=1).status_code == 200
    assert studio.until("completed", "failed")["status"] == "completed"


def drain(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=60)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def marked(data_dir: Path) -> set[int]:
    from forge_pipeline.server.supervisor import _marked

    return _marked(str(data_dir)) - {os.getpid()}
