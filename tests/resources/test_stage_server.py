"""Stages as forks of one process: each its own group and environment, and nobody left when the run worker is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from forge_pipeline.training.child_process import end_group, follow
from resources.stage_server import ForkedStage, StageServer, can_fork

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def server():
    server = StageServer()
    yield server
    server.stop()


@pytest.fixture
def spec(tmp_path):
    """A stage that does not exist: the worker says so in its outcome, without importing anything."""
    return write_spec(tmp_path)


def write_spec(folder):
    recipe = folder / "recipe.json"
    recipe.write_text("{}")
    spec = folder / "spec.json"
    outcome = {"outcome_file": str(folder / "outcome.json"), "progress_file": str(folder / "progress.jsonl")}
    spec.write_text(json.dumps({"stage": "ingest", "recipe": {"report": str(recipe)}, "inputs": {}, **outcome}))
    return spec


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **more}


def gone(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_stage_answers_with_its_exit_code_and_writes_its_outcome(server, spec):
    assert follow(server.start("ingest", str(spec), environment())) == 1
    assert json.loads(spec.with_name("outcome.json").read_text())["error"]


def test_the_next_stage_is_a_fork_of_the_same_process_in_a_group_of_its_own(server, spec):
    first = server.start("ingest", str(spec), environment(OMP_NUM_THREADS="1"))
    parent, group = server._process.pid, os.getpgid(first.pid)
    assert group == first.pid
    follow(first)
    second = server.start("ingest", str(spec), environment(OMP_NUM_THREADS="2", FORGE_LIFELINE="nowhere"))
    assert (server._process.pid, second.pid != first.pid) == (parent, True)
    follow(second)


def test_settings_that_libraries_read_while_they_are_imported_ask_for_another_process(server, spec):
    follow(server.start("ingest", str(spec), environment()))
    first = server._process.pid
    follow(server.start("ingest", str(spec), environment(HF_HOME="elsewhere")))
    assert server._process.pid != first
    assert gone(first)


def test_a_stage_that_is_ended_leaves_the_server_ready_for_the_next(server, spec):
    stage = server.start("ingest", str(spec), environment())
    end_group(stage)
    assert stage.poll() in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL, 1)
    assert follow(server.start("ingest", str(spec), environment())) == 1


def test_a_stage_whose_server_was_killed_is_ended_and_counts_as_killed():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        stage = ForkedStage(sleeper.pid, ours)
        assert stage.poll() is None
        theirs.close()
        assert stage.poll() == -signal.SIGKILL
    assert sleeper.wait(5) == -signal.SIGKILL


def test_killing_the_run_worker_leaves_no_server(tmp_path):
    program = (
        "import os, sys, time\nfrom resources.stage_server import StageServer\nserver = StageServer()\n"
        "stage = server.start('ingest', sys.argv[1], dict(os.environ))\nprint(server._process.pid, flush=True)\ntime.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(write_spec(tmp_path))], env=environment(), stdout=subprocess.PIPE, text=True
    )
    server = int(worker.stdout.readline())
    worker.kill()
    worker.wait()
    assert gone(server)


@pytest.mark.parametrize(("gpus", "setting", "forks"), [(0, None, True), (1, None, False), (0, "spawn", False)])
def test_stages_are_forked_only_where_no_gpu_is_and_nobody_said_otherwise(gpus, setting, forks, monkeypatch):
    if setting:
        monkeypatch.setenv("FORGE_STAGE_PROCESS", setting)
    assert can_fork(gpus) is (forks and sys.platform == "linux")
