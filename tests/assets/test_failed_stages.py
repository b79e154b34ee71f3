"""What is told and noted of a stage that stored nothing, in real runs of a tiny line."""

import json

import dagster as dg
import pytest

from assets.definitions import build_resources
from assets.line import Line
from forge_pipeline.audit_log import read_entries, verify_audit_log
from forge_pipeline.config import ForgeConfig
from forge_pipeline.usage import line_usage
from resources.evidence import AuditLogResource
from resources.home import Home

pytest.importorskip("openlineage.client")


def test_a_run_whose_stage_fails_is_told_of_and_what_it_used_is_counted(deployment):
    deployment.write_recipe("tiny")
    (deployment.root / "rows.jsonl").write_text('{"no": "messages"}\n' * 3)
    told, metrics = deployment.root / "lineage.jsonl", deployment.root / "metrics"
    done = deployment.materialize(
        "key:tiny/recipe or key:tiny/raw_dataset", FORGE_LINEAGE=f"file:{told}", FORGE_METRICS_DIR=str(metrics)
    )
    assert done.returncode == 1, done.stderr[-3000:]
    events = [json.loads(line) for line in told.read_text().splitlines()]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("tiny.recipe", "START"), ("tiny.recipe", "COMPLETE"),
        ("tiny.raw_dataset", "START"), ("tiny.raw_dataset", "FAIL"),
    ]  # fmt: skip
    start, fail = events[2:]
    assert "DataError" in fail["run"]["facets"]["errorMessage"]["message"]
    assert "errorMessage" not in start["run"]["facets"]
    assert fail["outputs"] == []
    assert [taken["name"] for taken in fail["inputs"]] == ["tiny/recipe"]
    assert start["eventTime"] < fail["eventTime"]

    home = Home(deployment.root / "forge")
    log = home.audit_log("tiny") / "audit_log.jsonl"
    [entry] = [entry for entry in read_entries(log) if entry.event == "stage.failed"]
    assert (entry.data["asset_key"], entry.data["error"], entry.data["stopped"]) == (
        "tiny/raw_dataset", "DataError", False,
    )  # fmt: skip
    used = entry.data["usage"]
    assert used["cpu_seconds"] > 0
    assert used["duration_seconds"] > 0
    assert used["peak_memory_bytes"] > 1e6

    usage = line_usage(home.store, "tiny", audit_log=log)
    [raw] = [stage for stage in usage.stages if stage.stage == "raw_dataset"]
    assert (raw.artifacts, raw.failures, usage.total.failures, usage.runs) == (0, 1, 1, 1)
    assert raw.figures["cpu_seconds"].value == raw.of_failures["cpu_seconds"].value == used["cpu_seconds"]
    text = (metrics / "forge_tiny_raw_dataset_failure.prom").read_text()
    assert f'forge_stage_last_failure_cpu_seconds{{line="tiny",stage="raw_dataset"}} {used["cpu_seconds"]}' in text
    assert "forge_stage_last_failure_timestamp_seconds" in text
    assert verify_audit_log(log).valid


@pytest.fixture
def line(tmp_path):
    config = ForgeConfig(
        name="one", owners=["team:ml"], model={"name_or_path": "m"}, lora={}, training={},
        data={"dataset_name_or_path": "d"},
    )  # fmt: skip
    return Line("one", tmp_path / "one.yaml", config)


def run_stage(line, home, monkeypatch, error):
    """One in-process stage of `line` that raises `error`, and the events that were sent of it."""

    @line.stage(io_manager="report_io", kinds={"json"}, sections=())
    def raw_dataset(context: dg.AssetExecutionContext, audit_log: AuditLogResource) -> ForgeConfig:
        """Rows."""
        raise error

    told = home.root / "lineage.jsonl"
    monkeypatch.setenv("FORGE_LINEAGE", f"file:{told}")
    resources = build_resources(home, str(home.store), allow_temporary_instance=True)
    resources["audit_log"].log("one", "earlier", "line.begun")
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([raw_dataset], resources=resources, instance=instance, raise_on_error=False)
    entries = read_entries(resources["audit_log"].path("one"))
    return [json.loads(line) for line in told.read_text().splitlines()], [
        e for e in entries if e.event == "stage.failed"
    ]


def test_a_stage_that_is_stopped_is_told_as_aborted(line, tmp_path, monkeypatch):
    events, entries = run_stage(line, Home(tmp_path), monkeypatch, KeyboardInterrupt())
    assert [event["eventType"] for event in events] == ["START", "ABORT"]
    [entry] = entries
    assert (entry.data["stopped"], entry.data["error"], entry.data["usage"]) == (True, "KeyboardInterrupt", {})


def test_what_an_error_quotes_goes_to_no_audit_log_and_its_secrets_nowhere(line, tmp_path, monkeypatch):
    error = ValueError("row 7: my name is Erika, key sk-proj-" + "a1B2c3D4e5F6g7H8" * 3)
    events, entries = run_stage(line, Home(tmp_path), monkeypatch, error)
    said = events[1]["run"]["facets"]["errorMessage"]["message"]
    assert said.startswith("ValueError: row 7")
    assert "a1B2c3D4" not in said
    [entry] = entries
    assert "Erika" not in json.dumps(dict(entry.data))
