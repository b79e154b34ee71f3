"""Log lines of a stage's own process: JSON where the deployment asks for it, and about which run, line and stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import write_report

CODE = """
import logging, sys
from pathlib import Path
from resources import stage_worker

def say(config, inputs, output_dir, progress):
    logging.getLogger("forge_pipeline.stage").warning("the token is %s", "ghp_" + "a1B2" * 9)
    return config

stage_worker.STAGES["say"] = say
sys.exit(stage_worker.main(sys.argv[1]))
"""


def test_a_line_of_a_stage_names_its_run_line_and_stage_and_no_secret(tmp_path: Path) -> None:
    recipe = ForgeConfig(
        name="support", model={"name_or_path": "b"}, lora={}, training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "rows.jsonl"},
    )  # fmt: skip
    write_report(tmp_path / "recipe.json", recipe)
    spec = {
        "stage": "say", "recipe": {"report": str(tmp_path / "recipe.json")}, "inputs": {},
        "output_dir": str(tmp_path / "output"), "outcome_file": str(tmp_path / "outcome.json"),
        "progress_file": str(tmp_path / "progress.jsonl"),
        "log": {"run_id": "run-7", "line": "support", "stage": "say"},
    }  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "spec.json")],
        env={**os.environ, "FORGE_LOG_FORMAT": "json"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert {name: line[name] for name in ("run_id", "line", "stage", "level")} == {
        "run_id": "run-7", "line": "support", "stage": "say", "level": "warning"
    }  # fmt: skip
    assert line["message"] == "the token is [REDACTED-SECRET]"
