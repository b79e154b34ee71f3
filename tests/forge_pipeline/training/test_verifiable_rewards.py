"""Rewards that a program checks: JSON, patterns, scorers."""

from collections.abc import Callable
from typing import Any

import pytest

from forge_pipeline.errors import ConfigError, DataError, TrainingError
from forge_pipeline.training.rewards import build_rewards, final_answer
from forge_pipeline.training.verifiable_rewards import matches_pattern, pattern_reward, scorer_reward, valid_json

JSON = {
    "an object": ('{"a": [1, 2.5, null]}', 1.0),
    "white space around": ("\n  [true]\n", 1.0),
    "in its only fence": ('Here it is:\n```json\n{"a": 1}\n```', 1.0),
    "in one of two fences": ("```\n1\n```\n```\n2\n```", 0.0),
    "words around": ('Sure: {"a": 1}', 0.0),
    "NaN, which Python takes": ('{"a": NaN}', 0.0),
    "single quotes": ("{'a': 1}", 0.0),
    "nothing": ("", 0.0),
    "nested deeper than the parser goes": ("[" * 100_000, 0.0),
}


@pytest.mark.parametrize(("text", "expected"), JSON.values(), ids=JSON)
def test_valid_json(text: str, expected: float) -> None:
    assert valid_json([text]) == [expected]
    assert valid_json([[{"role": "assistant", "content": text}]]) == [expected]


def test_a_pattern_is_looked_for_anywhere_in_the_completion() -> None:
    assert pattern_reward(r"(?i)\byes\b")(["Oh YES.", "eyes"]) == [1.0, 0.0]


def test_a_pattern_that_would_explode_in_a_backtracking_engine_takes_no_time() -> None:
    assert pattern_reward(r"(a+)+$")(["a" * 50_000 + "b"]) == [0.0]


def test_each_row_can_bring_its_own_pattern() -> None:
    assert matches_pattern(["12", "12"], pattern=[r"^\d+$", "^1$"]) == [1.0, 0.0]
    with pytest.raises(DataError, match="column pattern: '\\(' is no pattern of re2"):
        matches_pattern(["x"], pattern=["("])


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "(?=a)"], ids=["syntax", "back reference", "lookahead"])
def test_a_pattern_that_re2_does_not_take_is_refused_with_the_recipe(pattern: str, recipe: Callable) -> None:
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_functions": [f"regex={pattern}"]})
    with pytest.raises(ConfigError, match=r"training.grpo_reward_functions: .* is no pattern of re2"):
        build_rewards(config, ["prompt"])


def half_if_even(answer: str | None, entry: dict[str, Any]) -> float:
    return 0.5 if entry["answer"] == answer and int(entry["answer"]) % 2 == 0 else 0.0


def test_a_scorer_gets_the_final_answer_and_its_row(recipe: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def score(answer: str | None, entry: dict[str, Any]) -> float:
        seen.append((answer, entry))
        return half_if_even(answer, entry)

    reward = scorer_reward(score, "mine:score", final_answer)
    rewards = reward(
        completions=["Answer: 4", "Answer: 5", "none"], prompts=["2+2?", "1+4?", "?"], answer=["4", "5", "6"],
        completion_ids=[[1], [2], [3]], trainer_state=object(),
    )  # fmt: skip
    assert rewards == [0.5, 0.0, 0.0]
    assert seen[0] == ("4", {"answer": "4", "question": "2+2?"})
    assert reward.__name__ == "mine.score"


def test_a_scorer_is_named_by_import_path(recipe: Callable) -> None:
    spelling = "scorer=forge_pipeline.models.answer_scores:exact_match"
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_functions": [spelling]})
    (reward,) = build_rewards(config, ["prompt"]).functions
    assert reward.__name__ == "forge_pipeline.models.answer_scores.exact_match"


def test_a_scorer_that_gives_no_number_stops_training() -> None:
    reward = scorer_reward(lambda answer, entry: "good", "mine:score", final_answer)  # type: ignore[arg-type,return-value]
    with pytest.raises(TrainingError, match="the scorer mine:score gave str; expected a number"):
        reward(completions=["x"], prompts=["y"])


COLUMNS = {
    "the row's pattern": ("matches_pattern", "matches_pattern reads the column pattern, but the rows have prompt"),
    "reasoning-gym's metadata": ("reasoning_gym", "reasoning_gym reads the column metadata"),
    "an answer": ("answer_match", "answer or gold_answer or solution"),
}


@pytest.mark.parametrize(("spelling", "words"), COLUMNS.values(), ids=COLUMNS)
def test_a_reward_that_reads_a_column_needs_it(spelling: str, words: str, recipe: Callable) -> None:
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_functions": [spelling]})
    with pytest.raises(DataError, match=words):
        build_rewards(config, ["prompt"])


def test_reasoning_gym_scores_by_the_dataset_that_the_row_names(recipe: Callable) -> None:
    gym = pytest.importorskip("reasoning_gym")
    config = recipe(training={"trainer_type": "grpo", "grpo_reward_functions": ["reasoning_gym"]})
    (reward,) = build_rewards(config, ["prompt", "answer", "metadata"]).functions
    (entry,) = list(gym.create_dataset("chain_sum", size=1, seed=1))
    answers = [f"Answer: {entry['answer']}", "Answer: no idea"]
    found = reward(
        completions=answers, prompts=[entry["question"]] * 2, answer=[entry["answer"]] * 2,
        metadata=[entry["metadata"]] * 2,
    )  # fmt: skip
    assert found[0] == 1.0
    assert found[1] < 1.0


WEIGHTS = {
    "too few": (
        {"grpo_reward_functions": ["valid_json", "answer_format"], "grpo_reward_weights": [1.0]},
        "found 1 weights for 2",
    ),
    "a reward model counts": (
        {"grpo_reward_functions": ["valid_json"], "grpo_reward_model": "m", "grpo_reward_weights": [1.0]},
        "found 1 weights for 2 rewards",
    ),
    "the two of ours": ({"grpo_reward_weights": [1.0, 2.0, 3.0]}, "found 3 weights for 2 rewards"),
    "of another trainer type": ({"trainer_type": "sft", "grpo_reward_weights": [1.0]}, "sft has no rewards to weigh"),
}


@pytest.mark.parametrize(("training", "words"), WEIGHTS.values(), ids=WEIGHTS)
def test_there_is_one_weight_for_each_reward(training: dict[str, Any], words: str, recipe: Callable) -> None:
    from forge_pipeline.training.arguments import check_training

    config = recipe(training={"trainer_type": "grpo", "grpo_num_generations": 2} | training)
    with pytest.raises(ConfigError, match=words):
        check_training(config)
