"""Pushes as jobs, to a server on this machine that speaks the few calls of the Hub's API that a push makes."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import REPORT_FILE, canonical_json, loads_strict
from forge_pipeline.server.jobs import JobTable, new_job_id
from tests.forge_pipeline.deploy.test_hub_push import OID, Hub, hub  # noqa: F401
from tests.forge_pipeline.server.served import (
    TRAINABLE,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
    wait_for,
)
from tests.forge_pipeline.server.shelved import Shelved, shelve

TOKEN = "hf_secret_of_the_server"


@pytest.fixture(scope="module")
def shelved(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelve(tmp_path_factory.mktemp("shelved") / "data", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def studio(shelved: Shelved) -> Iterator[Studio]:
    with in_thread(settings_for(shelved.shelf.data_dir)) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        yield studio


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:  # noqa: F811
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_MODELS_TOKEN", TOKEN)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield


def push(studio: Studio, model_id: int, **changes: Any) -> Any:
    body = {"repo_id": "me/tiny", "token_env": "HF_MODELS_TOKEN", "unreleased": True} | changes
    return studio.post(f"/api/models/{model_id}/push", json=body)


def test_a_push_is_a_job_that_ends_with_one_commit(studio: Studio, shelved: Shelved, hub: Hub) -> None:  # noqa: F811
    queued = push(studio, shelved.row.id).json()
    assert queued["status"] == "queued"
    job = studio.until_job(queued["job_id"], "completed", "failed")
    assert (job["kind"], job["status"], job["model_id"], job["error"]) == ("push", "completed", shelved.row.id, None)
    assert (job["progress"], job["total_steps"], job["run_id"], job["dagster_url"]) == (100.0, 0, None, None)
    assert job["started_at"]
    card = (shelved.shelf.store.path(shelved.bundle) / "model_card.md").read_bytes()
    files = {path.name: path.read_bytes() for path in Path(shelved.row.path).iterdir()}
    assert hub.files == files | {"README.md": card}
    assert len(hub.commits) == 1
    assert "private" in {hub.created[0].get("visibility"), hub.created[0].get("private") and "private"}
    events = studio.get(f"/api/jobs/{job['job_id']}/events").json()["events"]
    assert [event["status"] for event in events] == ["queued", "running", "completed"]
    assert OID in events[-1]["message"]
    assert studio.get(f"/api/jobs/{job['job_id']}/logs").json()["lines"] == []
    assert TOKEN not in studio.get("/api/jobs").text
    assert studio.get("/api/jobs", params={"limit": 1}).json()["jobs"][0]["job_id"] == job["job_id"]
    check_envelope(studio.post(f"/api/jobs/{job['job_id']}/retry"), 409)
    check_envelope(studio.post(f"/api/jobs/{job['job_id']}/cancel"), 409)


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no repository": ({"repo_id": ""}, 400, "repo_id"),
    "no owner": ({"repo_id": "tiny"}, 400, "repo_id"),
    "a path": ({"repo_id": "../etc/passwd"}, 400, "repo_id"),
    "a token": ({"token": "hf_abc"}, 400, "token"),
    "another secret of the server": ({"token_env": "AWS_SECRET_ACCESS_KEY"}, 400, "token_env"),
    "a token in place of its name": ({"token_env": "hf_abcdef"}, 400, "token_env"),
    "a variable that is not set": ({"token_env": "HF_TOKEN"}, 400, "HF_TOKEN"),
    "a text for a flag": ({"private": "yes"}, 400, "private"),
    "another model": ({}, 404, "no model 1000000"),
    "not released": ({"unreleased": False}, 409, "only released models"),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_cannot_be_pushed_is_refused_before_a_job_is_made(studio: Studio, shelved: Shelved, name: str) -> None:
    changes, status, words = BODIES[name]
    before = len(studio.get("/api/jobs").json()["jobs"])
    model_id = 10**6 if status == 404 else shelved.row.id
    assert words in check_envelope(push(studio, model_id, **changes), status)
    assert len(studio.get("/api/jobs").json()["jobs"]) == before


def test_what_the_audit_of_its_data_found_keeps_a_model_here(studio: Studio, shelved: Shelved, tmp_path: Path) -> None:
    """As for any export: `unreleased` opens the way past people, not past what was found."""
    shelf = shelved.shelf
    audit = shutil.copytree(shelf.store.path(shelved.audit), tmp_path / "audit")
    report = loads_strict((audit / REPORT_FILE).read_bytes())
    failed = GateDecision("no_secrets", "fail", "2 secrets", shelved.dataset)
    report["gates"] = [{**vars(failed), "guards": list(failed.guards)}]
    (audit / REPORT_FILE).write_bytes(canonical_json(report))
    found = shelf.keep("dataset_audit_report", "DatasetAudit", audit, {})
    model = shutil.copytree(shelved.row.path, tmp_path / "model")
    (model / "training_report.json").write_text("{}")
    kept = shelf.keep("fine_tuned_model", "ModelDirectory", model, {"dataset_audit_report": found})
    row = shelf.register(kept, "with-secrets")
    assert "2 secrets" in check_envelope(push(studio, row.id), 409)
    (model / "training_report.json").write_text("[]")
    unknown = shelf.register(shelf.keep("fine_tuned_model", "ModelDirectory", model, {}), "not-audited")
    assert "No audit" in check_envelope(push(studio, unknown.id), 409)


def test_a_hub_that_refuses_or_is_not_there_fails_the_job_with_the_reason(
    studio: Studio,
    shelved: Shelved,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.allowed = False
    refused = studio.until_job(push(studio, shelved.row.id).json()["job_id"], "failed", "completed")
    assert "refused the push (403)" in refused["error"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = studio.until_job(push(studio, shelved.row.id).json()["job_id"], "failed", "completed")
    assert "HF_HUB_OFFLINE" in offline["error"]
    assert str(shelved.shelf.data_dir) not in offline["error"] + refused["error"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    again = studio.post(f"/api/jobs/{refused['job_id']}/retry").json()
    assert (again["kind"], again["retry_of"], again["request"]) == ("push", refused["job_id"], refused["request"])
    studio.post(f"/api/jobs/{again['job_id']}/cancel")


@pytest.mark.usefixtures("silent")
def test_pushes_wait_for_each_other_are_called_off_and_never_hold_up_a_training(
    studio: Studio, shelved: Shelved
) -> None:
    first, second = (push(studio, shelved.row.id, repo_id=f"me/{name}").json()["job_id"] for name in ("one", "two"))
    assert studio.until_job(first, "running")["error"] is None
    assert (studio.job(second)["status"], studio.job(second)["position"]) == ("queued", 1)
    assert studio.status()["status"] == "idle", "a push is no training"
    check_envelope(studio.start(), 503)  # there is no Dagster here, but the way is free
    stopped = studio.post(f"/api/jobs/{second}/cancel").json()
    assert (stopped["status"], stopped["position"]) == ("stopped", None)
    assert studio.post(f"/api/jobs/{first}/cancel").json()["status"] == "stopped"
    wait_for(lambda: not children("push_child"))
    assert [event["status"] for event in studio.get(f"/api/jobs/{first}/events").json()["events"]] == [
        "queued", "running", "stopped",
    ]  # fmt: skip


@pytest.mark.usefixtures("silent")
def test_a_push_that_the_servers_end_cuts_off_is_failed_and_the_waiting_one_is_kept(
    shelved: Shelved, tmp_path: Path
) -> None:
    data = shutil.copytree(shelved.shelf.data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("server.lock"))
    with in_thread(settings_for(data)) as studio:
        one, two = (push(studio, shelved.row.id, repo_id=f"me/{name}").json()["job_id"] for name in ("one", "two"))
        studio.until_job(one, "running")
    assert not children("push_child")
    table = JobTable(data / "jobs.sqlite")
    assert (table.get(one).status, table.get(two).status) == ("failed", "queued")
    assert "server was stopped" in str(table.get(one).error)
    killed = table.enqueue(new_job_id("push"), {**table.get(one).request}, kind="push")
    table.begin_beside(killed.id, "")  # as a server that was killed leaves it
    table.close()
    with in_thread(settings_for(data)) as studio:
        assert studio.job(killed.id)["status"] == "failed"
        assert studio.until_job(two, "running")["kind"] == "push"


def children(module: str) -> list[Path]:
    """Processes of this test run that carry out `module`."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if module.encode() in line.read_bytes():
                found.append(line.parent)
        except OSError:
            continue
    return found
