"""Standing stage servers for the tests: what each run of Dagster would import anew is imported once a test process.

Real stages in real processes; only `resources.stage_server`'s start is saved, five seconds of a core for each run.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from resources.standing_server import VARIABLE, imported_in

CHECKOUT = Path(__file__).parents[1]
_sockets: dict[str, str] = {}  # environment -> path
_started: "list[tuple[subprocess.Popen[bytes], Path]]" = []


def standing(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment`, naming a standing server that was imported in it; one is started if there is none yet."""
    if sys.platform != "linux":
        return dict(environment)
    key = json.dumps(imported_in(environment), sort_keys=True)
    if key not in _sockets:
        _sockets[key] = _start(environment)
    return {**environment, VARIABLE: _sockets[key]}


def _start(environment: Mapping[str, str]) -> str:
    folder = Path(tempfile.mkdtemp(prefix="stages-"))  # short: a socket's path has at most 107 bytes
    path, log = folder / "s", (folder / "log").open("wb")
    command = [sys.executable, "-m", "resources.standing_server", str(path)]
    process = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    _started.append((process, folder))
    while not path.exists():  # a run that finds nobody there starts a server of its own, and nothing is saved
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    return str(path)


def pid_of(path: str) -> int:
    """The process that stands by at a socket."""
    return next(process.pid for process, folder in _started if folder == Path(path).parent)


def end_all() -> None:
    """At the end of a test process; those of pytest-xdist do not run what `atexit` was told."""
    for process, folder in _started:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    _started.clear()
    _sockets.clear()
