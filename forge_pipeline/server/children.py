"""Work in a process of its own that can be ended at any moment, and that never outlives this one.

The parent writes one line of JSON to the child's standard input and keeps the pipe open: its end is how the child
learns that the parent is gone, however that happened. What the child says goes to a file; its last line is the
result. A `ForgeError` of the child's work is one line and exit code 3, so that its words, and nothing else of the
process, reach a reply.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from forge_pipeline.errors import CancelledError, ForgeError

_STDIN = 0  # file descriptor
_REFUSED = 3  # exit code of a child whose work raised a ForgeError
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_TAIL = 4000  # bytes of what a failed child said that are kept for the server's log


class ChildFailedError(ForgeError, RuntimeError):
    """A child ended in a way that nobody foresaw. Its words are for the log, not for a reply."""


class Child:
    """``python -m module``, started now.

    Args:
        request: What it is to do, as JSON.
        environment: What it inherits.
    """

    def __init__(self, module: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed by `result`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._ended = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at its start; `result` says how

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """End it, if it has not ended; returns when it is gone."""
        self._ended.set()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            self._process.send_signal(sign)
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue

    def result(self, timeout: float | None = None) -> Any:
        """Wait for its end and return what it handed back.

        Args:
            timeout: Seconds after which it is ended.

        Raises:
            CancelledError: It was ended with `end`.
            ForgeError: What it was asked to do cannot be done, in its words.
            ChildFailedError: It failed in a way that nobody foresaw, or took longer than `timeout`.
        """
        late = False
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
            self.end()
        assert self._process.stdin is not None
        with self._output as output, self._errors as errors, self._process.stdin:
            said = [_all_of(file) for file in (output, errors)]
        if late:
            raise ChildFailedError(f"{self._module} was not done after {timeout:.0f} s and was ended")
        if self._ended.is_set():
            raise CancelledError("it was ended before it was done")
        code = self._process.returncode
        if code not in (0, _REFUSED):
            raise ChildFailedError(f"{self._module} ended with {code}: {said[1][-_TAIL:].decode(errors='replace')}")
        value = json.loads(said[0].splitlines()[-1])
        if code == _REFUSED:
            raise ForgeError(value["error"])
        return value


def run_child(work: Callable[[dict[str, Any]], Any]) -> int:
    """The child's side: take the request, do `work`, hand its JSON back. Returns the exit code."""
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(_STDIN, 1 << 16)):
        line += piece
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        value, code = work(json.loads(line)), 0
    except ForgeError as error:
        value, code = {"error": str(error)}, _REFUSED
    print(json.dumps(value), flush=True)
    return code


def _end_with_parent() -> None:
    """Wait for the pipe's end. Without Python's buffers, whose lock a process that ends must not find taken."""
    while os.read(_STDIN, 1):
        pass
    os._exit(1)


def _all_of(file: Any) -> bytes:
    file.seek(0)
    data: bytes = file.read()
    return data
