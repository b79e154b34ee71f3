"""What the trace says of known sizes, of every architecture, and the laws that hold between recipes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.fit_check.formula import estimate
from forge_pipeline.fit_check.parts import total
from forge_pipeline.fit_check.plan import plan_training
from forge_pipeline.fit_check.simulation import Simulated, simulate
from forge_pipeline.fit_check.skeleton import depths_of
from forge_pipeline.models.location import load_architecture
from tests.forge_pipeline.fit_check.architectures import ARCHITECTURES, LLAMA_8B, Recipe

_TRACED: dict[tuple[str, str, bool], Simulated] = {}  # a trace costs seconds, and many tests ask for the same


def traced(config: Any, *, device: Any = "cuda", in_full: bool = False) -> Simulated:
    key = (config.model_dump_json(), device, in_full)
    if key not in _TRACED:
        _TRACED[key] = simulate(config, load_architecture(config), plan_training(config, device), in_full=in_full)
    return _TRACED[key]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_traced_and_two_depths_tell_what_all_layers_need(
    architecture: Callable[[str], Any], planned: Recipe, name: str
) -> None:
    config, shape = planned(), architecture(name)
    plan = plan_training(config, "cuda")
    whole = simulate(config, shape, plan, in_full=True)
    assert whole.parts["weights"] > 0
    assert whole.parts["activations"] > 0
    assert simulate(config, shape, plan).total == pytest.approx(whole.total, rel=0.002)
    assert total(estimate(config, shape, plan)) == pytest.approx(whole.total, rel=0.6)


METHODS: dict[str, dict[str, Any]] = {
    "checkpointing": {"training": {"gradient_checkpointing": True}},
    "every weight": {"lora": {"method": "none"}},
    "every weight, accumulated": {"lora": {"method": "none"}, "training": {"gradient_accumulation_steps": 4}},
    "4-bit": {"model": {"load_in_4bit": True}},
    "4-bit, checkpointing": {"model": {"load_in_4bit": True}, "training": {"gradient_checkpointing": True}},
    "dora": {"lora": {"method": "dora"}},
    "pissa": {"lora": {"method": "pissa"}},
    "packing": {"training": {"packing": True}},
    "dpo": {"training": {"trainer_type": "dpo"}},
    "dpo, every weight": {"training": {"trainer_type": "dpo"}, "lora": {"method": "none"}},
    "kto": {"training": {"trainer_type": "kto"}},
    "orpo": {"training": {"trainer_type": "orpo"}},
    "simpo": {"training": {"trainer_type": "simpo"}},
    "reward": {"training": {"trainer_type": "reward"}},
    "grpo": {"training": {"trainer_type": "grpo", "grpo_num_generations": 2, "grpo_max_completion_length": 64}},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_traced_and_stretched_alike(planned: Recipe, name: str) -> None:
    config = planned(**METHODS[name])
    assert traced(config).total == pytest.approx(traced(config, in_full=True).total, rel=0.002)


def test_what_is_exact_is_exact(planned: Recipe) -> None:
    parts = traced(planned(lora={"method": "none"}), device="cpu").parts
    values = 512 * 64 * 2 + 64 + 12 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 160 + 2 * 64)
    assert parts["weights"] == pytest.approx(4 * values, rel=0.001)
    assert parts["optimizer"] >= 8 * values


LAWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "more rows": ({}, {"training": {"per_device_train_batch_size": 8}}),
    "longer rows": ({}, {"model": {"max_length": 256}}),
    "no checkpointing": ({"training": {"gradient_checkpointing": True}}, {}),
    "unpacked weights": ({"model": {"load_in_4bit": True}, "training": {"gradient_checkpointing": True}},
                         {"training": {"gradient_checkpointing": True}}),
    "float32": ({"model": {"dtype": "bfloat16"}}, {"model": {"dtype": "float32"}}),
    "a higher rank": ({}, {"lora": {"r": 64}}),
    "every weight": ({}, {"lora": {"method": "none"}}),
    "32-bit states": ({"lora": {"method": "none"}, "training": {"optim": "adamw_bnb_8bit"}},
                      {"lora": {"method": "none"}, "training": {"optim": "adamw_torch"}}),
    "chosen and rejected": ({}, {"training": {"trainer_type": "dpo"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_more_never_needs_less(planned: Recipe, name: str) -> None:
    less, more = (traced(planned(**sections)) for sections in LAWS[name])
    assert less.total < more.total


def test_checkpointing_keeps_fewer_activations_and_nothing_else_changes(planned: Recipe) -> None:
    with_it, without = traced(planned(training={"gradient_checkpointing": True})), traced(planned())
    assert with_it.parts["activations"] < without.parts["activations"] / 2
    assert with_it.parts["weights"] == without.parts["weights"]


def test_4_bit_weights_take_less_than_a_third_of_bfloat16(planned: Recipe, directory_of: Callable[..., Path]) -> None:
    base = directory_of(hidden_size=512, intermediate_size=1536, num_attention_heads=8)
    packed, plain = (
        traced(planned(base, model={"load_in_4bit": each, "dtype": "bfloat16"})).parts["weights"]
        for each in (True, False)
    )
    assert packed < plain / 3


def test_a_full_dpo_holds_a_second_copy_and_an_adapter_does_not(planned: Recipe) -> None:
    full = traced(planned(lora={"method": "none"}, training={"trainer_type": "dpo"}))
    assert full.parts["reference"] == pytest.approx(full.parts["weights"], rel=0.001)  # but for buffers
    assert "reference" not in traced(planned(training={"trainer_type": "dpo"})).parts


def test_irregular_ranks_are_traced_layer_by_layer(planned: Recipe) -> None:
    found = traced(planned(lora={"rank_pattern": {"0.self_attn.q_proj": 64}}))
    assert found.depths.near == found.depths.far == 12


def test_gemma_is_looked_at_in_whole_periods(architecture: Callable[[str], Any]) -> None:
    depths = depths_of(architecture("gemma3"))
    assert depths.far == depths.near  # 12 layers hold two periods of six: nothing to save


@pytest.mark.timeout(60)
def test_eight_billion_weights_are_checked_in_seconds_without_memory(
    planned: Recipe, directory_of: Callable[..., Path]
) -> None:
    config = planned(
        directory_of(**LLAMA_8B),
        model={"max_length": 2048, "dtype": "bfloat16"},
        lora={"r": 16},
        training={"per_device_train_batch_size": 2, "gradient_checkpointing": True},
    )
    traced(planned())  # imports
    began = time.process_time()
    found = traced(config)
    assert time.process_time() - began < 20
    assert found.parts["weights"] == pytest.approx(2 * 8.03e9, rel=0.001)
    assert found.trained == 41_943_040
    assert 17e9 < found.total < 21e9
