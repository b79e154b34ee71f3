"""What the benchmark says that a process cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks

LAUNCHER = Path(benchmarks.__file__).with_name("launcher.py")
BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
LEFT_BEHIND = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}])"


def _measured(tmp_path: Path, code: str) -> dict[str, float]:
    result = tmp_path / "cost.json"
    command = [sys.executable, "-S", "-E", str(LAUNCHER), str(result), sys.executable, "-S", "-c", code]
    subprocess.run(command, check=True)
    measured: dict[str, float] = json.loads(result.read_text())
    return measured


@pytest.mark.parametrize("code", [BUSY, LEFT_BEHIND], ids=["the command", "a process that it leaves behind"])
def test_cpu_time_is_counted_of(tmp_path: Path, code: str) -> None:
    assert 0.3 <= _measured(tmp_path, code)["cpu_seconds"] < 1.5


def test_peak_memory_is_that_of_the_command_and_not_of_its_parent(tmp_path: Path) -> None:
    ballast = bytearray(200_000_000)
    assert _measured(tmp_path, "pass")["peak_mb"] < 60
    assert _measured(tmp_path, "held = bytearray(100_000_000)")["peak_mb"] > 95
    assert len(ballast) == 200_000_000


def test_the_exit_code_is_told(tmp_path: Path) -> None:
    assert _measured(tmp_path, "raise SystemExit(3)")["exit_code"] == 3
