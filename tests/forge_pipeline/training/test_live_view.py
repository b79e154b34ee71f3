"""What somebody who watches a fine-tune is told, step by step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.integrity import Digest
from forge_pipeline.progress import Progress, ProgressFile, describe
from forge_pipeline.training import fine_tune

RAW = Digest.of(b"raw")
EVERY_STEP = {"loss", "learning_rate", "epoch", "grad_norm", "tokens", "tokens_per_second", "memory_bytes"}


def test_every_line_of_the_progress_file_has_the_figures_of_its_step(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    file = ProgressFile(tmp_path / "progress.jsonl")
    seen: list[Progress] = []

    def report(moment: Progress) -> None:
        seen.append(moment)
        file(moment)

    done = fine_tune(
        recipe(training={"max_steps": 4, "eval_steps": 2}), tokenized(), RAW, tmp_path / "m", progress=report
    )
    file.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["message"] == "training" and line["metrics"].get("loss")]
    assert [(line["step"], line["total"]) for line in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(line["metrics"].keys() >= EVERY_STEP for line in steps)
    assert [line["metrics"]["loss"] for line in steps] == [
        point.loss for point in done.report.loss_history if point.loss is not None
    ]
    assert steps[-1]["metrics"]["tokens"] == done.report.tokens_trained
    assert [("eta_seconds" in line["metrics"]) for line in steps] == [False, True, True, True]
    assert steps[-1]["metrics"]["eta_seconds"] == 0
    assert {"eval_loss"} <= steps[-1]["metrics"].keys()
    assert any(moment.message == "evaluating" for moment in seen)
    assert "ETA 0:00" in describe([moment for moment in seen if moment.message == "training"][-1])


def test_steps_that_are_not_logged_are_told_too(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = recipe(training={"max_steps": 3, "logging_steps": 2})
    fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model", progress=seen.append)
    assert [moment.step for moment in seen if moment.message == "training"] == [0, 1, 2, 3]


@pytest.mark.parametrize("logging_steps", [1, 2])
def test_tokens_a_second_are_those_of_this_run(
    logging_steps: int, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"max_steps": 4, "logging_steps": logging_steps})
    usage = fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model").usage
    assert usage.tokens_per_second is not None
    assert usage.tokens_per_second > 0
    assert usage.processes == 1
