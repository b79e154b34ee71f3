"""Lines that have a stage more than the others: a recipe that has its rows cleaned."""

from pathlib import Path

import pytest

from forge_pipeline.audit_log import read_entries

pytestmark = pytest.mark.slow


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
