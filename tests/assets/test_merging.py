"""A line whose training ends in a merge with another model (``merge.enabled``), run by Dagster."""

from pathlib import Path

import pytest

from forge_pipeline.audit_log import read_entries
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import Registry

pytestmark = pytest.mark.slow


def test_what_is_judged_and_registered_is_the_merged_model(deployment):
    pytest.importorskip("mergekit")
    parents = [{"line": "merging", "weight": 3}, {"path": str(deployment.model), "weight": 1}]
    deployment.write_recipe("merging", merge={"enabled": True, "method": "linear", "models": parents})
    done = deployment.materialize("+key:merging/fine_tuned_model")
    assert done.returncode == 0, done.stderr[-9000:]
    event = deployment.latest("merging", "fine_tuned_model")
    model = ModelDirectory.open(Path(str(event.metadata["dagster/uri"].value)))
    assert model.digest == event.metadata["forge/digest"].value
    record = model.record
    assert (record.kind, record.merge_method) == ("full", "linear")
    assert [(each.name, each.weight) for each in record.merged_from] == [
        ("merging", 0.75),
        (deployment.model.name, 0.25),
    ]
    tuned, other = record.merged_from
    assert tuned.digest != model.digest
    assert tuned.dataset_digests
    assert other.config_digest is None
    assert not (model.path / "adapter_config.json").exists()
    registry = Registry(f"sqlite:///{deployment.root / 'forge' / 'registry.sqlite'}")
    try:
        row = registry.find_model(model.digest)
    finally:
        registry.close()
    assert row is not None
    assert (row.line, row.stage) == ("merging", "candidate")
    log = deployment.root / "forge" / "audit_log" / "merging" / "audit_log.jsonl"
    checks = [each.data for each in read_entries(log) if each.event == "gate.decided"]
    judged = {each["gate"]: each["subject"] for each in checks if each["asset_key"] == "merging/fine_tuned_model"}
    assert set(judged.values()) == {model.digest}
