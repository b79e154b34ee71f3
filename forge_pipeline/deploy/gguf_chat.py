"""`GgufChat`: a GGUF file that is talked to, by llama.cpp in a child process that keeps it loaded between turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forge_pipeline.errors import ExportError
from forge_pipeline.export.quantize import native_library

# Runs in a child: a request a line on stdin; on stdout a line a piece, {"text": ...}, then {"done": ...} or
# {"error": ...}.
_PROGRAM = """
import json, os, secrets, sys
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

def say(**values):
    answers.write(json.dumps(values) + "\\n")
    answers.flush()

opened = json.loads(sys.stdin.readline())
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = opened["path"]
params.n_ctx = opened["context"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = opened["threads"]
params.n_parallel = 1
params.warmup = params.fit_params = False
params.verbosity = 0
params.api_keys = [secrets.token_hex(16)]  # it listens on loopback; nobody else is to use it
server = xllamacpp.Server(params)
say(ready=True)
for line in sys.stdin:
    failed = []

    def piece(event):
        if "error" in event:
            failed.append(event["error"])
        for choice in event.get("choices") or ():
            text = (choice.get("delta") or {}).get("content")
            if text:
                say(text=text)

    try:
        found = server.handle_chat_completions(json.loads(line), piece)
        if isinstance(found, dict) and "error" in found:
            failed.append(found["error"])
    except Exception as error:
        failed.append(repr(error))
    say(error=failed[0]) if failed else say(done=True)
os._exit(0)  # without waiting for the server's threads
"""


class GgufChat:
    """One loaded file. Use as a context manager.

    Args:
        path: The file, with its chat template inside.
        context: Longest conversation with its answer, in tokens.
        threads: 0 takes one for each core.

    Raises:
        OptionalDependencyError: ``xllamacpp`` is not installed.
        ExportError: llama.cpp does not load the file.
    """

    def __init__(self, path: Path, *, context: int = 2048, threads: int = 0) -> None:
        native_library()
        if not path.is_file():
            raise ExportError(f"{path} is not a file; expected a GGUF model")
        self._path = path
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        threads = threads or os.cpu_count() or 1
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        try:
            self._send({"path": str(path), "context": context, "threads": threads})
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def answer(
        self,
        messages: Sequence[Mapping[str, str]],
        on_text: Callable[[str], None],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The answer to a conversation, up to its end of turn; `on_text` gets each piece as it is made.

        Raises:
            ExportError: llama.cpp refused the conversation, or crashed.
        """
        body = {
            "messages": [dict(message) for message in messages],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
        }
        self._send(body)
        pieces: list[str] = []
        while "done" not in (event := self._receive()):
            pieces.append(event["text"])
            on_text(event["text"])
        return "".join(pieces)

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # `_receive` says what became of the child
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._log.seek(0)
            tail = self._log.read().decode(errors="replace")[-2000:]
            raise ExportError(f"{self._path}: llama.cpp ended with status {self._child.wait()}. It said: {tail}")
        event: dict[str, Any] = json.loads(line)
        if "error" in event:
            raise ExportError(f"{self._path}: llama.cpp refused the conversation: {str(event['error'])[:500]}")
        return event
