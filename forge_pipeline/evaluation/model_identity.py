"""What a model's answers follow from beside the questions, as JSON whose digest is a key of `AnswerCache`."""

from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.tokenization import tokenizer_digest
from forge_pipeline.integrity import Digest
from forge_pipeline.models import BaseModel, ModelDirectory, load_tokenizer, resolve_base_model
from forge_pipeline.models.devices import choose_dtype, device_name, pick_device


def base_identity(config: ForgeConfig) -> dict[str, Any] | None:
    """The recipe's base model as `load_base` loads it; None where nobody knows its weights: a Hub id without a commit.

    Raises:
        ModelError: There is no such model, or no tokenizer.
    """
    base = resolve_base_model(config)
    weights = _weights_of(base)
    if weights is None:
        return None
    tokenizer = load_tokenizer(config)
    template = tokenizer.chat_template
    return {
        "weights": weights,
        "tokenizer": tokenizer_digest(tokenizer),
        "chat_template": None if template is None else Digest.of(str(template).encode()),
        **_machine(config),
    }


def tuned_identity(config: ForgeConfig, model: ModelDirectory) -> dict[str, Any] | None:
    """A fine-tuned model as `load_tuned` loads it; its directory holds tokenizer and chat template."""
    weights = _weights_of(resolve_base_model(config))
    if weights is None and model.record.kind == "adapter":
        return None
    return {"weights": model.digest, "base": weights, **_machine(config)}


def _weights_of(base: BaseModel) -> str | None:
    return base.digest or (f"{base.path}@{base.revision_resolved}" if base.revision_resolved else None)


def _machine(config: ForgeConfig) -> dict[str, Any]:
    """Another device, precision or attention rounds otherwise."""
    device = pick_device()
    return {
        "dtype": choose_dtype(config, device),
        "device": device_name(device),
        "attention": config.model.attn_implementation,
    }
