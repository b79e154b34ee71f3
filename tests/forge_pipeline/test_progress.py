"""How a moment is written: for a person, and in the progress file."""

import json
import math
from pathlib import Path

import pytest

from forge_pipeline.progress import Progress, ProgressFile, describe, figures

METRICS = {
    "loss": 2.31234, "learning_rate": 0.0019, "epoch": 0.3, "tokens": 12345.0, "tokens_per_second": 183.22,
    "memory_bytes": 2.1e9, "eta_seconds": 85.0,
}  # fmt: skip


def test_a_line_for_a_person_has_units() -> None:
    assert describe(Progress("fine_tune", 12, 40, "training", METRICS)) == (
        "fine_tune  12/40  training  loss 2.312  learning_rate 0.0019  epoch 0.3  12,345 tokens  183.2 tokens/s  "
        "1.96 GiB  ETA 1:25"
    )
    assert figures(METRICS, brief=True) == "loss 2.312  learning_rate 0.0019  183.2 tokens/s  1.96 GiB  ETA 1:25"


DURATIONS = {0.0: "0:00", 59.6: "1:00", 3599.0: "59:59", 3600.0: "1:00:00", 360_000.0: "100:00:00", math.inf: "?"}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_a_duration_is_minutes_and_seconds_and_hours_where_there_are_some(seconds: float) -> None:
    assert figures({"eta_seconds": seconds}) == f"ETA {DURATIONS[seconds]}"


def test_the_file_has_one_json_object_a_moment_and_null_for_what_is_no_number(tmp_path: Path) -> None:
    report = ProgressFile(tmp_path / "progress.jsonl")
    report(Progress("fine_tune", 1, 2, "training", METRICS))
    report(Progress("fine_tune", 2, 2, "training", {"loss": math.nan, "grad_norm": math.inf}))
    report.close()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    first, second = (
        json.loads(line, parse_constant=refuse) for line in (tmp_path / "progress.jsonl").read_text().splitlines()
    )
    assert first["metrics"] == METRICS
    assert (first["seq"], first["step"], first["total"], first["stage"]) == (0, 1, 2, "fine_tune")
    assert second["metrics"] == {"loss": None, "grad_norm": None}
    assert second["ts"] >= first["ts"]
