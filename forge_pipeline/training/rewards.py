"""Rewards for GRPO: answers, JSON, patterns, scorers, the caller's own functions, a reward model.

A reward function takes TRL's keyword arguments (`completions`, `prompts`, one list for
each further column of the rows) and returns one number for each completion. A completion
is text, or a list of messages where the prompts are conversational; both are read alike.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.training.reward_models import reward_model_reward
from forge_pipeline.training.verifiable_rewards import (
    Completion,
    matches_pattern,
    pattern_reward,
    reasoning_gym_reward,
    scorer_reward,
    text_of,
    valid_json,
)

__all__ = ["Reward", "Rewards", "answer_format", "answer_match", "build_rewards", "final_answer", "text_of"]

Reward = Callable[..., list[float]]

ANSWER_COLUMNS = ("answer", "gold_answer", "solution")

_ANSWER_LINE = re.compile(r"(?:answer\s*(?:is|:)|####)\s*(.+)", re.IGNORECASE)
_ANSWER_FORMAT = re.compile(r"(?:^|\n)\s*(?:answer\s*:|####)\s*\S.*\s*$", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Rewards:
    """What GRPO is rewarded by, in the order of the recipe's weights."""

    functions: list[Reward]


def build_rewards(config: ForgeConfig, columns: Sequence[str]) -> Rewards:
    """The rewards that the recipe asks for, in its order; answer match and answer format if it names none.

    Args:
        columns: Of the tokenized rows.

    Raises:
        ConfigError: An import path does not lead to a function, or a pattern cannot be compiled.
        DataError: A reward reads a column that the rows do not have.
        ModelError: The reward model cannot be loaded.
        OptionalDependencyError: reasoning-gym is asked for and not installed.
    """
    training = config.training
    functions = [_reward(spelling, columns) for spelling in training.grpo_reward_functions]
    if training.grpo_reward_model:
        functions.append(reward_model_reward(config, training.grpo_reward_model, training.grpo_reward_model_revision))
    return Rewards(functions or [answer_match(_answer_column(columns)), answer_format])


def _reward(spelling: str, columns: Sequence[str]) -> Reward:
    """One entry of `training.grpo_reward_functions`."""
    kind, sign, value = spelling.partition("=")
    if sign and kind == "regex":
        return pattern_reward(value)
    if sign and kind == "scorer":
        return scorer_reward(_imported(value), value, final_answer)
    if spelling == "answer_match":
        return answer_match(_answer_column(columns))
    if spelling == "reasoning_gym":
        _check_column("metadata", spelling, columns)
        return reasoning_gym_reward(final_answer)
    if spelling == "matches_pattern":
        _check_column("pattern", spelling, columns)
    own: dict[str, Reward] = {
        "answer_format": answer_format, "valid_json": valid_json, "matches_pattern": matches_pattern,
    }  # fmt: skip
    return own[spelling] if spelling in own else _imported(spelling)


def _check_column(column: str, reward: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise DataError(
            f"training.grpo_reward_functions: {reward} reads the column {column}, but the rows have "
            f"{', '.join(columns)}; add it, or take another reward"
        )


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


def _imported(path: str) -> Callable[..., Any]:
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
