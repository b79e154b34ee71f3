"""Runs that are ended from outside."""

import signal
import time

import psutil
import pytest

from tests.standing import VARIABLE, pid_of, standing

pytestmark = pytest.mark.slow

DATA = ("recipe", "raw_dataset", "dataset_audit_report", "tokenized_dataset")


@pytest.fixture(scope="module")
def endless(make_deployment):
    """A deployment whose line has its tokens and would train for hours."""
    deployment = make_deployment()
    deployment.write_recipe("endless", training__max_steps=100_000)
    done = deployment.materialize(" or ".join(f"key:endless/{stage}" for stage in DATA))
    assert done.returncode == 0, done.stderr[-9000:]
    return deployment


# The signal -> whether the stage is a fork of the run's own server, or of one that stands by for all runs.
ENDINGS = {
    "Ctrl-C": (signal.SIGINT, False),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGKILL": (signal.SIGKILL, True),
}


@pytest.mark.parametrize(("number", "alone"), ENDINGS.values(), ids=ENDINGS)
def test_a_run_that_is_ended_takes_its_training_process_with_it(endless, number, alone):
    environment = endless.environment if alone else standing(endless.environment)
    run = endless.start("key:endless/fine_tuned_model", **environment)
    worker = training_process(endless, run, environment.get(VARIABLE))
    run.send_signal(number)
    deadline = time.monotonic() + 5
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    run.wait(timeout=20)
    assert endless.latest("endless", "fine_tuned_model") is None


def training_process(deployment, run, stands_by):
    """The child that trains, once it has taken a step."""
    progress = deployment.root / "forge" / "progress"
    earlier = set(progress.glob("*.jsonl"))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any('"fine_tune", "step": 2' in file.read_text() for file in set(progress.glob("*.jsonl")) - earlier):
            (stage,) = server_of(run, stands_by).children()
            return stage
        assert run.poll() is None, "the run ended before it trained"
        time.sleep(0.1)
    raise AssertionError("no training step within two minutes")


def server_of(run, stands_by):
    """The process that forked the run's stage: its own, or the fork of the standing one that serves it."""
    if stands_by is None:
        return next(c for c in psutil.Process(run.pid).children() if "resources.stage_server" in c.cmdline())
    return next(each for each in psutil.Process(pid_of(stands_by)).children() if each.children())
