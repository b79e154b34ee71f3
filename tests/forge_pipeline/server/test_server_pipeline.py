"""The whole way, with the repository's own code location: upload, queue, train, look at the model, ask it, have its GGUF
files and bundle made, delete it.

Conformance rows T10 and P against models that Dagster's runs really trained. The queue takes them one after the other;
every further strategy and task is trained without Dagster in test_server_trains.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from forge_pipeline.annex_iv import verify_annex_iv_artifact
from forge_pipeline.export.gguf_reader import read_gguf
from forge_pipeline.integrity import loads_strict
from tests.forge_pipeline.server.served import (
    CHECKOUT,
    DOCUMENTS,
    PREFERENCES,
    QUESTIONS,
    TRAINABLE,
    ServerProcess,
    Studio,
    check_envelope,
    jsonl,
    wait_for,
)
from tests.standing import standing

pytestmark = pytest.mark.slow

ANSWER = "extractive-question-answering"
FILES: dict[str, list[dict[str, Any]]] = {
    "rows.jsonl": TRAINABLE,
    "preferences.jsonl": PREFERENCES,
    "documents.jsonl": DOCUMENTS,
    "questions.jsonl": QUESTIONS,
}
# Name -> what is sent, the metrics of its task, what the model is asked.
WAYS: dict[str, tuple[dict[str, Any], set[str], dict[str, Any]]] = {
    "sft": ({"dataset": "rows.jsonl"}, {"perplexity"}, {"prompt": "How much is 2 and 2?", "temperature": 0}),
    "rlhf": (
        {"strategy": "rlhf", "dataset": "preferences.jsonl"},
        {"reward_accuracy", "mean_reward"},
        {"prompt": "Question 3", "temperature": 0},
    ),
    "answers": (
        {"task": ANSWER, "dataset": "questions.jsonl"},
        {"exact_match", "f1"},
        {"prompt": QUESTIONS[0]["question"], "context": QUESTIONS[0]["context"]},
    ),
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "configs").mkdir()  # no line but the studio
    process = ServerProcess(folder)
    process.environment |= {
        "FORGE_CHECKOUT": str(CHECKOUT),
        "FORGE_CONFIGS": str(folder / "configs"),
        "FORGE_MODEL_ROOTS": str(tiny_model.parent),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    process.environment = standing(os.environ | process.environment)
    studio = process.start()
    for name, rows in FILES.items():
        assert studio.upload(name, jsonl(rows)).json()["validation"]["valid"]
    yield studio
    process.stop()


@pytest.fixture(scope="module")
def jobs(studio: Studio, tiny_model: Path) -> dict[str, str]:
    """All of them in the queue at once, before Dagster is ready."""
    body = {
        "num_train_epochs": 2,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "eval_split": 0.25,
        "max_seq_length": 96,
        "learning_rate": 0.01,
    }
    queued = {}
    for name, (sent, _, _) in WAYS.items():
        reply = studio.queue(model_name=str(tiny_model), **(body | sent))
        assert reply.status_code == 200, reply.text
        queued[name] = reply.json()["job_id"]
    assert [studio.job(job)["status"] for job in queued.values()] == ["queued"] * len(queued)
    return queued


@pytest.mark.parametrize("name", WAYS)
def test_a_model_is_trained_looked_at_asked_and_deleted(name: str, studio: Studio, jobs: dict[str, str]) -> None:
    sent, metrics, question = WAYS[name]
    job = studio.until_job(jobs[name], "completed", "failed", timeout=400)
    assert job["status"] == "completed", job["error"]
    assert job["current_step"] == job["total_steps"] == 4
    (model,) = [model for model in studio.get("/api/models").json()["models"] if model["id"] == job["model_id"]]
    assert (model["base_model"], model["task"]) == (job["request"]["model_name"], sent.get("task", "text-generation"))
    shown = {metric for metric, value in model["metrics"].items() if value is not None}
    assert metrics | {"final_loss"} <= shown
    details = studio.get(f"/api/models/{model['id']}").json()
    assert (details["strategy"], details["provider"]) == (sent.get("strategy", "sft"), "huggingface")
    assert details["job_id"] == jobs[name]
    answer = studio.post("/api/playground/generate", json={"model_id": model["id"], "max_new_tokens": 8, **question})
    assert answer.status_code == 200, answer.text
    assert answer.json()["tokens_generated"] <= 8
    if name == "sft":
        export(studio, model)
    assert studio.http.delete(f"/api/models/{model['id']}").status_code == 200
    assert model["id"] not in [left["id"] for left in studio.get("/api/models").json()["models"]]
    assert studio.job(jobs[name])["model_id"] is None


def export(studio: Studio, model: dict[str, Any]) -> None:
    """Make GGUF files and bundle of the model, with gates that were never asked, and look at all of them."""
    path = f"/api/models/{model['id']}"
    before = listed(studio, path)
    assert f"POST {path}/export" in before["bundle"][0]["why"]
    refused = studio.post(f"{path}/export", json={"quantizations": ["q4_k_m"]})
    assert "f16, q8_0" in check_envelope(refused, 400)
    queued = studio.post(f"{path}/export", json={}).json()
    assert queued["job_id"] in check_envelope(studio.post(f"{path}/export", json={}), 409)
    job = studio.until_job(queued["job_id"], "completed", "failed", timeout=240)
    assert (job["kind"], job["status"], job["model_id"]) == ("export", "completed", model["id"]), job["error"]
    lines = studio.get(f"/api/jobs/{job['job_id']}/logs").json()["lines"]
    assert {"annex_iv_bundle"} <= {line["stage"] for line in lines if line["source"] == "run"}

    found = listed(studio, path)
    (packed,) = found["bundle"]
    with zipfile.ZipFile(io.BytesIO(studio.get(packed["url"]).content)) as archive, TemporaryDirectory() as folder:
        archive.extractall(folder)
        bundle = Path(folder, "annex_iv")
        checked = verify_annex_iv_artifact(str(bundle / "annex_iv.json"))
        assert checked.valid, checked.reason
        manifest = loads_strict((bundle / "annex_iv.json").read_bytes())
    assert (manifest["label"], manifest["subjects"]["fine_tuned_model"]) == ("not released", model["uid"])
    assert "gguf_model" in manifest["subjects"]
    card = studio.get(found["card"][0]["url"]).text
    assert "**Not released.** Gates: not evaluated." in card
    assert "| benchmark | not evaluated |" in card
    assert [each["name"].split(".")[-2] for each in found["gguf"]] == ["f16", "q8_0"]
    with TemporaryDirectory() as folder:
        for each in found["gguf"]:
            file = Path(folder, each["name"])
            file.write_bytes(studio.get(each["url"]).content)
            metadata = read_gguf(file).metadata
            assert (metadata["forge.release"], metadata["forge.model_digest"]) == ("not released", model["uid"])


def listed(studio: Studio, path: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for each in studio.get(f"{path}/artifacts").json()["artifacts"]:
        found.setdefault(each["kind"], []).append(each)
    return found


def test_a_base_model_that_is_not_to_be_had_fails_the_job_by_name(studio: Studio, jobs: dict[str, str]) -> None:
    wait_for(lambda: studio.status()["status"] not in ("queued", "starting", "training"), timeout=400)
    assert studio.start(model_name="nobody/nothing").status_code == 200
    status = studio.until("completed", "failed", timeout=200)
    assert status["status"] == "failed"
    assert "nobody/nothing" in status["error"]
    assert os.fspath(CHECKOUT) not in status["error"]
