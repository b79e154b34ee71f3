"""Two processes that train together, against one that trains alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from forge_pipeline.errors import DataError, TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.progress import Progress
from forge_pipeline.training import fine_tune
from forge_pipeline.training.child_process import run_child
from forge_pipeline.training.launcher import read_outcome
from forge_pipeline.training.ranks import launched_fine_tune

RAW = Digest.of(b"raw")
TWO = {"processes": 2}
# Dropout draws other numbers in each process, and bfloat16 rounds differently with the shape of a batch.
EXACT = {"lora": {"dropout": 0.0}, "model": {"dtype": "float32"}}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_two_processes_give_the_losses_and_the_weights_of_one(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    training = {"max_steps": -1, "num_train_epochs": 3, "per_device_eval_batch_size": 1}
    dataset, seen = tokenized(), []
    alone = fine_tune(
        recipe(training=training | {"per_device_train_batch_size": 2}, **EXACT), dataset, RAW, tmp_path / "alone"
    )
    together = launched_fine_tune(
        recipe(training=training | {"per_device_train_batch_size": 1}, distributed=TWO, **EXACT),
        dataset,
        RAW,
        tmp_path / "together",
        progress=seen.append,
    )
    assert (alone.report.world_size, together.report.world_size) == (1, 2)
    assert alone.report.effective_batch_size == together.report.effective_batch_size == 2
    assert alone.report.steps == together.report.steps == 9

    def curve(report: object) -> list[float]:
        return [point.loss for point in report.loss_history if point.loss is not None]

    assert len(curve(alone.report)) == 9
    assert curve(together.report) == pytest.approx(curve(alone.report), abs=1e-5)
    assert together.report.eval_loss == pytest.approx(alone.report.eval_loss, abs=1e-4)
    assert [p.learning_rate for p in together.report.loss_history] == [
        p.learning_rate for p in alone.report.loss_history
    ]
    assert together.report.tokens_trained == alone.report.tokens_trained

    weights = [load_file(run.model.path / "adapter_model.safetensors") for run in (alone, together)]
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        assert values == pytest.approx(weights[1][name], abs=1e-4), name

    # Rank 0 alone spoke, and it alone wrote.
    steps = [moment.step for moment in seen if moment.message == "training" and "loss" in moment.metrics]
    assert steps == sorted(set(steps)), "a step that two ranks report would come twice"
    assert [moment.message for moment in seen].count("saved") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("tokenized")) == [
        "alone",
        "together",
    ]
    assert together.model.record.base_model == alone.model.record.base_model
    assert together.usage.duration_seconds > 0


def test_a_rank_that_fails_ends_the_others_and_its_error_is_the_one_that_arrives(tmp_path: Path) -> None:
    worker = f"""
import sys, time
sys.argv = ["ranks", {str(tmp_path)!r}]
from pathlib import Path
from forge_pipeline.errors import DataError
from forge_pipeline.training import ranks
from forge_pipeline.training.distributed import joined, read_ranks
from forge_pipeline.config import ForgeConfig
import os

def fail_on_one(place, rank):
    config = ForgeConfig(
        model={{"name_or_path": "x"}}, lora={{}}, training={{}}, data={{"dataset_name_or_path": "x"}}
    )
    with joined(config, read_ranks(os.environ), "cpu"):
        if rank == 1:
            raise DataError("row 3 is broken; mend it")
        read_ranks(os.environ).wait()  # for a rank that never comes

ranks._fine_tune = fail_on_one
code = ranks.main(Path({str(tmp_path)!r}))
os._exit(code)
"""
    program = tmp_path / "worker.py"
    program.write_text(worker)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    started = time.monotonic()
    code = run_child(
        command, environment=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}, output=subprocess.DEVNULL
    )
    assert time.monotonic() - started < 60
    assert code != 0
    assert read_outcome(tmp_path / "outcome.json")["error"] == {
        "type": "DataError",
        "message": "row 3 is broken; mend it",
    }


def test_an_error_of_the_ranks_is_raised_as_its_own_type_and_leaves_nothing(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"trainer_type": "dpo"}, distributed=TWO)
    with pytest.raises(DataError, match=r"tokenized for sft, but training.trainer_type is dpo"):
        launched_fine_tune(config, tokenized("sft"), RAW, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenized-sft"]


def test_interrupting_the_caller_ends_every_rank(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    config = recipe(
        training={"max_steps": 100_000, "per_device_train_batch_size": 1, "logging_steps": 1}, distributed=TWO
    )
    ranks: list[psutil.Process] = []
    before = {child.pid for child in psutil.Process().children(recursive=True)}  # of other tests' fixtures

    def interrupt(moment: Progress) -> None:
        if moment.step >= 2 and not ranks:
            mine = psutil.Process().children(recursive=True)
            # Libraries have helpers of this process start meanwhile; torchrun and its ranks name a module of these.
            ours = ("torch.distributed.run", "forge_pipeline.training")
            started = [each for each in mine if each.pid not in before]
            ranks.extend(each for each in started if any(name in " ".join(each.cmdline()) for name in ours))
            interrupt.at = time.monotonic()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launched_fine_tune(config, tokenized(), RAW, tmp_path / "model", progress=interrupt)
    assert time.monotonic() - interrupt.at < 5
    assert len(ranks) >= 3, "torchrun and two ranks"
    assert not [rank for rank in ranks if rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "model").exists()


def test_killing_the_caller_leaves_no_rank(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    program = f"""
import os, subprocess, sys, time
from pathlib import Path
from forge_pipeline.training.child_process import lifeline
rank = "import os, time; from forge_pipeline.training.child_process import follow_parent; " \\
       "follow_parent(os.environ); print(os.getpid(), flush=True); time.sleep(60)"
with lifeline(Path({str(tmp_path / "lines")!r})) as held:
    program = Path({str(tmp_path)!r}, "rank.py"); program.write_text(rank)
    subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)],
        env=os.environ | held, start_new_session=True)
    time.sleep(60)
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert caller.stdout is not None
    ranks = [psutil.Process(int(caller.stdout.readline())) for _ in range(2)]
    time.sleep(0.3)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    _, alive = psutil.wait_procs(ranks, timeout=4)
    assert not alive


def test_a_whole_run_is_not_started_under_a_launcher(
    recipe: Callable, tokenized: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(TrainingError, match="start it once"):
        launched_fine_tune(recipe(distributed=TWO), tokenized(), RAW, tmp_path / "model")
