"""The reference page's examples about the audit log, word for word under this package's name."""

import pytest

from forge_pipeline.audit_log import read_entries

EMIT_EVENTS = """
import os
from forge_pipeline import AuditLogger

os.environ.setdefault("FORGELM_OPERATOR", "airflow:dag-1234:run-5678")

logger = AuditLogger(output_dir="outputs/dag-1234")
logger.log_event(
    "training.started",
    trainer_type="sft",
    model="meta-llama/Llama-3.1-8B-Instruct",
    dataset="acme/customer-support-v3",
)
# ... your pipeline runs ...
logger.log_event(
    "pipeline.completed",
    exit_code=0,
    duration_seconds=4218.7,
    success=True,
    metrics_summary={"eval_loss": 0.43, "rouge_l": 0.61},
)
"""

VERIFY_IN_CI = """
from forge_pipeline import verify_audit_log

result = verify_audit_log(
    "outputs/run-001/audit_log.jsonl",
    hmac_secret=None,
    require_hmac=True,
)

if not result.valid:
    raise SystemExit(f"audit chain broken: {result.reason}")

print(f"verified {result.entries_checked} entries; head={result.chain_head}")
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("FORGE_OPERATOR", "FORGELM_OPERATOR", "FORGE_AUDIT_SECRET", "FORGE_AUDIT_SIGNING_KEY"):
        monkeypatch.setenv(name, "")  # so that what the example sets is undone
        monkeypatch.delenv(name)
    return tmp_path


def test_emit_events_from_your_own_pipeline(elsewhere) -> None:
    exec(EMIT_EVENTS, {})
    entries = read_entries(elsewhere / "outputs/dag-1234/audit_log.jsonl")
    assert [entry.event for entry in entries] == ["audit.genesis", "training.started", "pipeline.completed"]
    assert {entry.operator for entry in entries} == {"airflow:dag-1234:run-5678"}
    assert entries[-1].data["metrics_summary"] == {"eval_loss": 0.43, "rouge_l": 0.61}


def test_verify_an_audit_log_in_ci(elsewhere, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORGE_AUDIT_SECRET", "correct horse battery staple")
    exec(EMIT_EVENTS.replace("dag-1234", "run-001"), {})
    exec(VERIFY_IN_CI, {})
    assert capsys.readouterr().out.startswith("verified 3 entries; head=sha256:")


def test_verify_an_audit_log_in_ci_without_the_secret_says_what_to_set(elsewhere) -> None:
    exec(EMIT_EVENTS.replace("dag-1234", "run-001"), {})
    with pytest.raises(SystemExit, match="FORGE_AUDIT_SECRET"):
        exec(VERIFY_IN_CI, {})
