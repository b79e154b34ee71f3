"""Children: what they hand back, how they end, and that they never outlive whoever started them."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from forge_pipeline.errors import CancelledError, ForgeError
from forge_pipeline.server.children import Child, ChildFailedError
from tests.forge_pipeline.server.served import CHECKOUT, wait_for

WORK = """
import os, sys, time
from pathlib import Path
from forge_pipeline.errors import DataError
from forge_pipeline.server.children import run_child

def work(request):
    if request["do"] == "refuse":
        raise DataError("line 3 is odd")
    if request["do"] == "crash":
        raise ZeroDivisionError
    if request["do"] == "wait":
        Path("pid").write_text(str(os.getpid()))
        time.sleep(600)
    print("words of a library")
    return {"got": request["do"]}

if __name__ == "__main__":
    sys.exit(run_child(work))
"""


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(CHECKOUT)])}


def child(do: str, environment: Mapping[str, str]) -> Child:
    return Child("work_of_a_test", {"do": do}, environment)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_hands_back_its_result_or_the_words_of_its_error(surroundings: Mapping[str, str]) -> None:
    asked = {do: child(do, surroundings) for do in ("this", "refuse", "crash")}
    assert asked["this"].result() == {"got": "this"}
    with pytest.raises(ForgeError, match=r"^line 3 is odd$"):
        asked["refuse"].result()
    with pytest.raises(ChildFailedError, match="ZeroDivisionError"):
        asked["crash"].result()


def test_a_child_is_ended_when_it_is_asked_to_and_when_it_takes_too_long(surroundings: Mapping[str, str]) -> None:
    late, ended = child("wait", surroundings), child("wait", surroundings)
    ended.end()
    with pytest.raises(CancelledError):
        ended.result()
    with pytest.raises(ChildFailedError, match="not done after 0 s"):
        late.result(0.1)
    assert not is_alive(late.pid)
    assert not is_alive(ended.pid)


def test_a_child_ends_when_its_parent_is_killed(surroundings: Mapping[str, str]) -> None:
    parent = textwrap.dedent(
        """
        import os, time
        from forge_pipeline.server.children import Child
        waiting = Child("work_of_a_test", {"do": "wait"}, os.environ)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", parent], env=dict(surroundings)) as process:
        try:
            pid = int(wait_for(lambda: Path("pid").is_file() and Path("pid").read_text()))
            assert is_alive(pid)
        finally:
            process.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), timeout=20)
