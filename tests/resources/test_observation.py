"""Who is told of a stored artefact: metrics and lineage files for it, and no run that fails over them."""

import json
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from assets.definitions import build_resources
from resources.home import Home

pytest.importorskip("openlineage.client")


@dg.asset(key=["t", "rows"], io_manager_key="dataset_io", owners=["team:ml"])
def rows(context: dg.AssetExecutionContext) -> pa.Table:
    context.add_output_metadata({"usage/duration_seconds": 2.5, "usage/device_name": "cpu", "dagster/row_count": 2})
    return pa.table({"text": ["a", "b"]})


@dg.asset(key=["t", "more"], ins={"rows": dg.AssetIn(key=["t", "rows"])}, io_manager_key="dataset_io")
def more(rows: pa.Table) -> pa.Table:
    return rows


def materialize(home: Path) -> dg.ExecuteInProcessResult:
    resources = build_resources(Home(home), str(home / "store"), allow_temporary_instance=True)
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize([rows, more], resources=resources, instance=instance)


def records(home: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in (home / "store" / "records" / "t").glob("*.json")]


def test_each_stored_artefact_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_METRICS_DIR", str(tmp_path / "metrics"))
    monkeypatch.setenv("FORGE_LINEAGE", f"file:{tmp_path / 'events.jsonl'}")
    done = materialize(tmp_path)
    assert done.success
    assert {path.name for path in (tmp_path / "metrics").iterdir()} == {"forge_t_rows.prom", "forge_t_more.prom"}
    text = (tmp_path / "metrics" / "forge_t_rows.prom").read_text()
    assert 'forge_stage_duration_seconds{line="t",stage="rows"} 2.5' in text
    assert 'forge_stage_rows{line="t",stage="rows"} 2.0' in text
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["eventType"], event["job"]["name"]) for event in events] == [
        ("START", "t.rows"), ("COMPLETE", "t.rows"), ("START", "t.more"), ("COMPLETE", "t.more")
    ]  # fmt: skip
    version = events[1]["outputs"][0]["facets"]["version"]
    assert events[3]["inputs"][0]["facets"]["version"] == version
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in events} == {done.run_id}
    assert events[1]["outputs"][0]["facets"]["ownership"]["owners"] == [{"name": "team:ml"}]
    used = {str(each["asset_key"]): each["usage"] for each in records(tmp_path)}
    assert used == {"t/rows": {"duration_seconds": 2.5, "device_name": "cpu"}, "t/more": {}}


NOBODY = "http://127.0.0.1:9"
TROUBLE = {
    "a server that does not answer": ({"FORGE_LINEAGE": NOBODY}, "4 events were not sent and lie in"),
    "an address that is none": ({"FORGE_LINEAGE": "lineage.example.com"}, "nobody was told of it"),
    "a folder that cannot be made": ({"FORGE_METRICS_DIR": "/proc/none"}, "Prometheus was not told of it"),
    "a Pushgateway that is away": ({"FORGE_PUSHGATEWAY_URL": NOBODY}, "the Pushgateway was not told of it"),
    "a Pushgateway without a scheme": ({"FORGE_PUSHGATEWAY_URL": "localhost:9091"}, "expected http://HOST:PORT"),
    "one of several": (
        {"FORGE_METRICS_DIR": "/proc/none", "FORGE_LINEAGE": NOBODY}, "4 events were not sent and lie in",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "words"), TROUBLE.values(), ids=TROUBLE)
def test_trouble_with_an_observer_fails_no_run_and_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    environment: dict[str, str],
    words: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert materialize(tmp_path).success
    assert len(records(tmp_path)) == 2
    assert words in capfd.readouterr().err
