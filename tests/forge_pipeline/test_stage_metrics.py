"""Text files for Prometheus, and what a Pushgateway is handed, read back by Prometheus's own parser."""

import base64
import threading
import urllib.error
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest
from forge_pipeline.observation import FailedStage, StageFacts
from forge_pipeline.stage_metrics import push_metrics, write_metrics

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


FAILED = FailedStage(
    line="support", stage="sft/fine_tuned_model", run_id=str(uuid.UUID(int=1)), started_at=None,
    ended_at="2026-01-31T10:00:00.000+00:00", error="TrainingError", message="diverged", usage={"cpu_seconds": 7.5},
)  # fmt: skip


def test_a_failure_leaves_the_figures_of_the_last_success(tmp_path: Path) -> None:
    before = write_metrics(tmp_path, FACTS).read_bytes()
    file = write_metrics(tmp_path, FAILED)
    assert (tmp_path / "forge_support_sft_fine_tuned_model.prom").read_bytes() == before
    samples = [each for family in text_string_to_metric_families(file.read_text()) for each in family.samples]
    assert {sample.name: sample.value for sample in samples} == {
        "forge_stage_last_failure_cpu_seconds": 7.5,
        "forge_stage_last_failure_timestamp_seconds": 1769853600.0,
    }


@dataclass
class Gateway:
    """What a Pushgateway keeps: by path, the body that was put there last."""

    address: str = ""
    status: int = 200
    groups: dict[str, str] = field(default_factory=dict)
    authorization: str | None = None


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if state.status < 300:
                state.groups[self.path] = body
            state.authorization = self.headers.get("Authorization")
            self.send_response(state.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{listening.server_port}"
    yield state
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_pushgateway_keeps_success_and_failure_of_a_stage_apart(gateway: Gateway) -> None:
    push_metrics(gateway.address, FACTS)
    push_metrics(gateway.address, FAILED)
    stage = base64.urlsafe_b64encode(b"sft/fine_tuned_model").decode()
    success = f"/metrics/job/forge/line/support/stage@base64/{stage}"
    failure = f"/metrics/job/forge/line/support/outcome/failure/stage@base64/{stage}"
    assert set(gateway.groups) == {success, failure}
    samples = [each for family in text_string_to_metric_families(gateway.groups[success]) for each in family.samples]
    assert {s.value for s in samples if s.name == "forge_stage_duration_seconds"} == {2.5}
    assert "forge_stage_last_failure_cpu_seconds" in gateway.groups[failure]


def test_credentials_in_the_address_are_sent_as_basic_authentication(gateway: Gateway) -> None:
    push_metrics(gateway.address.replace("http://", "http://ci:a%2Fb@"), FACTS)
    assert gateway.authorization == "Basic " + base64.b64encode(b"ci:a/b").decode()


def test_a_pushgateway_that_refuses_is_an_error_for_the_caller_to_tell(gateway: Gateway) -> None:
    gateway.status = 400
    with pytest.raises(urllib.error.HTTPError, match="400"):
        push_metrics(gateway.address, FACTS)
