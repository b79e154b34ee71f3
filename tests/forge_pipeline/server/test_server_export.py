"""Exports as jobs: what they launch, how they end, what is refused. The files themselves: test_server_pipeline."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.registry import ModelRow
from forge_pipeline.server import export_jobs, recipes
from forge_pipeline.server.archives import Verifier
from forge_pipeline.server.artifact_schemas import ExportModel
from forge_pipeline.server.artifacts import Artifacts
from forge_pipeline.server.errors import ConflictError, UnavailableError
from forge_pipeline.server.export_jobs import ExportJobs
from forge_pipeline.server.jobs import JobTable
from forge_pipeline.server.launchers import EXPORT_ASSETS, TRAINING_ASSETS, LaunchError, RunState, RunStatus
from forge_pipeline.server.schemas import StartTraining
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
from tests.forge_pipeline.server.shelved import Shelved, shelve


class Launcher(Endless):
    """Runs that go on until a test ends them: `launcher.end(job_id, RunState.SUCCEEDED)`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str | None, tuple[str, ...]]] = []
        self.terminated: list[tuple[str, bool]] = []
        self.errors: list[Exception] = []
        self.ready = True

    def state(self) -> str:
        return "ready" if self.ready else "starting"

    def launch(self, job_id: str, *, partition: str | None = None, assets: Sequence[str] = TRAINING_ASSETS) -> str:
        self.asked.append((job_id, partition, tuple(assets)))
        run_id = super().launch(job_id)
        if self.errors:
            raise self.errors.pop(0)
        return run_id

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        self.terminated.append((run_id, at_once))
        super().terminate(run_id)

    def end(self, job_id: str, state: RunState, reason: str | None = None) -> None:
        self.runs[f"run-{job_id}"] = RunStatus(state, reason)


@dataclass(frozen=True)
class Models:
    """Two models of jobs; `whole` has its GGUF files and bundle, of `bare` nothing was made."""

    shelved: Shelved
    whole: ModelRow
    bare: ModelRow


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_jobs, "_ASK_EVERY", 0.05)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    shelved = shelve(tmp_path_factory.mktemp("shelved") / "data", tmp_path_factory.mktemp("work"))
    shelf = shelved.shelf
    shelf.registry.delete_model(shelved.row.id)
    whole = shelf.register(shelved.row.uid, "whole", job_id="train_whole")
    bare = another(shelved, tmp_path_factory.mktemp("bare"), "bare", job_id="train_bare")
    for job_id in ("train_whole", "train_bare"):
        write_recipe(shelf.data_dir, job_id)
    return Models(shelved, whole, bare)


def another(shelved: Shelved, folder: Path, name: str, *, audited: bool = True, **values: Any) -> ModelRow:
    """One more model, like the shelved one but for a file."""
    model = shutil.copytree(shelved.row.path, folder / "model")
    (model / "training_report.json").write_text(f'"{name}"')
    inputs = {"dataset_audit_report": shelved.audit} if audited else {}
    kept = shelved.shelf.keep("fine_tuned_model", "ModelDirectory", model, inputs)
    return shelved.shelf.register(kept, name, **values)


@pytest.fixture(scope="module")
def launcher() -> Launcher:
    return Launcher()


@pytest.fixture(scope="module")
def studio(models: Models, launcher: Launcher) -> Iterator[Studio]:
    with in_thread(settings_for(models.shelved.shelf.data_dir), launcher) as studio:
        yield studio


def write_recipe(data_dir: Path, job_id: str, **changes: Any) -> None:
    start = StartTraining(task="text-generation", model_name="tiny", dataset="rows.jsonl")
    recipe = recipes.build_recipe(start, job_id=job_id, base_model="tiny", dataset=Path("/rows.jsonl")) | changes
    file = data_dir / "studio" / "jobs" / f"{job_id}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))


def export(studio: Studio, row: ModelRow, **body: Any) -> str:
    reply = studio.post(f"/api/models/{row.id}/export", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["status"] == "queued"
    return str(reply.json()["job_id"])


def begun(studio: Studio, job_id: str) -> dict[str, Any]:
    return dict(wait_for(lambda: studio.job(job_id) if studio.job(job_id)["run_id"] else None))


def test_an_export_is_a_run_of_the_jobs_own_partition_beside_any_training(
    studio: Studio, models: Models, launcher: Launcher
) -> None:
    job = begun(studio, export(studio, models.whole, quantizations=["q8_0"]))
    assert (job["kind"], job["status"], job["model_id"]) == ("export", "running", models.whole.id)
    assert job["request"]["quantizations"] == ["q8_0"]
    assert launcher.asked[-1] == (job["job_id"], "train_whole", EXPORT_ASSETS)
    assert studio.status()["status"] == "idle", "an export is no training"
    launcher.end(job["job_id"], RunState.SUCCEEDED)
    done = studio.until_job(job["job_id"], "completed", "failed")
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100.0, None)
    events = studio.get(f"/api/jobs/{job['job_id']}/events").json()["events"]
    assert [event["status"] for event in events] == ["queued", "running", "running", "completed"]
    check_envelope(studio.post(f"/api/jobs/{job['job_id']}/retry"), 409)
    check_envelope(studio.post(f"/api/jobs/{job['job_id']}/cancel"), 409)


def test_an_export_that_waits_for_a_training_says_so(studio: Studio, models: Models, launcher: Launcher) -> None:
    rows = studio.upload("rows.jsonl", jsonl(TRAINABLE)).json()["filename"]
    training = studio.start(dataset=rows).json()["job_id"]
    job_id = export(studio, models.bare)
    assert begun(studio, job_id)["status"] == "running", "what comes before the fine-tune needs no accelerator"
    progress = studio.data_dir / "progress" / f"run-{training}.jsonl"
    progress.write_text('{"ts": 1, "stage": "fine_tune", "step": 1, "total": 9}\n')
    waiting = studio.job(job_id)
    assert waiting["status"] == "queued"
    assert f"waits for the accelerator, which one stage at a time uses: job {training} trains" in waiting["message"]
    studio.post("/api/stop_training")
    assert studio.job(job_id)["status"] == "running"
    assert studio.post(f"/api/jobs/{job_id}/cancel").json()["status"] == "stopped"


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "a file that the recipe does not make": ({"quantizations": ["q8_0", "q4_k_m"]}, 400, "q4_k_m is not in"),
    "no quantization": ({"quantizations": ["q1"]}, 400, "quantizations"),
    "another field": ({"adapter": True}, 400, "adapter"),
    "a model that is not there": ({}, 404, "no model 1000000"),
    "a model of another line": ({}, 409, "line other"),
    "a line's model": ({}, 409, "materialize studio/annex_iv_bundle"),
    "a job of an earlier version": ({}, 409, "Train the model again"),
    "a job whose recipe is gone": ({}, 409, "cannot be read"),
    "data that was never audited": ({}, 409, "No audit"),
}
ROWS: dict[str, dict[str, Any]] = {
    "a model of another line": {"line": "other"},
    "a line's model": {"job_id": None},
    "a job of an earlier version": {},
    "a job whose recipe is gone": {},
    "data that was never audited": {"audited": False},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_before_a_job_is_made(
    studio: Studio, models: Models, tmp_path: Path, name: str
) -> None:
    body, status, words = REFUSED[name]
    model_id = models.whole.id
    if name == "a model that is not there":
        model_id = 10**6
    elif not body:
        values: dict[str, Any] = {"job_id": f"train_{len(name)}"} | ROWS[name]
        if values["job_id"] and words != "cannot be read":
            recipe = {"evaluation": None} if "earlier" in name else {}
            write_recipe(models.shelved.shelf.data_dir, str(values["job_id"]), **recipe)
        model_id = another(models.shelved, tmp_path, name, **values).id
    before = len(studio.get("/api/jobs").json()["jobs"])
    assert words in check_envelope(studio.post(f"/api/models/{model_id}/export", json=body), status)
    assert len(studio.get("/api/jobs").json()["jobs"]) == before


def test_what_is_missing_names_the_way_to_it(studio: Studio, models: Models) -> None:
    found = studio.get(f"/api/models/{models.bare.id}/artifacts").json()["artifacts"]
    missing = {each["kind"]: each["why"] for each in found if not each["available"]}
    assert missing.keys() == {"gguf", "bundle"}
    assert all(f"POST /api/models/{models.bare.id}/export" in why for why in missing.values())


def test_exports_wait_for_each_other_are_called_off_and_done_again(
    studio: Studio, models: Models, launcher: Launcher
) -> None:
    first = begun(studio, export(studio, models.whole))["job_id"]
    second = export(studio, models.bare)
    assert (studio.job(second)["status"], studio.job(second)["position"]) == ("queued", 1)
    for row in (models.whole, models.bare):
        assert "already" in check_envelope(studio.post(f"/api/models/{row.id}/export", json={}), 409)
    stopped = studio.post(f"/api/jobs/{second}/cancel").json()
    assert (stopped["status"], stopped["run_id"], stopped["position"]) == ("stopped", None, None)
    assert studio.post(f"/api/jobs/{first}/cancel").json()["status"] == "stopped"
    assert launcher.terminated[-1] == (f"run-{first}", False)
    again = studio.post(f"/api/jobs/{first}/retry").json()
    assert (again["kind"], again["retry_of"]) == ("export", first)
    assert again["request"] == studio.job(first)["request"]
    begun(studio, again["job_id"])
    launcher.end(again["job_id"], RunState.SUCCEEDED)
    studio.until_job(again["job_id"], "completed")


ENDS: dict[str, tuple[RunState, str | None, str]] = {
    "a gate": (RunState.FAILED, "gguf_model: GateFailedError: export refused", "export refused"),
    "no words": (RunState.FAILED, None, "its log"),
    "nothing made": (RunState.SUCCEEDED, None, "the gguf is not there"),
    "a run that is gone": (RunState.GONE, None, "no longer knows"),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_export_fails_as_its_run_does(studio: Studio, models: Models, launcher: Launcher, name: str) -> None:
    state, reason, words = ENDS[name]
    job_id = begun(studio, export(studio, models.bare))["job_id"]
    launcher.end(job_id, state, reason)
    job = studio.until_job(job_id, "completed", "failed")
    assert job["status"] == "failed"
    assert words in job["error"]


def test_a_run_that_was_ended_elsewhere_stops_the_job(studio: Studio, models: Models, launcher: Launcher) -> None:
    job_id = begun(studio, export(studio, models.bare))["job_id"]
    launcher.end(job_id, RunState.STOPPED)
    assert studio.until_job(job_id, "stopped", "failed", "completed")["status"] == "stopped"


# Without a web server: what a Dagster that is not there and a server that ends do to the queue


class Desk:
    """The queue of exports over one job table; `restart` is another server's."""

    def __init__(self, models: Models, table: Path) -> None:
        self.models, self.launcher, self.table = models, Launcher(), JobTable(table)
        self.exports: ExportJobs

    def restart(self, *, runs_end_with_server: bool = False) -> None:
        shelf = self.models.shelved.shelf
        self.exports = ExportJobs(
            settings_for(shelf.data_dir),
            self.table,
            shelf.registry,
            Artifacts(Verifier()),
            self.launcher,
            runs_end_with_server=runs_end_with_server,
        )
        self.exports.start()

    def add(self, row: ModelRow) -> str:
        return self.exports.enqueue(row, row.name, ExportModel()).id

    def reached(self, job_id: str, status: str) -> Any:
        return wait_for(lambda: self.table.get(job_id).status == status)


@pytest.fixture
def desk(models: Models, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(models, tmp_path / "jobs.sqlite")
    desk.restart()
    yield desk
    desk.exports.stop()
    desk.table.close()


def test_an_export_waits_until_dagster_is_ready(desk: Desk) -> None:
    desk.launcher.ready = False
    job_id = desk.add(desk.models.whole)
    assert desk.table.get(job_id).status == "queued"
    assert desk.launcher.asked == []
    desk.launcher.ready = True
    desk.reached(job_id, "running")


def test_a_launch_without_an_answer_is_looked_for_and_not_made_twice(desk: Desk) -> None:
    desk.launcher.errors = [UnavailableError("Dagster does not answer")]
    job_id = desk.add(desk.models.whole)
    assert wait_for(lambda: desk.table.get(job_id).run_id) == f"run-{job_id}"
    assert len(desk.launcher.asked) == 1


def test_a_launch_that_is_refused_fails_the_job(desk: Desk) -> None:
    desk.launcher.errors = [LaunchError("Dagster answered InvalidSubsetError")]
    job_id = desk.add(desk.models.whole)
    desk.reached(job_id, "failed")
    assert "InvalidSubsetError" in str(desk.table.get(job_id).error)


def test_a_run_that_outlives_the_server_is_followed_by_the_next_one(desk: Desk) -> None:
    one, two = desk.add(desk.models.whole), desk.add(desk.models.bare)
    wait_for(lambda: desk.table.get(one).run_id)
    desk.exports.stop()
    assert [desk.table.get(job).status for job in (one, two)] == ["running", "queued"]
    desk.restart()
    desk.launcher.end(one, RunState.SUCCEEDED)
    desk.reached(one, "completed")
    desk.reached(two, "running")
    assert len(desk.launcher.asked) == 2


def test_a_run_that_ends_with_its_server_fails_the_job_and_what_waits_is_kept(desk: Desk) -> None:
    desk.exports.stop()
    desk.restart(runs_end_with_server=True)
    one, two = desk.add(desk.models.whole), desk.add(desk.models.bare)
    wait_for(lambda: desk.table.get(one).run_id)
    desk.exports.stop()
    assert desk.launcher.terminated == [(f"run-{one}", False)]
    assert [desk.table.get(job).status for job in (one, two)] == ["failed", "queued"]
    assert "server was stopped" in str(desk.table.get(one).error)


def test_a_run_that_a_killed_server_left_is_buried(desk: Desk) -> None:
    one, two = desk.add(desk.models.whole), desk.add(desk.models.bare)
    wait_for(lambda: desk.table.get(one).run_id)
    desk.exports.stop()  # runs go on, as those of a killed server seem to
    desk.restart(runs_end_with_server=True)
    desk.reached(one, "failed")
    assert desk.launcher.terminated == [(f"run-{one}", True)]
    desk.reached(two, "running")
    with pytest.raises(ConflictError, match="already"):
        desk.add(desk.models.bare)
