"""A line's webhook, with real runs, real sensor contexts and a real server on this machine."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.line import Line
from assets.notifications import build_notifications, is_run_of, notify_from_run
from forge_pipeline import webhook
from forge_pipeline.audit_log import read_entries, verify_audit_log
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import Digest
from resources.evidence import AuditLogResource

SUBJECT = Digest.of(b"model")


@dataclass
class Receiver:
    """Takes notifications, and answers as told."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(found.answers.pop(0) if found.answers else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/T0K3N"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_RETRY_DELAYS", (0.01, 0.01))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def audit_log(tmp_path: Path) -> AuditLogResource:
    return AuditLogResource(directory=str(tmp_path))


def line_of(url: str | None, name: str = "one", **section: Any) -> Line:
    config = ForgeConfig(
        name=name,
        model={"name_or_path": "m"},
        lora={},
        training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "d"},
        webhook={"url": url, "allow_private_destinations": True, "timeout": 5, **section} if url else None,
    )
    return Line(name, Path(f"{name}.yaml"), config)


def run_of(line: str, instance: dg.DagsterInstance, error: Exception | None = None) -> dg.ExecuteInProcessResult:
    """A real run that materializes one asset of `line`, or fails in it."""

    @dg.asset(key=[line, "fine_tuned_model"])
    def fine_tuned_model() -> dg.MaterializeResult[None]:
        if error:
            raise error
        return dg.MaterializeResult(metadata={"eval_loss": 0.25, "usage/seconds": 3.0, "steps": 4})

    job = dg.define_asset_job("a_job", selection=[fine_tuned_model])
    definitions = dg.Definitions(assets=[fine_tuned_model], jobs=[job])
    return definitions.resolve_job_def("a_job").execute_in_process(
        instance=instance, raise_on_error=False, asset_selection=[dg.AssetKey([line, "fine_tuned_model"])]
    )


def sensors_of(line: Line) -> dict[str, dg.SensorDefinition]:
    return {sensor.name.removeprefix(f"{line.name}_notify_"): sensor for sensor in build_notifications(line)}


def evaluate(
    line: Line, name: str, run: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, audit_log: AuditLogResource
) -> Any:
    kinds = {"started": dg.DagsterEventType.RUN_START, "success": dg.DagsterEventType.RUN_SUCCESS}
    kind = kinds.get(name, dg.DagsterEventType.RUN_FAILURE)
    event = next(each for each in run.all_events if each.event_type is kind)
    context = dg.build_run_status_sensor_context(
        sensor_name=f"{line.name}_notify_{name}",
        dagster_event=event,
        dagster_instance=instance,
        dagster_run=run.dagster_run,
        resources={"audit_log": audit_log},
    )
    return sensors_of(line)[name](context)


def logged(audit_log: AuditLogResource, line: str = "one") -> list[tuple[str, str]]:
    path = audit_log.path(line)
    if not path.exists():
        return []
    assert verify_audit_log(path).valid
    entries = [entry for entry in read_entries(path) if entry.event.startswith("webhook.")]
    return [(entry.event, str(entry.data["notified_event"])) for entry in entries]


SECTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "everything": ({}, {"started", "success", "failure", "canceled", "approval"}),
    "failures alone": ({"notify_on_start": False, "notify_on_success": False}, {"failure", "canceled", "approval"}),
    "no failures": ({"notify_on_failure": False}, {"started", "success", "approval"}),
}


@pytest.mark.parametrize(("section", "names"), SECTIONS.values(), ids=SECTIONS.keys())
def test_the_recipe_says_which_sensors_there_are(section: dict[str, Any], names: set[str]) -> None:
    assert set(sensors_of(line_of("https://example.org/x", **section))) == names


def test_without_a_webhook_there_are_none() -> None:
    assert build_notifications(line_of(None)) == []
    assert build_notifications(Line("studio")) == []
    assert build_notifications(line_of("", url_env=None)) == []


def test_the_sensors_run_unless_somebody_stops_them() -> None:
    sensors = build_notifications(line_of("https://example.org/x"))
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.RUNNING}
    dg.Definitions(sensors=sensors, resources={"audit_log": AuditLogResource(directory="x")}).get_repository_def()


def test_a_failed_run_is_told_with_its_reason_and_logged_once(receiver, instance, audit_log) -> None:
    line = line_of(receiver.url)
    run = run_of("one", instance, dg.Failure("the data holds a secret in row 7"))
    assert evaluate(line, "failure", run, instance, audit_log) is None
    (told,) = receiver.told
    assert (told["event"], told["run_name"]) == ("training.failure", f"one/{run.run_id}")
    assert told["reason"] == "the data holds a secret in row 7"
    (entry,) = [each for each in read_entries(audit_log.path("one")) if each.event == "webhook.delivered"]
    assert entry.data["payload_digest"] == Digest.of(receiver.bodies[0])
    assert "T0K3N" not in audit_log.path("one").read_text()
    again = evaluate(line, "failure", run, instance, audit_log)
    assert "was told before" in again.skip_message
    assert len(receiver.told) == 1


def test_an_error_that_nobody_foresaw_is_a_reason_too(receiver, instance, audit_log) -> None:
    run = run_of("one", instance, RuntimeError("CUDA out of memory"))
    evaluate(line_of(receiver.url), "failure", run, instance, audit_log)
    assert "CUDA out of memory" in receiver.told[0]["reason"]


def test_a_secret_that_an_error_quotes_is_not_passed_on(receiver, instance, audit_log) -> None:
    token = "ghp_" + "a8Fk2Lq9Zx7Wv3Rt5Yb1Nc6Md4Hs0PjGuEoI"
    run = run_of("one", instance, RuntimeError(f"401 for token {token}"))
    evaluate(line_of(receiver.url), "failure", run, instance, audit_log)
    assert token not in receiver.bodies[0].decode()
    assert "401" in receiver.told[0]["reason"]


def test_start_and_success_are_told_with_what_was_measured(receiver, instance, audit_log) -> None:
    line, run = line_of(receiver.url), run_of("one", instance)
    for name in ("started", "success"):
        assert evaluate(line, name, run, instance, audit_log) is None
    started, success = receiver.told
    assert (started["event"], success["event"]) == ("training.start", "training.success")
    assert success["metrics"] == {"eval_loss": 0.25}
    assert logged(audit_log) == [("webhook.delivered", "training.start"), ("webhook.delivered", "training.success")]


def test_a_canceled_run_is_told_as_a_failure(receiver, instance, audit_log) -> None:
    run = run_of("one", instance, RuntimeError("x"))
    evaluate(line_of(receiver.url), "canceled", run, instance, audit_log)
    assert receiver.told[0]["reason"] == "the run was canceled"


def test_a_run_of_another_line_is_nobodys_news(receiver, instance, audit_log) -> None:
    run = run_of("two", instance, RuntimeError("x"))
    skipped = evaluate(line_of(receiver.url), "failure", run, instance, audit_log)
    assert "of another line" in skipped.skip_message
    assert receiver.told == []


def test_a_run_is_known_by_its_job_or_by_what_it_selects() -> None:
    line = line_of("https://example.org/x")
    key, other = dg.AssetKey(["one", "recipe"]), dg.AssetKey(["two", "recipe"])
    check = dg.AssetCheckKey(key, "schema_valid")
    assert is_run_of(line, dg.DagsterRun("one_job"))
    assert is_run_of(line, dg.DagsterRun("__ASSET_JOB", asset_selection=frozenset({key, other})))
    assert is_run_of(line, dg.DagsterRun("__ASSET_JOB", asset_check_selection=frozenset({check})))
    assert not is_run_of(line, dg.DagsterRun("__ASSET_JOB", asset_selection=frozenset({other})))
    assert not is_run_of(line, dg.DagsterRun("two_job"))


def test_what_was_not_taken_is_logged_as_failed_and_told_again_when_asked_again(receiver, instance, audit_log) -> None:
    receiver.answers = [500, 500, 500]
    line, run = line_of(receiver.url), run_of("one", instance, RuntimeError("x"))
    skipped = evaluate(line, "failure", run, instance, audit_log)
    assert "answered 500" in skipped.skip_message
    assert logged(audit_log) == [("webhook.failed", "training.failure")]
    evaluate(line, "failure", run, instance, audit_log)
    assert logged(audit_log)[-1] == ("webhook.delivered", "training.failure")


def test_a_private_address_is_refused_unless_the_recipe_allows_it(receiver, instance, audit_log) -> None:
    line, run = line_of(receiver.url, allow_private_destinations=False), run_of("one", instance, RuntimeError("x"))
    assert "not a public address" in evaluate(line, "failure", run, instance, audit_log).skip_message
    assert (receiver.told, logged(audit_log)) == ([], [("webhook.failed", "training.failure")])


def ask(audit_log: AuditLogResource, request: str, needed: int = 1) -> None:
    audit_log.log("one", "r", "human_approval.required", subject=SUBJECT, request_id=request, needed=needed)


def look(
    line: Line, instance: dg.DagsterInstance, audit_log: AuditLogResource, cursor: str | None = None
) -> tuple[str, str]:
    """What the approval sensor says, and its new cursor."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"audit_log": audit_log})
    said = sensors_of(line)["approval"](context)
    return said.skip_message, context.cursor or ""


def test_a_release_that_waits_is_told_once_with_the_command(receiver, instance, audit_log) -> None:
    line = line_of(receiver.url)
    assert "no audit log yet" in look(line, instance, audit_log)[0]
    ask(audit_log, "abc123")
    said, cursor = look(line, instance, audit_log)
    assert said == "abc123: told"
    (told,) = receiver.told
    assert (told["event"], told["status"]) == ("approval.required", "awaiting_approval")
    assert f'{SUBJECT}: forge approve abc123 --reason "..."' == told["model_path"]
    assert look(line, instance, audit_log, cursor)[0] == "no release waits for people"
    assert "was told before" in look(line, instance, audit_log)[0]  # the cursor was lost
    ask(audit_log, "def456")
    assert look(line, instance, audit_log, cursor)[0] == "def456: told"
    assert len(receiver.told) == 2


DECISIONS = {
    "rejected": (1, ["human_approval.rejected"], 0),
    "granted": (1, ["human_approval.granted"], 0),
    "granted by one of two": (2, ["human_approval.granted"], 1),
    "granted by two": (2, ["human_approval.granted"] * 2, 0),
    "released": (2, ["model.released"], 0),
}


@pytest.mark.parametrize(("needed", "events", "told"), DECISIONS.values(), ids=DECISIONS.keys())
def test_a_request_that_is_decided_waits_for_nobody(needed, events, told, receiver, instance, audit_log) -> None:
    ask(audit_log, "abc123", needed)
    for event in events:
        audit_log.log("one", "r", event, subject=SUBJECT)
    look(line_of(receiver.url), instance, audit_log)
    assert len(receiver.told) == told


def from_run(
    line: Line, status: Any, instance: dg.DagsterInstance, audit_log: AuditLogResource
) -> list[webhook.Delivery]:
    """`notify_from_run`, called in an asset that is being materialized."""
    assert line.config is not None
    config, deliveries = line.config, []

    @dg.asset(key=["one", "raw_dataset"])
    def raw_dataset(context: dg.AssetExecutionContext) -> None:
        for _ in range(2):
            deliveries.append(notify_from_run(context, line, config, status, "no rows", audit_log=audit_log))

    assert dg.materialize([raw_dataset], instance=instance).success
    return deliveries


def test_a_run_without_a_daemon_tells_itself_and_only_once(receiver, instance, audit_log) -> None:
    first, second = from_run(line_of(receiver.url), "failure", instance, audit_log)
    assert (first.delivered, second.delivered) == (True, False)
    assert [told["reason"] for told in receiver.told] == ["no rows"]
    assert logged(audit_log) == [("webhook.delivered", "training.failure")]


def test_a_run_whose_release_waits_tells_of_the_request_as_the_sensor_would(receiver, instance, audit_log) -> None:
    ask(audit_log, "abc123")
    line = line_of(receiver.url)
    first, second = from_run(line, "awaiting_approval", instance, audit_log)
    assert (first.delivered, second.delivered) == (True, False)
    assert "was told before" in look(line, instance, audit_log)[0]
    assert len(receiver.told) == 1


def test_telling_never_fails_a_run(receiver, instance, tmp_path) -> None:
    (tmp_path / "audit_log").write_text("a file where the folder should be")
    audit_log = AuditLogResource(directory=str(tmp_path))
    first, _ = from_run(line_of(receiver.url), "failure", instance, audit_log)
    assert not first.delivered
    nobody, _ = from_run(line_of(None), "failure", instance, AuditLogResource(directory=str(tmp_path / "other")))
    assert "no webhook is configured" in str(nobody.reason)
