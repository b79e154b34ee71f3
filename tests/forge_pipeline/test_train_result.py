"""Every field of `TrainResult`, once filled and once empty, by recipes that really run."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from forge_pipeline import ForgeTrainer, TrainResult
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory

WORDS = ["rivers", "trains", "violins", "comets", "bread", "cheese", "snow", "bridges", "owls", "clocks", "maps", "tea"]


def _saying(word: str) -> str:
    """Ten words that no other row has, so that no benchmark item is found in the training rows."""
    return " ".join(f"{word}{letter}" for letter in "abcdefghij")


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    """An OpenAI-compatible endpoint that grades every answer with 8."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            reply = {"choices": [{"message": {"role": "assistant", "content": '{"score": 8, "reason": "fine"}'}}]}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def train(recipe: Callable[..., ForgeConfig], tmp_path: Path, judge_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FORGE_TEST_KEY", "not a secret")
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"Say {_saying(word)}.", "completion": f" {word}!"} for word in WORDS]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"Say {w}."}) + "\n" for w in WORDS[:2]))

    def run(**sections: Any) -> tuple[ForgeConfig, TrainResult]:
        data = {
            "dataset_name_or_path": str(rows),
            "split": {"validation": 0.2, "test": 0.3},
            "audit": {"max_split_overlap": 1.0} | sections.pop("audit", {}),
        }
        training = {"output_dir": str(tmp_path / "out")} | sections.pop("training", {})
        judge = sections.get("evaluation", {}).get("llm_judge")
        if judge:
            judge |= {"judge_api_base": judge_url, "eval_dataset": str(tmp_path / "asked.jsonl")}
            judge |= {"judge_api_key_env": "FORGE_TEST_KEY", "judge_model": "graded", "max_new_tokens": 4}
        config = recipe(data=data, training=training, **sections)
        return config, ForgeTrainer(config).train()

    return run


BENCHMARK = {"enabled": True, "tasks": ["held_out"], "limit": 3}
SAFETY = {"enabled": True, "classifier": "rules", "test_prompts": "builtin", "limit": 4, "max_new_tokens": 4}
EVERYTHING: dict[str, Any] = {
    "training": {"gpu_cost_per_hour": 3.0},
    "evaluation": {
        "benchmark": BENCHMARK | {"min_score": 0.0},
        "safety": SAFETY | {"track_categories": True},
        "llm_judge": {"enabled": True, "min_score": 5.0},
    },
}
# name -> (recipe, fields that must be filled, fields that must be as given); every other field must be empty
ALWAYS = {"success", "metrics", "run_id", "config_hash", "run_dir", "gates", "resource_usage"}
CASES: dict[str, tuple[dict[str, Any], set[str], dict[str, Any]]] = {
    "nothing asked": ({}, ALWAYS | {"final_model_path"}, {"success": True}),
    "everything asked": (
        EVERYTHING,
        ALWAYS
        | {"final_model_path", "benchmark_scores", "benchmark_average", "benchmark_passed", "safety_categories"}
        | {"judge_score", "judge_details", "estimated_cost_usd", "safety_score", "safety_severity"},
        {"success": True, "benchmark_passed": True, "judge_score": 8.0},
    ),
    "people asked": (
        {"evaluation": {"require_human_approval": True}},
        ALWAYS | {"staging_path", "awaiting_approval"},
        {"success": True, "awaiting_approval": True},
    ),
    "a gate that fails": (
        {"evaluation": {"max_acceptable_loss": 0.01}},
        ALWAYS - {"success"} | {"final_model_path", "error"},
        {"success": False},
    ),
    "a gate that fails, with auto_revert": (
        {"evaluation": {"max_acceptable_loss": 0.01, "auto_revert": True}},
        ALWAYS - {"success"} | {"reverted", "error"},
        {"success": False, "reverted": True},
    ),
    "a benchmark that fails": (
        {"evaluation": {"benchmark": BENCHMARK | {"min_score": 1.0}, "require_human_approval": True}},
        ALWAYS - {"success"} | {"final_model_path", "error", "benchmark_scores", "benchmark_average", "benchmark_passed"},
        {"success": False, "benchmark_passed": False, "awaiting_approval": False},
    ),
    "rows that are refused": (
        {"audit": {"min_rows": 1000}},
        {"run_id", "config_hash", "run_dir", "gates", "error"},
        {"success": False, "metrics": {}},
    ),
}  # fmt: skip
# Measured, and it may be that there was nothing to count.
MAY_BE_EMPTY = {"safety_passed", "safety_low_confidence", "safety_score", "safety_categories", "safety_severity"}
SEEN: dict[str, set[str]] = {"filled": set(), "empty": set()}


def _is_filled(name: str, value: Any) -> bool:
    return (
        value is not False or name == "benchmark_passed" if isinstance(value, bool) else value not in (None, {}, (), 0)
    )


@pytest.mark.parametrize("name", CASES)
def test_each_field_says_what_happened(train: Any, name: str) -> None:
    sections, filled, exact = CASES[name]
    config, result = train(**sections)
    values = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)}
    found = {field for field, value in values.items() if _is_filled(field, value)}
    SEEN["filled"] |= found
    SEEN["empty"] |= values.keys() - found
    asked = MAY_BE_EMPTY if "safety" in sections.get("evaluation", {}) else set()
    assert found - asked == filled - asked, result.error
    assert {field: values[field] for field in exact} == exact
    check_truth(config, result)


def check_truth(config: ForgeConfig, result: TrainResult) -> None:
    """Each filled field against what lies on the disk, or against another field."""
    assert result.config_hash == config_digest(config)
    assert Path(str(result.run_dir), "train_result.json").is_file()
    assert all(isinstance(gate, GateDecision) for gate in result.gates)
    subjects = {gate.subject for gate in result.gates}
    for path in (result.final_model_path, result.staging_path):
        assert path is None or ModelDirectory.open(path).digest in subjects
    failed = {gate.gate for gate in result.gates if gate.outcome == "fail"}
    assert result.success == (not failed and result.error is None)
    assert all(name in str(result.error) for name in failed)
    if result.reverted:
        quarantined = ModelDirectory.open(Path(str(result.run_dir), "quarantine", "final_model"))
        assert quarantined.digest in subjects
        assert result.revert_reason == result.error
    if result.benchmark_scores is not None:
        scores = list(result.benchmark_scores.values())
        assert result.benchmark_average == pytest.approx(sum(scores) / len(scores))
    if result.resource_usage is not None:
        usage, price = result.resource_usage, config.training.gpu_cost_per_hour
        assert usage["duration_seconds"] > 0
        assert usage["cpu_seconds"] > 0
        hours = usage["duration_seconds"] / 3600
        assert result.estimated_cost_usd == (None if price is None else pytest.approx(price * hours))
        assert result.metrics["steps"] == 2
    if result.judge_details is not None:
        assert result.judge_details["mean_score"] == result.judge_score
        assert Digest(result.judge_details["subject"]) in subjects


def test_every_field_was_seen_filled_and_empty() -> None:
    """Runs after the table above, on what it saw."""
    if len(SEEN["empty"]) == 0:
        pytest.skip("the table was not run")
    names = {each.name for each in dataclasses.fields(TrainResult)}
    never_empty = {"run_id", "config_hash", "run_dir", "gates"}  # a result is always of a run, and a run has gates
    assert names - SEEN["empty"] == never_empty
    # Few probes and a scorer without calibration give no safety score and no verdict, and the fields say so.
    assert names - SEEN["filled"] <= {"safety_passed", "safety_low_confidence", "safety_score"}


def test_a_chain_counts_what_all_its_stages_took(recipe: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {w}.", "completion": f" {w}!"}) + "\n" for w in WORDS))
    data = {"dataset_name_or_path": str(rows), "split": {"validation": 0.0}, "audit": {"max_split_overlap": 1.0}}
    training = {
        "trainer_type": "sft",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "gpu_cost_per_hour": 2.0,
    }
    stages = [{"name": name, "training": training} for name in ("first", "second")]
    config = recipe(data=data, training=training, pipeline={"output_dir": str(tmp_path / "out"), "stages": stages})
    result = ForgeTrainer(config).train()
    assert result.success, result.error
    parts = [Path(str(result.run_dir), where, "resource_usage.json") for where in ("stages/first", "")]
    took = [json.loads(path.read_text())["duration_seconds"] for path in parts]
    assert result.resource_usage is not None
    assert result.resource_usage["duration_seconds"] == pytest.approx(sum(took))
    assert result.resource_usage["tokens_per_second"] is None
    assert result.estimated_cost_usd == pytest.approx(2.0 * sum(took) / 3600)
