"""Text files for Prometheus, read back by its own parser."""

import uuid
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest
from forge_pipeline.observation import StageFacts
from forge_pipeline.stage_metrics import write_metrics

SUBJECT = Digest.of(b"model")
FACTS = StageFacts(
    line="support", stage="sft/fine_tuned_model", run_id=str(uuid.UUID(int=1)), started_at=None,
    ended_at="2026-01-31T10:00:00.000+00:00", digest=SUBJECT, inputs={}, kind="ModelDirectory", size=10, files=1,
    tokens=99, usage={"duration_seconds": 2.5, "peak_memory_bytes": 1e9, "device_name": "cpu", "estimated_cost": 0.1,
                      "cost_currency": "EUR"},
    gates=(GateDecision("loss", "pass", "", SUBJECT), GateDecision("safety", "insufficient_evidence", "", SUBJECT)),
)  # fmt: skip


def test_what_was_measured_has_a_series_and_nothing_else_has(tmp_path: Path) -> None:
    file = write_metrics(tmp_path / "made", FACTS)
    assert file.name == "forge_support_sft_fine_tuned_model.prom"
    samples = [each for family in text_string_to_metric_families(file.read_text()) for each in family.samples]
    values = {sample.name: sample.value for sample in samples if "gate" not in sample.labels}
    assert values == {
        "forge_stage_duration_seconds": 2.5,
        "forge_stage_peak_memory_bytes": 1e9,
        "forge_stage_cost": 0.1,
        "forge_stage_tokens": 99,
        "forge_stage_artifact_bytes": 10,
        "forge_stage_last_success_timestamp_seconds": 1769853600.0,
    }
    assert {(s.labels["line"], s.labels["stage"]) for s in samples} == {("support", "sft/fine_tuned_model")}
    assert {s.labels["currency"] for s in samples if s.name == "forge_stage_cost"} == {"EUR"}
    verdicts = {s.labels["gate"]: s.labels["verdict"] for s in samples if "gate" in s.labels and s.value}
    assert verdicts == {"loss": "passed", "safety": "not_evaluated"}
    assert len([s for s in samples if "gate" in s.labels]) == 6


def test_the_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_metrics(tmp_path, FACTS)
    write_metrics(tmp_path, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["forge_support_sft_fine_tuned_model.prom"]
