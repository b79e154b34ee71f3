"""Real servers for black-box tests, and a small but real Dagster code location for those that start jobs.

Helpers, imported by the tests of this folder; fixtures stand in conftest.py.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from forge_pipeline.server.app import create_app
from forge_pipeline.server.launchers import TRAINING_ASSETS, LogLine, RunLauncher, RunState, RunStatus
from forge_pipeline.server.settings import ServerSettings

# The keys, partitions and progress lines of the contract with assets/; the work itself is a few sleeps. The fine-tune
# takes `num_train_epochs` steps of 0.1 s and really registers a directory as a model, as the pipeline's does.
DEFINITIONS = """
import json, os, time
from pathlib import Path
import dagster as dg, yaml
from forge_pipeline.integrity import Manifest
from forge_pipeline.progress import Progress, ProgressFile
from forge_pipeline.registry import Registry

HOME = Path(os.environ["FORGE_HOME"])
JOBS = dg.DynamicPartitionsDefinition(name="studio_jobs")
NAMES = ["recipe", "raw_dataset", "dataset_audit_report", "tokenized_dataset", "fine_tuned_model", "benchmark_report"]

def read(context):
    return yaml.safe_load((HOME / "studio" / "jobs" / f"{context.partition_key}.yaml").read_text())

def stage(name, deps):
    @dg.asset(key=["studio", name], deps=[["studio", dep] for dep in deps], partitions_def=JOBS, group_name="studio")
    def run(context: dg.AssetExecutionContext):
        recipe = read(context)
        if name == "fine_tuned_model":
            fine_tune(context, recipe)
    return run

def fine_tune(context, recipe):
    (HOME / "progress").mkdir(exist_ok=True)
    report = ProgressFile(HOME / "progress" / f"{context.run_id}.jsonl")
    if "missing" in recipe["model"]["name_or_path"]:
        raise dg.Failure("ModelError: there is no such model", allow_retries=False)
    total = recipe["training"]["num_train_epochs"]
    (HOME / "trainer.pid").write_text(str(os.getpid()))
    for step in range(1, total + 1):
        time.sleep(0.1)
        metrics = {"loss": 2.0 / step, "learning_rate": 1e-4, "epoch": float(step)}
        report(Progress("fine_tune", step, total, metrics=metrics))
    model = HOME / "models" / context.partition_key
    model.mkdir(parents=True)
    (model / "weights.txt").write_text(context.partition_key * 1000)
    manifest = Manifest.of_directory(model)
    Registry(f"sqlite:///{HOME / 'registry.sqlite'}").register_model(
        uid=manifest.digest, name=context.partition_key, line="studio", base_model=recipe["model"]["name_or_path"],
        size_bytes=sum(entry.size for entry in manifest.entries), path=str(model), metrics={"eval_loss": 0.5},
        training_params={"num_epochs": total}, run_id=context.run_id, job_id=context.partition_key,
    )

defs = dg.Definitions(
    assets=[stage(name, NAMES[max(i - 1, 0):i]) for i, name in enumerate(NAMES)], executor=dg.in_process_executor
)
"""

CHECKOUT = Path(__file__).resolve().parents[3]
TRAINABLE = [{"input": f"How much is {i} and {i}?", "output": f"It is {2 * i}."} for i in range(12)]
PREFERENCES = [{"prompt": f"Question {i}", "chosen": f"Right {i}", "rejected": f"Wrong {i}"} for i in range(12)]
UNPAIRED = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(12)]
PROMPTS = [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(12)]
TEXTS = [{"text": f"House number {i} has {i} windows and one door. "} for i in range(12)]
DOCUMENTS = [{"document": f"House {i} is blue. It has {i} windows.", "summary": f"Blue house {i}."} for i in range(12)]
_CONTEXT = "House {} is by the river. It is {}."
_COLORS = ["red", "green", "blue", "white"] * 3
QUESTIONS: list[dict[str, Any]] = [
    {
        "question": "What color is it?",
        "context": _CONTEXT.format(i, color),
        "answers": {"text": [color], "answer_start": [_CONTEXT.format(i, color).index(color)]},
    }
    for i, color in enumerate(_COLORS)
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], Any], *, timeout: float = 60.0, every: float = 0.1) -> Any:
    """The first truthy value of `what()`."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = what()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"not within {timeout} s: {what}")


@dataclass
class Studio:
    """A served application and a client for it.

    studio.upload("rows.jsonl", jsonl(rows))     -> the reply
    studio.start(num_train_epochs=3)             -> the reply of start_training, with RUN as the body
    studio.until("completed")                    -> the status message that says so
    """

    url: str
    data_dir: Path
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.http.post(path, **options)

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self.post("/api/upload_dataset", files={"file": (name, content)})

    def body(self, **changes: Any) -> dict[str, Any]:
        body = {
            "task": "text-generation",
            "model_name": "tiny/model",
            "provider": "huggingface",
            "dataset": "rows.jsonl",
        }
        return {key: value for key, value in (body | changes).items() if value is not ...}

    def start(self, **changes: Any) -> httpx.Response:
        return self.post("/api/start_training", json=self.body(**changes))

    def queue(self, **changes: Any) -> httpx.Response:
        return self.post("/api/jobs", json=self.body(**changes))

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/api/jobs/{job_id}").json())

    def until_job(self, job_id: str, *states: str, timeout: float = 60.0) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in states else None

        return dict(wait_for(reached, timeout=timeout, every=0.25))

    def status(self) -> dict[str, Any]:
        return dict(self.get("/api/training_status").json())

    def until(self, *states: str, timeout: float = 60.0) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            status = self.status()
            return status if status["status"] in states else None

        return dict(wait_for(reached, timeout=timeout))


def check_envelope(reply: httpx.Response, *codes: int) -> str:
    """The one error shape, and nothing in it that a stranger should not see. Returns the detail."""
    assert reply.status_code in codes, f"{reply.status_code}: {reply.text[:300]}"
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body.keys() >= {"error", "detail", "status_code"}
    if str(reply.url.path).startswith("/v1/"):  # OpenAI's clients read their message from an object
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert body["error"]["message"] == body["detail"]
    else:
        assert isinstance(body["error"], str)
        assert body["error"]
    assert isinstance(body["detail"], str)
    assert body["status_code"] == reply.status_code
    assert "Traceback" not in body["detail"]
    assert "/tmp" not in body["detail"]
    return str(body["detail"])


@contextlib.contextmanager
def in_thread(settings: ServerSettings, launcher: RunLauncher | None = None) -> Iterator[Studio]:
    """uvicorn in a thread of this process."""
    app = create_app(settings, launcher)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        studio = Studio(f"http://127.0.0.1:{port}", settings.data_dir)
        yield studio
        studio.http.close()
    finally:
        server.should_exit = True
        thread.join(20)


def settings_for(data_dir: Path, **changes: Any) -> ServerSettings:
    """Settings whose Dagster is an address where nothing listens: for everything that starts no run."""
    return ServerSettings.read({}, **({"data_dir": data_dir, "dagster_url": "http://127.0.0.1:9"} | changes))


class Endless:
    """A launcher whose runs go on until they are ended: for tests of what stands before and after a run.

    with in_thread(settings, Endless()) as studio:
        studio.start()                  -> 200
        studio.start()                  -> 409
        studio.post("/api/stop_training")
    """

    def __init__(self) -> None:
        self.runs: dict[str, RunStatus] = {}
        self.says: list[LogLine] = []

    def state(self) -> str:
        return "ready"

    def launch(self, job_id: str, *, partition: str | None = None, assets: Sequence[str] = TRAINING_ASSETS) -> str:
        self.runs[f"run-{job_id}"] = RunStatus(RunState.RUNNING)
        return f"run-{job_id}"

    def find(self, job_id: str) -> str | None:
        return f"run-{job_id}" if f"run-{job_id}" in self.runs else None

    def status(self, run_id: str) -> RunStatus:
        return self.runs.get(run_id, RunStatus(RunState.GONE))

    def run_url(self, run_id: str) -> str | None:
        return None

    def log(self, run_id: str) -> list[LogLine]:
        return self.says if run_id in self.runs else []

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        self.runs[run_id] = RunStatus(RunState.STOPPED)


class ServerProcess:
    """`python -m forge_pipeline.server` with its own supervised Dagster, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data_dir = folder, folder / "data"
        # The code under test is this checkout's, also for processes that work in another folder.
        self.environment = {"FORGE_CHECKOUT": str(folder), "PYTHONPATH": str(CHECKOUT)}
        (folder / "definitions.py").write_text(DEFINITIONS)
        (folder / "workspace.yaml").write_text(
            textwrap.dedent(
                """
                load_from:
                  - python_file:
                      relative_path: definitions.py
                      location_name: forge
                """
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Studio:
        port = free_port()
        command = [sys.executable, "-m", "forge_pipeline.server", "--port", str(port), "--data-dir", str(self.data_dir)]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            command, env=os.environ | self.environment, stdout=log, stderr=log, cwd=Path.cwd()
        )
        studio = Studio(f"http://127.0.0.1:{port}", self.data_dir)
        wait_for(lambda: self._answers(studio))
        return studio

    def _answers(self, studio: Studio) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return studio.get("/api/health").status_code == 200
        return False

    def kill(self) -> None:
        """As a power cut would: nobody gets to tidy up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
