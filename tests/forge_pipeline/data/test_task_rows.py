"""Rows of the tasks."""

from typing import Any

import pytest

from forge_pipeline.data.examples import RowError
from forge_pipeline.data.task_encoding import answer_tokens
from forge_pipeline.data.task_rows import Answer, document_and_summary, question_of
from forge_pipeline.task_inputs import Window

CONTEXT = "red and green and red"
ANSWERS: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "SQuAD": ({"answers": {"text": ["green"], "answer_start": [8]}}, [("green", 8)]),
    "SQuAD without an answer": ({"answers": {"text": [], "answer_start": []}}, []),
    "several": ({"answers": {"text": ["red", "green"], "answer_start": [18, 8]}}, [("red", 18), ("green", 8)]),
    "a text": ({"answers": "green"}, [("green", 8)]),
    "a list of texts": ({"answers": ["red and"]}, [("red and", 0)]),
    "the column answer": ({"answer": "red"}, [("red", 0)]),
    "one dict with a number": ({"answer": {"text": "red", "answer_start": 18}}, [("red", 18)]),
    "a start that is off by a few": ({"answers": {"text": ["red"], "answer_start": [16]}}, [("red", 18)]),
    "a start beyond the end": ({"answers": {"text": ["green"], "answer_start": [900]}}, [("green", 8)]),
    "an empty answer": ({"answer": " "}, []),
}


@pytest.mark.parametrize(("columns", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_answers_are_found_where_they_stand(columns: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    question = question_of({"Question": "What?", "context": CONTEXT, **columns})
    assert [(answer.text, answer.start) for answer in question.answers] == expected
    for answer in question.answers:
        assert question.context[answer.start : answer.stop] == answer.text


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no context": ({"question": "a?", "answer": "b"}, "lacks context"),
    "no answers": ({"question": "a?", "context": CONTEXT}, "lacks answers"),
    "not in the context": ({"question": "a?", "context": CONTEXT, "answer": "blue"}, "'blue' does not stand in"),
    "of another case": ({"question": "a?", "context": CONTEXT, "answer": "Red"}, "'Red' does not stand in"),
    "a number": ({"question": "a?", "context": CONTEXT, "answers": 7}, "answers is int"),
    "an empty question": ({"question": " ", "context": CONTEXT, "answer": "red"}, "question is empty"),
    "fewer starts than texts": (
        {"question": "a?", "context": CONTEXT, "answers": {"text": ["red", "green"], "answer_start": [0]}},
        "2 texts and 1 answer_start",
    ),
}


@pytest.mark.parametrize(("row", "words"), REFUSED.values(), ids=REFUSED)
def test_a_row_that_is_no_question_says_why(row: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        question_of(row)


DOCUMENTS: dict[str, dict[str, Any]] = {
    "document and summary": {"document": "long", "summary": "short"},
    "article and summary": {"article": "long", "summary": "short"},
    "article and highlights": {"article": "long", "highlights": "short", "id": 7},
    "input and output": {"input": "long", "output": "short"},
    "prompt and completion": {"prompt": "long", "completion": "short"},
    "messages": {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "short"}]},
}


@pytest.mark.parametrize("row", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_layout_of_one_exchange_is_a_document_and_its_summary(row: dict[str, Any]) -> None:
    assert document_and_summary(row) == ("long", "short")


@pytest.mark.parametrize("row", [{"text": "long"}, {"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a"}])
def test_other_rows_are_no_documents(row: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="no document with its summary"):
        document_and_summary(row)


SPANS: dict[str, tuple[Answer | None, tuple[int, int]]] = {
    "a whole token": (Answer("and", 4), (2, 2)),
    "several tokens": (Answer("red and green", 0), (1, 3)),
    "part of a token": (Answer("ree", 9), (3, 3)),
    "cut by the window": (Answer("green and", 8), (0, 0)),
    "in another window": (Answer("red", 18), (0, 0)),
    "none": (None, (0, 0)),
}


@pytest.mark.parametrize(("answer", "expected"), SPANS.values(), ids=SPANS)
def test_the_tokens_of_an_answer(answer: Answer | None, expected: tuple[int, int]) -> None:
    window = Window([9, 1, 2, 3, 9], None, [(-1, -1), (0, 3), (4, 7), (8, 13), (-1, -1)])
    assert answer_tokens(window, answer) == expected
