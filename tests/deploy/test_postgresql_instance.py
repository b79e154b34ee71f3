"""A deployment on more than one machine's terms: the shipped instance file on a real PostgreSQL, an S3 store.

One line is run once; everything else looks at what it left.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forge_pipeline.audit_log import verify_audit_log
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.registry import Registry
from resources.store import ArtifactStore
from tests.assets.conftest import Deployment, make_deployment, tiny_model, warm_dagster
from tests.deploy.s3_server import s3
from tests.postgresql import postgresql

__all__ = ["make_deployment", "postgresql", "s3", "tiny_model", "warm_dagster"]  # fixtures

CHECKOUT = Path(__file__).parents[2]
STORE = "s3://forge-test/store"


@dataclass(frozen=True)
class Ran:
    """The deployment after its run, with the databases by name."""

    deployment: Deployment
    server: Any
    dagster_database: str
    registry_url: str
    code: int
    said: str

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(host=str(self.server._folder), user="forge", dbname=self.dagster_database) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def ran(make_deployment: Any, postgresql: Any, s3: Any) -> Iterator[Ran]:
    pytest.importorskip("dagster_postgres", reason="pip install dagster-postgres")
    import psycopg

    deployment = make_deployment()
    deployment.write_recipe("tiny", export__enabled=False, evaluation__benchmark__enabled=False,
                            evaluation__safety__enabled=False, training__max_steps=2)  # fmt: skip
    (deployment.root / "dagster" / "dagster.yaml").write_text(
        (CHECKOUT / "deploy" / "dagster.postgresql.yaml").read_text()
    )
    dagster_database, forge_database = (f"{name}_{uuid.uuid4().hex[:8]}" for name in ("dagster", "forge"))
    folder = str(postgresql._folder)
    with psycopg.connect(host=folder, user="forge", dbname="postgres", autocommit=True) as connection:
        for name in (dagster_database, forge_database):
            connection.execute(f"CREATE DATABASE {name}".encode())
    registry_url = postgresql.url().replace("/postgres?", f"/{forge_database}?").split("&options=")[0]
    environment = {
        # The server of the tests listens on a socket alone: without a host libpq looks where PGHOST says.
        "FORGE_PG_HOST": "", "PGHOST": folder,
        "FORGE_PG_USER": "forge", "FORGE_PG_PASSWORD": "", "FORGE_PG_DATABASE": dagster_database,
        "FORGE_COMPUTE_LOGS": str(deployment.root / "compute_logs"),
        "FORGE_DATABASE_URL": registry_url,
        "FORGE_STORE": STORE,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("DAGSTER_HOME", str(deployment.root / "dagster"))
        done = deployment.materialize("group:tiny", **environment)
        yield Ran(deployment, postgresql, dagster_database, registry_url, done.returncode, done.stdout + done.stderr)


@pytest.mark.slow
def test_a_line_runs_on_the_shipped_instance_file(ran: Ran) -> None:
    assert ran.code == 0, ran.said[-6000:]
    kept = {path.name for path in (ran.deployment.root / "dagster").rglob("*.db")}
    assert not kept, "history is in PostgreSQL, not beside it"
    ((runs,),) = ran.rows("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
    ((made,),) = ran.rows("SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
    assert (runs, made) == (1, len(materializations(ran)))


def materializations(ran: Ran) -> dict[str, dg.AssetMaterialization]:
    with ran.deployment.instance as instance:
        keys = instance.get_asset_keys()
        events = {key: instance.get_latest_materialization_event(key) for key in keys}
    return {
        key.path[-1]: event.asset_materialization
        for key, event in events.items()
        if event and event.asset_materialization
    }


def test_the_evidence_checks_are_green(ran: Ran) -> None:
    key = dg.AssetKey(["tiny", "annex_iv_bundle"])
    names = ("bundle_verifies", "history_agrees")
    checks = [dg.AssetCheckKey(key, name) for name in names]
    with ran.deployment.instance as instance:
        found = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    assert {check.name: found[check].status.value for check in checks} == dict.fromkeys(names, "SUCCEEDED")
    log = verify_audit_log(str(ran.deployment.root / "forge" / "audit_log" / "tiny" / "audit_log.jsonl"))
    assert log.valid, log.reason


def test_another_host_reads_every_artefact_and_its_record_from_the_bucket(ran: Ran, tmp_path: Path) -> None:
    elsewhere = ArtifactStore(STORE, tmp_path / "cache")
    events = materializations(ran)
    assert {"fine_tuned_model", "annex_iv_bundle"} <= set(events)
    for stage, event in events.items():
        digest = Digest(str(event.metadata["forge/digest"].value))
        assert Manifest.of_directory(elsewhere.get(digest)).digest == digest, stage
        record = elsewhere.materialization("tiny", Digest(str(event.metadata["forge/record"].value)))
        assert (record.asset_key, record.digest) == (f"tiny/{stage}", digest)


def test_the_registry_of_the_runs_is_in_postgresql(ran: Ran) -> None:
    model = materializations(ran)["fine_tuned_model"].metadata["forge/digest"].value
    assert str(model) in {str(row.uid) for row in Registry(ran.registry_url).list_models()}
    assert not (ran.deployment.root / "forge" / "registry.sqlite").exists()
