"""The GGUF files that a job's bundle looks up: exactly its model's, or none."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.definitions import build_definitions, build_resources
from forge_pipeline.export import GgufModel
from forge_pipeline.integrity import Digest
from resources.home import Home
from resources.job_files import last_gguf
from resources.settings import DeploymentResource
from resources.store import ArtifactStore
from tests.forge_pipeline.server.shelved import gguf_folder

KEY = dg.AssetKey(["t", "gguf_model"])
JOBS = dg.StaticPartitionsDefinition(["one", "two"])


@dataclass(frozen=True)
class Taken:
    """What the bundle's stage found."""

    gguf: Digest | None


@dg.asset(key=KEY, partitions_def=JOBS, io_manager_key="model_io")
def gguf_model(context: dg.AssetExecutionContext, deployment: DeploymentResource) -> GgufModel:
    return GgufModel.open(gguf_folder(model_of(context.partition_key), deployment.home.root / context.run.run_id))


@dg.asset(key=["t", "taken"], deps=[KEY], partitions_def=JOBS, io_manager_key="report_io")
def taken(context: dg.AssetExecutionContext, deployment: DeploymentResource) -> Taken:
    found = last_gguf(context, deployment, KEY, model_of("one"))
    return Taken(found.digest if found else None)


def model_of(job: str) -> Digest:
    return Digest.of(job.encode())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Materialize one of the assets above for a job; the record of what was made."""
    resources = build_resources(Home(tmp_path), str(tmp_path / "store"), allow_temporary_instance=True)
    with dg.DagsterInstance.ephemeral() as instance:

        def materialize(asset: dg.AssetsDefinition, job: str) -> dict[str, Any]:
            made = dg.materialize(
                [gguf_model, taken], selection=[asset], partition_key=job, resources=resources, instance=instance
            )
            (event,) = made.get_asset_materialization_events()
            record = event.step_materialization_data.materialization.metadata["forge/record"].value
            return dict(ArtifactStore(str(tmp_path / "store"), tmp_path).record("t", Digest(str(record))))

        materialize.instance = instance  # type: ignore[attr-defined]
        yield materialize


def test_a_job_without_files_has_none(run: Any) -> None:
    assert run(taken, "one")["inputs"] == {}


def test_the_files_of_exactly_this_model_are_taken_and_stand_in_the_record(run: Any) -> None:
    digest = run(gguf_model, "one")["digest"]
    assert run(taken, "one")["inputs"] == {"t/gguf_model": digest}


def test_files_of_another_model_or_job_are_left_aside(run: Any) -> None:
    run(gguf_model, "two")
    assert run(taken, "two")["inputs"] == {}
    assert run(taken, "one")["inputs"] == {}


def test_an_event_that_somebody_posted_is_refused(run: Any) -> None:
    run.instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="one"))
    with pytest.raises(Exception, match="carries no digest"):
        run(taken, "one")


def test_a_jobs_bundle_follows_the_files_and_does_not_need_them(tmp_path: Path) -> None:
    definitions = build_definitions(tmp_path, Home(tmp_path), str(tmp_path / "store"))
    gguf, bundle = (dg.AssetKey(["studio", stage]) for stage in ("gguf_model", "annex_iv_bundle"))
    assert gguf in definitions.resolve_asset_graph().get(bundle).parent_keys
    ins = definitions.get_assets_def(bundle).op.ins
    assert {name for name, taken in ins.items() if taken.dagster_type.kind.name == "NOTHING"} == {"studio_gguf_model"}
