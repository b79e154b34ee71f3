"""GRPO rewards."""

from collections.abc import Callable

import pytest

from forge_pipeline.errors import ConfigError, DataError, ModelError
from forge_pipeline.training.rewards import answer_format, answer_match, build_rewards, final_answer

ANSWERS: dict[str, tuple[str, str | None]] = {
    "announced": ("First 3, then 4.\nAnswer: 12", "12"),
    "announced with is": ("So the answer is Paris.", "Paris"),
    "boxed wins": (r"Answer: 3, that is \boxed{7}", "7"),
    "the last one": ("Answer: 3\nNo.\nAnswer: 5", "5"),
    "hashes": ("2 and 2\n#### 4", "4"),
    "last number": ("It was 7 or 8", "8"),
    "nothing": ("I do not know", None),
}


@pytest.mark.parametrize(("text", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_final_answer(text: str, expected: str | None) -> None:
    assert final_answer(text) == expected


MATCHES: dict[str, tuple[str, str, float]] = {
    "same number": ("Answer: 1,200", "1200", 1.0),
    "with a unit": ("Answer: $12", "12.0", 1.0),
    "another number": ("Answer: 13", "12", 0.0),
    "same text": ("Answer: Paris.", "paris", 1.0),
    "no answer": ("who knows", "12", 0.0),
    "an empty gold answer rewards nobody": ("Answer: ", "", 0.0),
}


@pytest.mark.parametrize(("completion", "gold", "expected"), MATCHES.values(), ids=MATCHES)
def test_answer_match(completion: str, gold: str, expected: float) -> None:
    reward = answer_match("answer")
    assert reward(completions=[completion], answer=[gold]) == [expected]
    messages = [{"role": "assistant", "content": completion}]
    assert reward(completions=[messages], answer=[gold]) == [expected]


def test_answer_format_rewards_a_last_line_that_announces() -> None:
    assert answer_format(["Think.\nAnswer: 4", "Answer: 4\nor so", "4"]) == [0.2, 0.0, 0.0]


def test_the_recipe_names_rewards_by_import_path(recipe: Callable) -> None:
    config = recipe(
        training={"trainer_type": "grpo", "grpo_reward_functions": ["forge_pipeline.training.rewards:answer_format"]}
    )
    assert build_rewards(config, ["prompt"]).functions == [answer_format]


BROKEN = {
    "no such module": ("nowhere_at_all:f", "cannot be imported"),
    "no such function": ("json:no_such", "cannot be imported"),
    "no colon": ("json", "cannot be imported"),
    "not a function": ("json:__name__", "is a str, not a function"),
}


@pytest.mark.parametrize(("path", "words"), BROKEN.values(), ids=BROKEN)
def test_an_import_path_that_leads_nowhere_is_refused(path: str, words: str, recipe: Callable) -> None:
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_functions": [path]})
    with pytest.raises(ConfigError, match=words):
        build_rewards(config, ["prompt"])


def test_answer_match_needs_a_column(recipe: Callable) -> None:
    with pytest.raises(DataError, match="answer or gold_answer or solution"):
        build_rewards(recipe(training={"trainer_type": "grpo"}), ["prompt", "topic"])


def test_a_reward_model_that_is_not_there_is_named(recipe: Callable, tmp_path) -> None:
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_model": str(tmp_path / "nothing")})
    with pytest.raises(ModelError, match="grpo_reward_model"):
        build_rewards(config, ["prompt"])
