"""Real, tiny models in the registry of a served application: all weights, or an adapter with random ones.

Helpers, imported by the tests of this folder.
"""

import json
import shutil
from pathlib import Path

from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, resolve_base_model
from forge_pipeline.models.directory import ModelRecord, write_record
from forge_pipeline.registry import Registry
from tests.forge_pipeline.server.served import Studio


def register(studio: Studio, base: Path, name: str, *, chat: bool = True, adapter: int | None = None) -> int:
    """A model of the pipeline's own lines over the base model at `base`; returns its id.

    Args:
        chat: Whether its record says that a chat template rendered its rows.
        adapter: The seed of an adapter's weights; None: a full model, which is the base model's weights again.
    """
    directory = studio.data_dir / "store" / name
    if adapter is None:
        shutil.copytree(base, directory)
    else:
        write_adapter(base, directory, seed=adapter)
    return register_directory(studio, base, directory, name, chat=chat)


def register_directory(studio: Studio, base: Path, directory: Path, name: str, *, chat: bool = True) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token  # as the fine-tune leaves it
    tokenizer.save_pretrained(directory)
    nothing = Digest.of(name.encode())
    kind = "adapter" if (directory / "adapter_config.json").is_file() else "full"
    record = ModelRecord(
        kind=kind,  # type: ignore[arg-type]
        base_model=resolve_base_model(recipe_over(base)).record,
        trainer_type="sft",
        config_digest=nothing,
        dataset_digest=nothing,
        tokenized_digest=nothing,
        chat_template_digest=nothing if chat else None,
        seed=0,
    )
    write_record(directory, record)
    model = ModelDirectory.open(directory)
    registry = Registry(f"sqlite:///{studio.data_dir / 'registry.sqlite'}")
    row = registry.register_model(
        uid=model.digest, name=name, line="a_line", base_model="tiny", size_bytes=1000, path=str(directory)
    )
    registry.close()
    return row.id


def write_adapter(base: Path, directory: Path, *, seed: int, saved: list[str] | None = None) -> Path:
    """A LoRA adapter whose two matrices are both random, so that it changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    settings = LoraConfig(
        r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
        modules_to_save=saved,
    )  # fmt: skip
    adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.5)
    adapted.save_pretrained(directory)
    return directory


def recipe_over(base: Path) -> ForgeConfig:
    return ForgeConfig(
        name="tiny",
        model={"name_or_path": str(base), "load_in_4bit": False},
        lora={},
        training={},
        data={"dataset_name_or_path": "(none)"},
    )


def with_long_context(base: Path, directory: Path) -> Path:
    """The same weights, told that they read 8192 tokens: what is asked of them can take seconds."""
    shutil.copytree(base, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return directory
