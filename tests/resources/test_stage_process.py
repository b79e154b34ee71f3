"""Heavy stages in their own process: cancel, orphans, and errors that keep their type."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import dagster as dg
import psutil
import pytest

from forge_pipeline import errors
from resources.stage_process import _raise_error, end_group

STUBBORN = (
    "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]\ntime.sleep(60)"
)
WITH_CHILD = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {STUBBORN!r}])\n{STUBBORN}"


@pytest.mark.parametrize(
    "program", [STUBBORN, WITH_CHILD, "import time; time.sleep(60)"], ids=["stubborn", "with a child", "willing"]
)
def test_ending_a_group_takes_less_than_five_seconds_and_leaves_nobody(program):
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    time.sleep(0.7)
    members = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    started = time.monotonic()
    end_group(process)
    assert time.monotonic() - started < 5
    time.sleep(0.1)
    assert not [pid for pid in members if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_killing_the_parent_leaves_no_orphan(tmp_path):
    parent = textwrap.dedent(
        """
        import os, subprocess, sys
        lifeline, mine = os.pipe()
        env = {**os.environ, "FORGE_LIFELINE_FD": str(lifeline)}
        child = "import time; from resources.stage_worker import _follow_parent; _follow_parent(); print('ready', flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", child], env=env, start_new_session=True, pass_fds=[lifeline])
        print(process.pid, flush=True)
        process.wait()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    assert process.stdout.readline().strip() == "ready"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 3
    while psutil.pid_exists(child) and psutil.Process(child).status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


@pytest.mark.parametrize(
    "name", [n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ForgeError)]
)
def test_an_error_of_the_child_arrives_with_its_own_type(name):
    with pytest.raises(getattr(errors, name), match="what to do"):
        _raise_error("fine_tune", 1, {"error": {"type": name, "message": "what to do"}})


ENDINGS = {
    "killed": (-9, {}, "SIGKILL and left no result; the system may have run out of memory"),
    "crashed": (-11, {}, "SIGSEGV"),
    "exited early": (0, {}, "exit code 0 and left no result"),
    "unknown error": (1, {"error": {"type": "KeyError", "message": "'x'"}}, "KeyError: 'x'"),
}


@pytest.mark.parametrize(("code", "outcome", "words"), ENDINGS.values(), ids=ENDINGS)
def test_a_process_without_a_result_is_a_failure_that_says_how_it_ended(code, outcome, words):
    with pytest.raises(dg.Failure) as caught:
        _raise_error("fine_tune", code, outcome)
    assert words in caught.value.description
    assert caught.value.allow_retries is False
