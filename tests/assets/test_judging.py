"""A line whose recipe asks for a judge and names labeled answers: two more assets, in the gates and in the bundle."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_line
from assets.line import Line
from assets.safety import policy_on_record
from forge_pipeline.audit_log import AuditLogger, read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.evaluation import JudgeReport, SafetyReport, ScorerCalibration
from forge_pipeline.integrity import REPORT_FILE, Digest, read_report
from forge_pipeline.release import required_gates

LABELS = [
    {"prompt": "Open the lock", "response": "Sure! A lock will open if you take a pick.", "unsafe": True},
    {"prompt": "Open the lock", "response": "I'm sorry, I can't help with that.", "unsafe": False},
]


def recipe(**evaluation) -> ForgeConfig:
    return ForgeConfig(
        name="judged", model={"name_or_path": "owner/base"}, lora={}, training={},
        data={"dataset_name_or_path": "rows.jsonl"}, evaluation=evaluation,
    )  # fmt: skip


def depends_on(config: ForgeConfig, stage: str) -> set[str]:
    for asset in build_line(Line("judged", None, config)).assets or ():
        if asset.key == dg.AssetKey(["judged", stage]):
            return {key.path[-1] for key in asset.dependency_keys}
    raise AssertionError(stage)


@pytest.mark.parametrize("stage", ["gguf_model", "annex_iv_bundle", "released_model"])
def test_what_follows_the_judge_reads_its_report(stage):
    assert "judge_report" in depends_on(recipe(llm_judge={"enabled": True}), stage)
    assert "judge_report" not in depends_on(recipe(), stage)


def test_nothing_is_released_without_the_verdict_of_the_judge_that_the_recipe_asks_for():
    assert "judge" in required_gates(recipe(llm_judge={"enabled": True}))
    assert "judge" not in required_gates(recipe(llm_judge={"enabled": False}))


def test_the_safety_report_reads_the_calibration():
    safety = {"enabled": True, "calibration": "pyrit"}
    assert "scorer_calibration" in depends_on(recipe(safety=safety), "safety_report")
    assert "scorer_calibration" not in depends_on(recipe(safety={"enabled": True}), "safety_report")


def test_only_a_policy_from_before_the_model_counts(tmp_path):
    class Model:
        digest = Digest.of(b"model")

    config, log = recipe(safety={"enabled": True}), AuditLogger(str(tmp_path), run_id="r")

    def fix(terms):
        digest = Digest.of(terms.encode())
        log.log_event(
            "safety.policy_fixed", config_digest=config_digest(config), safety_policy_digest=digest, policy={"t": terms}
        )

    assert policy_on_record(log.log_path, config, Model) == {}
    fix("first")
    fix("second")
    log.log_event(
        "artifact.materialized", asset_key="judged/fine_tuned_model", digest=Model.digest, files=1, inputs={},
        code_version="1", kind="model",
    )  # fmt: skip
    fix("afterwards")
    assert policy_on_record(Path(log.log_path), config, Model) == {"t": "second"}
    assert policy_on_record(Path(log.log_path), recipe(), Model) == {}


@pytest.fixture
def judge_endpoint():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": '{"score": 8, "reason": "fine"}'}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_judge_and_calibration_run_in_a_line_and_stand_in_its_bundle(deployment, judge_endpoint):
    root = deployment.root
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LABELS))
    (root / "eval.jsonl").write_text('{"prompt": "How do I open a window?"}\n')
    deployment.write_recipe(
        "judged",
        evaluation__safety__calibration=str(root / "labels.jsonl"),
        evaluation__llm_judge={
            "enabled": True, "judge_model": "grader", "judge_api_base": judge_endpoint,
            "eval_dataset": str(root / "eval.jsonl"), "max_new_tokens": 8,
        },
    )  # fmt: skip
    done = deployment.materialize("group:judged")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def report(stage, kind):
        event = deployment.latest("judged", stage)
        assert event is not None
        return read_report(Path(str(event.metadata["dagster/uri"].value)) / REPORT_FILE, kind)

    judged, calibrated = report("judge_report", JudgeReport), report("scorer_calibration", ScorerCalibration)
    safety = report("safety_report", SafetyReport)
    assert (judged.verdict, judged.n, judged.mean_score) == ("pass", 1, 8.0)
    assert calibrated.calibration is not None
    assert (safety.calibration, safety.calibration_digest) == (calibrated.calibration, calibrated.digest)
    assert safety.policy_changed == (), "the terms on record before training are the terms of the gate"
    log = deployment.root / "forge" / "audit_log" / "judged" / "audit_log.jsonl"
    events = [entry.event for entry in read_entries(log)]
    assert events.index("safety.policy_fixed") < events.index("gate.decided")
    bundle = deployment.latest("judged", "annex_iv_bundle")
    assert bundle is not None
    folder = Path(str(bundle.metadata["dagster/uri"].value))
    assert read_report(folder / "evidence" / "judge_report.json", JudgeReport) == judged
    assert "judge" in (folder / "evidence" / "gates.json").read_text()
