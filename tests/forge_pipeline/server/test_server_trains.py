"""T10 for every strategy and task: the recipe of a start body really trains a tiny model, which then answers over HTTP.

The stages are the library's, called in this process; that Dagster runs them for the service is test_server_pipeline's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest, tokenize
from forge_pipeline.models import load_tokenizer
from forge_pipeline.registry import Registry
from forge_pipeline.server import availability, recipes, row_schemas
from forge_pipeline.server.schemas import StartTraining
from forge_pipeline.training import fine_tune
from resources.candidates import register_candidate
from tests.forge_pipeline.server.served import (
    DOCUMENTS,
    PREFERENCES,
    PROMPTS,
    QUESTIONS,
    TEXTS,
    TRAINABLE,
    UNPAIRED,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
)

SUMMARY, ANSWER = "summarization", "extractive-question-answering"
PERPLEXITY = {"final_loss", "perplexity"}
ROUGE = {"rouge1", "rouge2", "rougeL", "rougeLsum"}
PAIRS = {"final_loss", "reward_accuracy"}
# Name -> task, strategy, rows, the class that trains, the metrics it must show.
WAYS: dict[str, tuple[str, str, list[dict[str, Any]], str, set[str]]] = {
    "sft": ("text-generation", "sft", TRAINABLE, "trl.SFTTrainer", PERPLEXITY),
    "qlora": ("text-generation", "qlora", TRAINABLE, "trl.SFTTrainer", PERPLEXITY),
    "pretraining": ("text-generation", "pretraining", TEXTS, "trl.SFTTrainer", PERPLEXITY),
    "dpo": ("text-generation", "dpo", PREFERENCES, "trl.DPOTrainer", PAIRS),
    "orpo": ("text-generation", "orpo", PREFERENCES, "trl.experimental.orpo.ORPOTrainer", PAIRS),
    "simpo": ("text-generation", "simpo", PREFERENCES, "trl.experimental.cpo.CPOTrainer", PAIRS),
    "kto": ("text-generation", "kto", UNPAIRED, "trl.KTOTrainer", {"final_loss"}),
    "grpo": ("text-generation", "grpo", PROMPTS, "trl.GRPOTrainer", {"final_loss", "mean_reward"}),
    "reward": ("text-generation", "reward", PREFERENCES, "trl.RewardTrainer", PAIRS),
    "rlhf": ("text-generation", "rlhf", PREFERENCES, "trl.RLOOTrainer", {*PAIRS, "mean_reward"}),
    "summaries by a causal model": (SUMMARY, "sft", DOCUMENTS, "trl.SFTTrainer", {*PERPLEXITY, *ROUGE}),
    "summaries": (SUMMARY, "sft", DOCUMENTS, "transformers.Seq2SeqTrainer", {*PERPLEXITY, *ROUGE}),
    "answers": (ANSWER, "sft", QUESTIONS, "transformers.Trainer", {"final_loss", "exact_match", "f1"}),
    "answers on a 4-bit base": (
        ANSWER,
        "qlora",
        QUESTIONS,
        "transformers.Trainer",
        {"final_loss", "exact_match", "f1"},
    ),
    "summaries on a 4-bit base": (SUMMARY, "qlora", DOCUMENTS, "transformers.Seq2SeqTrainer", {*PERPLEXITY, *ROUGE}),
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path_factory.mktemp("trains"))) as studio:
        yield studio


def train(studio: Studio, base: Path, name: str, folder: Path) -> tuple[int, str]:
    """What the studio line does with a job's recipe; returns the model's id, and which class trained."""
    task, strategy, rows, *_ = WAYS[name]
    start = StartTraining.model_validate(
        {
            "task": task, "strategy": strategy, "model_name": str(base), "dataset": "rows.jsonl", "max_steps": 2,
            "max_seq_length": 96, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
            "learning_rate": 0.01, "eval_split": 0.25, "lora_r": 4,
        }
    )  # fmt: skip
    availability.check_runnable(start)
    dataset = folder / "rows.jsonl"
    dataset.write_bytes(jsonl(rows))
    assert row_schemas.inspect_file(dataset, row_schemas.accepted(task, strategy)).valid
    job_id = f"train_{list(WAYS).index(name):012x}"
    recipe = recipes.build_recipe(start, job_id=job_id, base_model=str(base), dataset=dataset)
    (studio.data_dir / "studio" / "jobs" / f"{job_id}.yaml").write_bytes(recipes.to_yaml(recipe))
    config = ForgeConfig(**yaml.safe_load(recipes.to_yaml(recipe)))
    raw = ingest(config, folder / "raw")
    tokens = tokenize(config, raw, load_tokenizer(config), folder / "tokens")
    made = fine_tune(config, tokens, raw.digest, studio.data_dir / "models" / job_id)
    assert made.report.steps == 2
    registry = Registry(f"sqlite:///{studio.data_dir / 'registry.sqlite'}")
    row = register_candidate(registry, config, made.model, line="studio", run_id="run", job_id=job_id)
    registry.close()
    return row.id, made.report.trainer_class


@pytest.mark.parametrize("name", WAYS)
def test_what_is_offered_trains_is_measured_and_answers(
    name: str, studio: Studio, tiny_model: Path, tiny_t5: Path, tmp_path: Path
) -> None:
    task, strategy, _, trainer, metrics = WAYS[name]
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    model_id, trained_by = train(studio, tiny_t5 if "Seq2Seq" in trainer else tiny_model, name, tmp_path)
    assert trained_by == trainer
    listed = next(model for model in studio.get("/api/models").json()["models"] if model["id"] == model_id)
    assert listed["task"] == ("reward-modeling" if strategy == "reward" else task)
    assert listed == {key: studio.get(f"/api/models/{model_id}").json()[key] for key in listed}
    shown = {metric for metric, value in listed["metrics"].items() if value is not None}
    assert metrics <= shown <= metrics | {"final_loss"}, listed["metrics"]
    ask(studio, model_id, "reward" if strategy == "reward" else task)


def ask(studio: Studio, model_id: int, task: str) -> None:
    """What one asks such a model, twice because the second time it is in memory; and what it has no use for."""
    context: str = QUESTIONS[0]["context"]
    asked: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "text-generation": ({"prompt": "How much is 2?", "temperature": 0}, {"context": "a"}),
        SUMMARY: ({"prompt": DOCUMENTS[0]["document"]}, {"completion": "a"}),
        ANSWER: ({"prompt": "What color is it?", "context": context}, {"completion": "a"}),
        "reward": ({"prompt": "Question 1", "completion": "Right 1"}, {"context": "a"}),
    }
    fields, useless = asked[task]
    body = {"model_id": model_id, "max_new_tokens": 8, **fields}
    replies = [studio.post("/api/playground/generate", json=body) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 200], replies[0].text
    first, second = (reply.json() | {"generation_time_ms": 0} for reply in replies)
    assert first == second
    assert first["tokens_generated"] <= 8
    assert isinstance(first["score"], float) is (task in (ANSWER, "reward"))
    if task == ANSWER:
        assert context[first["span"]["start"] : first["span"]["stop"]] == first["generated_text"]
    elif task == "reward":
        assert first["generated_text"] == ""
    reply = studio.post("/api/playground/generate", json=body | useless)
    assert next(iter(useless)) in check_envelope(reply, 400)
    for needed in {"context", "completion"} & fields.keys():
        reply = studio.post("/api/playground/generate", json={k: v for k, v in body.items() if k != needed})
        assert f"{needed}: is required" in check_envelope(reply, 400)
