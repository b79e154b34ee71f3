"""Conformance rows T5 to T9, T12: what is refused before a job exists."""

import re
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import load_config
from forge_pipeline.server import availability, places
from forge_pipeline.server.errors import RequestError
from forge_pipeline.server.recipes import build_recipe, to_yaml
from forge_pipeline.server.schemas import StartTraining
from tests.forge_pipeline.server.served import TRAINABLE, Studio, check_envelope, jsonl, settings_for


@pytest.mark.parametrize("field", ["task", "model_name", "dataset"])
@pytest.mark.parametrize("value", [..., "", "   ", None, 7])
def test_a_required_field_is_required(server: Studio, field: str, value: Any) -> None:
    detail = check_envelope(server.start(**{field: value}), 400)
    assert field in detail


REFUSED = {
    "unknown task": {"task": "x"},
    "unknown provider": {"provider": "x"},
    "unknown strategy": {"strategy": "x"},
    "unknown key": {"num_epochs": 3},
    "no epochs": {"num_train_epochs": 0},
    "epochs as text": {"num_train_epochs": "3"},
    "epochs as a truth value": {"num_train_epochs": True},
    "half an epoch": {"num_train_epochs": 1.5},
    "no batch": {"per_device_train_batch_size": 0},
    "no evaluation batch": {"per_device_eval_batch_size": 0},
    "no accumulation": {"gradient_accumulation_steps": 0},
    "learning rate 0": {"learning_rate": 0},
    "learning rate 1.5": {"learning_rate": 1.5},
    "learning rate as text": {"learning_rate": "0.1"},
    "rank 0": {"lora_r": 0},
    "rank 257": {"lora_r": 257},
    "negative alpha": {"lora_alpha": -3},
    "dropout 5": {"lora_dropout": 5.0},
    "everything held out": {"eval_split": 1.0},
    "negative evaluation steps": {"eval_steps": -5},
    "warm-up of 9": {"warmup_ratio": 9},
    "negative clipping": {"max_grad_norm": -1},
    "unknown optimizer": {"optim": "banana"},
    "unknown schedule": {"lr_scheduler_type": "banana"},
    "unknown specs": {"compute_specs": "banana"},
    "unknown device": {"device": "tpu"},
    "unknown 4-bit type": {"bnb_4bit_quant_type": "int4"},
    "both precisions": {"fp16": True, "bf16": True},
    "both quantizations": {"use_4bit": True, "use_8bit": True},
    "no steps": {"max_steps": 0},
    "no length": {"max_seq_length": 0},
    "rlhf answers": {"strategy": "rlhf", "task": "extractive-question-answering"},
    "a reward model summarizes": {"strategy": "reward", "task": "summarization"},
    "dpo summarizes": {"strategy": "dpo", "task": "summarization"},
    "unsloth summarizes": {"provider": "unsloth", "task": "summarization"},
    "unsloth without a length": {"provider": "unsloth", "max_seq_length": -1},
    "8 bits": {"use_8bit": True},
    "qlora of a whole model": {"strategy": "qlora", "use_4bit": False},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_a_value_outside_its_range_is_refused(server: Studio, changes: dict[str, Any]) -> None:
    detail = check_envelope(server.start(**changes), 400)
    assert any(str(field) in detail for field in changes)


def test_what_cannot_run_here_is_refused_at_once_and_by_name(server: Studio) -> None:
    """Without its environment named, which only the person who starts the server can do."""
    detail = check_envelope(server.start(provider="unsloth"), 400)
    assert "'unsloth' cannot run here" in detail
    assert "pip install unsloth" in detail
    assert "backend_python" in check_envelope(server.start(backend_python="/usr/bin/python3"), 400)
    assert server.status()["status"] in ("idle", "failed")


def test_everything_that_is_offered_can_run_on_a_cpu_but_unsloth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "accelerator", lambda: "cpu")
    offers = availability.availability(Path(sys.executable))
    assert not offers.providers["unsloth"].available
    found = {**offers.strategies, **offers.tasks, "huggingface": offers.providers["huggingface"]}
    reasons = {name: offer.reason for name, offer in found.items() if not offer.available}
    assert reasons.keys() <= ({"qlora"} if find_spec("bitsandbytes") is None else set()), reasons


@pytest.mark.parametrize(
    ("python", "available"), [(None, False), (Path("/no/python"), False), (Path(sys.executable), True)], ids=str
)
def test_unsloth_runs_where_there_is_a_gpu_and_an_environment_for_it(
    python: Path | None, available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "accelerator", lambda: "cuda")
    offer = availability.availability(python).providers["unsloth"]
    assert offer.available is available
    assert available or "FORGE_UNSLOTH_PYTHON" in str(offer.reason)


def test_a_model_for_unsloth_gets_a_recipe_that_unsloth_takes(tmp_path: Path) -> None:
    body = {"task": "text-generation", "model_name": "a/b", "dataset": "d", "provider": "unsloth"}
    for strategy in ("sft", "qlora"):
        start = StartTraining.model_validate({**body, "strategy": strategy})
        recipe = build_recipe(start, job_id="train_0", base_model="a/b", dataset=tmp_path)
        assert recipe["model"]["backend"] == "unsloth"
        assert recipe["model"]["load_in_4bit"] is (strategy == "qlora")
    for refused in ({"strategy": "dpo"}, {"packing": True}, {"bnb_4bit_quant_type": "fp4"}):
        with pytest.raises(RequestError, match="unsloth"):
            build_recipe(
                StartTraining.model_validate(body | refused), job_id="train_0", base_model="a/b", dataset=tmp_path
            )


ROWS = {
    "no output": ([{"input": f"Question {i}"} for i in range(12)], {}, ["line 1", "'output'"]),
    "nine rows": (TRAINABLE[:9], {}, ["9 rows", "at least 10"]),
    "dpo on pairs": (TRAINABLE, {"strategy": "dpo"}, ["line 1", "'prompt'", "chosen"]),
    "kto without a label": ([{"prompt": "a", "completion": "b"}] * 12, {"strategy": "kto"}, ["'label'"]),
    "an empty answer": ([*TRAINABLE, {"input": "a", "output": " "}], {}, ["line 13", "'output' is empty"]),
    "two kinds of rows": ([*TRAINABLE, {"text": "abc"}], {}, ["line 13", "(text)"]),
    "a number for text": ([{"input": 1, "output": "b"}] * 12, {}, ["must be a string, found a number"]),
    "pairs that have nothing rejected": (
        [{"prompt": "a", "chosen": "b"}] * 12,
        {"strategy": "rlhf"},
        ["line 1", "'rejected'"],
    ),
    "an answer that is not there": (
        [{"context": "a", "question": "b", "answer": "c"}] * 12,
        {"task": "extractive-question-answering"},
        ["line 1", "does not stand in the context"],
    ),
    "questions to summarize": (
        [{"context": "a", "question": "b", "answer": "a"}] * 12,
        {"task": "summarization"},
        ["line 1", "(document, summary)"],
    ),
    "chats to pretrain on": (TRAINABLE, {"strategy": "pretraining"}, ["line 1", "'text'"]),
    "an unknown role": ([{"messages": [{"role": "boss", "content": "x"}]}] * 12, {}, ["'boss'"]),
}


@pytest.mark.parametrize(("rows", "changes", "words"), ROWS.values(), ids=ROWS.keys())
def test_rows_that_cannot_be_learnt_from_are_named(
    server: Studio, rows: list[dict[str, Any]], changes: dict[str, Any], words: list[str]
) -> None:
    name = server.upload("bad.jsonl", jsonl(rows)).json()["filename"]
    detail = check_envelope(server.start(dataset=name, **changes), 400)
    assert all(word in detail for word in words), detail


def test_a_line_that_is_no_json_is_named(server: Studio) -> None:
    lines = jsonl(TRAINABLE).splitlines()
    lines[2] = b'{"input": "broken'
    uploaded = server.upload("broken.jsonl", b"\n".join(lines)).json()
    assert not uploaded["validation"]["valid"]
    assert "line 3" in uploaded["validation"]["errors"][0]
    assert "line 3" in check_envelope(server.start(dataset=uploaded["filename"]), 400)


def test_a_dataset_that_is_not_there_is_404(server: Studio) -> None:
    root = server.data_dir.parent / "root"
    check_envelope(server.start(dataset="nothing.jsonl"), 404)
    check_envelope(server.start(dataset=str(root / "nothing.jsonl")), 404)


def test_paths_outside_the_roots_are_answered_in_the_same_words_whether_or_not_they_exist(
    server: Studio, tmp_path: Path
) -> None:
    real = tmp_path / "rows.jsonl"
    real.write_bytes(jsonl(TRAINABLE))
    link = server.data_dir.parent / "root" / "link.jsonl"
    link.symlink_to(real)
    outside = [
        str(real),
        str(tmp_path / "none.jsonl"),
        "/etc/passwd",
        "../../etc/passwd",
        "../registry.sqlite",
        str(link),
    ]
    details = {check_envelope(server.start(dataset=name), 400) for name in outside}
    assert len(details) == 1


def test_a_url_is_refused_and_not_fetched(server: Studio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/rows.jsonl"
        check_envelope(server.start(dataset=url), 400)
        check_envelope(server.start(model_name=url), 400)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("name", ["/etc", "../somewhere", "~/model", "a/b/c", "package:os/path.py", "file:x", "a\0b"])
def test_a_model_outside_the_roots_is_refused(server: Studio, name: str) -> None:
    check_envelope(server.start(model_name=name), 400)


FOLDERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "nothing in it": ((), "holds no model (no config.json)"),
    "an adapter": (("adapter_config.json",), "holds an adapter"),
    "a model": (("config.json",), None),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_a_model_is_refused_before_a_job_is_made(name: str, tmp_path: Path) -> None:
    files, words = FOLDERS[name]
    folder = tmp_path / "models" / "own"
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text("{}")
    settings = settings_for(tmp_path / "data", model_roots=(tmp_path / "models",))
    if words is None:
        assert places.base_model(settings, str(folder)) == str(folder)
        return
    with pytest.raises(RequestError, match=re.escape(f"model_name: the folder 'own' {words}")):
        places.base_model(settings, str(folder))


def test_float16_on_a_cpu_is_refused_at_once(server: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "accelerator", lambda: "cpu")
    assert check_envelope(server.start(fp16=True), 400).startswith("fp16: ")


WORDS = {
    "a number as text": ({"learning_rate": "0.1"}, "learning_rate: found '0.1'. Input should be a valid number"),
    "nothing": ({"dataset": " "}, "dataset: found ''. String should have at least 1 character"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_wrong_value_is_named_once_and_in_plain_words(server: Studio, name: str) -> None:
    changes, words = WORDS[name]
    assert check_envelope(server.start(**changes), 400) == words


def test_a_job_that_dagster_cannot_take_is_failed_and_the_next_start_is_free(server: Studio) -> None:
    for _ in range(2):
        check_envelope(server.start(), 503)
        status = server.status()
        assert status["status"] == "failed"
        assert "Dagster does not answer" in status["error"]


# Field of the start body, a value that is not the default -> where it stands in the recipe, and as what.
PLACES: dict[str, tuple[Any, tuple[str, str], Any]] = {
    "lora_r": (5, ("lora", "r"), 5),
    "lora_alpha": (7, ("lora", "alpha"), 7),
    "lora_dropout": (0.25, ("lora", "dropout"), 0.25),
    "bnb_4bit_compute_dtype": ("bfloat16", ("model", "bnb_4bit_compute_dtype"), "bfloat16"),
    "bnb_4bit_quant_type": ("fp4", ("model", "bnb_4bit_quant_type"), "fp4"),
    "use_nested_quant": (True, ("model", "bnb_4bit_use_double_quant"), True),
    "use_4bit": (True, ("model", "load_in_4bit"), True),
    "fp16": (True, ("model", "dtype"), "float16"),
    "bf16": (True, ("model", "dtype"), "bfloat16"),
    "num_train_epochs": (4, ("training", "num_train_epochs"), 4),
    "per_device_train_batch_size": (6, ("training", "per_device_train_batch_size"), 6),
    "per_device_eval_batch_size": (8, ("training", "per_device_eval_batch_size"), 8),
    "gradient_accumulation_steps": (9, ("training", "gradient_accumulation_steps"), 9),
    "gradient_checkpointing": (False, ("training", "gradient_checkpointing"), False),
    "max_grad_norm": (0.7, ("training", "max_grad_norm"), 0.7),
    "learning_rate": (0.01, ("training", "learning_rate"), 0.01),
    "weight_decay": (0.02, ("training", "weight_decay"), 0.02),
    "optim": ("sgd", ("training", "optim"), "sgd"),
    "lr_scheduler_type": ("polynomial", ("training", "lr_scheduler_type"), "polynomial"),
    "max_steps": (11, ("training", "max_steps"), 11),
    "warmup_ratio": (0.3, ("training", "warmup_ratio"), 0.3),
    "group_by_length": (False, ("training", "group_by_length"), False),
    "packing": (True, ("training", "packing"), True),
    "max_seq_length": (128, ("model", "max_length"), 128),
    "eval_split": (0.4, ("data", "split"), {"validation": 0.4}),
    "eval_steps": (13, ("training", "eval_steps"), 13),
    "strategy": ("dpo", ("training", "trainer_type"), "dpo"),
    "task": ("summarization", ("model", "task"), "summarization"),
}
# These say what to train on, or are refused unless they mean what would happen anyway, or are a label.
WITHOUT_A_PLACE = {
    "model_name",
    "dataset",
    "provider",
    "compute_specs",
    "device",
    "use_8bit",
    "use_chat_template",
}


def test_every_field_has_a_place_or_a_reason() -> None:
    assert len(StartTraining.model_fields) == 35
    assert PLACES.keys() | WITHOUT_A_PLACE == set(StartTraining.model_fields)


@pytest.mark.parametrize("field", PLACES)
def test_each_value_stands_in_the_recipe(field: str, tmp_path: Path) -> None:
    value, (section, key), expected = PLACES[field]
    required = {"task": "text-generation", "model_name": "a/b", "dataset": "d"}
    start = StartTraining.model_validate(required | {field: value})
    default = StartTraining(task="text-generation", model_name="a/b", dataset="d")
    assert getattr(default, field) != value
    recipe = build_recipe(start, job_id="train_0", base_model="a/b", dataset=tmp_path / "d")
    assert recipe[section][key] == expected
    path = tmp_path / "train_0.yaml"
    path.write_bytes(to_yaml(recipe))
    assert yaml.safe_load(path.read_text()) == recipe
    assert load_config(str(path)).name == "train_0"


@pytest.mark.parametrize(
    ("batch", "accumulation", "generations"), [(4, 1, 4), (1, 4, 4), (2, 1, 2), (3, 2, 3), (5, 1, 5)]
)
@pytest.mark.parametrize("strategy", ["grpo", "rlhf"])
def test_a_strategy_that_samples_gets_a_number_of_completions_that_fits_its_batch(
    strategy: str, batch: int, accumulation: int, generations: int, tmp_path: Path
) -> None:
    start = StartTraining(
        task="text-generation",
        model_name="a/b",
        dataset="d",
        strategy=strategy,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )
    recipe = build_recipe(start, job_id="train_0", base_model="a/b", dataset=tmp_path)
    assert recipe["training"]["grpo_num_generations"] == generations


def test_what_the_trainer_would_refuse_is_refused_at_once(server: Studio) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(12)]
    unpaired = server.upload("unpaired.jsonl", jsonl(rows)).json()["filename"]
    detail = check_envelope(server.start(dataset=unpaired, strategy="kto", per_device_train_batch_size=1), 400)
    assert "per_device_train_batch_size" in detail
    prompts = server.upload("prompts.jsonl", jsonl([{"prompt": f"q{i}"} for i in range(12)])).json()["filename"]
    body = {"strategy": "grpo", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    assert "at least 2" in check_envelope(server.start(dataset=prompts, **body), 400)


def test_qlora_is_sft_on_a_4_bit_base(tmp_path: Path) -> None:
    start = StartTraining(task="text-generation", model_name="a/b", dataset="d", strategy="qlora")
    recipe = build_recipe(start, job_id="train_0", base_model="a/b", dataset=tmp_path)
    assert recipe["training"]["trainer_type"] == "sft"
    assert recipe["model"]["load_in_4bit"] is True
