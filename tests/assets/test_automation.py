"""The recipe's automation: real ticks of real sensors and schedules on a real instance, with real artefacts behind them."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pytest

from assets.definitions import build_definitions, build_resources
from assets.line import STAGES, Line
from assets.retraining import Memory, look
from assets.retraining_causes import Surroundings
from forge_pipeline import erasure
from forge_pipeline.audit_log import read_entries
from forge_pipeline.cli.main import main
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.automation import StageName, check_cron
from forge_pipeline.data import ingest
from forge_pipeline.erasure.register import ErasedData, add_to_register
from forge_pipeline.errors import ConfigError
from forge_pipeline.evaluation import BenchmarkResult, PairedComparison
from forge_pipeline.integrity import REPORT_FILE, Digest, write_report
from forge_pipeline.models.directory import BaseModelRecord, ModelRecord, write_record
from resources.home import Home

NOW = datetime.now(UTC)
KEY = dg.AssetKey


class World:
    """A line `one`, its store, its Dagster instance, and a clock that is moved by hand."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.home = Home(root / "forge")
        self.resources = build_resources(self.home, str(self.home.store), allow_temporary_instance=True)
        self.data = root / "rows.jsonl"
        self.now = NOW
        self.cursor: str | None = None
        self.write("first")

    def write(self, text: str) -> None:
        self.data.write_text("".join(json.dumps({"text": f"{text} row {number}"}) + "\n" for number in range(40)))

    def config(self, **automation: Any) -> ForgeConfig:
        asked = {"on_new_data": True, "settle_seconds": 0, "retry_wait_seconds": 60, **automation}
        return ForgeConfig(
            name="one",
            model={"name_or_path": "m", "load_in_4bit": False},
            lora={},
            training={"trainer_type": "sft"},
            data={"dataset_name_or_path": str(self.data), "license": "CC0-1.0"},
            evaluation={"benchmark": {"enabled": True, "tasks": ["held_out"]}},
            automation=asked,
        )

    def look(self, **automation: Any) -> dg.SensorResult:
        """One tick; the cursor is kept, and a run that was asked for is there."""
        config = self.config(**automation)
        deployment, audit_log = self.resources["deployment"], self.resources["audit_log"]
        versions = {KEY(["one", stage]): "v2" for stage in STAGES}
        line = Line("one", self.root / "one.yaml", config)
        around = Surroundings(line, config, self.instance, deployment, audit_log, versions)
        result = look(around, self.cursor, self.now)
        self.cursor = result.cursor
        for request in result.run_requests or ():
            tags = {**request.tags, "dagster/run_key": request.run_key}
            self.instance.create_run_for_job(_job(), tags=tags, status=dg.DagsterRunStatus.STARTED)
        return result

    def asked(self, **automation: Any) -> str | None:
        """What triggers a tick asked a run for; None where it asked for none."""
        requests = self.look(**automation).run_requests
        return requests[0].tags["forge/trigger"] if requests else None

    def end(self, how: str) -> None:
        """End the newest run."""
        run = self.instance.get_runs(limit=1)[0]
        if how == "lost":
            self.instance.report_run_failed(run, "The process is gone.")
        elif how == "canceled":
            self.instance.report_run_canceled(run)
        else:
            names = {"success": dg.DagsterEventType.RUN_SUCCESS, "stage failed": dg.DagsterEventType.RUN_FAILURE}
            self.instance.report_dagster_event(dg.DagsterEvent(names[how].value, run.job_name), run_id=run.run_id)
            if how == "stage failed":
                self.instance.add_run_tags(run.run_id, {"dagster/failure_reason": "STEP_FAILURE"})

    def train(self, *, code_version: str = "v2") -> tuple[Digest, Digest]:
        """What a run leaves behind: rows and a model in the store, and their materializations."""
        store = self.resources["deployment"].store
        work = self.home.root / "work"
        work.mkdir(parents=True, exist_ok=True)
        dataset = store.publish(ingest(self.config(), work / "dataset").path)
        (work / "model").mkdir()
        (work / "model" / "weights.txt").write_text(f"{time.time_ns()}")
        base = BaseModelRecord("m", None, None, "local", Digest.of(b"base"), None)
        record = ModelRecord("full", base, "sft", Digest.of(b"c"), dataset, Digest.of(b"t"), None, 0)
        write_record(work / "model", record)
        model = store.publish(work / "model")
        for stage, digest in (("raw_dataset", dataset), ("fine_tuned_model", model)):
            event = dg.AssetMaterialization(
                KEY(["one", stage]),
                metadata={"forge/digest": str(digest)},
                tags={"dagster/code_version": code_version},
            )
            self.instance.report_runless_asset_event(event)
        return dataset, model

    def measure(self, model: Digest, score: float, *, items: int = 200, metric: str = "acc") -> Digest:
        """What a benchmark of `model` leaves behind."""
        pair = PairedComparison(
            "held_out", metric, items, 0.1, score, score - 0.1, None, higher_is_better=metric == "acc"
        )
        report = BenchmarkResult(
            scores={"held_out": score}, average_score=score, passed=True, failure_reason=None, raw_results={},
            comparisons=(pair,), subject=model, items=items,
        )  # fmt: skip
        folder = self.home.root / "work" / "report"
        folder.mkdir(parents=True)
        write_report(folder / REPORT_FILE, report)
        digest = self.resources["deployment"].store.publish(folder)
        event = dg.AssetMaterialization(KEY(["one", "benchmark_report"]), metadata={"forge/digest": str(digest)})
        self.instance.report_runless_asset_event(event)
        return digest


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job(name="one_job")
    def one_job() -> None:
        nothing()

    return one_job


@pytest.fixture
def world(tmp_path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        (tmp_path / "instance").mkdir()
        yield World(tmp_path, instance)


def test_new_data_asks_once_and_what_was_trained_on_by_hand_asks_never(world):
    world.train()
    assert world.asked() is None
    world.write("second")
    assert world.asked() == "new_data"
    assert world.asked() is None  # it goes on
    world.end("success")
    assert world.asked() is None
    world.train()
    world.cursor = None
    assert world.asked() is None  # a lost cursor doubles nothing
    world.write("third")
    assert world.asked() == "new_data"


def test_a_run_that_read_newer_data_than_it_was_asked_for_is_enough(world):
    assert world.asked() == "new_data"
    world.write("second")  # between the request and the reading
    world.train()
    world.end("success")
    assert world.asked() is None


def test_files_that_still_change_start_nothing(world):
    assert world.asked(settle_seconds=10) is None
    world.now += timedelta(seconds=9)
    assert world.asked(settle_seconds=10) is None
    world.now += timedelta(seconds=60)
    assert world.asked(settle_seconds=10) == "new_data"


def test_a_clock_that_is_ahead_on_the_file_server_delays_but_does_not_stop_a_run(world):
    ahead = time.time() + 3600
    os.utime(world.data, (ahead, ahead))
    assert world.asked(settle_seconds=10) is None
    world.now += timedelta(seconds=60)
    assert world.asked(settle_seconds=10) == "new_data"


def test_a_source_that_is_gone_is_said_and_asks_for_nothing(tmp_path):
    repository = _repository(tmp_path, automation={"on_new_data": True}, data=str(tmp_path / "absent.jsonl"))
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = repository.get_sensor_def("one_retraining")
        resources = build_resources(Home(tmp_path), str(tmp_path / "store"))
        wanted = {name: resources[name] for name in ("deployment", "audit_log")}
        context = dg.build_sensor_context(instance=instance, repository_def=repository, resources=wanted)
        result = sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert "there is no such file or folder" in result.skip_message


ENDS = {
    "its process was killed": ("lost", True),
    "a stage failed": ("stage failed", False),
    "a person canceled it": ("canceled", False),
    "it succeeded": ("success", False),
}


@pytest.mark.parametrize(("how", "again"), ENDS.values(), ids=ENDS)
def test_only_a_run_that_was_lost_is_asked_for_again(world, how, again):
    world.asked()
    world.end(how)
    world.now = datetime.now(UTC) + timedelta(seconds=61)
    assert (world.asked() is not None) is again


def test_attempts_wait_twice_as_long_each_time_and_end(world):
    world.asked()
    for wait in (60, 120):
        world.end("lost")
        ended = datetime.now(UTC)
        world.now = ended + timedelta(seconds=wait - 5)
        assert world.asked() is None
        world.now = ended + timedelta(seconds=wait + 5)
        assert world.asked() == "new_data"
    world.end("lost")
    world.now += timedelta(days=1)
    assert "the last of 3 attempts" in world.look().skip_reason.skip_message
    keys = [run.tags["dagster/run_key"] for run in world.instance.get_runs()]
    assert len(set(keys)) == 3


def test_a_run_that_the_queue_never_got_is_asked_for_under_its_own_key(world):
    first = world.look().run_requests[0]
    run = world.instance.get_runs(limit=1)[0]
    world.instance.delete_run(run.run_id)
    world.instance.create_run_for_job(
        _job(), tags={**first.tags, "dagster/run_key": first.run_key}, status=dg.DagsterRunStatus.NOT_STARTED
    )
    world.cursor = None
    assert world.look().run_requests[0].run_key == first.run_key


def test_a_failed_run_is_asked_for_again_by_a_person(world, monkeypatch, capsys):
    monkeypatch.setenv("FORGE_HOME", str(world.home.root))
    monkeypatch.setenv("FORGE_OPERATOR", "tests")
    assert main(["retrain", "one", "--reason", "the disk was full"]) == 1
    assert "there is no audit log" in capsys.readouterr().err
    world.resources["audit_log"].log("one", "r", "acme.started")
    world.asked()
    world.end("stage failed")
    assert "forge retrain one asks again" in world.look().skip_reason.skip_message
    assert main(["retrain", "one", "--reason", "the disk was full"]) == 0
    assert world.asked() == "request"
    world.end("success")
    assert world.asked() is None


def test_an_erasure_of_its_training_data_asks_once(world):
    dataset, model = world.train()
    assert world.asked(on_erasure=True) is None
    entry = ErasedData(Digest.of(b"request"), "2026-01-01T00:00:00Z", "log", 1, (dataset,), (model,))
    add_to_register(world.home.root, entry)
    assert world.asked(on_erasure=True) == "erasure"
    world.end("success")
    assert world.asked(on_erasure=True) is None
    world.write("without the person")
    assert world.asked(on_erasure=True) == "new_data"
    assert erasure.read_register(world.home.root)


def test_causes_that_come_together_share_a_run(world):
    dataset, model = world.train(code_version="v1")
    world.write("second")
    add_to_register(world.home.root, ErasedData(Digest.of(b"q"), "2026-01-01T00:00:00Z", "l", 1, (dataset,), (model,)))
    every = {"on_erasure": True, "on_code_change": True, "max_age_days": 30.0, "on_stale": True}
    world.now += timedelta(seconds=1)
    assert world.asked(**every) == "code+erasure+new_data"
    world.train()
    world.end("success")
    assert world.asked(**every) is None


def test_other_code_asks_once(world):
    world.train(code_version="v1")
    assert world.asked(on_code_change=True) == "code"
    world.end("stage failed")
    assert world.asked(on_code_change=True) is None


def test_a_stale_model_asks_once_and_its_successor_again_when_its_time_comes(world, monkeypatch):
    world.train()
    stale = {"max_age_days": 1e-9, "on_stale": True}
    assert world.asked(max_age_days=30.0, on_stale=True) is None
    assert world.asked(**stale) == "stale"
    world.end("success")
    assert world.asked(**stale) is None
    time.sleep(1.1)  # a model of its own second
    world.train()
    assert world.asked(**stale) == "stale"


def test_a_metric_that_falls_too_far_asks_once_for_each_model(world):
    watched = {"on_new_data": False, "falling_metric": {"task": "held_out", "max_drop": 0.1}}
    assert world.asked(**watched) is None  # there is no model
    _, model = world.train()
    first = world.measure(model, 0.80)
    assert world.asked(**watched) is None
    world.measure(model, 0.71)
    assert world.asked(**watched) is None  # by nine points of ten
    fallen = world.measure(model, 0.69)
    world.measure(Digest.of(b"another model"), 0.1)
    quiet = {**watched, "falling_metric": {**watched["falling_metric"], "retrain": False}}
    assert world.asked(**quiet) is None
    assert world.asked(**watched) == "metric"
    world.end("success")
    world.measure(model, 0.60)
    assert world.asked(**watched) is None  # acted on, whatever came of it
    _, better = world.train()
    assert world.asked(**watched) is None  # not measured yet
    world.measure(better, 0.7)
    assert world.asked(**watched) is None  # the model before it is no yardstick
    world.measure(better, 0.5)
    assert world.asked(**watched) == "metric"

    noted = [
        entry for entry in read_entries(world.resources["audit_log"].path("one")) if entry.event == "benchmark.fell"
    ]
    assert (noted[0].data["reference"], noted[0].data["recent"]) == (first, fallen)
    assert len(noted) == len(list((world.home.root / "drift" / "one").glob("benchmark-*.json"))) == 3


FALLS = {
    "the average over tasks": ({"max_drop": 0.1}, {}, {}, "metric"),
    "a perplexity that rose": ({"task": "held_out", "max_drop": 2.0}, {"metric": "ppl"}, {"metric": "ppl"}, "metric"),
    "too few items": ({"max_drop": 0.1}, {}, {"items": 99}, None),
    "another metric": ({"task": "held_out", "max_drop": 0.1}, {"metric": "ppl"}, {}, None),
    "a task that is not measured": ({"task": "mmlu", "max_drop": 0.1}, {}, {}, None),
}


@pytest.mark.parametrize(("section", "before", "now", "trigger"), FALLS.values(), ids=FALLS)
def test_only_what_can_be_compared_is(world, section, before, now, trigger):
    _, model = world.train()
    rises = "ppl" in (before.get("metric"), now.get("metric"))
    world.measure(model, 10.0 if rises else 0.8, **before)
    world.measure(model, 13.0 if rises else 0.5, **now)
    assert world.asked(on_new_data=False, falling_metric=section) == trigger


def test_drifted_data_is_reported_and_asks_once(world):
    world.train()
    recent = world.root / "recent.jsonl"
    drift = {"data": str(recent), "min_rows": 30}
    recent.write_text(world.data.read_text())
    assert world.asked(drift=drift) is None
    recent.write_text("".join(json.dumps({"text": "much longer than before " * 20}) + "\n" for _ in range(40)))
    assert world.asked(drift={**drift, "retrain": False}) is None
    world.cursor = None
    assert world.asked(drift=drift) == "drift"
    world.end("success")
    assert world.asked(drift=drift) is None
    reports = sorted((world.home.root / "drift" / "one").glob("*.json"))
    noted = [
        entry for entry in read_entries(world.resources["audit_log"].path("one")) if entry.event == "drift.measured"
    ]
    assert len(reports) == len(noted) == 2
    assert sorted(entry.data["drifted"] for entry in noted) == [False, True]


CURSORS = {"none": None, "not JSON": "{", "of another version": '{"digest": "sha256:0", "generation": 3}'}


@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS)
def test_a_cursor_that_cannot_be_read_is_made_again_from_the_runs(world, cursor):
    world.asked()
    world.end("success")
    world.cursor = cursor
    assert world.asked() is None
    assert Memory.of(world.cursor, None).generation == 1


# Schedules, policies, conditions


def _repository(tmp_path: Path, *, automation: dict[str, Any], data: str = "d") -> dg.RepositoryDefinition:
    configs = tmp_path / "configs"
    configs.mkdir(exist_ok=True)
    recipe = {
        "model": {"name_or_path": "m", "load_in_4bit": False},
        "lora": {},
        "data": {"dataset_name_or_path": data},
        "training": {},
        "automation": automation,
    }
    (configs / "one.yaml").write_text(json.dumps(recipe))
    return build_definitions(configs, Home(tmp_path), str(tmp_path / "store")).get_repository_def()


SCHEDULES = {"nightly": ["benchmark_report", "safety_report"], "odd": ["judge_report"]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    schedules = [{"name": name, "cron": "30 2 * * *", "stages": stages} for name, stages in SCHEDULES.items()]
    asked = {
        "cron": ["0 3 * * 1", "0 3 * * 4"],
        "timezone": "Europe/Berlin",
        "schedules": schedules,
        "on_new_data": True,
        "max_age_days": 30,
        "refresh_documents": True,
    }
    return _repository(tmp_path_factory.mktemp("scheduled"), automation=asked)


def test_a_recipe_without_automation_starts_nothing(tmp_path):
    repository = _repository(tmp_path, automation={})
    assert not repository.schedule_defs
    assert not [sensor for sensor in repository.sensor_defs if sensor.name != "one_release"]


def test_what_a_recipe_asks_for_runs_without_a_click(repository):
    schedules = {each.name: each for each in repository.schedule_defs}
    assert set(schedules) == {"one_schedule", "one_nightly", "one_odd"}
    assert {each.default_status for each in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}
    assert schedules["one_schedule"].cron_schedule == ["0 3 * * 1", "0 3 * * 4"]
    assert schedules["one_nightly"].execution_timezone == "Europe/Berlin"
    for name in ("one_retraining", "one_documents"):
        assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as instance:
        yield instance


def _at(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, name: str, due: datetime) -> Any:
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=due)
    return repository.get_schedule_def(name).evaluate_tick(context)


def test_a_schedule_of_stages_asks_for_those(repository, on_disk):
    found = _at(on_disk, repository, "one_nightly", datetime.now(UTC)).run_requests
    assert {key.path[-1] for key in found[0].asset_selection} == {"benchmark_report", "safety_report"}
    assert "one has no judge_report" in _at(on_disk, repository, "one_odd", datetime.now(UTC)).skip_message


LATE = {
    "the latest, on time": ("latest", timedelta(0), True),
    "the latest, late": ("latest", timedelta(hours=20), True),
    "one before the latest": ("latest", timedelta(hours=30), False),
    "none, on time": ("none", timedelta(minutes=4), True),
    "none, late": ("none", timedelta(hours=1), False),
    "all, days ago": ("all", timedelta(days=4), True),
}


@pytest.mark.parametrize(("catch_up", "late", "runs"), LATE.values(), ids=LATE)
def test_times_that_passed_unseen_are_caught_up_as_the_recipe_says(tmp_path, on_disk, catch_up, late, runs):
    due = datetime.now(UTC).replace(microsecond=0) - late
    cron = f"{due.minute} {due.hour} * * *"
    repository = _repository(tmp_path, automation={"cron": cron, "catch_up": catch_up})
    due = due.replace(second=0)
    assert bool(_at(on_disk, repository, "one_schedule", due).run_requests) is runs


def test_a_schedule_waits_for_a_run_of_its_line(repository, on_disk):
    run = on_disk.create_run_for_job(_job(), status=dg.DagsterRunStatus.STARTED)
    waits = _at(on_disk, repository, "one_schedule", datetime.now(UTC)).skip_message
    on_disk.delete_run(run.run_id)
    assert f"run {run.run_id} of one goes on" in waits


def test_the_age_of_a_model_is_dagsters_freshness_policy(repository):
    graph = repository.asset_graph
    policies = {
        key.path[-1]: graph.get(key).freshness_policy for key in graph.get_all_asset_keys() if key.path[0] == "one"
    }
    policy = policies.pop("fine_tuned_model")
    assert policy.fail_window.to_timedelta() == timedelta(days=30)
    assert policy.warn_window.to_timedelta() == timedelta(days=27)
    assert set(policies.values()) == {None}


def test_documents_are_made_again_with_other_code_but_never_past_a_failed_blocking_check():
    condition = _condition()
    verdict = [True]

    def definitions(version: str) -> dg.Definitions:
        @dg.asset(key=["one", "safety_report"])
        def safety_report() -> None: ...

        @dg.asset_check(asset=safety_report, blocking=True)
        def safety_gate() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=verdict[0])

        @dg.asset(
            key=["one", "annex_iv_bundle"],
            deps=[safety_report],
            automation_condition=condition,
            code_version=version,
        )
        def annex_iv_bundle() -> None: ...

        return dg.Definitions(
            assets=[safety_report, annex_iv_bundle], asset_checks=[safety_gate], executor=dg.in_process_executor
        )

    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None

        def requested(version: str) -> int:
            nonlocal cursor
            result = dg.evaluate_automation_conditions(definitions(version), instance=instance, cursor=cursor)
            cursor = result.cursor
            return result.total_requested

        def materialize(version: str, *stages: str) -> None:
            job = definitions(version).resolve_implicit_global_asset_job_def()
            keys = [KEY(["one", stage]) for stage in stages]
            job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False)

        assert requested("1") == 0  # never made: nothing to make again
        materialize("1", "safety_report", "annex_iv_bundle")
        assert requested("1") == 0
        assert requested("2") == 1
        assert requested("2") == 0
        materialize("2", "annex_iv_bundle")
        verdict[0] = False
        materialize("2", "safety_report")
        assert requested("2") == 0
        verdict[0] = True
        materialize("2", "safety_report")
        assert requested("2") == 1


def _condition() -> dg.AutomationCondition[Any]:
    from assets.freshness import refresh_condition

    config = ForgeConfig(
        name="one",
        model={"name_or_path": "m"},
        lora={},
        training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "d"},
        automation={"refresh_documents": True},
    )
    condition = refresh_condition(config, "annex_iv_bundle")
    assert condition is not None
    assert refresh_condition(config, "fine_tuned_model") is None
    return condition


# The section


REFUSED = {
    "a minute that is none": ({"cron": "99 3 * * 1"}, "'99' is not a minute"),
    "four fields": ({"cron": "0 3 * *"}, "expected five cron fields"),
    "a second line that is none": ({"cron": ["@daily", "0 25 * * *"]}, "'25' is not a hour"),
    "a day that never comes": ({"cron": "0 0 31 feb,apr *"}, "never comes"),
    "no line": ({"cron": []}, "at least one cron line"),
    "a time zone that is none": ({"timezone": "Berlin"}, "no time zone"),
    "a stage that is none": ({"schedules": [{"name": "a", "cron": "@daily", "stages": ["x"]}]}, "stages"),
    "two of one name": ({"schedules": [{"name": "a", "cron": "@daily"}] * 2}, "there twice"),
    "a fall of nothing": ({"falling_metric": {"max_drop": 0.0}}, "greater than 0"),
    "a falling metric without a benchmark": ({"falling_metric": {"max_drop": 0.1}}, "evaluation.benchmark.enabled"),
    "stale, but when": ({"on_stale": True}, "set max_age_days"),
    "a warning after the end": ({"max_age_days": 1, "warn_age_days": 2}, "below max_age_days"),
}


@pytest.mark.parametrize(("section", "words"), REFUSED.values(), ids=REFUSED)
def test_a_section_that_means_nothing_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        ForgeConfig(
            name="one", model={"name_or_path": "m"}, lora={}, training={}, data={"dataset_name_or_path": "d"},
            automation=section,
        )  # fmt: skip


@pytest.mark.parametrize(
    "line", ["@daily", "*/5 1-3,4 * jan-mar mon,fri", "0 0 1,15 * *", "0 3 * * 7", "0-30/10 * * * *"]
)
def test_dagster_takes_what_the_section_takes(line):
    assert check_cron(line) == line
    dg.ScheduleDefinition(name="a", job_name="b", cron_schedule=line)


def test_the_sections_stages_are_the_lines():
    assert get_args(StageName) == STAGES
