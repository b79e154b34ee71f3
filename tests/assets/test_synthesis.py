"""A line whose teacher writes rows: the stage, its checks, and ingestion that takes the rows in."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.data import RawDataset
from forge_pipeline.synthetic import SyntheticDataset

STAGES = ("recipe", "synthetic_dataset", "raw_dataset")


def select(line: str, *stages: str) -> str:
    return " or ".join(f'key:"{line}/{stage}"' for stage in stages)


@pytest.mark.slow
def test_a_teachers_rows_are_a_stage_of_their_own_and_a_source_of_the_dataset(deployment: Any) -> None:
    answers = [
        {"prompt": f"How do I keep a {noun}?", "response": f"You keep the {noun} warm."} for noun in ("cat", "map")
    ]
    (deployment.root / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    section = {
        "enabled": True,
        "teacher_backend": "file",
        "teacher_model": str(deployment.root / "answers.jsonl"),
        "seed_file": str(deployment.root / "answers.jsonl"),
        "seed_prompts": ["Who knows?"],
        "license": "CC0-1.0",
    }
    deployment.write_recipe("taught", synthetic=section)
    done: subprocess.CompletedProcess[str] = deployment.materialize(select("taught", *STAGES))
    assert done.returncode == 0, done.stderr[-4000:]
    made = deployment.latest("taught", "synthetic_dataset")
    assert made is not None
    assert made.metadata["dagster/row_count"].value == 2
    assert made.metadata["prompts/failed"].value == 1
    raw = deployment.latest("taught", "raw_dataset")
    assert raw is not None
    taught = SyntheticDataset.open(Path(made.metadata["dagster/uri"].value))
    source = RawDataset.open(Path(raw.metadata["dagster/uri"].value)).provenance.sources[-1]
    assert (source.name, source.category, source.license) == ("synthetic", "synthetic", "CC0-1.0")
    assert source.digest == taught.report.rows_digest
    assert source.rows_taken == 2
    assert list((deployment.root / "forge" / "answers").rglob("*.jsonl")) == []


@pytest.mark.slow
def test_a_teacher_that_fails_stops_the_line_and_its_answers_wait_for_the_next_run(deployment: Any) -> None:
    (deployment.root / "answers.jsonl").write_text('{"prompt": "One?", "response": "1"}\n')
    section = {
        "enabled": True,
        "teacher_backend": "file",
        "teacher_model": str(deployment.root / "answers.jsonl"),
        "seed_prompts": ["One?", "Two?"],
        "min_success_rate": 1.0,
    }
    deployment.write_recipe("taught", synthetic=section)
    done = deployment.materialize(select("taught", *STAGES))
    assert done.returncode != 0
    assert "1 of 2 prompts are answered" in done.stdout + done.stderr
    assert deployment.latest("taught", "raw_dataset") is None
    (waiting,) = (deployment.root / "forge" / "answers" / "taught").iterdir()
    assert waiting.read_bytes().count(b"\n") == 1
