"""The loss history as the UI shows it."""

import base64
from typing import Any

import dagster as dg
import pytest

from forge_pipeline.training import LossPoint, TrainingReport
from resources.loss_curve import loss_json, loss_plot, loss_rows


def report(steps: int, *, every: int = 0) -> TrainingReport:
    """`steps` training points, and an evaluation each `every` steps."""
    history = []
    for step in range(1, steps + 1):
        history.append(LossPoint(step, step / 10, 4.0 / step, 1e-3 * (1 - step / steps), None))
        if every and step % every == 0:
            history.append(LossPoint(step, step / 10, None, None, 5.0 / step))
    return TrainingReport(
        trainer_type="sft", trainer_class="trl.SFTTrainer", steps=steps, epochs=1.0, train_loss=1.0, eval_loss=None,
        metrics={}, loss_history=tuple(history), tokens_trained=1, trainable_parameters=1, total_parameters=1, seed=1,
        effective_batch_size=1, dtype="float32", device="cpu", stopped_early=False, arguments={},
    )  # fmt: skip


def test_an_evaluation_stands_in_the_row_of_its_step() -> None:
    rows = loss_rows(report(4, every=2))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1] == {
        "step": 2, "epoch": "0.20", "training loss": "2.0000", "evaluation loss": "2.5000", "learning rate": "0.0005",
    }  # fmt: skip
    assert rows[2]["evaluation loss"] == ""


@pytest.mark.parametrize(("steps", "every"), [(1, 0), (12, 0), (13, 0), (1000, 0), (1000, 50), (1000, 1)])
def test_the_table_is_short_and_has_the_first_and_the_last_step(steps: int, every: int) -> None:
    rows = loss_rows(report(steps, every=every))
    assert len(rows) <= 24
    assert (rows[0]["step"], rows[-1]["step"]) == (1, steps)
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


@pytest.mark.parametrize(("steps", "every"), [(0, 0), (1, 0), (40, 20), (3000, 100)])
def test_plot_and_points_fit_into_an_event(steps: int, every: int) -> None:
    png = base64.b64decode(loss_plot(report(steps, every=every)))
    assert png.startswith(b"\x89PNG")
    assert len(png) < 40_000
    curves = loss_json(report(steps, every=every))
    assert all(0 < len(points) <= 500 for points in curves.values())
    assert set(curves) == ({"loss", "learning_rate"} if steps else set()) | ({"eval_loss"} if every else set())
    if steps:
        assert curves["loss"][0] == [1, 4.0]
        assert curves["loss"][-1][0] == steps


def test_a_model_directory_carries_curve_table_and_last_metrics(training_metadata: dict[str, Any]) -> None:
    assert isinstance(training_metadata["loss_table"], dg.TableMetadataValue)
    assert training_metadata["loss_curve"].value.startswith("![loss by step](data:image/png;base64,")
    assert training_metadata["last/grad_norm"] == 0.5
    assert "last/loss" not in training_metadata


@pytest.fixture
def training_metadata(tmp_path: Any) -> dict[str, Any]:
    from dataclasses import replace

    from forge_pipeline.integrity import Digest, write_report
    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.models.base import BaseModelRecord
    from forge_pipeline.models.directory import ModelRecord, write_record
    from resources.metadata import metadata_of

    base = BaseModelRecord("owner/name", None, "0" * 40, "hub", None, None)
    digest = Digest.of(b"x")
    write_record(tmp_path, ModelRecord("adapter", base, "sft", digest, digest, digest, digest, 1))
    metrics = {"loss": 1.0, "grad_norm": 0.5}
    write_report(tmp_path / "training_report.json", replace(report(4, every=2), metrics=metrics))
    return metadata_of(ModelDirectory.open(tmp_path))
