"""Typed IO managers, by use: assets defined here, materialized on a real (temporary) instance."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from assets.definitions import build_resources
from forge_pipeline.audit_log import read_entries, verify_audit_log
from forge_pipeline.integrity import Digest, DirectoryArtifact, Manifest
from resources.home import Home
from resources.store import ArtifactStore


@dataclass(frozen=True)
class Score:
    value: float
    subject: Digest


@dg.asset(key=["t", "rows"], io_manager_key="dataset_io")
def rows() -> pa.Table:
    return pa.table({"text": ["a", "b"]})


@dg.asset(key=["t", "score"], ins={"rows": dg.AssetIn(key=["t", "rows"])}, io_manager_key="report_io", code_version="1")
def score(rows: pa.Table) -> Score:
    return Score(rows.num_rows / 4, Digest.of(b"x"))


@dg.asset(key=["t", "model"], ins={"score": dg.AssetIn(key=["t", "score"])}, io_manager_key="model_io")
def model(score: Score, deployment: dg.ResourceParam[object]) -> DirectoryArtifact:
    directory = Path(deployment.home_directory) / "made"
    directory.mkdir()
    (directory / "weights.safetensors").write_bytes(b"w" * round(8 * score.value))
    return DirectoryArtifact.open(directory)


@dg.asset(key=["t", "plain"])
def plain() -> int:
    return 1


@pytest.fixture
def run(tmp_path):
    """Materialize some of the assets above on one instance that lasts for the test."""
    instance = dg.DagsterInstance.ephemeral()
    resources = build_resources(Home(tmp_path), str(tmp_path / "store"), allow_temporary_instance=True)

    def materialize(*assets, raise_on_error=True, **replaced):
        return dg.materialize(
            [rows, score, model, plain], selection=list(assets), resources={**resources, **replaced}, instance=instance,
            raise_on_error=raise_on_error,
        )  # fmt: skip

    materialize.instance = instance
    yield materialize
    instance.dispose()


def event(result, *key):
    return next(e for e in result.asset_materializations_for_node("__".join(key)))


def words_of(result):
    failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    return " ".join(str(f.user_failure_data.description if f.user_failure_data else f.error) for f in failures)


def test_values_come_back_as_the_types_that_the_assets_ask_for(run, tmp_path):
    result = run(rows, score, model)
    digest = Digest(str(event(result, "t", "model").metadata["forge/digest"].value))
    stored = ArtifactStore(str(tmp_path / "store"), tmp_path).get(digest)
    assert (stored / "weights.safetensors").read_bytes() == b"wwww"


def test_the_data_version_is_the_digest_and_the_log_has_it_too(run, tmp_path):
    result = run(rows, score)
    materialization = event(result, "t", "score")
    digest = materialization.metadata["forge/digest"].value
    assert materialization.tags["dagster/data_version"] == digest
    log = tmp_path / "audit_log" / "t" / "audit_log.jsonl"
    assert verify_audit_log(str(log)).valid
    entry = [e for e in read_entries(str(log)) if e.event == "artifact.materialized"][-1]
    assert entry.data["digest"] == digest
    assert entry.data["inputs"] == {"t/rows": event(result, "t", "rows").metadata["forge/digest"].value}


def test_equal_results_have_equal_digests_whenever_they_are_made(run):
    assert len({str(event(run(rows), "t", "rows").metadata["forge/digest"].value) for _ in range(2)}) == 1


def test_each_record_names_the_one_before_it(run, tmp_path):
    result = run(rows, score)
    store = ArtifactStore(str(tmp_path / "store"), tmp_path)
    second = store.record("t", Digest(str(event(result, "t", "score").metadata["forge/record"].value)))
    first = store.record("t", Digest(second["previous"]))
    assert (first["asset_key"], first["previous"]) == ("t/rows", None)
    assert second["inputs"] == {"t/rows": first["digest"]}


def test_a_later_run_reads_what_an_earlier_one_stored(run):
    run(rows)
    assert run(score).success


def test_an_input_that_was_never_made_says_so(run):
    result = run(score, raise_on_error=False)
    assert "t/rows has never been materialized" in words_of(result)


def test_a_changed_file_is_refused(run, tmp_path):
    result = run(rows)
    path = Path(str(event(result, "t", "rows").metadata["dagster/uri"].value)) / "data.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert "changed after it was stored" in words_of(run(score, raise_on_error=False))


def test_a_pickle_in_a_model_directory_is_refused(run, tmp_path):
    @dg.asset(key=["t", "pickled"], io_manager_key="model_io")
    def pickled() -> DirectoryArtifact:
        directory = tmp_path / "pickled"
        directory.mkdir()
        (directory / "pytorch_model.bin").write_bytes(b"\x80")
        return DirectoryArtifact.open(directory)

    resources = build_resources(Home(tmp_path), str(tmp_path / "store"), allow_temporary_instance=True)
    result = dg.materialize([pickled], resources=resources, instance=run.instance, raise_on_error=False)
    assert "save safetensors instead" in words_of(result)


def test_an_asset_without_a_typed_io_manager_is_refused_rather_than_pickled(run):
    assert "never pickled" in words_of(run(plain, raise_on_error=False))


def test_an_instance_that_forgets_is_refused(run, tmp_path):
    resources = build_resources(Home(tmp_path), str(tmp_path / "store"))
    assert "DAGSTER_HOME is not set" in words_of(run(rows, raise_on_error=False, dataset_io=resources["dataset_io"]))


FULL = {"publish": "resources.store.publish_directory", "record": "resources.store.write_file"}


@pytest.mark.parametrize("call", FULL.values(), ids=FULL)
def test_a_full_disk_fails_the_stage_and_leaves_no_result(run, tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    result = run(rows, raise_on_error=False)
    assert not result.success
    assert "No space left" in words_of(result)
    assert not result.asset_materializations_for_node("t__rows")
    monkeypatch.undo()
    assert run(rows).success


def test_a_log_that_cannot_be_written_fails_the_stage(run, tmp_path):
    (tmp_path / "audit_log").write_text("in the way")
    result = run(rows, raise_on_error=False)
    assert not result.success
    assert not result.asset_materializations_for_node("t__rows")


def test_the_store_holds_exactly_what_was_published(run, tmp_path):
    result = run(rows, score)
    for name in ("rows", "score"):
        digest = Digest(str(event(result, "t", name).metadata["forge/digest"].value))
        path = tmp_path / "store" / "sha256" / digest.hex[:2] / digest.hex
        assert Manifest.of_directory(path).digest == digest
    assert not list((tmp_path / "work").rglob("publish"))
