"""Dagster's command line with its imports done once: each command is a fork of one process that has them.

What runs is `python -m dagster` itself, in a process of its own with its own environment, arguments and exit code; it
only does not spend two seconds of a core on reading the same modules again. The code location is not among them: each
command loads it, from the recipes that its environment names.

    with WarmDagster() as dagster:
        done = dagster.run(["asset", "materialize", ...], environment)     # a CompletedProcess
"""

import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

CHECKOUT = Path(__file__).parents[2]
_READ_ENVIRONMENT = {"definitions", "demo"}  # of assets: what they are depends on the environment they are imported in


class WarmDagster:
    """Starts on the first command; one command at a time."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__

    def run(self, arguments: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """`python -m dagster ARGUMENTS` in the checkout, with exactly this environment."""
        server = self._server or self._start(environment)
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            request = {"arguments": arguments, "environment": dict(environment), "out": str(out), "err": str(err)}
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, f"the warm process has ended: {self._said()}"
            texts = [path.read_text(errors="replace") for path in (out, err)]
        return subprocess.CompletedProcess(["dagster", *arguments], int(answer), *texts)

    def _start(self, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.assets.warm_dagster"],
            cwd=CHECKOUT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        return self._server

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:]

    def __enter__(self) -> "WarmDagster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.communicate()
        self._log.close()


def serve() -> None:
    """One JSON line a command on stdin, its exit code as a line on stdout."""
    _import_what_every_command_imports()
    assert threading.active_count() == 1, "a fork takes one thread along"
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{code}\n".encode())


def _import_what_every_command_imports() -> None:
    import dagster as dg
    import dagster._cli

    import assets
    import resources.io_managers  # noqa: F401

    for module in pkgutil.iter_modules(assets.__path__):
        if module.name not in _READ_ENVIRONMENT:
            __import__(f"assets.{module.name}")

    @dg.asset
    def nothing() -> None: ...

    # Storage, logging and the parser of selections are imported by the first run.
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        dg.materialize([nothing], selection="key:nothing", instance=instance)


def _become(request: dict[str, object]) -> None:
    """Turn this process into the command; it ends when the command does."""
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    for number, path, mode in ((0, os.devnull, "rb"), (1, request["out"], "wb"), (2, request["err"], "wb")):
        with open(str(path), mode) as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["dagster", *arguments]
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
