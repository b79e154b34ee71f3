"""Rewards for GRPO: answer match, answer format, the caller's own functions, a reward model.

A reward function takes TRL's keyword arguments (`completions`, `prompts`, one list for
each further column of the rows) and returns one number for each completion. A completion
is text, or a list of messages where the prompts are conversational; both are read alike.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, DataError, ModelError
from forge_pipeline.models.hub import hub_token, is_offline

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reward = Callable[..., list[float]]
Completion = str | Sequence[dict[str, Any]]

ANSWER_COLUMNS = ("answer", "gold_answer", "solution")

_ANSWER_LINE = re.compile(r"(?:answer\s*(?:is|:)|####)\s*(.+)", re.IGNORECASE)
_ANSWER_FORMAT = re.compile(r"(?:^|\n)\s*(?:answer\s*:|####)\s*\S.*\s*$", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Rewards:
    """What GRPO is rewarded by, and for each a tokenizer where it is a model, else None."""

    functions: "list[Reward | PreTrainedModel]"
    tokenizers: "list[PreTrainedTokenizerBase | None]"


def build_rewards(config: ForgeConfig, columns: Sequence[str]) -> Rewards:
    """The rewards that the recipe asks for, in its order; answer match and answer format if it names none.

    Args:
        columns: Of the tokenized rows.

    Raises:
        ConfigError: An import path does not lead to a function.
        DataError: Answer match has no column to compare with.
        ModelError: The reward model cannot be loaded.
    """
    training = config.training
    functions: list[Any] = [_imported(path) for path in training.grpo_reward_functions]
    tokenizers: list[Any] = [None] * len(functions)
    if training.grpo_reward_model:
        model, tokenizer = _reward_model(config, training.grpo_reward_model)
        functions.append(model)
        tokenizers.append(tokenizer)
    if not functions:
        functions = [answer_match(_answer_column(columns)), answer_format]
        tokenizers = [None, None]
    return Rewards(functions, tokenizers)


def answer_match(column: str) -> Reward:
    """A reward of 1.0 where the completion's final answer equals the row's `column`, else 0.0.

    Numbers are compared as numbers, with a relative tolerance of 1e-6; the rest as text without case.
    """

    def answer_match_reward(completions: Sequence[Completion], **columns: Any) -> list[float]:
        return [
            1.0 if _same(final_answer(text_of(completion)), str(wanted)) else 0.0
            for completion, wanted in zip(completions, columns[column], strict=True)
        ]

    return answer_match_reward


def answer_format(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """A reward of 0.2 for a completion whose last line is ``Answer: ...`` or ``#### ...``, else 0.0."""
    return [0.2 if _ANSWER_FORMAT.search(text_of(completion)) else 0.0 for completion in completions]


def text_of(completion: Completion) -> str:
    """The text of a completion, whether it is text or a list of messages."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message.get("content") or "") for message in completion)


def final_answer(text: str) -> str | None:
    """What a text gives as its answer: the last boxed, then the last announced one, then its last number."""
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip()
    announced = _ANSWER_LINE.findall(text)
    if announced:
        return str(announced[-1]).strip().rstrip(".")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _answer_column(columns: Sequence[str]) -> str:
    column = next((name for name in ANSWER_COLUMNS if name in columns), None)
    if column is None:
        raise DataError(
            f"training.trainer_type: grpo rewards answers that match a column named {' or '.join(ANSWER_COLUMNS)}, but "
            f"the rows have {', '.join(columns)}; add one, or set training.grpo_reward_functions"
        )
    return column


def _same(found: str | None, wanted: str) -> bool:
    if found is None or not wanted.strip():
        return False
    left, right = _number(found), _number(wanted)
    if left is not None and right is not None:
        return math.isclose(left, right, rel_tol=1e-6)
    return found.strip().casefold() == wanted.strip().rstrip(".").casefold()


def _number(text: str) -> float | None:
    """The one number in a text such as ``$1,200`` or ``12 apples``; None if there is none, or more than one."""
    found = _NUMBER.findall(text)
    return float(found[0].replace(",", "")) if len(found) == 1 else None


def _imported(path: str) -> Reward:
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"training.grpo_reward_functions: {path!r} cannot be imported ({error}); expected <module>:<function>, "
            "with the module on the import path"
        ) from error
    if not callable(function):
        raise ConfigError(f"training.grpo_reward_functions: {path!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]  # a callable from outside has no better type


def _reward_model(config: ForgeConfig, name: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import transformers

    source = {
        "revision": config.training.grpo_reward_model_revision,
        "token": hub_token(config),
        "local_files_only": is_offline(config),
    }
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, **source)
        return model, transformers.AutoTokenizer.from_pretrained(name, **source)
    except (OSError, ValueError) as error:
        raise ModelError(f"training.grpo_reward_model: {name!r} cannot be loaded: {error}") from error
