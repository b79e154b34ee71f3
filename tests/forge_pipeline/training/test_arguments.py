"""The recipe as TRL arguments, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.training.arguments import build_arguments, groups_by_length, planned_steps
from forge_pipeline.training.methods import METHODS, load_classes


def build(config: Any, **options: Any) -> dict[str, Any]:
    defaults = {"device": "cpu", "dtype": "bfloat16", "bfloat16": True, "rows": 100, "validation_rows": 0}
    return build_arguments(config, **(defaults | {"work_dir": Path("work"), "keep": False} | options))


PRECISION: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[bool, bool]]] = {
    "bfloat16 weights on a CPU are not cast again": ({}, {}, (False, False)),
    "float32 weights on a CPU that knows bfloat16": ({}, {"dtype": "float32"}, (True, False)),
    "float32 weights on a CPU that does not": ({}, {"dtype": "float32", "bfloat16": False}, (False, False)),
    "float32 asked for": ({"dtype": "float32"}, {"dtype": "float32"}, (False, False)),
    "a new GPU": ({}, {"device": "cuda"}, (True, False)),
    "an old GPU": ({}, {"device": "cuda", "dtype": "float32", "bfloat16": False}, (False, True)),
}


@pytest.mark.parametrize(("model", "options", "expected"), PRECISION.values(), ids=PRECISION)
def test_autocast(model: dict, options: dict, expected: tuple[bool, bool], recipe: Callable) -> None:
    arguments = build(recipe(model=model), **options)
    assert (arguments["bf16"], arguments["fp16"]) == expected


@pytest.mark.parametrize(
    ("chosen", "device", "expected"),
    [("auto", "cpu", False), ("auto", "cuda", True), (True, "cpu", True), (False, "cuda", False)],
)
def test_gradients_are_checkpointed_where_memory_is_dear(
    chosen: Any, device: str, expected: bool, recipe: Callable
) -> None:
    arguments = build(recipe(training={"gradient_checkpointing": chosen}), device=device)
    assert arguments["gradient_checkpointing"] is expected


@pytest.mark.parametrize(("ratio", "steps"), [(0.0, 0), (0.1, 10), (0.25, 25), (1.0, 100)])
def test_the_warm_up_is_the_share_of_the_steps_that_the_recipe_asks_for(
    ratio: float, steps: int, recipe: Callable, tmp_path: Path
) -> None:
    _, config_class = load_classes(METHODS["sft"])
    arguments = build(recipe(training={"warmup_ratio": ratio}), work_dir=tmp_path)
    assert config_class(**arguments).get_warmup_steps(100) == steps


def test_early_stopping_saves_what_it_evaluates(recipe: Callable) -> None:
    config = recipe(training={"max_steps": 100, "eval_steps": 10, "save_steps": 25})
    assert build(config)["save_strategy"] == "no"
    arguments = build(config, validation_rows=5)
    assert arguments["load_best_model_at_end"] is True
    assert arguments["save_steps"] == arguments["eval_steps"] == 10
    short = build(recipe(training={"max_steps": 10, "eval_steps": 10}), validation_rows=5)
    assert "load_best_model_at_end" not in short
    assert short["eval_strategy"] == "steps"


STEPS = {
    "max_steps wins": ({"max_steps": 7}, 7),
    "whole batches": ({"max_steps": -1, "num_train_epochs": 1}, 50),
    "accumulation": ({"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 4}, 26),
    "grpo repeats prompts": (
        {"max_steps": -1, "num_train_epochs": 1, "trainer_type": "grpo", "grpo_num_generations": 2},
        100,
    ),
}


@pytest.mark.parametrize(("training", "expected"), STEPS.values(), ids=STEPS)
def test_planned_steps(training: dict, expected: int, recipe: Callable) -> None:
    assert planned_steps(recipe(training=training), rows=100) == expected


def test_rows_are_grouped_by_length_unless_the_recipe_or_the_method_says_no(recipe: Callable) -> None:
    assert groups_by_length(recipe())
    assert not groups_by_length(recipe(training={"group_by_length": False}))
    assert not groups_by_length(recipe(training={"packing": True}))
    assert not groups_by_length(recipe(data={"shuffle": False}))
    assert not groups_by_length(recipe(training={"trainer_type": "kto"}))
    assert build(recipe(data={"shuffle": False}))["train_sampling_strategy"] == "sequential"


@pytest.mark.parametrize("trainer_type", METHODS)
def test_trl_takes_every_argument(trainer_type: str, recipe: Callable, tmp_path: Path) -> None:
    _, config_class = load_classes(METHODS[trainer_type])
    config = recipe(training={"trainer_type": trainer_type, "grpo_num_generations": 2})
    config_class(**build(config, work_dir=tmp_path, validation_rows=3))
