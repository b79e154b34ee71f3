"""A whole deployment in a temporary folder: a tiny real model, real rows, a recipe, its own Dagster home."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.assets.warm_dagster import CHECKOUT, WarmDagster
from tests.standing import standing

_COMMAND = ["asset", "materialize", "-m", "assets.definitions", "--select"]
_COLD = [sys.executable, "-m", "dagster", *_COMMAND]
NOUNS = ["river", "garden", "engine", "letter", "window", "market", "bridge", "forest", "mirror", "pencil"]
VERBS = ["carry", "open", "paint", "follow", "answer", "measure"]


def rows() -> list[dict[str, Any]]:
    """Sixty short conversations, all different."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"How do I {verb} a {noun}?"},
                {"role": "assistant", "content": f"You {verb} the {noun} slowly, step {number}, and then you rest."},
            ]
        }
        for number, (noun, verb) in enumerate((noun, verb) for noun in NOUNS for verb in VERBS)
    ]


def tiny_recipe(model: Path, dataset: Path) -> dict[str, Any]:
    return {
        "owners": ["team:tests"],
        "model": {"name_or_path": str(model), "max_length": 64, "load_in_4bit": False},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["all-linear"]},
        "data": {
            "dataset_name_or_path": str(dataset),
            "license": "CC0-1.0",
            "category": "synthetic",
            "split": {"validation": 0.1, "test": 0.2},
            # Sixty sentences of one shape are near-duplicates of each other by construction.
            "audit": {"minhash_jaccard": 1.0, "max_split_overlap": 1.0},
        },
        "training": {"trainer_type": "sft", "max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
                     "learning_rate": 0.005, "eval_steps": 2},
        "evaluation": {
            "max_acceptable_loss": 20.0,
            "benchmark": {"enabled": True, "tasks": ["held_out"], "max_regression": 0.5, "limit": 6, "guards": ["release"]},
            "safety": {"enabled": True, "classifier": "rules", "test_prompts": "builtin", "limit": 6, "max_new_tokens": 4,
                       "guards": ["release"]},
        },
        "export": {"quantizations": ["f16"], "fidelity": {"prompts": 2, "max_tokens": 32}},
    }  # fmt: skip


@dataclass(frozen=True)
class Deployment:
    """Paths and environment of one deployment under test."""

    root: Path
    model: Path
    dagster: WarmDagster

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "DAGSTER_"))},
            "FORGE_HOME": str(self.root / "forge"),
            "FORGE_CONFIGS": str(self.root / "configs"),
            "DAGSTER_HOME": str(self.root / "dagster"),
            "FORGE_OPERATOR": "tests",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def write_recipe(self, name: str, **changes: Any) -> None:
        """A recipe of the tiny line; each change is a dotted path (with __ for the dot) and its value."""
        recipe = tiny_recipe(self.model, self.root / "rows.jsonl")
        for path, value in changes.items():
            *sections, key = path.split("__")
            inner = recipe
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[key] = value
        (self.root / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))

    def materialize(
        self, selection: str, *arguments: str, **environment: str | None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the documented CI command; a variable set to None is unset."""
        merged = {k: v for k, v in {**self.environment, **environment}.items() if v is not None}
        return self.dagster.run([*_COMMAND, selection, *arguments], standing(merged))

    def materialize_from_a_cold_start(self, selection: str) -> "subprocess.CompletedProcess[str]":
        """The same as a shell does it: with a new interpreter."""
        command = [*_COLD, selection]
        return subprocess.run(command, env=self.environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=500)

    def start(self, selection: str, **environment: str) -> "subprocess.Popen[bytes]":
        """The same, in the background."""
        quiet, merged = subprocess.DEVNULL, self.environment | environment
        return subprocess.Popen([*_COLD, selection], env=merged, cwd=CHECKOUT, stdout=quiet, stderr=quiet)

    @property
    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.root / "dagster"))

    def first(self, line: str, stage: str) -> dg.AssetMaterialization:
        """The oldest event of a stage: the one that the line itself made."""
        with self.instance as instance:
            records = instance.fetch_materializations(dg.AssetKey([line, stage]), limit=100).records
        made = records[-1].asset_materialization
        assert made is not None
        return made

    def latest(self, line: str, stage: str) -> dg.AssetMaterialization | None:
        with self.instance as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey([line, stage]))
        return event.asset_materialization if event else None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, llama_maker: Callable[..., Path]) -> Path:
    """Large enough for a GGUF export's blocks, with a vocabulary made from the rows."""
    texts = [message["content"] for row in rows() for message in row["messages"]]
    return llama_maker(tmp_path_factory.mktemp("llama-64"), texts, vocab_size=384, hidden_size=64)


@pytest.fixture(scope="session")
def warm_dagster() -> Iterator[WarmDagster]:
    with WarmDagster() as dagster:
        yield dagster


@pytest.fixture(scope="session")
def make_deployment(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm_dagster: WarmDagster
) -> Callable[[], Deployment]:
    def make() -> Deployment:
        root = tmp_path_factory.mktemp("deployment")
        for folder in ("configs", "dagster", "forge"):
            (root / folder).mkdir()
        (root / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        return Deployment(root, tiny_model, warm_dagster)

    return make


@pytest.fixture
def deployment(make_deployment: Callable[[], Deployment]) -> Deployment:
    return make_deployment()


@pytest.fixture(scope="module")
def judge_endpoint():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": '{"score": 8, "reason": "fine"}'}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
