"""One process that imports each heavy library once; every stage of a run is a fork of it.

A new interpreter spends 2 to 7 seconds of a core on torch, transformers and peft before its stage begins, and a run
has five or more such stages. Here the first stage that needs a library has it imported, and the next ones find it
there. The server computes nothing, so that a fork is as good as a new process: it has one thread, no open file of a
stage, and no random numbers were drawn. It ends when the run worker that started it does.

Only on Linux and only where no GPU is: a process that is forked after CUDA was touched cannot use it, and what the
libraries touch while they are imported is theirs to change.
"""

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from forge_pipeline.models.threads import count_threads
from resources import standing_server
from resources.environment import CHECKOUT

_TOKENIZER = ("torch", "transformers.tokenization_utils_tokenizers", "transformers.models.auto.tokenization_auto")
_MODEL = (*_TOKENIZER, "transformers.models.auto.modeling_auto", "peft")
IMPORTS: Mapping[str, tuple[str, ...]] = {
    "ingest": (),
    "clean": (),
    "audit": _TOKENIZER,
    "tokenize": _TOKENIZER,
}
"""Stage -> modules that it imports; one that is not named here loads a model."""
_LATER = ("numba", "datasets", "trl.trainer.sft_trainer", "lm_eval.evaluator", "resources.stage_worker")
"""What single stages import beyond that; worth it in a process that stands by for many runs."""

_OF_ONE_STAGE = ("DAGSTER_PIPES_", "FORGE_LIFELINE", "OMP_NUM_THREADS")  # prefixes of variables that differ by stage
_LONGEST = 4 << 20  # bytes of a request


class ForkedStage:
    """A stage's process: what `end_group` and `follow` need of a child."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.cpu_seconds: float | None = None  # user and system time once it has ended, where the server could tell
        self._connection = connection

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            with suppress(BlockingIOError):
                answer = self._connection.recv(1024, socket.MSG_DONTWAIT)
                # Without the server nobody can say how the stage ended: it is ended, as if the system had killed it.
                told = json.loads(answer) if answer else {"exit": _kill(self.pid), "cpu_seconds": None}
                self.returncode, self.cpu_seconds = told["exit"], told["cpu_seconds"]
        return self.returncode


class StageServer:
    """The run worker's side. One stage at a time; the process starts with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def start(self, stage: str, spec_file: str, environment: Mapping[str, str]) -> ForkedStage:
        """Fork a process that runs ``resources.stage_worker`` with our stdout and stderr, in a group of its own.

        Raises:
            ChildProcessError: The server ended before it had forked; nothing runs.
        """
        shared = {name: value for name, value in environment.items() if not name.startswith(_OF_ONE_STAGE)}
        if shared != self._environment or not self._lives():
            self.stop()  # libraries read their settings while they are imported
            self._connection = standing_server.join(environment) or self._start_process(environment)
            self._environment = shared
        assert self._connection is not None
        request = json.dumps({"stage": stage, "spec": spec_file, "environment": dict(environment)}).encode()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            socket.send_fds(self._connection, [request], [1, 2])
            answer = self._connection.recv(1024)
        except OSError as error:
            self.stop()
            raise ChildProcessError(f"the process that forks stages is gone: {error}") from error
        except BaseException:  # an interrupt before we know the child: it must not start unseen
            self.stop()
            raise
        if not answer:
            self.stop()
            raise ChildProcessError("the process that forks stages ended while it imported what the stage needs")
        return ForkedStage(json.loads(answer)["pid"], self._connection)

    def stop(self) -> None:
        """End the server, and with it nothing else: a stage follows the run worker."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        self._environment = {}

    def _lives(self) -> bool:
        if self._connection is None:
            return False
        with suppress(BlockingIOError):  # nothing to read: it waits for a request
            return bool(self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return True

    def _start_process(self, environment: Mapping[str, str]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "resources.stage_server", str(theirs.fileno())],
                cwd=CHECKOUT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours


def can_fork(gpus: int) -> bool:
    """Whether stages are forked on this machine; ``FORGE_STAGE_PROCESS=spawn`` says no."""
    return sys.platform == "linux" and gpus == 0 and os.environ.get("FORGE_STAGE_PROCESS") != "spawn"


def serve(connection: socket.socket) -> None:
    """Answer each request with the child's pid, then with its exit code, until the run worker is gone."""
    from resources import stage_worker

    while True:
        message, fds, _, _ = socket.recv_fds(connection, _LONGEST, 2)
        if not message:
            return
        request = json.loads(message)
        _import(IMPORTS.get(request["stage"], _MODEL))
        assert threading.active_count() == 1, "a fork takes one thread along"
        pid = os.fork()
        if pid == 0:
            _become(request, fds, connection)
            code = stage_worker.main(request["spec"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        with suppress(PermissionError, ProcessLookupError):  # the child does the same; whoever comes first
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        connection.send(json.dumps({"pid": pid}).encode())
        _, status, used = os.wait4(pid, 0)
        ended = {"exit": os.waitstatus_to_exitcode(status), "cpu_seconds": used.ru_utime + used.ru_stime}
        connection.send(json.dumps(ended).encode())


def import_all() -> None:
    """Import what any stage needs, for a process that stands by."""
    _import(_MODEL + _LATER)


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        with suppress(ImportError):  # the stage will say what it lacks, in its own words
            importlib.import_module(module)
    # What is imported stays: a fork that collects garbage need not look through it, nor copy its pages to do so.
    gc.freeze()


def _become(request: Mapping[str, Any], fds: list[int], connection: socket.socket) -> None:
    """Turn this fork into the stage's own process: its group, output, environment and number of threads."""
    os.setpgid(0, 0)
    connection.close()
    for number, fd in zip((1, 2), fds, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    environment = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    count_threads(environment)


def _kill(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return -signal.SIGKILL


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as parent, suppress(BrokenPipeError):
        serve(parent)
