"""Weights and tokenizers to disk, in bytes that depend on what they are and on nothing else.

The libraries add paths of this machine, orders that follow the process's hash seed, how
a tokenizer happened to be loaded, and cards with nothing filled in. All that is taken
out, so that equal models give equal digests.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.integrity import canonical_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADAPTER_SETS = ("target_modules", "target_parameters", "exclude_modules", "modules_to_save")
_TOKENIZER_LOADING_STATE = ("is_local", "local_files_only", "name_or_path")


def write_adapter(model: "PeftModel", directory: Path, *, base: str, initial: Path | None = None) -> None:
    """Write an adapter's weights and configuration.

    Args:
        model: The model whose adapter is written.
        directory: An existing directory.
        base: The base model's name, as the recipe has it: PEFT would write this machine's path.
        initial: For PiSSA, which changes the base weights in memory: the adapter as it was before
            training, so that the difference is written as an ordinary LoRA adapter.
    """
    extra = {"path_initial_model_for_weight_conversion": str(initial)} if initial else {}
    model.save_pretrained(str(directory), **extra)
    (directory / "README.md").unlink(missing_ok=True)  # a template with nothing filled in
    path = directory / "adapter_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = base
    for key in _ADAPTER_SETS:
        if isinstance(values.get(key), list):
            values[key] = sorted(values[key])
    path.write_bytes(canonical_json(values))


def write_full_model(model: "PreTrainedModel", directory: Path, *, max_shard_bytes: int | None = None) -> None:
    """Write all weights as safetensors, in files of at most `max_shard_bytes` each, and the configuration."""
    limit = {} if max_shard_bytes is None else {"max_shard_size": max_shard_bytes}
    model.save_pretrained(str(directory), **limit)


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Write a tokenizer without the traces of how it was loaded."""
    tokenizer.save_pretrained(str(directory))
    path = directory / "tokenizer_config.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in _TOKENIZER_LOADING_STATE:
        values.pop(key, None)
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
