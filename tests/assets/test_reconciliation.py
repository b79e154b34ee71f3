"""Dagster's history held against the audit log: what somebody does to either is found, and a crash is told apart."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from forge_pipeline.audit_log import AuditLogger
from resources.reconciliation import Reconciliation, reconcile

LINE = "tiny"
STAGES = ("recipe", "raw_dataset", "dataset_audit_report")
ASSETS = [dg.AssetKey([LINE, stage]) for stage in STAGES]
CHECKS = [
    dg.AssetCheckKey(ASSETS[0], "schema_valid"),
    dg.AssetCheckKey(ASSETS[1], "schema_known"),
    *(
        dg.AssetCheckKey(ASSETS[2], name)
        for name in ("no_secrets", "no_critical_pii", "no_split_overlap", "minimum_rows")
    ),
]


@pytest.fixture(scope="module")
def made(make_deployment):
    """A deployment whose first three stages were run twice, the second time by another run."""
    deployment = make_deployment()
    deployment.write_recipe(LINE)
    for selection in ("key:tiny/recipe or key:tiny/raw_dataset or key:tiny/dataset_audit_report", "key:tiny/recipe"):
        done = deployment.materialize(selection)
        assert done.returncode == 0, done.stderr[-3000:]
    return deployment


class Copy:
    """A copy of the deployment's history and log, to attack."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "forge" / "audit_log" / LINE / "audit_log.jsonl"

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.root / "dagster")) as instance:
            yield instance

    def reconcile(self) -> Reconciliation:
        with self.instance() as instance:
            return reconcile(instance, self.log, ASSETS, CHECKS)

    def edit_databases(self, old: str, new: str) -> int:
        """Replace text in every event that any of Dagster's databases holds, as somebody with a shell would."""
        changed = 0
        for path in (self.root / "dagster").rglob("*.db"):
            with sqlite3.connect(path) as database:
                tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
                for table, column in (("event_logs", "event"), ("asset_check_executions", "evaluation_event")):
                    if table in tables:
                        where = f"where instr({column}, ?)"
                        update = f"update {table} set {column} = replace({column}, ?, ?) {where}"
                        changed += database.execute(update, (old, new, old)).rowcount
        return changed


@pytest.fixture
def copy(made, tmp_path) -> Copy:
    root = tmp_path / "copy"
    shutil.copytree(made.root / "dagster", root / "dagster")
    shutil.copytree(made.root / "forge" / "audit_log", root / "forge" / "audit_log")
    return Copy(root)


def latest(instance: dg.DagsterInstance, stage: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey([LINE, stage]))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def forge(metadata_of: Callable[[dg.AssetMaterialization], dict]) -> Callable[[Copy], None]:
    def attack(copy: Copy) -> None:
        with copy.instance() as instance:
            true = latest(instance, "raw_dataset")
            event = dg.AssetMaterialization(true.asset_key, metadata=metadata_of(true), tags=dict(true.tags or {}))
            instance.report_runless_asset_event(event)

    return attack


def wipe(copy: Copy) -> None:
    with copy.instance() as instance:
        instance.wipe_assets([ASSETS[1]])


def delete_run(copy: Copy) -> None:
    with copy.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey([LINE, "raw_dataset"]), limit=1).records
        instance.delete_run(records[0].run_id)


def edit_row_count(copy: Copy) -> None:
    with copy.instance() as instance:
        value = latest(instance, "raw_dataset").metadata["rows/train"].value
    assert copy.edit_databases(f'"value": {value}', f'"value": {int(value) + 1000}')


def edit_digest(copy: Copy) -> None:
    with copy.instance() as instance:
        digest = str(latest(instance, "raw_dataset").metadata["forge/digest"].value)
    assert copy.edit_databases(digest, "sha256:" + "0" * 64)


def post_check(copy: Copy) -> None:
    with copy.instance() as instance:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=ASSETS[2], check_name="no_secrets", passed=True, metadata={})
        )


def turn_check(copy: Copy) -> None:
    assert copy.edit_databases('"success": true', '"success": false')


def truncate_log(copy: Copy) -> None:
    """A shorter log with a checkpoint made anew: valid by itself."""
    whole = copy.log.read_bytes().splitlines(keepends=True)
    shutil.rmtree(copy.log.parent)
    AuditLogger(str(copy.log.parent), run_id="rebuilt").log_event("acme.rebuilt", entries=len(whole))


def break_log(copy: Copy) -> None:
    copy.log.write_bytes(copy.log.read_bytes().replace(b'"passed":true', b'"passed":false', 1))


ATTACKS = {
    "an event posted with nothing": (forge(lambda true: {"forged": True}), "event_forged"),
    "an event posted with a record that there is not": (
        forge(lambda true: {**true.metadata, "forge/record": "sha256:" + "0" * 64}), "event_forged",
    ),
    "a true event posted again": (forge(lambda true: dict(true.metadata)), "event_repeated"),
    "an asset wiped": (wipe, "event_missing"),
    "a run deleted": (delete_run, "event_missing"),
    "a number edited in the database": (edit_row_count, "event_changed"),
    "the digest edited in the database": (edit_digest, "event_changed"),
    "a check result posted": (post_check, "check_forged"),
    "check results turned in the database": (turn_check, "check_changed"),
    "the log cut and its checkpoint made anew": (truncate_log, "event_forged"),
    "the log edited": (break_log, "log_invalid"),
}  # fmt: skip


@pytest.mark.slow
def test_an_honest_history_agrees(copy):
    found = copy.reconcile()
    assert found.discrepancies == ()
    assert found.agrees
    assert (found.events, found.checks) == (4, 7)  # the recipe was made twice, with its check


@pytest.mark.parametrize(("attack", "kind"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_found_and_named(copy, attack, kind):
    attack(copy)
    found = copy.reconcile()
    assert kind in {each.kind for each in found.discrepancies}, found.discrepancies
    assert not found.agrees
    assert "disagree" in found.summary


@pytest.mark.slow
def test_an_event_posted_over_the_webservers_http_endpoint_is_found(copy):
    body = {"metadata": {"forged": True}, "data_version": "sha256:forged"}
    with webserver(copy) as address:
        request = urllib.request.Request(
            f"{address}/report_asset_materialization/{LINE}/raw_dataset",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
    assert {each.kind for each in copy.reconcile().discrepancies} == {"event_forged"}


@contextmanager
def webserver(copy: Copy) -> Iterator[str]:
    """A real webserver on the copied history, with an empty code location."""
    import socket

    (copy.root / "empty.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dagster_webserver",
        "-f",
        str(copy.root / "empty.py"),
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    log = (copy.root / "webserver.log").open("wb")
    with subprocess.Popen(
        command, env={"DAGSTER_HOME": str(copy.root / "dagster"), "PATH": ""}, stdout=log, stderr=log
    ) as server:
        try:
            for _ in range(300):
                assert server.poll() is None, (copy.root / "webserver.log").read_text()[-2000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2):
                        break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
            log.close()


def test_what_a_crash_leaves_behind_is_no_tampering(copy):
    """A log entry of a run that failed, without an event."""
    with copy.instance() as instance:
        job = dg.GraphDefinition("crashed").to_job()
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(run)
    AuditLogger(str(copy.log.parent), run_id=run.run_id).log_event(
        "artifact.materialized", asset_key=f"{LINE}/raw_dataset", digest="sha256:" + "1" * 64, files=1, inputs={},
        code_version="x", kind="RawDataset", record="sha256:" + "2" * 64,
    )  # fmt: skip
    found = copy.reconcile()
    assert [each.kind for each in found.discrepancies] == ["unfinished"]
    assert found.agrees
    assert "left over" in found.summary
