"""A reward model as a reward: each completion after its prompt, rendered as in the model's training.

TRL reads a score from the last token it is given, and trains reward models on texts that end
with the end-of-sequence token but scores completions without it. Here both are the same:
conversations go through the chat template, plain texts end with that token.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ModelError
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.devices import pick_device
from forge_pipeline.models.directory import RECORD_FILE, ModelDirectory
from forge_pipeline.models.heads import HEADS
from forge_pipeline.models.hub import hub_token, is_offline
from forge_pipeline.models.loading import load_tuned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 16  # texts in a forward pass


def reward_model_reward(config: ForgeConfig, name: str, revision: str | None = None) -> Callable[..., list[float]]:
    """The scores of `training.grpo_reward_model`: a directory that trainer_type reward wrote, or a model of the Hub.

    Raises:
        ModelError: It cannot be loaded, or has no trained score.
    """
    path = Path(name).expanduser()
    if (path / RECORD_FILE).is_file():
        return scoring(*load_reward_model(config, ModelDirectory.open(path)))
    return scoring(*_foreign(config, name, revision))


def load_reward_model(
    config: ForgeConfig, directory: ModelDirectory, base: BaseModel | None = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model that trainer_type reward wrote.

    Args:
        config: Of any recipe: the base model is the one that the reward model's record names.
        base: What an adapter belongs on where that is no published model.

    Raises:
        ModelError: It is no reward model, or its base model is not there.
    """
    record = directory.record
    if record.head != "sequence-classification":
        raise ModelError(
            f"training.grpo_reward_model: {directory.path} was trained with trainer_type {record.trainer_type} and "
            "gives no scores; name a directory of trainer_type reward"
        )
    origin = record.base_model
    section = {"name_or_path": origin.name_or_path, "revision": origin.revision_resolved or origin.revision_requested}
    own = config.model_copy(update={"model": config.model.model_copy(update=section)})
    return load_tuned(own, directory, base=base)


def scoring(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", name: str = "reward_model"
) -> Callable[..., list[float]]:
    """A reward function that asks `model`, whose only output is a score."""
    import torch

    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The score is read from the last token that is no padding.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.eval()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        rows = [_ids(tokenizer, *pair)[-limit:] for pair in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            width = max(len(ids) for ids in batch)
            padding = [[tokenizer.pad_token_id] * (width - len(ids)) for ids in batch]
            ids = torch.tensor([[*each, *rest] for each, rest in zip(batch, padding, strict=True)], device=model.device)
            mask = torch.tensor(
                [[1] * len(each) + [0] * len(rest) for each, rest in zip(batch, padding, strict=True)],
                device=model.device,
            )
            with torch.no_grad():
                scores += model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float().tolist()
        return scores

    reward.__name__ = name
    return reward


def _ids(tokenizer: "PreTrainedTokenizerBase", prompt: Any, completion: Any) -> list[int]:
    if isinstance(prompt, str):
        end = tokenizer.eos_token or ""
        text = prompt + completion
        return list(tokenizer(text if text.endswith(end) else text + end, verbose=False)["input_ids"])
    text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _foreign(config: ForgeConfig, name: str, revision: str | None) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import transformers

    kind = HEADS["sequence-classification"]
    source = {"revision": revision, "token": hub_token(config), "local_files_only": is_offline(config)}
    try:
        model, found = getattr(transformers, kind.auto_class).from_pretrained(
            name, output_loading_info=True, **kind.options, **source
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"training.grpo_reward_model: {name!r} cannot be loaded: {error}") from error
    if found["missing_keys"]:
        raise ModelError(
            f"training.grpo_reward_model: {name!r} is no reward model: {min(found['missing_keys'])} is not among its "
            "weights, and would be noise; train one with trainer_type reward"
        )
    return model.to(pick_device()), tokenizer
