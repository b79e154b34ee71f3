"""Rewards that a program can check: JSON, patterns, and scorers as reasoning-gym has them.

Patterns run on google-re2, whose time grows with the text and never explodes: they meet
whatever a model in training writes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.errors import ConfigError, DataError, TrainingError

Completion = str | Sequence[dict[str, Any]]
Scorer = Callable[[str | None, dict[str, Any]], float]

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
# What TRL passes beside the columns of the rows.
_NOT_COLUMNS = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def valid_json(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """A reward of 1.0 for a completion that is JSON, bare or in its only fenced block, else 0.0.

    NaN and Infinity, which Python's parser takes, are not JSON (RFC 8259).
    """
    return [1.0 if _is_json(text_of(completion)) else 0.0 for completion in completions]


def pattern_reward(pattern: str) -> Callable[..., list[float]]:
    """A reward of 1.0 where `pattern` is found in the completion, else 0.0.

    Raises:
        ConfigError: re2 cannot compile it: a syntax error, or a back reference or lookaround, which re2 does not know.
    """
    compiled = _compiled(pattern, ConfigError, "training.grpo_reward_functions")

    def regex_reward(completions: Sequence[Completion], **columns: Any) -> list[float]:
        return [1.0 if compiled.search(text_of(completion)) else 0.0 for completion in completions]

    return regex_reward


def matches_pattern(completions: Sequence[Completion], pattern: Sequence[str], **columns: Any) -> list[float]:
    """A reward of 1.0 where the row's own `pattern` is found in its completion, else 0.0."""
    return [
        1.0 if _compiled(each, DataError, "column pattern").search(text_of(completion)) else 0.0
        for completion, each in zip(completions, pattern, strict=True)
    ]


def scorer_reward(score: Scorer, name: str, answer_of: Callable[[str], str | None]) -> Callable[..., list[float]]:
    """A reward from ``score(answer, entry)``, as reasoning-gym's datasets have it.

    Args:
        score: Takes the completion's final answer, or None, and its row as a dict; gives a number.
        name: Of the scorer, for errors and metrics.
        answer_of: Finds the final answer in a text.
    """

    def reward(completions: Sequence[Completion], prompts: Sequence[Any], **columns: Any) -> list[float]:
        rewards = []
        for number, completion in enumerate(completions):
            entry = _entry(columns, number)
            entry.setdefault("question", text_of(prompts[number]))
            rewards.append(_score(score, name, answer_of(text_of(completion)), entry))
        return rewards

    reward.__name__ = name.replace(":", ".")
    return reward


def reasoning_gym_reward(answer_of: Callable[[str], str | None]) -> Callable[..., list[float]]:
    """reasoning-gym's own score of each answer, by the dataset that ``metadata.source_dataset`` of its row names.

    Raises:
        OptionalDependencyError: reasoning-gym is not installed.
    """
    gym = require("reasoning_gym", extra="rewards", purpose="Rewards of reasoning-gym")

    def score(answer: str | None, entry: dict[str, Any]) -> float:
        metadata = entry.get("metadata")
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        source = metadata.get("source_dataset") if isinstance(metadata, Mapping) else None
        if not source:
            raise TrainingError("a row has no metadata.source_dataset, which names its scorer in reasoning-gym")
        return float(gym.get_score_answer_fn(source)(answer, {**entry, "metadata": metadata}))

    return scorer_reward(score, "reasoning_gym", answer_of)


def text_of(completion: Completion) -> str:
    """The text of a completion, whether it is text or a list of messages."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(message.get("content") or "") for message in completion)


def _is_json(text: str) -> bool:
    blocks = _FENCED.findall(text)
    if len(blocks) == 1:
        text = blocks[0]
    try:
        json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _compiled(pattern: str, error: type[ConfigError | DataError], where: str) -> Any:
    import re2  # type: ignore[import-untyped]  # google-re2 has no stubs

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as reason:
        raise error(f"{where}: {pattern!r} is no pattern of re2: {reason}") from reason


def _entry(columns: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The row of a completion, as a dict."""
    return {
        name: values[number]
        for name, values in columns.items()
        if name not in _NOT_COLUMNS and isinstance(values, Sequence) and not isinstance(values, str)
    }


def _score(score: Scorer, name: str, answer: str | None, entry: dict[str, Any]) -> float:
    value = score(answer, entry)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TrainingError(f"the scorer {name} gave {type(value).__name__}; expected a number for each answer")
    return float(value)
