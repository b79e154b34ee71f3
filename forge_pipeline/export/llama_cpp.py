"""llama.cpp as a user's machine runs it: `LlamaCpp` (exact logits) and `run_gguf` (a chat).

Both work in a child process with a time limit and no core dumps, because a hostile or broken file
may crash the runtime. The runtime is the one inside ``xllamacpp``, whose version stands in reports.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from forge_pipeline.errors import ExportError
from forge_pipeline.export import llama_worker
from forge_pipeline.export.quantize import native_library

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STDERR_TAIL = 2000  # characters of llama.cpp's log that go into an error


def runtime_name() -> str | None:
    """``xllamacpp <version>``, or None where it is not installed."""
    try:
        return f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return None


class LlamaCpp:
    """One GGUF file, loaded by llama.cpp in a child process. Use as a context manager.

    Args:
        path: The file.
        adapter: A LoRA adapter's GGUF file, applied to the model.
        context: Longest text, in tokens.
        threads: Threads that the child computes with.
        timeout: Seconds that one request may take.

    Raises:
        OptionalDependencyError: ``xllamacpp`` is not installed.
        ExportError: llama.cpp does not load the file, crashed, or took too long.
    """

    def __init__(
        self,
        path: Path,
        *,
        adapter: Path | None = None,
        context: int = 512,
        threads: int = 1,
        timeout: float = 600.0,
    ) -> None:
        self._path = path
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        # -P: the script's own folder, full of our module names, must not be on the child's path.
        command = [sys.executable, "-P", llama_worker.__file__, str(native_library())]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        try:
            lora = None if adapter is None else str(adapter)
            opened = self._ask(op="open", path=str(path), context=context, threads=threads, adapter=lora)
        except BaseException:
            self.close()
            raise
        self.vocabulary: int = opened["vocabulary"]
        self.description: str = opened["description"]
        self.chat_template: str | None = opened["chat_template"]

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
                with suppress(BrokenPipeError):  # a request that the dead child never read is still in the buffer
                    stream.close()

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of `text`, in which special tokens are recognized; `add_special` puts bos/eos as the file says."""
        tokens: list[int] = self._ask(op="tokenize", text=text, add_special=add_special)["tokens"]
        return tokens

    def logits(self, tokens: Sequence[int]) -> "npt.NDArray[np.float32]":
        """Logits after each of `tokens`, of shape (T, V), from an empty context."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "logits.npy")
            self._ask(op="logits", tokens=list(tokens), out=str(out))
            rows: npt.NDArray[np.float32] = np.load(out, allow_pickle=False)
        return rows

    def generate(self, tokens: Sequence[int], max_tokens: int) -> str:
        """The most likely continuation, token by token, up to an end-of-generation token."""
        text: str = self._ask(op="generate", tokens=list(tokens), max_tokens=max_tokens)["text"]
        return text

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        overdue = threading.Timer(self._timeout, self._child.kill)
        overdue.start()
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timed_out = not overdue.is_alive()
            overdue.cancel()
        if not line:
            how = f"took longer than {self._timeout:g} s" if timed_out else _death(self._child.wait())
            raise ExportError(f"{self._path}: llama.cpp {how} during {request['op']!r}.{self._log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ExportError(f"{self._path}: {answer['error']}.{self._log_tail()}")
        return answer

    def _log_tail(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        errors = [line for line in text.splitlines() if "error" in line.lower() or "assert" in line.lower()]
        tail = "\n".join(errors)[-_STDERR_TAIL:] or text[-_STDERR_TAIL:]
        return f" It said: {tail}" if tail else ""


def _death(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


# Runs in a child: the whole server inside xllamacpp, with the file's own chat template.
_CHAT_PROGRAM = """
import json, os, secrets, sys
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
request = json.load(sys.stdin)
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = request["path"]
params.n_ctx = request["context"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
params.n_parallel = 1
params.warmup = params.fit_params = False
params.verbosity = 0
params.api_keys = [secrets.token_hex(16)]  # it listens on loopback; nobody else is to use it
answer = xllamacpp.Server(params).handle_chat_completions(request["body"])
answers.write(json.dumps(answer))
answers.flush()
os._exit(0)  # without waiting for the server's threads
"""


def run_gguf(
    path: Path,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int = 256,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    context: int = 2048,
    threads: int = 0,
    timeout: float = 600.0,
) -> str:
    """Answer a conversation with a GGUF file, as llama.cpp's server does with the file's chat template.

    Args:
        path: The file.
        messages: ``role`` and ``content`` each.
        max_tokens: Longest answer, in tokens.
        temperature: 0.0 takes the most likely token each time.
        context: Longest conversation with its answer, in tokens.
        threads: 0 takes one for each core.
        timeout: Seconds, loading included.

    Raises:
        OptionalDependencyError: ``xllamacpp`` is not installed.
        ExportError: llama.cpp does not load the file, refused the conversation, crashed, or took too long.
    """
    native_library()
    if not path.is_file():
        raise ExportError(f"{path} is not a file; expected a GGUF model")
    body = {
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    threads = threads or os.cpu_count() or 1
    request = {"path": str(path), "context": context, "threads": threads, "body": body}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHAT_PROGRAM],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{path}: llama.cpp took longer than {timeout:g} s to answer") from error
    if done.returncode or not done.stdout:
        raise ExportError(f"{path}: llama.cpp {_death(done.returncode)}. It said: {done.stderr[-_STDERR_TAIL:]}")
    answer = json.loads(done.stdout)
    if "choices" not in answer:
        raise ExportError(f"{path}: llama.cpp refused the conversation: {json.dumps(answer)[:500]}")
    return str(answer["choices"][0]["message"].get("content") or "")
