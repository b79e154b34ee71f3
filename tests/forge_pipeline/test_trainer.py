"""`ForgeTrainer`: a whole run from Python on the tiny model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import forge_pipeline
from forge_pipeline import ForgeTrainer, TrainResult, verify_audit_log
from forge_pipeline.audit_log import read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import ConfigError, ModelError, TrainingError
from forge_pipeline.integrity import read_report
from forge_pipeline.models import ModelDirectory, load_tuned
from forge_pipeline.progress import Progress

TOPICS = ["rivers", "mountains", "trains", "violins", "comets", "bread", "cheese", "snow", "bridges", "owls"]
TOPICS += ["clocks", "maps", "kites", "glaciers", "tea", "ferries", "copper", "linen", "harbors", "pears"]


@pytest.fixture
def run_recipe(recipe: Callable[..., ForgeConfig], tmp_path: Path) -> Callable[..., ForgeConfig]:
    """A recipe over twenty short conversations that writes to `tmp_path/out`."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"Tell me about {topic}, number {index}."},
                        {"role": "assistant", "content": f"{topic.title()} are known for {topic[::-1]}."},
                    ]
                }
            )
            + "\n"
            for index, topic in enumerate(TOPICS)
        )
    )

    def build(**sections: dict) -> ForgeConfig:
        data = {"dataset_name_or_path": str(rows), "split": {"validation": 0.2}, "audit": {"max_split_overlap": 1.0}}
        training = {"output_dir": str(tmp_path / "out")} | sections.pop("training", {})
        return recipe(data=data | sections.pop("data", {}), training=training, **sections)

    return build


def events(tmp_path: Path) -> list[str]:
    return [entry.event for entry in read_entries(tmp_path / "out" / "audit_log.jsonl")]


def test_a_run_leaves_a_model_and_a_log_that_verifies(run_recipe: Callable, tmp_path: Path) -> None:
    config = run_recipe(evaluation={"max_acceptable_loss": 100.0})
    seen: list[Progress] = []
    result = ForgeTrainer(config).train(progress=seen.append)

    assert result.success, result.error
    assert result.final_model_path == str(tmp_path / "out" / "run-0001" / "final_model")
    assert result.output_dir == result.run_dir == str(tmp_path / "out" / "run-0001")
    assert result.config_hash == config_digest(config)
    assert {"train_loss", "eval_loss", "steps"} <= result.metrics.keys()
    assert result.resource_usage is not None
    assert result.resource_usage["duration_seconds"] > 0
    assert {"no_secrets", "loss_is_finite", "loss"} <= {decision.gate for decision in result.gates}
    assert (result.benchmark_passed, result.safety_passed, result.judge_score, result.estimated_cost_usd) == (None,) * 4
    assert (result.reverted, result.revert_reason, result.awaiting_approval) == (False, None, False)
    load_tuned(config, ModelDirectory.open(result.final_model_path))

    assert verify_audit_log(str(tmp_path / "out" / "audit_log.jsonl")).valid
    assert events(tmp_path) == [
        "audit.genesis",
        "pipeline.started",
        "recipe.resolved",
        "artifact.materialized",
        "artifact.materialized",
        *["gate.decided"] * 4,
        "artifact.materialized",
        "training.started",
        "artifact.materialized",
        "training.completed",
        *["gate.decided"] * 2,
        "pipeline.completed",
        "run.closed",
    ]
    assert {moment.stage for moment in seen} >= {"ingest", "tokenize", "fine_tune"}
    assert read_report(Path(result.run_dir) / "train_result.json", TrainResult) == result


def _preference(index: int, topic: str) -> dict:
    return {"prompt": f"About {topic}?", "chosen": f" {topic} are fine.", "rejected": f" No {index}."}


ROWS: dict[str, tuple[dict, Callable[[int, str], dict]]] = {
    "dpo": ({}, _preference),
    "orpo": ({}, _preference),
    "simpo": ({}, _preference),
    "kto": (
        {},
        lambda index, topic: {"prompt": f"About {topic}?", "completion": f" {topic} {index}.", "label": index % 2 == 0},
    ),
    "grpo": (
        {"grpo_num_generations": 2, "grpo_max_completion_length": 4},
        lambda index, topic: {"prompt": f"About {topic}?", "answer": topic},
    ),
    "sft": (
        {"packing": True},
        lambda index, topic: {"prompt": f"About {topic}?", "completion": f" {topic} {index}."},
    ),
}


@pytest.mark.parametrize("trainer_type", ROWS)
def test_every_trainer_type_runs_from_a_file_of_rows_to_a_model(
    trainer_type: str, run_recipe: Callable, tmp_path: Path
) -> None:
    training, row = ROWS[trainer_type]
    file = tmp_path / f"{trainer_type}.jsonl"
    file.write_text("".join(json.dumps(row(index, topic)) + "\n" for index, topic in enumerate(TOPICS)))
    config = run_recipe(training={"trainer_type": trainer_type} | training, data={"dataset_name_or_path": str(file)})
    result = ForgeTrainer(config).train()
    assert result.success, result.error
    assert result.metrics["steps"] == 2


def test_a_second_run_leaves_the_first_alone_and_gives_the_same_model(run_recipe: Callable) -> None:
    first, second = (ForgeTrainer(run_recipe()).train() for _ in range(2))
    assert Path(first.run_dir).name == "run-0001"
    assert Path(second.run_dir).name == "run-0002"
    assert ModelDirectory.open(first.final_model_path).digest == ModelDirectory.open(second.final_model_path).digest


def test_a_failed_gate_with_auto_revert_moves_the_model_to_quarantine(run_recipe: Callable, tmp_path: Path) -> None:
    result = ForgeTrainer(run_recipe(evaluation={"max_acceptable_loss": 0.1, "auto_revert": True})).train()
    assert not result.success
    assert result.reverted
    assert result.final_model_path is None
    assert "is above evaluation.max_acceptable_loss: 0.1" in (result.revert_reason or "")
    quarantined = ModelDirectory.open(Path(result.run_dir) / "quarantine" / "final_model")
    assert quarantined.digest == next(each.subject for each in result.gates if each.gate == "loss")
    assert "model.reverted" in events(tmp_path)


def test_a_failed_gate_without_auto_revert_leaves_the_model_and_is_no_success(run_recipe: Callable) -> None:
    result = ForgeTrainer(run_recipe(evaluation={"max_acceptable_loss": 0.1})).train()
    assert not result.success
    assert not result.reverted
    assert result.revert_reason is None
    assert result.error is not None
    assert Path(result.final_model_path).is_dir()


def test_a_secret_in_the_rows_stops_the_run_before_training(run_recipe: Callable, tmp_path: Path) -> None:
    rows = tmp_path / "leak.jsonl"
    text = (tmp_path / "rows.jsonl").read_text()
    key = "AKIA" + "QYLPMN5HHHFPZAM2"
    rows.write_text(
        text
        + json.dumps(
            {"messages": [{"role": "user", "content": "Which key?"}, {"role": "assistant", "content": f"It is {key}."}]}
        )
        + "\n"
    )
    result = ForgeTrainer(run_recipe(data={"dataset_name_or_path": str(rows)})).train()
    assert not result.success
    assert "training refused" in (result.error or "")
    assert "no_secrets" in (result.error or "")
    assert result.final_model_path is None
    assert "training.started" not in events(tmp_path)
    assert key not in (tmp_path / "out" / "audit_log.jsonl").read_text()


def test_a_recipe_that_needs_approval_leaves_the_model_staged(run_recipe: Callable, tmp_path: Path) -> None:
    result = ForgeTrainer(run_recipe(evaluation={"require_human_approval": True})).train()
    assert result.success
    assert result.awaiting_approval
    assert result.final_model_path is None
    assert result.staging_path == str(Path(result.run_dir) / "final_model.staging")
    assert Path(result.staging_path).is_dir()
    assert "human_approval.required" in events(tmp_path)


def test_merge_adapters_delivers_and_judges_the_merged_model(run_recipe: Callable) -> None:
    result = ForgeTrainer(run_recipe(training={"merge_adapters": True})).train()
    merged = ModelDirectory.open(result.final_model_path)
    assert merged.record.kind == "full"
    assert merged.digest == next(each.subject for each in result.gates if each.gate == "loss_is_finite")
    assert ModelDirectory.open(Path(result.run_dir) / "adapter").record.kind == "adapter"


def test_a_merge_with_other_models_is_what_is_delivered_and_judged(run_recipe: Callable, tmp_path: Path) -> None:
    pytest.importorskip("mergekit")
    other = ForgeTrainer(run_recipe(training={"merge_adapters": True})).train().final_model_path
    models = [{"line": "tiny", "weight": 3.0}, {"path": str(other)}]
    merge = {"enabled": True, "method": "linear", "models": models}
    result = ForgeTrainer(run_recipe(merge=merge)).train()
    merged = ModelDirectory.open(result.final_model_path)
    assert (merged.record.kind, merged.record.merge_method) == ("full", "linear")
    trained = ModelDirectory.open(Path(result.run_dir) / "adapter")
    assert [(each.name, each.digest, each.weight) for each in merged.record.merged_from] == [
        ("tiny", trained.digest, 0.75),
        (Path(other).name, ModelDirectory.open(other).digest, 0.25),
    ]
    assert merged.digest == next(each.subject for each in result.gates if each.gate == "loss_is_finite")


def test_an_interrupted_run_says_so_in_the_log_and_can_be_resumed(run_recipe: Callable, tmp_path: Path) -> None:
    config = run_recipe(training={"max_steps": 5, "save_steps": 2})

    def interrupt(moment: Progress) -> None:
        if moment.stage == "fine_tune" and moment.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ForgeTrainer(config).train(progress=interrupt)
    assert events(tmp_path)[-2:] == ["pipeline.failed", "run.closed"]
    assert not (tmp_path / "out" / "run-0001" / "final_model").exists()

    resumed = ForgeTrainer(config).train(resume_from_checkpoint=True)
    assert resumed.success
    straight = ForgeTrainer(config).train()
    assert ModelDirectory.open(resumed.final_model_path).digest == ModelDirectory.open(straight.final_model_path).digest


def test_a_base_model_that_is_not_there_is_found_out_before_anything_else(run_recipe: Callable, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="where there is nothing"):
        ForgeTrainer(run_recipe(model={"name_or_path": "./nowhere"})).train()
    assert [path.name for path in (tmp_path / "out" / "run-0001").iterdir()] == []
    assert events(tmp_path)[-2:] == ["pipeline.failed", "run.closed"]


def test_resuming_without_a_checkpoint_is_refused(run_recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        ForgeTrainer(run_recipe()).train(resume_from_checkpoint=True)


def test_something_that_is_no_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a ForgeConfig"):
        ForgeTrainer({"model": "x"})  # type: ignore[arg-type]


def test_constructing_one_loads_no_torch_and_touches_no_file(tmp_path: Path) -> None:
    program = """
import sys
from forge_pipeline import ForgeConfig, ForgeTrainer
config = ForgeConfig(model={"name_or_path": "a/b"}, lora={}, data={"dataset_name_or_path": "x.jsonl"},
                     training={"output_dir": "out"})
ForgeTrainer(config)
heavy = {"torch", "transformers", "trl", "peft", "datasets", "numpy", "pyarrow", "sqlalchemy"} & set(sys.modules)
assert not heavy, heavy
"""
    where = {"PYTHONPATH": str(Path(forge_pipeline.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=os.environ | where)
    assert list(tmp_path.iterdir()) == []
