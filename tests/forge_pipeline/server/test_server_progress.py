"""Progress files into figures, figures into status messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.progress import Progress, ProgressFile
from forge_pipeline.server.dagster_queries import reason_of
from forge_pipeline.server.errors import ConflictError
from forge_pipeline.server.jobs import Job, JobTable
from forge_pipeline.server.progress import Audience, Figures, ProgressTail, epoch_of, training_status


def job(**changes: Any) -> Job:
    values = dict.fromkeys(Job.__dataclass_fields__) | {
        "id": "train_1", "status": "training", "request": {"num_train_epochs": 3}, "run_id": "r",
        "step": 0, "total_steps": 0, "epoch": 1,
    }  # fmt: skip
    return Job(**(values | changes))


def test_the_seeds_own_example() -> None:
    status = training_status(job(), Figures(stage="fine_tune", step=500, total=1100, loss=0.234, learning_rate=0.0002))
    assert (status.progress, status.current_epoch, status.total_epochs) == (45.5, 2, 3)


@pytest.mark.parametrize(
    ("epoch", "shown"),
    [(None, 1), (0.0, 1), (0.01, 1), (1.0, 1), (1.0000001, 1), (1.01, 2), (2.5, 3), (3.0, 3), (3.2, 3)],
)
def test_epochs_count_from_one_and_stay_within_those_asked_for(epoch: float | None, shown: int) -> None:
    assert epoch_of(Figures(epoch=epoch), 3) == shown


def test_an_early_stop_is_a_whole() -> None:
    status = training_status(
        job(status="completed", step=40, total_steps=100), Figures(stage="fine_tune", step=40, total=100)
    )
    assert (status.progress, status.current_step, status.total_steps) == (100.0, 40, 40)


def test_the_steps_of_rlhf_are_its_policys(tmp_path: Path) -> None:
    """What its reward model's training says is told, and not counted: steps would fall back when the policy begins."""
    report, tail = ProgressFile(tmp_path / "run.jsonl"), ProgressTail(tmp_path / "run.jsonl")
    report(Progress("fine_tune", 9, 10, "reward model: training", metrics={"loss": 0.7, "epoch": 0.9}))
    status = training_status(job(), tail.read())
    assert (status.current_step, status.total_steps, status.progress, status.loss) == (0, 0, 0, None)
    assert (status.stage, status.message) == ("fine_tune", "reward model: training")
    report(Progress("fine_tune", 1, 4, "training", metrics={"loss": 0.1}))
    status = training_status(job(), tail.read())
    assert (status.current_step, status.total_steps, status.progress, status.loss) == (1, 4, 25.0, 0.1)


def test_a_fine_tune_that_was_ended_early_is_not_whole() -> None:
    """It saves what it has, and reports that as its total; the job has done 800 of 16000 updates."""
    figures = Figures()
    for step, total, message in ((0, 16000, ""), (800, 16000, "training"), (800, 800, "saved")):
        figures = figures.after({"stage": "fine_tune", "step": step, "total": total, "message": message})
    assert (figures.step, figures.total) == (800, 16000)


FAILURE = {"__typename": "RunFailureEvent", "message": "This run has been marked as failed from outside", "error": None}
REASONS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a code location that does not load": (
        [
            {"__typename": "EngineEvent", "error": None},
            {"__typename": "EngineEvent", "error": {"message": "a.b.LoadError: no x\n at"}},
            FAILURE,
        ],
        "Dagster could not do this run: LoadError: no x",
    ),
    "a step before all else": (
        [
            {"__typename": "EngineEvent", "error": {"message": "a.b.Other: y"}},
            {
                "__typename": "ExecutionStepFailureEvent",
                "stepKey": "studio__recipe",
                "error": {"message": "a.DataError: z", "errorChain": []},
            },
            FAILURE,
        ],
        "recipe: DataError: z",
    ),
    "nothing else": ([FAILURE], "This run has been marked as failed from outside"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_run_that_failed_says_what_made_it_fail(name: str) -> None:
    events, words = REASONS[name]
    assert reason_of(events) == words


def test_a_tail_follows_a_file_that_grows_and_ignores_what_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    tail = ProgressTail(path)
    assert tail.read() == Figures()
    report = ProgressFile(path)
    report(Progress("tokenize", 3, 10))
    assert (tail.read().stage, tail.read().step) == ("tokenize", 0)
    report(Progress("fine_tune", 1, 4, metrics={"loss": 2.5, "learning_rate": 1e-4}))
    with path.open("ab") as file:
        file.write(b"no json\n[1]\n" + json.dumps({"stage": "fine_tune", "step": 2}).encode()[:10])
    assert tail.read().step == 1
    with path.open("ab") as file:
        file.write(json.dumps({"stage": "fine_tune", "step": 2}).encode()[10:] + b"\n")
    assert (tail.read().step, tail.read().total, tail.read().loss) == (2, 4, 2.5)
    report(Progress("fine_tune", 3, 4, metrics={"loss": float("nan")}))
    report(Progress("benchmark", 1, 90))
    figures = tail.read()
    assert (figures.stage, figures.step, figures.total, figures.loss) == ("benchmark", 3, 4, 2.5)


def test_a_slow_watcher_loses_the_oldest_message_and_holds_nobody_up() -> None:
    audience = Audience()
    slow, quick = audience.join(), audience.join()
    for number in range(100):
        audience.tell(str(number))
        assert quick.get_nowait() == str(number)
    assert slow.get_nowait() == "36"
    audience.leave(slow)
    audience.tell("after")
    assert slow.qsize() == 63


def test_one_job_holds_the_slot_until_it_ends(tmp_path: Path) -> None:
    table, other = JobTable(tmp_path / "jobs.sqlite"), JobTable(tmp_path / "jobs.sqlite")
    table.claim("train_1", {})
    with pytest.raises(ConflictError, match="train_1"):
        other.claim("train_2", {})
    assert table.end("train_1", "stopped")
    other.claim("train_2", {})
    assert not table.end("train_1", "completed"), "what has ended never changes"
    table.advance("train_1", step=5)
    assert (table.get("train_1").status, table.get("train_1").step) == ("stopped", 0)
    latest = table.latest()
    assert latest is not None
    assert latest.id == "train_2"
