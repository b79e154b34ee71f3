"""A stage server that stands by: runs of the same environment share its imports, all others start their own."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from forge_pipeline.training.child_process import follow
from resources import standing_server
from resources.stage_server import StageServer
from resources.standing_server import VARIABLE, join
from tests.resources.test_stage_server import environment, gone, write_spec
from tests.standing import pid_of, standing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux only")


@pytest.fixture
def server():
    server = StageServer()
    yield server
    server.stop()


def joined() -> dict[str, str]:
    return standing(environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"))


def test_stages_of_two_runs_are_forks_of_the_standing_process(server, tmp_path):
    named = joined()
    parents = []
    for _ in range(2):
        run = StageServer()
        stage = run.start("ingest", str(write_spec(tmp_path)), named)
        parents.append(psutil.Process(stage.pid).parents()[1].pid)
        assert follow(stage) == 1
        assert (tmp_path / "outcome.json").exists()
        run.stop()
    assert parents == [pid_of(named[VARIABLE])] * 2


OTHERS = {
    "a setting that libraries read": {"HF_HOME": "elsewhere"},
    "nobody at the address": {VARIABLE: "/nowhere/socket"},
    "no address": {VARIABLE: ""},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_run_that_cannot_join_starts_its_own_server(server, tmp_path, change):
    named = joined() | change
    assert join(named) is None
    stage = server.start("ingest", str(write_spec(tmp_path)), named)
    assert psutil.Process(stage.pid).parents()[1].pid == os.getpid()
    assert follow(stage) == 1


@pytest.mark.parametrize(
    "change", [{"FORGE_HOME": "elsewhere"}, {"DAGSTER_HOME": "elsewhere"}, {"OMP_NUM_THREADS": "7"}]
)
def test_what_only_the_stage_reads_may_differ(change):
    connection = join(joined() | change)
    assert connection is not None
    connection.close()


def test_code_that_was_touched_since_is_not_run_under_its_old_self(monkeypatch):
    named = joined()
    monkeypatch.setattr("resources.standing_server._code", lambda: "edited")
    assert join(named) is None


def test_the_code_changes_with_a_module_and_with_the_packages(tmp_path, monkeypatch):
    module = tmp_path / "resources" / "standing_server.py"
    module.parent.mkdir()
    module.touch()
    monkeypatch.setattr("resources.standing_server.__file__", str(module))
    before = standing_server._code()
    assert standing_server._code() == before
    module.write_text("changed")
    changed = standing_server._code()
    (packages := tmp_path / "packages").mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(packages))
    assert len({before, changed, standing_server._code()}) == 3


def test_the_fork_that_serves_a_run_ends_with_it(tmp_path):
    run = StageServer()
    stage = run.start("ingest", str(write_spec(tmp_path)), joined())
    serving = psutil.Process(stage.pid).ppid()
    follow(stage)
    run.stop()
    assert gone(serving)


def test_a_run_whose_fork_was_killed_between_two_stages_goes_on(server, tmp_path):
    stage = server.start("ingest", str(write_spec(tmp_path)), joined())
    serving = psutil.Process(stage.pid).ppid()
    follow(stage)
    os.kill(serving, signal.SIGKILL)
    assert gone(serving)
    assert follow(server.start("ingest", str(write_spec(tmp_path)), joined())) == 1


def test_the_socket_is_its_users_alone_and_taken_over_after_a_kill(tmp_path_factory):
    named = joined()
    path = Path(named[VARIABLE])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    left = path.with_name("left")
    left.touch()
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom resources.standing_server import imported_in, listen\n"
        "listen(Path(sys.argv[1]), imported_in(os.environ), lambda connection: None)"
    )
    again = subprocess.Popen([sys.executable, "-c", program, str(left)], env=environment())
    try:
        deadline = time.monotonic() + 60
        while (connection := join(environment() | {VARIABLE: str(left)})) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        connection.close()
    finally:
        again.terminate()
        assert again.wait(10) == 0
