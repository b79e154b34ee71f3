"""Every trainer type really trains, in two steps on a two-layer model."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.errors import ConfigError, DataError, TrainingError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory, load_base, load_tuned
from forge_pipeline.progress import Progress
from forge_pipeline.training import fine_tune, read_training_report

RAW = Digest.of(b"raw")

METHODS: dict[str, dict[str, object]] = {
    "sft": {},
    "dpo": {},
    "kto": {},
    "orpo": {},
    "simpo": {},
    "grpo": {"grpo_num_generations": 2, "grpo_max_completion_length": 4},
}


@pytest.mark.parametrize(("trainer_type", "training"), METHODS.items(), ids=METHODS)
def test_each_trainer_type_trains_an_adapter_that_loads_again(
    trainer_type: str, training: dict[str, object], recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"trainer_type": trainer_type} | training)
    result = fine_tune(config, tokenized(trainer_type), RAW, tmp_path / "model")

    assert result.report.steps == 2
    assert len(result.report.loss_history) >= 2
    assert result.report.trainable_parameters < result.report.total_parameters
    assert (result.report.eval_loss is not None) == (trainer_type != "grpo")
    assert result.model.record.trainer_type == trainer_type
    assert read_training_report(result.model) == result.report
    load_tuned(config, result.model)


def test_the_directory_holds_weights_tokenizer_record_and_report_and_nothing_else(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    result = fine_tune(recipe(), tokenized(), RAW, tmp_path / "model")
    assert {entry.path for entry in Manifest.of_directory(result.model.path).entries} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "forge_model.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_report.json",
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_two_runs_of_one_recipe_give_the_same_bytes(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    dataset = tokenized()
    config = recipe(training={"max_steps": 4}, lora={"target_modules": ["q_proj", "v_proj", "k_proj", "o_proj"]})
    first = fine_tune(config, dataset, RAW, tmp_path / "a" / "model")
    second = fine_tune(config, dataset, RAW, tmp_path / "b" / "model", work_dir=tmp_path / "work")
    manifests = [Manifest.of_directory(run.model.path) for run in (first, second)]
    assert manifests[0].differences(manifests[1]) == []
    assert first.model.digest == second.model.digest


def test_a_run_that_was_interrupted_and_resumed_gives_the_same_bytes_as_one_that_was_not(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    dataset, work = tokenized(), tmp_path / "work"
    config = recipe(training={"max_steps": 7, "save_steps": 2})

    def interrupt(moment: Progress) -> None:
        if moment.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, dataset, RAW, tmp_path / "model", work_dir=work, progress=interrupt)
    resumed = fine_tune(config, dataset, RAW, tmp_path / "model", work_dir=work, resume_from_checkpoint=True)
    straight = fine_tune(config, dataset, RAW, tmp_path / "straight" / "model")
    manifests = [Manifest.of_directory(run.model.path) for run in (resumed, straight)]
    assert manifests[0].differences(manifests[1]) == []


def test_another_seed_gives_another_adapter(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    dataset = tokenized()
    digests = {
        fine_tune(recipe(training={"seed": seed}), dataset, RAW, tmp_path / str(seed)).model.digest for seed in (1, 2)
    }
    assert len(digests) == 2


def test_no_file_names_a_path_of_this_machine(
    recipe: Callable, tokenized: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    config = recipe(model={"name_or_path": tiny_model.name})
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    for path in result.model.path.glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(), path.name
    assert json.loads((result.model.path / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        tiny_model.name
    )


def test_progress_tells_every_step_with_loss_and_learning_rate(
    recipe: Callable, tokenized: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Progress] = []
    config = recipe(training={"max_steps": 3, "logging_steps": 1})
    fine_tune(config, tokenized(), RAW, tmp_path / "model", progress=seen.append)
    steps = [moment for moment in seen if moment.message == "training" and moment.metrics]
    assert [(moment.step, moment.total) for moment in steps] == [(1, 3), (2, 3), (3, 3)]
    assert {"loss", "learning_rate", "epoch", "tokens_per_second"} <= steps[-1].metrics.keys()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "%|" not in printed.err


def test_every_weight_is_trained_where_the_recipe_asks_for_it(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(lora={"method": "none"})
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    assert result.model.record.kind == "full"
    assert result.report.dtype == "float32"
    assert result.report.trainable_parameters == result.report.total_parameters
    load_tuned(config, result.model)


def test_dpo_on_every_weight_compares_with_a_second_copy(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    config = recipe(lora={"method": "none"}, training={"trainer_type": "dpo"})
    assert fine_tune(config, tokenized("dpo"), RAW, tmp_path / "model").report.steps == 2


@pytest.mark.parametrize("method", ["dora", "rslora", "pissa"])
def test_an_adapter_variant_gives_the_trained_model_when_it_is_loaded_again(
    method: str, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    import torch

    config = recipe(
        lora={"method": method, "dropout": 0.0}, model={"dtype": "float32"}, training={"learning_rate": 5e-2}
    )
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        base = load_base(config)[0](input_ids=ids).logits
        tuned = load_tuned(config, result.model)[0](input_ids=ids, labels=ids)
    assert not torch.allclose(base, tuned.logits, atol=1e-3)
    assert result.report.eval_loss is not None
    assert _loss_on_validation(config, result.model, tokenized(name="-again")) == pytest.approx(
        result.report.eval_loss, rel=1e-3
    )


def _loss_on_validation(config, model: ModelDirectory, dataset) -> float:
    """Mean over the batches of two that evaluation used, each the mean over its learned tokens."""
    import torch

    tuned, _ = load_tuned(config, model)
    rows = dataset.table("validation").to_pylist()
    summed, tokens = 0.0, 0
    for row in rows:
        labels = torch.tensor(row["labels"])
        with torch.no_grad():
            logits = tuned(input_ids=torch.tensor(row["input_ids"])[None]).logits[0]
        summed += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").item()
        tokens += int((labels[1:] != -100).sum())
    return summed / tokens


def test_packed_rows_train_with_positions_that_start_again(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    result = fine_tune(recipe(training={"packing": True}), tokenized(packed=True), RAW, tmp_path / "model")
    assert result.report.steps == 2


def test_training_stops_early_when_the_evaluation_loss_rises(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    training = {"max_steps": 60, "eval_steps": 1, "early_stopping_patience": 1, "learning_rate": 1.0, "warmup_ratio": 0}
    result = fine_tune(recipe(training=training), tokenized(), RAW, tmp_path / "model")
    evaluations = [point.eval_loss for point in result.report.loss_history if point.eval_loss is not None]
    assert result.report.stopped_early
    assert result.report.eval_loss == min(evaluations)


def test_a_loss_that_is_no_number_stops_training_and_leaves_nothing(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(
        lora={"method": "none"},
        training={"learning_rate": 1e30, "max_steps": 6, "warmup_ratio": 0, "max_grad_norm": 1e30},
    )
    with pytest.raises(TrainingError, match=r"training diverged.*Nothing was saved"):
        fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_interrupt_ends_training_at_once_and_leaves_nothing(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    seen: list[int] = []

    def interrupt(moment: Progress) -> None:
        if moment.step == 2 and not seen:
            seen.append(moment.step)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fine_tune(recipe(training={"max_steps": 500}), tokenized(), RAW, tmp_path / "out" / "model", progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []


def test_dpo_goes_on_without_the_rows_whose_prompt_alone_is_too_long(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"trainer_type": "dpo", "max_steps": 6}, model={"max_length": 26})
    assert fine_tune(config, tokenized("dpo"), RAW, tmp_path / "model").report.steps == 6


REFUSALS: dict[str, tuple[dict[str, dict[str, object]], str, type[Exception], str]] = {
    "tokenized for another trainer type": (
        {"training": {"trainer_type": "dpo"}},
        "sft",
        DataError,
        r"was tokenized for sft, but training.trainer_type is dpo",
    ),
    "packed in the recipe only": ({"training": {"packing": True}}, "sft", DataError, r"is not packed"),
    "kto with single rows": (
        {"training": {"trainer_type": "kto", "per_device_train_batch_size": 1}},
        "kto",
        ConfigError,
        r"per_device_train_batch_size: found 1",
    ),
    "grpo with an odd group": (
        {"training": {"trainer_type": "grpo", "grpo_num_generations": 3}},
        "grpo",
        ConfigError,
        r"grpo_num_generations: found 3, which does not divide",
    ),
    "kto by length": (
        {"training": {"trainer_type": "kto", "group_by_length": True}},
        "kto",
        ConfigError,
        r"kto cannot batch rows by length",
    ),
}


@pytest.mark.parametrize(("sections", "made_for", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    sections: dict,
    made_for: str,
    error: type[Exception],
    words: str,
    recipe: Callable,
    tokenized: Callable,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=words):
        fine_tune(recipe(**sections), tokenized(made_for), RAW, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_occupied_output_directory_is_refused(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "keep.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="never overwritten"):
        fine_tune(recipe(), tokenized(), RAW, tmp_path / "model")
    assert (tmp_path / "model" / "keep.txt").read_text() == "mine"


def test_usage_is_measured_and_costs_only_what_has_a_price(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    free = fine_tune(recipe(), tokenized(), RAW, tmp_path / "free").usage
    assert free.estimated_cost is None
    assert free.gpu_seconds is None
    assert free.duration_seconds > 0
    assert free.cpu_seconds > 0
    assert free.peak_memory_bytes is not None
    assert free.peak_memory_bytes > 50e6
    priced = fine_tune(
        recipe(training={"gpu_cost_per_hour": 3600.0}), tokenized(name="2"), RAW, tmp_path / "paid"
    ).usage
    assert priced.estimated_cost == pytest.approx(priced.duration_seconds)
