"""A training that is cancelled ends at once, publishes nothing, and leaves a checkpoint that is good to go on from."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from forge_pipeline.integrity import write_report
from forge_pipeline.training.checkpoints import SEAL, find_checkpoints, newest_checkpoint
from resources.environment import CHECKOUT
from resources.stage_process import end_group


def test_cancelled_in_the_middle_of_a_step(
    recipe: Callable, tokenized: Callable, forked: Callable, tmp_path: Path
) -> None:
    config, dataset = recipe(training={"max_steps": 2000, "save_steps": 2}), tokenized(validation=False)
    cancelled = forked(config, dataset, work=tmp_path / "work", kill_after=7, delay=0.003, signal="SIGINT")
    assert cancelled["error"] == "KeyboardInterrupt", cancelled
    assert not cancelled["output"].exists()
    assert not list(tmp_path.glob(".model-*")), "what was to be published is taken away"
    found = newest_checkpoint(tmp_path / "work")
    assert found is not None
    assert found.step >= 6


def test_cancelled_in_the_middle_of_a_save_by_the_whole_process_group(
    llama_maker: Callable, recipe: Callable, tokenized: Callable, forked: Callable, tmp_path: Path
) -> None:
    model = llama_maker(tmp_path / "larger", hidden_size=384)  # so that a save takes a while
    config = recipe(
        model={"name_or_path": str(model)}, lora={"method": "none"}, training={"max_steps": 400, "save_steps": 1}
    )
    dataset, work = tokenized(validation=False), tmp_path / "run"
    work.mkdir()
    write_report(work / "recipe.json", config)
    spec = {
        "stage": "fine_tune",
        "recipe": {"report": str(work / "recipe.json")},
        "inputs": {
            "tokenized_dataset": {"path": str(dataset.path)},
            "raw_digest": dataset.digest,
            "checkpoints": str(tmp_path / "checkpoints"),
        },
        "output_dir": str(work / "output"),
        "outcome_file": str(work / "outcome.json"),
        "work_dir": str(work),
        "progress_file": str(work / "progress.jsonl"),
    }
    (work / "spec.json").write_text(json.dumps(spec, default=str))
    process = subprocess.Popen(
        [sys.executable, "-m", "resources.stage_worker", str(work / "spec.json")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    saving = _wait_for_a_save(process, tmp_path / "checkpoints")
    members = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    started = time.monotonic()
    end_group(process)
    assert time.monotonic() - started < 5
    assert not [pid for pid in members if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]

    assert not (work / "output").exists()
    assert not (saving / SEAL).is_file()
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == int(saving.name.partition("-")[2]) - 1
    resumed = forked(
        config, dataset, work=tmp_path / "checkpoints", resume="auto", kill_after=found.step + 2, delay=0.0
    )
    assert resumed["steps"][:2] == [found.step, found.step + 1], "told where it begins, then the step after"


def _wait_for_a_save(process: "subprocess.Popen[bytes]", directory: Path) -> Path:
    """The checkpoint that is being written just now, after a first one was finished."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = find_checkpoints(directory)
        if len(found) > 1 and (found[0] / SEAL).is_file() and not (found[-1] / SEAL).is_file():
            return found[-1]
        time.sleep(0.001)
    pytest.fail(f"no save was seen; the process ended with {process.poll()}")
