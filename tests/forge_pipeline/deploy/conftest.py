"""Models to serve: whole, as an adapter, and as a GGUF file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, ModelRecord, load_tokenizer, resolve_base_model
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.writing import write_adapter, write_tokenizer


def record_of(config: Any, **values: Any) -> ModelRecord:
    nothing = Digest.of(b"")
    known = {
        "base_model": resolve_base_model(config).record, "trainer_type": "sft", "config_digest": nothing, "seed": 0,
        "dataset_digest": nothing, "tokenized_digest": nothing, "chat_template_digest": nothing,
    }  # fmt: skip
    return ModelRecord(**(known | values))


@pytest.fixture
def whole(recipe: Callable, tiny_model: Path, tmp_path: Path) -> ModelDirectory:
    shutil.copytree(tiny_model, tmp_path / "whole")
    write_record(tmp_path / "whole", record_of(recipe(), kind="full"))
    return ModelDirectory.open(tmp_path / "whole")


@pytest.fixture
def make_adapter(recipe: Callable, tiny_model: Path, tmp_path: Path) -> Callable[..., ModelDirectory]:
    def build(recorded: dict[str, Any] | None = None, **lora: Any) -> ModelDirectory:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        directory = tmp_path / "adapter"
        directory.mkdir()
        settings = {"r": 12, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | lora
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**settings))
        torch.manual_seed(2)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
        write_adapter(model, directory, base="tiny")
        write_tokenizer(load_tokenizer(recipe()), directory)
        write_record(directory, record_of(recipe(), kind="adapter", **(recorded or {})))
        return ModelDirectory.open(directory)

    return build


@pytest.fixture(scope="session")
def gguf_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    from forge_pipeline.export import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.f16.gguf"
    write_gguf(tiny_model, path, "f16", {}, name="tiny")
    return path
