"""The whole line through `dagster asset materialize`, on a tiny real model."""

from pathlib import Path

import dagster as dg
import pytest

from assets.line import STAGES, Line
from forge_pipeline.annex_iv import verify_annex_iv_artifact
from forge_pipeline.audit_log import read_entries, verify_audit_log
from forge_pipeline.integrity import Digest, Manifest

MADE = tuple(stage for stage in Line("tiny").stages if stage != "released_model")


@pytest.fixture(scope="module")
def finished(make_deployment):
    """One deployment whose line was run once, with the command's result."""
    deployment = make_deployment()
    deployment.write_recipe("tiny")
    return deployment, deployment.materialize_from_a_cold_start("group:tiny")


def events_of(deployment, line="tiny"):
    return {stage: event for stage in STAGES if (event := deployment.latest(line, stage))}


@pytest.mark.slow
def test_the_line_runs_with_exit_code_0_and_makes_everything_but_a_release(finished):
    deployment, done = finished
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-9000:]
    assert tuple(events_of(deployment)) == MADE
    assert "not released" in done.stderr + done.stdout


def test_each_artefacts_data_version_is_the_digest_of_its_bytes(finished):
    deployment, _ = finished
    for stage, event in events_of(deployment).items():
        digest = Digest(str(event.metadata["forge/digest"].value))
        assert event.tags["dagster/data_version"] == digest, stage
        assert Manifest.of_directory(Path(str(event.metadata["dagster/uri"].value))).digest == digest, stage


def test_every_event_carries_an_anchor_that_the_log_extends(finished):
    deployment, _ = finished
    path = deployment.root / "forge" / "audit_log" / "tiny" / "audit_log.jsonl"
    result = verify_audit_log(str(path))
    assert result.valid, result.reason
    for event in events_of(deployment).values():
        assert str(event.metadata["audit/log_id"].value) == result.log_id
        assert 0 < int(event.metadata["audit/size"].value) <= result.entries_count


def test_the_log_names_every_artefact_with_the_inputs_that_were_loaded(finished):
    deployment, _ = finished
    entries = read_entries(str(deployment.root / "forge" / "audit_log" / "tiny" / "audit_log.jsonl"))
    stored = {entry.data["asset_key"]: entry.data for entry in entries if entry.event == "artifact.materialized"}
    events = events_of(deployment)
    assert set(stored) == {f"tiny/{stage}" for stage in MADE}
    for stage, event in events.items():
        assert stored[f"tiny/{stage}"]["digest"] == event.metadata["forge/digest"].value
    inputs = stored["tiny/gguf_model"]["inputs"]
    assert inputs["tiny/fine_tuned_model"] == events["fine_tuned_model"].metadata["forge/digest"].value
    assert set(inputs) == {
        f"tiny/{name}" for name in ("recipe", "raw_dataset", "fine_tuned_model", "benchmark_report", "safety_report")
    }


def test_the_policy_was_on_record_before_training(finished):
    deployment, _ = finished
    entries = read_entries(str(deployment.root / "forge" / "audit_log" / "tiny" / "audit_log.jsonl"))
    names = [entry.event for entry in entries]
    assert names.index("recipe.resolved") < names.index("training.started")


def test_the_bundle_verifies_and_says_what_is_missing(finished):
    deployment, _ = finished
    bundle = Path(str(events_of(deployment)["annex_iv_bundle"].metadata["dagster/uri"].value))
    result = verify_annex_iv_artifact(str(bundle / "annex_iv.json"))
    assert result.valid, result.reason
    assert not result.complete
    assert "1(a)" in result.missing_fields


def test_nothing_in_the_store_is_a_pickle(finished):
    deployment, _ = finished
    suffixes = {path.suffix for path in (deployment.root / "forge" / "store").rglob("*") if path.is_file()}
    assert not suffixes & {".bin", ".pkl", ".pickle", ".pt", ".pth"}


def test_every_check_has_a_result_and_only_the_expected_ones_did_not_pass(finished):
    deployment, _ = finished
    with deployment.instance as instance:
        records = [
            instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            for key in check_keys(deployment)
        ]
    failed = {
        record.event.dagster_event.asset_check_evaluation_data.check_name
        for record in records
        if record.status.value != "SUCCEEDED"
    }
    assert failed <= {"safety_gate", "benchmark_gate", "bundle_complete"}
    assert "safety_gate" in failed


def check_keys(deployment):
    from assets.definitions import build_definitions
    from resources.home import Home

    defs = build_definitions(
        deployment.root / "configs", Home(deployment.root / "forge"), str(deployment.root / "forge" / "store")
    )
    return [key for key in defs.resolve_asset_graph().asset_check_keys if key.asset_key.path[0] == "tiny"]


@pytest.mark.slow
def test_asking_for_the_release_alone_is_refused_with_the_reason(finished):
    deployment, _ = finished
    done = deployment.materialize("key:tiny/released_model")
    assert done.returncode == 1
    assert "GateFailedError" in done.stderr + done.stdout
    assert deployment.latest("tiny", "released_model") is None


@pytest.mark.slow
def test_a_changed_artefact_is_refused_by_the_next_stage(finished, tmp_path):
    deployment, _ = finished
    rows = Path(str(events_of(deployment)["raw_dataset"].metadata["dagster/uri"].value)) / "train.parquet"
    saved = rows.read_bytes()
    rows.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    try:
        done = deployment.materialize("key:tiny/dataset_audit_report")
    finally:
        rows.write_bytes(saved)
    assert done.returncode == 1
    assert "changed after it was stored" in done.stderr + done.stdout


# what an event that somebody posted carries: (its metadata, given the true event's, the words of the refusal)
FORGERIES = {
    "nothing": (lambda true: {"forged": True}, "carries no digest"),
    "a digest without a record": (lambda true: {"forge/digest": true["forge/digest"]}, "carries no digest"),
    "a true record of another run": (lambda true: true, "differ in run_id"),
    "a true record and another digest": (
        lambda true: {**true, "forge/digest": "sha256:" + "0" * 64}, "differ in digest, run_id",
    ),
    "a record that does not exist": (lambda true: {**true, "forge/record": "sha256:" + "0" * 64}, "has no record"),
}  # fmt: skip


@pytest.mark.parametrize(("forge", "words"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_event_is_refused_by_the_next_stage(finished, forge, words):
    deployment, _ = finished
    true = {
        name: str(value.value)
        for name, value in deployment.first("tiny", "raw_dataset").metadata.items()
        if name in ("forge/digest", "forge/record")
    }
    with deployment.instance as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(["tiny", "raw_dataset"], metadata=forge(true)))
    done = deployment.materialize("key:tiny/dataset_audit_report")
    assert done.returncode == 1
    assert words in done.stderr + done.stdout
