"""A fine-tune on two ranks through `StageProcess`: one result, and nobody left after a cancel."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from forge_pipeline.integrity import write_report
from forge_pipeline.models import ModelDirectory
from forge_pipeline.training import read_training_report

RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import dagster as dg
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.data import TokenizedDataset
    from forge_pipeline.integrity import Digest, read_report
    from forge_pipeline.models import ModelDirectory
    from resources.stage_process import StageProcess

    place = Path(sys.argv[1])

    @dg.asset
    def model(context: dg.AssetExecutionContext, stage_process: StageProcess) -> dg.MaterializeResult:
        recipe = read_report(place / "recipe.json", ForgeConfig)
        dataset = TokenizedDataset.open(place / "tokenized-sft")
        inputs = {"tokenized_dataset": dataset, "raw_digest": str(Digest.of(b"raw"))}
        result = stage_process.run(context, "fine_tune", recipe, inputs, ModelDirectory)
        (place / "result.txt").write_text(str(result.path))
        return dg.MaterializeResult()

    process = StageProcess(home=str(place / "home"), store_root=str(place / "store"))
    done = dg.materialize([model], resources={"stage_process": process}, raise_on_error=False)
    sys.exit(0 if done.success else 1)
    """
)


@pytest.fixture
def start(recipe, tokenized, tmp_path):
    """Starts the asset above in a process of its own, for a number of steps."""

    def run(steps: int) -> "subprocess.Popen[bytes]":
        tokenized("sft")
        training = {"max_steps": steps, "per_device_train_batch_size": 1}
        write_report(tmp_path / "recipe.json", recipe(training=training, distributed={"processes": 2}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
        environment.pop("DAGSTER_HOME", None)
        return subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], env=environment)

    return run


def moments(home: Path) -> list[dict]:
    return [json.loads(line) for file in home.glob("progress/*") for line in file.read_text().splitlines()]


def test_two_ranks_give_one_model_one_record_and_one_line_of_progress_a_step(start, tmp_path):
    assert start(3).wait(timeout=240) == 0
    model = ModelDirectory.open(Path((tmp_path / "result.txt").read_text()))
    report = read_training_report(model)
    assert (report.world_size, report.effective_batch_size, report.steps) == (2, 2, 3)
    assert model.record.kind == "adapter"
    stored = list((tmp_path / "store").rglob("forge_model.json"))
    assert len(stored) == 1
    lines = moments(tmp_path / "home")
    steps = [line["step"] for line in lines if "loss" in line["metrics"]]
    assert steps == sorted(steps)
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert [line["message"] for line in lines].count("saved") == 1


def test_cancelling_ends_torchrun_and_every_rank_within_five_seconds(start, tmp_path):
    process = start(1_000_000)
    try:
        deadline = time.monotonic() + 200
        while not any(line["step"] >= 2 for line in moments(tmp_path / "home")):
            assert process.poll() is None, "it ended before it trained"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        everybody = psutil.Process(process.pid).children(recursive=True)
        ranks = [each for each in everybody if "resources.stage_worker" in " ".join(each.cmdline())]
        assert len(ranks) >= 3, "torchrun and two ranks"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, alive = psutil.wait_procs(ranks, timeout=8)
        assert not alive
        assert time.monotonic() - started < 5
        assert process.wait(timeout=30) != 0
        assert not (tmp_path / "store").exists() or not any((tmp_path / "store").rglob("forge_model.json"))
    finally:
        for each in [*psutil.Process().children(recursive=True)]:
            each.kill()
