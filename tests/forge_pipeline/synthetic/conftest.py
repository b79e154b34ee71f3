"""A real endpoint on this machine that speaks chat completions, with faults on demand, and recipes that ask it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig

KEY = "sk-very-secret-0123456789"


@dataclass
class Endpoint:
    """What the endpoint does, and what it has seen.

    Attributes:
        script: Prompt -> what it meets before an answer, one item a request: a status, or the name of a fault:
            ``cut`` (the body ends early), ``slam`` (no answer at all), ``html`` (no JSON), ``trickle`` (a byte now
            and then), ``shape`` (JSON, but no completion).
        delays: Prompt -> seconds before the answer.
        headers: Sent with every status that is not 200.
        error_body: Sent with every status that is not 200.
        answer: Request -> content of the answer.
        requests: Bodies, in the order of arrival; `arrivals` their moments, `keys` their Authorization headers.
        most_at_once: Largest number of requests under way at a time.
    """

    url: str = ""
    script: dict[str, list[int | str]] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    error_body: Any = None
    finish_reason: str = "stop"
    answer: Callable[[dict[str, Any]], Any] = lambda request: f"Answer to {request['messages'][-1]['content']}"
    requests: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def asked(self) -> list[str]:
        """The prompts, in the order of arrival."""
        return [request["messages"][-1]["content"] for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Endpoint

    def do_POST(self) -> None:
        state = self.state
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][-1]["content"]
        with state.lock:
            state.requests.append(request)
            state.arrivals.append(time.monotonic())
            state.keys.append(self.headers["Authorization"])
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
            fault = state.script[prompt].pop(0) if state.script.get(prompt) else 200
        try:
            time.sleep(state.delays.get(prompt, 0))
        finally:
            with state.lock:
                state.at_once -= 1
        if isinstance(fault, str):
            self.close_connection = True
            getattr(self, f"_{fault}")()
            return
        if fault != 200:
            self._send(fault, json.dumps(state.error_body or {"error": {"message": prompt}}).encode())
            return
        message = {"role": "assistant", "content": state.answer(request)}
        choice = {"index": 0, "message": message, "finish_reason": state.finish_reason}
        self._send(200, json.dumps({"model": "teacher-2026-01", "choices": [choice]}).encode())

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"{self.state.url}/elsewhere")
        for name, value in self.state.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cut(self) -> None:
        self._send(200, b'{"choices": [', length=5000)

    def _slam(self) -> None:
        pass

    def _html(self) -> None:
        self._send(200, b"<html>It works!</html>")

    def _shape(self) -> None:
        self._send(200, b'{"choices": []}')

    def _trickle(self) -> None:
        self._send(200, b" ", length=100_000)
        for _ in range(200):
            self.wfile.write(b" ")
            time.sleep(0.05)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has gone away is what some tests are about


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off in milliseconds."""
    monkeypatch.setattr("forge_pipeline.synthetic.pace.FIRST_WAIT", 0.002)


@pytest.fixture
def config_with(endpoint: Endpoint) -> Callable[..., ForgeConfig]:
    """A recipe whose teacher is the endpoint; keyword arguments are keys of `synthetic:`, even out of their bounds."""

    def build(**synthetic: Any) -> ForgeConfig:
        section = {
            "enabled": True,
            "teacher_model": "teacher",
            "api_base": endpoint.url,
            "api_delay": 0,
            "seed_prompts": ["One?", "Two?"],
        }
        timeout = synthetic.pop("api_timeout", 60)
        config = ForgeConfig(
            name="taught",
            model={"name_or_path": "base"},
            lora={},
            training={},
            data={"dataset_name_or_path": "rows.jsonl"},
            synthetic=section | synthetic,
        )
        assert config.synthetic is not None
        changed = config.synthetic.model_copy(update={"api_timeout": timeout})
        return config.model_copy(update={"synthetic": changed})

    return build


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
