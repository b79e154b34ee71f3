"""The majority decides what a dataset is."""

from collections import Counter

import pytest

from forge_pipeline.data.detection import detect
from forge_pipeline.data.examples import example_of

ALPACA = example_of({"instruction": "a", "output": "b"}).shape
CHAT = example_of({"messages": [{"role": "user", "content": "a"}]}).shape
TEXT = example_of({"text": "a"}).shape
PREFERENCE = example_of({"prompt": "a", "chosen": "b", "rejected": "c"}).shape


def test_one_layout_gives_its_type_and_a_reason_with_the_count() -> None:
    detection = detect(Counter({ALPACA: 7}))
    assert (detection.dataset_type, detection.dataset_format) == ("prompt-completion", "conversational")
    assert "7 rows look like Alpaca" in detection.reason
    assert "chat template" in detection.reason


def test_conversations_of_different_layouts_are_one_family() -> None:
    detection = detect(Counter({ALPACA: 7, CHAT: 2}))
    assert (detection.dataset_type, detection.dataset_format) == ("language modeling", "conversational")
    assert ALPACA.family == CHAT.family == detection.family


def test_the_larger_family_wins() -> None:
    detection = detect(Counter({TEXT: 2, PREFERENCE: 5}))
    assert detection.dataset_type == "preference"
    assert TEXT.family != detection.family
    assert "without a chat template" in detection.reason


def test_nothing_is_not_detected_as_anything() -> None:
    with pytest.raises(ValueError, match="no rows"):
        detect({})


def test_the_reason_counts_the_layouts_that_lost_too() -> None:
    reason = detect(Counter({TEXT: 2, PREFERENCE: 5, ALPACA: 1})).reason
    assert "5 rows look like preference (prompt, chosen, rejected: preference, standard)" in reason
    assert "Left out: 2 rows look like text (text: language modeling, standard); 1 rows look like Alpaca" in reason


def test_steps_are_named_as_what_they_are() -> None:
    steps = example_of({"prompt": "a", "completions": ["b"], "labels": [True]}).shape
    detection = detect(Counter({steps: 3}))
    assert detection.dataset_type == "stepwise supervision"
    assert "No trainer type" in detection.reason
