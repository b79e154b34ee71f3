"""The whole way, with the repository's own code location: upload, train, look at the model, ask it, delete it.

Conformance rows T10 (text generation) and P against models that were really trained.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forge_pipeline.server.served import CHECKOUT, PREFERENCES, TRAINABLE, ServerProcess, Studio, jsonl, wait_for

pytestmark = pytest.mark.slow


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
    studio = process.start()
    studio.upload("rows.jsonl", jsonl(TRAINABLE))
    studio.upload("preferences.jsonl", jsonl(PREFERENCES))
    labelled = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(12)]
    studio.upload("unpaired.jsonl", jsonl(labelled))
    studio.upload("prompts.jsonl", jsonl([{"prompt": f"What is {i}?", "answer": str(i)} for i in range(12)]))
    wait_for(lambda: studio.get("/api/health").json()["launcher"] == "ready", timeout=180)
    yield studio
    process.stop()


DATASETS = {
    "sft": "rows.jsonl",
    "dpo": "preferences.jsonl",
    "orpo": "preferences.jsonl",
    "simpo": "preferences.jsonl",
    "kto": "unpaired.jsonl",
    "grpo": "prompts.jsonl",
}


@pytest.mark.parametrize(("strategy", "dataset"), DATASETS.items(), ids=DATASETS)
def test_a_model_is_trained_looked_at_asked_and_deleted(
    studio: Studio, tiny_model: Path, strategy: str, dataset: str
) -> None:
    body = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "eval_split": 0.2,
    }
    started = studio.start(
        model_name=str(tiny_model), dataset=dataset, strategy=strategy, max_seq_length=64, learning_rate=0.01, **body
    )
    assert started.status_code == 200, started.text
    status = studio.until("completed", "failed", timeout=400)
    assert status["status"] == "completed", status["error"]
    assert status["current_step"] == status["total_steps"] > 2
    (model,) = studio.get("/api/models").json()["models"]
    assert model["base_model"] == str(tiny_model)
    details = studio.get(f"/api/models/{model['id']}").json()
    assert details["strategy"] == strategy
    assert isinstance(details["metrics"]["final_loss"], float)
    question = {"model_id": model["id"], "prompt": "How much is 2 and 2?", "max_new_tokens": 8, "temperature": 0}
    answer = studio.post("/api/playground/generate", json=question)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tokens_generated"] <= 8
    assert studio.http.delete(f"/api/models/{model['id']}").status_code == 200
    assert studio.get("/api/models").json() == {"models": []}


def test_a_base_model_that_is_not_to_be_had_fails_the_job_by_name(studio: Studio) -> None:
    assert studio.start(model_name="nobody/nothing").status_code == 200
    status = studio.until("completed", "failed", timeout=200)
    assert status["status"] == "failed"
    assert "nobody/nothing" in status["error"]
    assert os.fspath(CHECKOUT) not in status["error"]
