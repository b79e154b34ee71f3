"""The loss gate, from reports written by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import write_report
from forge_pipeline.models import ModelDirectory
from forge_pipeline.training import LossPoint, TrainingReport, loss_gate
from forge_pipeline.training.loss_gate import final_loss
from forge_pipeline.training.report import last_metrics, loss_history, mean_loss, tokens_trained

REPORT = TrainingReport(
    trainer_type="sft",
    trainer_class="trl.SFTTrainer",
    steps=20,
    epochs=1.0,
    train_loss=2.0,
    eval_loss=None,
    metrics={},
    loss_history=tuple(LossPoint(step, 0.1, 4.0 - step / 10, 1e-4, None) for step in range(1, 21)),
    tokens_trained=100,
    trainable_parameters=1,
    total_parameters=2,
    seed=1,
    effective_batch_size=8,
    dtype="float32",
    device="cpu",
    stopped_early=False,
    arguments={},
)


def directory(path: Path, report: TrainingReport) -> ModelDirectory:
    path.mkdir()
    write_report(path / "training_report.json", report)
    return ModelDirectory.open(path)


CASES: dict[str, tuple[dict, dict, dict[str, str]]] = {
    "no threshold: only that it is finite": ({}, {}, {"loss_is_finite": "pass"}),
    "below": ({"max_acceptable_loss": 3.0}, {"eval_loss": 2.5}, {"loss_is_finite": "pass", "loss": "pass"}),
    "at": ({"max_acceptable_loss": 2.5}, {"eval_loss": 2.5}, {"loss_is_finite": "pass", "loss": "pass"}),
    "above": ({"max_acceptable_loss": 2.0}, {"eval_loss": 2.5}, {"loss_is_finite": "pass", "loss": "fail"}),
    "the stricter of two": (
        {"max_acceptable_loss": 9.0, "baseline_loss": 2.0},
        {"eval_loss": 2.5},
        {"loss_is_finite": "pass", "loss": "fail"},
    ),
    "a step without a number": (
        {},
        {"loss_history": (*REPORT.loss_history, LossPoint(21, 1.0, None, None, None))},
        {"loss_is_finite": "fail"},
    ),
    "nothing logged": (
        {"max_acceptable_loss": 3.0},
        {"loss_history": ()},
        {"loss_is_finite": "not_run", "loss": "not_run"},
    ),
}


@pytest.mark.parametrize(("evaluation", "changes", "outcomes"), CASES.values(), ids=CASES)
def test_outcomes(evaluation: dict, changes: dict, outcomes: dict, recipe: Callable, tmp_path: Path) -> None:
    model = directory(tmp_path / "model", replace(REPORT, **changes))
    decisions = loss_gate(recipe(evaluation=evaluation), model)
    assert {decision.gate: decision.outcome for decision in decisions} == outcomes
    assert {decision.subject for decision in decisions} == {model.digest}


def test_without_validation_rows_the_last_tenth_of_the_training_losses_counts() -> None:
    assert final_loss(REPORT) == ("train_loss", pytest.approx((2.1 + 2.0) / 2))


def test_a_directory_without_a_report_is_no_evidence(recipe: Callable, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no training_report\.json"):
        loss_gate(recipe(), ModelDirectory.open(tmp_path))


def test_the_log_of_a_resumed_run_is_read_as_one() -> None:
    log = [
        {"step": 2, "epoch": 0.2, "loss": 4.0, "num_tokens": 100.0, "learning_rate": 1e-4},
        {"step": 4, "epoch": 0.4, "loss": 2.0, "num_tokens": 250.0},
        {"step": 4, "epoch": 0.4, "eval_loss": 3.0, "eval_runtime": 1.5, "eval_num_tokens": 250.0},
        {"step": 6, "epoch": 0.6, "loss": 1.0, "num_tokens": 90.0, "grad_norm": float("nan")},
        {"step": 6, "epoch": 0.6, "train_loss": 0.2, "train_runtime": 3.0},
    ]
    assert mean_loss(log) == pytest.approx((8.0 + 4.0 + 2.0) / 6)
    assert tokens_trained(log) == 340
    assert [point.step for point in loss_history(log)] == [2, 4, 4, 6]
    assert last_metrics(log) == {"epoch": 0.6, "eval_loss": 3.0, "learning_rate": 1e-4, "loss": 1.0}
