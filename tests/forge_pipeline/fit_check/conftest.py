"""Architectures without weights, and recipes for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from tests.forge_pipeline.fit_check.architectures import ARCHITECTURES, TINY, Recipe


@pytest.fixture(scope="session")
def architecture() -> Callable[[str], Any]:
    """The configuration of a tiny model of a named architecture."""

    def build(name: str) -> Any:
        import transformers

        kind, values = ARCHITECTURES[name]
        return getattr(transformers, kind)(**(TINY | values))

    return build


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A directory with nothing but the `config.json` of a llama."""

    def write(**values: Any) -> Path:
        from transformers import LlamaConfig

        directory = tmp_path_factory.mktemp("architecture")
        LlamaConfig(**(TINY | values)).save_pretrained(directory)
        return directory

    return write


@pytest.fixture(scope="session")
def planned(directory_of: Callable[..., Path]) -> Recipe:
    """Builds a recipe on a llama of 12 layers without weights; `base` names another directory."""
    default = str(directory_of())

    def build(base: Path | None = None, **sections: dict[str, Any]) -> ForgeConfig:
        model = {"name_or_path": str(base or default), "max_length": 128, "load_in_4bit": False}
        training = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
        return ForgeConfig(
            name="planned",
            model=model | sections.get("model", {}),
            lora={"r": 8, "dropout": 0.0, "target_modules": ["all-linear"]} | sections.get("lora", {}),
            training=training | sections.get("training", {}),
            data={"dataset_name_or_path": "rows.jsonl"},
        )

    return build
