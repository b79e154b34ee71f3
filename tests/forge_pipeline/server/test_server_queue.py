"""The queue: jobs that wait, take their turn one after the other, are cancelled and retried, and survive restarts.

First without a Dagster (what waits), then with a launcher in memory (who is launched when, and what happens when the
launch fails), then with the small real code location of `served.DEFINITIONS`.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.integrity import atomic
from forge_pipeline.server.control import TrainingControl
from forge_pipeline.server.errors import ConflictError, UnavailableError
from forge_pipeline.server.jobs import JobTable, new_job_id
from forge_pipeline.server.launchers import TRAINING_ASSETS, LaunchError, LogLine, RunState, RunStatus
from forge_pipeline.server.schemas import StartTraining
from tests.forge_pipeline.server.served import (
    TRAINABLE,
    ServerProcess,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
)

LONG = {"num_train_epochs": 3000}  # 0.1 s an epoch


# What waits, where there is no Dagster


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path)) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        yield studio


def ids(studio: Studio, **query: Any) -> list[str]:
    return [job["job_id"] for job in studio.get("/api/jobs", params=query).json()["jobs"]]


def test_jobs_wait_in_the_order_of_their_priority_and_then_of_their_coming(waiting: Studio) -> None:
    assert waiting.get("/api/jobs").json() == {"jobs": [], "has_more": False}
    jobs = [waiting.queue(priority=priority, max_steps=5).json() for priority in (0, 0, 9, -1)]
    assert [job["position"] for job in jobs] == [1, 2, 1, 4]
    assert [waiting.job(job["job_id"])["position"] for job in jobs] == [2, 3, 1, 4]
    first = waiting.job(jobs[0]["job_id"])
    assert (first["status"], first["run_id"], first["started_at"], first["priority"]) == ("queued", None, None, 0)
    assert first["request"]["max_steps"] == 5
    assert first["request"]["dataset"] == "rows.jsonl"
    assert ids(waiting) == [job["job_id"] for job in reversed(jobs)]
    assert waiting.until("queued")["job_id"] == jobs[2]["job_id"]


def test_the_list_has_pages_and_can_be_of_one_status(waiting: Studio) -> None:
    jobs = [waiting.queue().json()["job_id"] for _ in range(5)][::-1]
    page = waiting.get("/api/jobs", params={"limit": 2}).json()
    assert ([job["job_id"] for job in page["jobs"]], page["has_more"]) == (jobs[:2], True)
    assert ids(waiting, limit=2, after=jobs[1]) == jobs[2:4]
    assert ids(waiting, after=jobs[3]) == jobs[4:]
    waiting.post(f"/api/jobs/{jobs[2]}/cancel")
    assert ids(waiting, status="stopped") == [jobs[2]]
    assert jobs[2] not in ids(waiting, status="queued")
    for query in ({"limit": 0}, {"limit": "x"}, {"limit": 10**9}, {"status": "banana"}, {"after": "banana"}):
        assert next(iter(query)) in check_envelope(waiting.get("/api/jobs", params=query), 400)


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "an unknown strategy": ({"strategy": "x"}, 400),
    "no dataset": ({"dataset": "nothing.jsonl"}, 404),
    "rows for another strategy": ({"strategy": "dpo"}, 400),
    "an unknown key": ({"when": "now"}, 400),
    "a priority out of range": ({"priority": 101}, 400),
    "a priority that is no number": ({"priority": "high"}, 400),
    "unsloth": ({"provider": "unsloth"}, 400),
}


@pytest.mark.parametrize(("changes", "code"), REFUSED.values(), ids=REFUSED)
def test_what_start_would_refuse_is_not_queued_either(server: Studio, changes: dict[str, Any], code: int) -> None:
    before = ids(server)
    check_envelope(server.queue(**changes), code)
    assert ids(server) == before


def test_a_start_does_not_overtake_the_queue(waiting: Studio) -> None:
    job_id = waiting.queue().json()["job_id"]
    assert job_id in check_envelope(waiting.start(), 409)
    waiting.post(f"/api/jobs/{job_id}/cancel")
    check_envelope(waiting.start(), 503)  # there is no Dagster here, but the way is free


def test_a_job_that_waits_is_cancelled_once_and_can_be_retried(waiting: Studio) -> None:
    job = waiting.queue(priority=3, learning_rate=0.01).json()
    path = f"/api/jobs/{job['job_id']}"
    assert job["job_id"] in check_envelope(waiting.post(f"{path}/retry"), 409)
    cancelled = waiting.post(f"{path}/cancel").json()
    assert (cancelled["status"], cancelled["position"], cancelled["model_id"]) == ("stopped", None, None)
    assert cancelled["ended_at"]
    check_envelope(waiting.post(f"{path}/cancel"), 409)
    again = waiting.post(f"{path}/retry").json()
    assert again["job_id"] != job["job_id"]
    assert (again["status"], again["retry_of"], again["priority"]) == ("queued", job["job_id"], 3)
    assert again["request"] == job["request"]
    assert waiting.job(job["job_id"])["status"] == "stopped"
    said = waiting.get(f"{path}/events").json()["events"]
    assert [event["status"] for event in said] == ["queued", "stopped"]
    assert waiting.get(f"{path}/events", params={"after": said[0]["number"]}).json()["events"] == said[1:]
    assert waiting.get(f"{path}/logs").json() == {"lines": [], "warnings": []}


def test_what_can_no_longer_be_done_cannot_be_retried(waiting: Studio) -> None:
    job_id = waiting.queue().json()["job_id"]
    waiting.post(f"/api/jobs/{job_id}/cancel")
    (waiting.data_dir / "datasets" / "rows.jsonl").unlink()
    check_envelope(waiting.post(f"/api/jobs/{job_id}/retry"), 404)


@pytest.mark.parametrize("name", ["train_000000000000", "..%2f..", "a" * 500])
def test_a_job_that_is_not_there_is_404(server: Studio, name: str) -> None:
    for path in (name, f"{name}/events", f"{name}/logs"):
        check_envelope(server.get(f"/api/jobs/{path}"), 404)
    for action in ("cancel", "retry"):
        check_envelope(server.post(f"/api/jobs/{name}/{action}"), 404)


def test_a_failed_start_is_a_job_too_and_is_retried_through_the_queue(waiting: Studio) -> None:
    check_envelope(waiting.start(), 503)
    (failed,) = ids(waiting, status="failed")
    assert "Dagster does not answer" in waiting.job(failed)["error"]
    assert waiting.post(f"/api/jobs/{failed}/retry").json()["retry_of"] == failed


def test_a_queue_outlives_its_server(tmp_path: Path) -> None:
    with in_thread(settings_for(tmp_path)) as before:
        before.upload("rows.jsonl", jsonl(TRAINABLE))
        for priority in (1, 2, 3):
            before.queue(priority=priority)
        jobs = before.get("/api/jobs").json()
    with in_thread(settings_for(tmp_path)) as after:
        assert after.get("/api/jobs").json() == jobs
        assert after.until("queued")["job_id"] == jobs["jobs"][0]["job_id"]


def test_a_table_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    table = JobTable(path)
    for _ in range(2):
        table.end(table.claim(new_job_id(), {"num_train_epochs": 1}).id, "completed")
    table.close()
    with sqlite3.connect(path) as old:
        for column in ("queued_at", "priority", "retry_of", "started_at", "turn"):
            old.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        old.execute("DROP TABLE job_events")
    for _ in range(2):
        table = JobTable(path)
        newest, oldest = table.page(limit=9)
        assert table.latest() == newest
        assert newest.started_at == newest.created_at
        assert table.next_waiting() is None
        table.close()
    assert oldest.status == "completed"


# Who is launched, and when: a launcher in memory


class Launcher:
    """Runs that do nothing until the test says so.

    launcher.refuse(UnavailableError("gone"))   the next launch raises
    launcher.runs["run_1"] = RunState.SUCCEEDED  what the run is said to be
    """

    def __init__(self) -> None:
        self.runs: dict[str, RunState] = {}
        self.jobs: dict[str, str] = {}
        self.errors: list[Exception] = []
        self.ready, self.gets_through = True, False

    def refuse(self, error: Exception, *, gets_through: bool = False) -> None:
        self.errors.append(error)
        self.gets_through = gets_through

    def state(self) -> str:
        return "ready" if self.ready else "starting"

    def launch(self, job_id: str, *, partition: str | None = None, assets: Sequence[str] = TRAINING_ASSETS) -> str:
        error = self.errors.pop(0) if self.errors else None
        if error is None or self.gets_through:
            run_id = f"run_{len(self.runs) + 1}"
            self.runs[run_id], self.jobs[job_id] = RunState.RUNNING, run_id
        if error is not None:
            raise error
        return run_id

    def find(self, job_id: str) -> str | None:
        return self.jobs.get(job_id)

    def status(self, run_id: str) -> RunStatus:
        return RunStatus(self.runs[run_id])

    def log(self, run_id: str) -> list[LogLine]:
        return []

    def run_url(self, run_id: str) -> str | None:
        return None

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        self.runs[run_id] = RunState.STOPPED


@pytest.fixture
def launcher() -> Launcher:
    return Launcher()


class Desk:
    """A control without a web server: its watchers' rounds are made by hand."""

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self.settings = settings_for(folder, package_models=("tiny",))
        atomic.write_file(self.settings.datasets_dir / "rows.jsonl", jsonl(TRAINABLE))
        self.jobs, self.launcher = JobTable(folder / "jobs.sqlite"), launcher
        self.restart()

    def restart(self, **options: Any) -> None:
        self.control = TrainingControl(self.settings, self.jobs, self.launcher, **options)

    def queue(self, **options: Any) -> str:
        start = StartTraining(task="text-generation", model_name="tiny", dataset="rows.jsonl")
        return self.control.enqueue(start, **options)[0].id

    def round(self) -> str | None:
        """The job that was launched."""
        self.control.refresh(at_once=True)
        launched = self.control.dispatch()
        return launched.id if launched else None

    def statuses(self, *jobs: str) -> list[str]:
        return [self.jobs.get(job).status for job in jobs]


@pytest.fixture
def desk(tmp_path: Path, launcher: Launcher) -> Desk:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "studio" / "jobs").mkdir(parents=True)
    return Desk(tmp_path, launcher)


def test_one_at_a_time_and_the_end_is_seen_before_the_next_begins(desk: Desk, launcher: Launcher) -> None:
    first, second = desk.queue(), desk.queue()
    urgent = desk.queue(priority=5)
    assert desk.round() == urgent
    assert desk.round() is None
    assert desk.statuses(first, second, urgent) == ["queued", "queued", "training"]
    launcher.runs["run_1"] = RunState.SUCCEEDED
    assert desk.control.refresh(at_once=True).status == "completed"
    assert desk.control.dispatch() is None  # nobody has been told yet
    assert [desk.round(), desk.round()] == [first, None]
    launcher.runs["run_2"] = RunState.FAILED
    desk.control.refresh(at_once=True)
    assert desk.round() == second
    assert desk.statuses(first, second, urgent) == ["failed", "queued", "completed"]


def test_nothing_is_launched_before_dagster_is_ready(desk: Desk, launcher: Launcher) -> None:
    job = desk.queue()
    launcher.ready = False
    assert [desk.round(), desk.statuses(job)] == [None, ["queued"]]
    launcher.ready = True
    assert desk.round() == job


def test_a_launch_that_was_not_answered_is_tried_again_and_never_done_twice(desk: Desk, launcher: Launcher) -> None:
    job = desk.queue()
    launcher.refuse(UnavailableError("no answer"))
    assert desk.round() is None
    assert desk.jobs.get(job).waiting
    launcher.refuse(UnavailableError("no answer"), gets_through=True)
    assert desk.round() is None
    assert desk.round() == job
    assert (list(launcher.runs), desk.jobs.get(job).run_id) == (["run_1"], "run_1")


def test_a_launch_that_is_refused_fails_the_job_and_not_the_queue(desk: Desk, launcher: Launcher) -> None:
    first, second = desk.queue(), desk.queue()
    launcher.refuse(LaunchError("no such assets"))
    assert desk.round() is None
    assert "no such assets" in str(desk.jobs.get(first).error)
    assert desk.round() == second


def test_a_job_that_a_crash_left_between_the_queue_and_its_run_waits_again(desk: Desk, launcher: Launcher) -> None:
    first, second = desk.queue(), desk.queue()
    desk.jobs.promote(first)  # and here the power went
    desk.restart(runs_end_with_server=True)
    assert desk.round() is None
    assert desk.jobs.get(first).waiting
    assert [desk.round(), desk.round()] == [first, None]
    assert desk.statuses(first, second) == ["training", "queued"]


def test_a_run_that_a_crash_kept_from_being_noted_is_found_again(desk: Desk, launcher: Launcher) -> None:
    job = desk.queue()
    desk.jobs.promote(job)
    launcher.launch(job)
    desk.restart()
    desk.control.refresh(at_once=True)
    desk.control.refresh(at_once=True)
    assert (desk.statuses(job), list(launcher.runs)) == (["training"], ["run_1"])


def test_a_job_that_was_cancelled_while_it_was_launched_ends(desk: Desk, launcher: Launcher) -> None:
    job = desk.queue()
    desk.round()
    assert desk.control.cancel(job).status == "stopped"
    with pytest.raises(ConflictError, match="stopped already"):
        desk.control.cancel(job)


def test_nothing_is_launched_any_more_when_the_server_goes(desk: Desk) -> None:
    job = desk.queue()
    desk.control.refresh()
    desk.control.shut_down()
    assert desk.control.dispatch() is None
    assert desk.jobs.get(job).waiting


def test_of_many_that_reach_for_the_slot_at_once_one_gets_it(tmp_path: Path) -> None:
    table = JobTable(tmp_path / "jobs.sqlite")
    waiting = [table.enqueue(new_job_id(), {}).id for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(table.promote, waiting)) == 1
    assert len(table.waiting()) == 7
    table.close()


# With a real Dagster


@pytest.mark.slow
def test_queued_jobs_run_one_after_the_other_and_each_makes_its_model(studio: Studio) -> None:
    jobs = [studio.queue(num_train_epochs=epochs, priority=-epochs).json()["job_id"] for epochs in (3, 2)]
    assert studio.start().status_code == 409
    done = [studio.until_job(job, "completed", "failed", timeout=90) for job in jobs]
    assert [job["status"] for job in done] == ["completed", "completed"]
    assert [(job["current_step"], job["total_steps"], job["progress"]) for job in done] == [(3, 3, 100), (2, 2, 100)]
    later, sooner = done
    assert sooner["started_at"] <= sooner["ended_at"] <= later["started_at"] <= later["ended_at"]
    listed = {model["id"] for model in studio.get("/api/models").json()["models"]}
    assert {job["model_id"] for job in done} <= listed
    events = studio.get(f"/api/jobs/{jobs[0]}/events").json()["events"]
    met = list(dict.fromkeys(event["status"] for event in events))
    assert met == [status for status in ("queued", "starting", "training", "completed") if status in met]
    assert (met[0], met[-1]) == ("queued", "completed")
    logs = studio.get(f"/api/jobs/{jobs[0]}/logs").json()
    assert {line["source"] for line in logs["lines"]} == {"stage", "run"}
    assert [line["metrics"]["loss"] for line in logs["lines"] if line["metrics"]] == [2.0, 1.0, 2 / 3]
    assert [line["at"] for line in logs["lines"]] == sorted(line["at"] for line in logs["lines"])
    assert len(studio.get(f"/api/jobs/{jobs[0]}/logs", params={"limit": 2}).json()["lines"]) == 2
    check_envelope(studio.post(f"/api/jobs/{jobs[0]}/retry"), 409)


@pytest.mark.slow
def test_no_job_is_lost_or_invented_when_the_server_is_killed(server_process: ServerProcess, studio: Studio) -> None:
    """The running one is failed with the reason, and can be retried; those that wait take their turns."""
    before = len(ids(studio, limit=1000))
    jobs = [studio.queue(**body).json()["job_id"] for body in (LONG, {"num_train_epochs": 1})]
    studio.until_job(jobs[0], "training")
    server_process.kill()
    again = server_process.start()
    studio.http, studio.url = again.http, again.url
    assert studio.until_job(jobs[1], "completed", "failed", timeout=120)["status"] == "completed"
    lost = studio.job(jobs[0])
    assert lost["status"] == "failed"
    assert "server was stopped" in lost["error"]
    retried = studio.post(f"/api/jobs/{jobs[0]}/retry").json()
    assert studio.until_job(retried["job_id"], "training")["retry_of"] == jobs[0]
    cancelled = studio.post(f"/api/jobs/{retried['job_id']}/cancel").json()
    assert (cancelled["status"], cancelled["model_id"]) == ("stopped", None)
    assert len(ids(studio, limit=1000)) == before + 3
