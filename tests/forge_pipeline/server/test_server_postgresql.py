"""The job table on SQLite and on a real PostgreSQL server, and a served application on the latter."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ConfigError
from forge_pipeline.server.errors import ConflictError
from forge_pipeline.server.jobs import JobTable, new_job_id
from forge_pipeline.server.settings import ServerSettings
from tests.forge_pipeline.server.served import TRAINABLE, check_envelope, in_thread, jsonl, settings_for
from tests.postgresql import PostgreSQL, database_url, postgresql  # noqa: F401


@pytest.fixture
def table(database_url: str) -> Iterator[JobTable]:  # noqa: F811
    table = JobTable(database_url)
    yield table
    table.close()


def each_in_a_connection_of_its_own(url: str, what: Callable[[JobTable], Any], times: int = 5) -> list[Any]:
    def once(number: int) -> Any:
        table = JobTable(url)
        try:
            return what(table)
        finally:
            table.close()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(once, range(times)))


def test_of_five_that_open_an_empty_database_and_claim_the_slot_one_gets_it(database_url: str) -> None:  # noqa: F811
    def claim(table: JobTable) -> str | None:
        try:
            return table.claim(new_job_id(), {"dataset": "d"}).id
        except ConflictError:
            return None

    claimed = each_in_a_connection_of_its_own(database_url, claim)
    assert sum(each is not None for each in claimed) == 1
    table = JobTable(database_url)
    active = table.active()
    assert active is not None
    assert active.id in claimed
    assert [job.id for job in table.page(limit=9)] == [active.id], "what got no slot left no job"
    table.close()


def test_of_five_that_reach_for_the_slot_with_what_waits_one_gets_it(database_url: str, table: JobTable) -> None:  # noqa: F811
    waiting = [table.enqueue(new_job_id(), {}, priority=number).id for number in range(5)]
    taken = each_in_a_connection_of_its_own(database_url, lambda own: own.promote(waiting[0]))
    assert sum(taken) == 1
    assert [job.id for job in table.waiting()] == waiting[:0:-1]
    latest = table.latest()
    assert latest is not None
    assert latest.id == waiting[0]


def test_a_job_goes_its_way_and_its_events_tell_it(table: JobTable) -> None:
    job = table.enqueue(new_job_id(), {"num_train_epochs": 2}, priority=3)
    assert table.next_waiting() == job
    assert table.promote(job.id)
    assert not table.promote(job.id)
    table.launched(job.id, "run_1")
    table.advance(job.id, status="training", step=7, total_steps=9, loss=float("nan"))
    assert table.requeue(job.id, "its server went")
    assert table.promote(job.id)
    assert table.end(job.id, "failed", "a reason with a NUL \0 in it")
    assert not table.end(job.id, "completed")
    ended = table.get(job.id)
    assert (ended.status, ended.step, ended.error, ended.slot) == ("failed", 7, "a reason with a NUL  in it", None)
    events = table.events(job.id)
    assert [event.status for event in events] == [
        "queued",
        "queued",
        "queued",
        "training",
        "queued",
        "queued",
        "failed",
    ]
    assert table.events(job.id, events[-2].number) == events[-1:]
    assert table.find("no\0job") is None


def test_a_push_never_has_the_slot_and_holds_up_no_training(table: JobTable) -> None:
    push = table.enqueue(new_job_id("push"), {"repo_id": "me/m"}, kind="push")
    assert push.kind == "push"
    assert table.next_waiting() is None
    assert not table.promote(push.id)
    assert not table.withdraw(push.id)
    train = table.claim(new_job_id(), {})
    assert table.beside("push", "queued") == [push]
    assert table.beside("export", "queued") == []
    assert table.begin_beside(push.id, "")
    assert not table.begin_beside(push.id, "")
    assert not table.withdraw_beside(push.id, "")
    assert [job.id for job in table.beside("push", "running")] == [push.id]
    assert table.end(train.id, "completed")
    assert not table.end_beside(train.id, "failed", "it has the slot")
    assert table.end_beside(push.id, "failed", "nobody answers")
    assert not table.end_beside(push.id, "completed", "")
    assert (table.get(push.id).status, table.get(push.id).error) == ("failed", "nobody answers")
    assert [job.id for job in table.page(limit=1, after=train.id)] == [push.id]


def test_a_restart_of_the_database_and_of_the_server_loses_nothing(tmp_path: Path, postgresql: PostgreSQL) -> None:  # noqa: F811
    settings = settings_for(tmp_path, database_url=postgresql.url(postgresql.make_schema()))
    with in_thread(settings) as studio:
        studio.upload("rows.jsonl", jsonl(TRAINABLE))
        waiting = studio.queue().json()["job_id"]
        before = [studio.get(path).json() for path in ("/api/jobs", "/api/datasets", f"/api/jobs/{waiting}/events")]
        assert before[0]["jobs"][0]["status"] == "queued"
        postgresql.stop()
        check_envelope(studio.get("/api/jobs"), 500)
        postgresql.start()
        assert studio.get("/api/jobs").json() == before[0], "connections are made anew"
    assert not list(tmp_path.glob("jobs.sqlite*"))
    assert not list(tmp_path.glob("registry.sqlite*"))
    with in_thread(settings) as studio:
        after = [studio.get(path).json() for path in ("/api/jobs", "/api/datasets", f"/api/jobs/{waiting}/events")]
    assert after == before


def test_the_database_is_read_from_the_environment_and_its_password_is_shown_to_nobody(tmp_path: Path) -> None:
    url = "postgresql://ann:secret@127.0.0.1:9/forge"
    settings = ServerSettings.read({"FORGE_DATABASE_URL": url, "FORGE_HOME": str(tmp_path)})
    assert (settings.registry, settings.jobs_database) == (url, url)
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigError, match="database URL") as raised:
        JobTable("oracle+nodriver://ann:secret@x/y")
    assert "secret" not in str(raised.value)
