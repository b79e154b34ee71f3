"""Shared by the library's tests: a recipe that trains the tiny llama."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig


@pytest.fixture(scope="session")
def tiny_model(tiny_llama: Path) -> Path:
    """A model directory: 2 layers, hidden size 32, a byte-level BPE of about 300 tokens."""
    return tiny_llama


@pytest.fixture
def recipe(tiny_model: Path) -> Callable[..., ForgeConfig]:
    """Builds a recipe of two steps on the tiny model; keyword arguments replace whole `training:` or other keys."""

    def build(**sections: dict[str, Any]) -> ForgeConfig:
        training = {
            "trainer_type": "sft",
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
        }
        model = {"name_or_path": str(tiny_model), "max_length": 64, "load_in_4bit": False}
        lora = {"r": 4, "alpha": 8}
        return ForgeConfig(
            name="tiny",
            model=model | sections.pop("model", {}),
            lora=lora | sections.pop("lora", {}),
            training=training | sections.pop("training", {}),
            data={"dataset_name_or_path": "rows.jsonl"} | sections.pop("data", {}),
            **sections,
        )

    return build
