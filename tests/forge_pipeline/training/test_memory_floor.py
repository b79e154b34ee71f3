"""`check_memory` refuses what cannot fit, and nothing that might."""

from collections.abc import Callable
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models import resolve_base_model
from forge_pipeline.training.memory_floor import check_memory, memory_floor

Recipe = Callable[..., ForgeConfig]


def test_the_floor_is_the_weights_or_all_that_a_full_fine_tune_holds(recipe: Recipe) -> None:
    config = recipe(lora={"method": "none"})
    base = resolve_base_model(config)
    parts = memory_floor(config, base, "cpu")
    assert parts["gradients"] == parts["weights"]
    assert parts["optimizer"] == 2 * parts["weights"]
    assert set(memory_floor(recipe(), base, "cpu")) == {"weights"}
    assert set(memory_floor(recipe(lora={"method": "none"}, training={"optim": "lomo"}), base, "cpu")) == {"weights"}


def test_what_cannot_fit_is_refused_with_its_parts_and_a_way_out(recipe: Recipe) -> None:
    config = recipe(lora={"method": "none"})
    base = resolve_base_model(config)
    needed = sum(memory_floor(config, base, "cpu").values())
    check_memory(config, base, "cpu", room=needed)
    with pytest.raises(ModelError, match=r"weights .* gradients .* optimizer .*lora\.method: lora.*fit_check: false"):
        check_memory(config, base, "cpu", room=needed - 1)


PASSES: dict[str, tuple[dict[str, Any], int]] = {
    "it is switched off": ({"training": {"fit_check": False}}, 1),
    "the weights are sharded": ({}, 2),
}


@pytest.mark.parametrize("name", PASSES)
def test_nothing_is_refused_where(recipe: Recipe, name: str) -> None:
    sections, world_size = PASSES[name]
    config = recipe(**sections)
    check_memory(config, resolve_base_model(config), "cpu", world_size=world_size, room=1)


def test_this_machine_can_hold_the_tiny_model(recipe: Recipe) -> None:
    config = recipe()
    check_memory(config, resolve_base_model(config), "cpu")
