"""The likeliest span over windows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forge_pipeline.errors import DataError
from forge_pipeline.models.answering import best_answer
from forge_pipeline.task_inputs import question_windows

CONTEXT = "red green blue"
SPANS = [(-1, -1), (0, 3), (4, 9), (10, 14)]


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_best_beginning_and_the_best_end_after_it() -> None:
    found = best_answer(CONTEXT, [SPANS], [logits(0, 1, 5, 0)], [logits(0, 9, 1, 3)], max_answer_length=5)
    # The end at "red" is likelier, but stands before the beginning; "red" alone has 1 + 9.
    assert found.text == "red"
    assert found.score == 10
    later = best_answer(CONTEXT, [SPANS], [logits(0, -9, 5, 0)], [logits(0, 9, 1, 3)], max_answer_length=5)
    assert later.text == "green blue"


def test_an_answer_is_no_longer_than_it_may_be() -> None:
    found = best_answer(CONTEXT, [SPANS], [logits(0, 5, 0, 0)], [logits(0, 0, 1, 3)], max_answer_length=2)
    assert found.text == "red green"


def test_the_question_is_never_the_answer() -> None:
    found = best_answer(
        CONTEXT, [SPANS], [logits(99, 1, 0, 0)], [logits(99, 0, 0, 1)], max_answer_length=5, may_be_unanswerable=False
    )
    assert found.text == "red green blue"


def test_no_answer_where_the_model_prefers_none_in_the_window_where_it_is_least_sure() -> None:
    windows = [SPANS, SPANS]
    starts, ends = [logits(9, 1, 0, 0), logits(1, 1, 0, 0)], [logits(9, 2, 0, 0), logits(1, 0, 0, 0)]
    assert best_answer(CONTEXT, windows, starts, ends, max_answer_length=5).text == "red"
    starts, ends = [logits(9, 1, 0, 0), logits(4, 1, 0, 0)], [logits(9, 2, 0, 0), logits(4, 0, 0, 0)]
    none = best_answer(CONTEXT, windows, starts, ends, max_answer_length=5)
    assert (none.text, none.start, none.stop) == ("", 0, 0)
    assert none.score == 3 - 8


def test_padding_behind_a_window_is_not_read() -> None:
    found = best_answer(
        CONTEXT, [SPANS], [logits(0, 1, 2, 0, 99, 99)], [logits(0, 0, 3, 0, 99, 99)], max_answer_length=5
    )
    assert found.text == "green"


def test_windows_cover_the_context_and_share_what_they_should(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    context = "The house stands by the river. " * 6
    windows = question_windows(tokenizer, "What?", context, max_length=40, stride=8)
    assert len(windows) > 2
    covered: set[int] = set()
    for window in windows:
        inside = [(start, stop) for start, stop in window.offsets if start >= 0]
        assert len(window.input_ids) <= 40
        assert covered == set() or inside[0][0] < max(covered)
        covered |= {char for start, stop in inside for char in range(start, stop)}
    assert covered == set(range(len(context)))


def test_nothing_between_two_texts_becomes_an_empty_line(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    (window,) = question_windows(tokenizer, "What?", "A house by a river.", max_length=60, stride=8)
    assert tokenizer.decode(window.input_ids) == "What?\n\nA house by a river."


def test_a_question_that_leaves_no_room_is_named(tiny_model: Path, recipe: Callable) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(DataError, match="leaves no room for its context"):
        question_windows(tokenizer, "What is it? " * 20, "A house.", max_length=40, stride=8)
