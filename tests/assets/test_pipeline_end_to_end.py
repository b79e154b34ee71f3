"""The whole line through `dagster asset materialize`, on a tiny real model."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psutil
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
    return deployment, deployment.materialize("group:tiny")


def events_of(deployment, line="tiny"):
    return {stage: event for stage in STAGES if (event := deployment.latest(line, stage))}


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


def test_asking_for_the_release_alone_is_refused_with_the_reason(finished):
    deployment, _ = finished
    done = deployment.materialize("key:tiny/released_model")
    assert done.returncode == 1
    assert "GateFailedError" in done.stderr + done.stdout
    assert deployment.latest("tiny", "released_model") is None


def test_a_second_run_of_the_same_recipe_gives_the_same_model_digest(finished):
    deployment, _ = finished
    before = events_of(deployment)["fine_tuned_model"].metadata["forge/digest"].value
    done = deployment.materialize("key:tiny/fine_tuned_model")
    assert done.returncode == 0, done.stderr[-2000:]
    assert events_of(deployment)["fine_tuned_model"].metadata["forge/digest"].value == before


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


def test_a_failed_gate_ends_with_exit_code_1_and_no_export_and_cannot_be_walked_round(deployment):
    deployment.write_recipe("strict", evaluation__max_acceptable_loss=0.0001)
    done = deployment.materialize("group:strict")
    assert done.returncode == 1
    assert deployment.latest("strict", "fine_tuned_model") is not None
    assert deployment.latest("strict", "gguf_model") is None
    for stage in ("benchmark_report", "safety_report"):
        assert deployment.materialize(f"key:strict/{stage}").returncode == 0
    alone = deployment.materialize("key:strict/gguf_model")
    assert alone.returncode == 1
    assert "export refused" in alone.stderr + alone.stdout
    assert deployment.latest("strict", "gguf_model") is None


def test_a_secret_in_the_rows_stops_the_line_before_training(deployment):
    with (deployment.root / "rows.jsonl").open("a") as file:
        file.write(
            '{"messages": [{"role": "user", "content": "key?"}, {"role": "assistant", "content": "ghp_'
            + "a1B2" * 9
            + '"}]}\n'
        )
    deployment.write_recipe("leaky")
    done = deployment.materialize("group:leaky")
    assert done.returncode == 1
    assert deployment.latest("leaky", "dataset_audit_report") is not None
    assert deployment.latest("leaky", "tokenized_dataset") is None
    alone = deployment.materialize("key:leaky/tokenized_dataset")
    assert alone.returncode == 1
    assert "training refused" in alone.stderr + alone.stdout


# name: (what is wrong with the deployment, the words of the one clear message)
BAD: dict[str, tuple[Callable[..., dict[str, str | None] | None], list[str]]] = {
    "unknown key": (
        lambda d: d.write_recipe("bad", training__sed=1), ["bad.yaml", "training.sed", "did you mean 'seed'"]
    ),
    "wrong type": (lambda d: d.write_recipe("bad", lora__r="eight"), ["lora.r", "'eight'"]),
    "missing dataset": (
        lambda d: d.write_recipe("bad", data__dataset_name_or_path="nowhere.jsonl"), ["nowhere.jsonl", "no such file"]
    ),
    "broken rows": (
        lambda d: ((d.root / "rows.jsonl").write_text('{"messages": [\n' * 30), d.write_recipe("bad"))[1], ["rows.jsonl"]
    ),
    "missing base model": (
        lambda d: d.write_recipe("bad", model__name_or_path="./no/such/model"), ["no/such/model"]
    ),
    "unset DAGSTER_HOME": (
        lambda d: d.write_recipe("bad") or {"DAGSTER_HOME": None}, ["DAGSTER_HOME is not set", "export DAGSTER_HOME"]
    ),
    "a judge that no asset runs": (
        lambda d: d.write_recipe("bad", evaluation__llm_judge={"enabled": True}), ["llm_judge", "forge train"]
    ),
    "inline secret": (
        lambda d: d.write_recipe("bad", auth__hf_token="hf_x"), ["auth.hf_token holds a secret", "HF_TOKEN"]
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), BAD.values(), ids=BAD)
def test_bad_input_ends_in_one_clear_message_and_exit_code_1(deployment, spoil, words):
    environment = spoil(deployment) or {}
    done = deployment.materialize("group:bad", **environment)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    for word in words:
        assert word in output
    assert deployment.latest("bad", "fine_tuned_model") is None
    shutil.rmtree(deployment.root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_ended_takes_its_training_process_with_it(deployment, number):
    deployment.write_recipe("endless", training__max_steps=100_000)
    run = deployment.start("group:endless")
    worker = training_process(deployment, run)
    run.send_signal(number)
    deadline = time.monotonic() + 5
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    run.wait(timeout=20)
    assert deployment.latest("endless", "fine_tuned_model") is None


def training_process(deployment, run):
    """The child that trains, once it has taken a step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list((deployment.root / "forge" / "progress").glob("*.jsonl"))
        if files and '"fine_tune", "step": 2' in files[0].read_text():
            return next(c for c in psutil.Process(run.pid).children() if "resources.stage_worker" in c.cmdline())
        assert run.poll() is None, "the run ended before it trained"
        time.sleep(0.1)
    raise AssertionError("no training step within two minutes")


def test_a_studio_job_is_a_partition_with_its_own_lineage(deployment):
    deployment.write_recipe("job_a")
    jobs = deployment.root / "forge" / "studio" / "jobs"
    jobs.mkdir(parents=True)
    shutil.move(deployment.root / "configs" / "job_a.yaml", jobs / "job_a.yaml")
    with deployment.instance as instance:
        instance.add_dynamic_partitions("studio_jobs", ["job_a"])
    selection = "+key:studio/fine_tuned_model"
    done = deployment.materialize(selection, "--partition", "job_a")
    assert done.returncode == 0, done.stderr[-9000:]
    with deployment.instance as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["studio", "fine_tuned_model"]))
    assert event.asset_materialization.partition == "job_a"


def test_a_line_that_cleans_audits_and_tokenizes_the_clean_rows(deployment):
    with (deployment.root / "rows.jsonl").open("a") as file:
        file.write(
            '{"messages": [{"role": "user", "content": "key?"}, {"role": "assistant", "content": "ghp_'
            + "a1B2" * 9
            + '"}]}\n'
        )
    deployment.write_recipe("clean", data__clean={"enabled": True, "split_overlap": "keep"})
    stages = ("recipe", "raw_dataset", "clean_dataset", "dataset_audit_report", "tokenized_dataset")
    done = deployment.materialize(" or ".join(f"key:clean/{stage}" for stage in stages))
    assert done.returncode == 0, done.stderr[-9000:]
    digests = {stage: deployment.latest("clean", stage).metadata["forge/digest"].value for stage in stages}
    entries = read_entries(str(deployment.root / "forge" / "audit_log" / "clean" / "audit_log.jsonl"))
    inputs = {
        entry.data["asset_key"]: entry.data["inputs"] for entry in entries if entry.event == "artifact.materialized"
    }
    assert inputs["clean/clean_dataset"]["clean/raw_dataset"] == digests["raw_dataset"]
    for stage in ("dataset_audit_report", "tokenized_dataset"):
        assert inputs[f"clean/{stage}"]["clean/clean_dataset"] == digests["clean_dataset"]
        assert "clean/raw_dataset" not in inputs[f"clean/{stage}"]
    store = deployment.root / "forge" / "store"
    held = [path for path in store.rglob("*.parquet") if b"ghp_" in path.read_bytes()]
    clean = Path(str(deployment.latest("clean", "clean_dataset").metadata["dagster/uri"].value))
    assert not [path for path in held if path.is_relative_to(clean)]
