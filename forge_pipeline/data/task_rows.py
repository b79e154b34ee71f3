"""What the rows of a task say: a document and its summary, or a question, its context and the answers.

Rows are read in the layouts that people write (`examples`, `task_layouts`); what does not
hold what the task needs raises `RowError` with the reason, so that it is left out and named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge_pipeline.data.examples import Example, example_of
from forge_pipeline.data.messages import RowError

QUESTION_COLUMNS = ("context", "question", "answers (SQuAD's, a list or a text) or answer")
SUMMARY_COLUMNS = ("document and summary", "article and summary", "input and output", "prompt and completion")


@dataclass(frozen=True)
class Answer:
    """A text and where it begins in the context, in characters."""

    text: str
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """An extractive question; without answers it cannot be answered from its context."""

    question: str
    context: str
    answers: tuple[Answer, ...]


def document_and_summary(row: Mapping[str, Any]) -> tuple[str, str]:
    """A row of any layout that is one text and what it comes down to.

    Raises:
        RowError: It is something else.
    """
    example = example_of(row)
    document, summary = _one_exchange(example)
    for name, text in (("document", document), ("summary", summary)):
        if not text.strip():
            raise RowError(f"its {name} is empty")
    return document, summary


def question_of(row: Mapping[str, Any]) -> Question:
    """A row with `context`, `question`, and `answers` or `answer`: a SQuAD dict, a text, or a list of texts.

    Raises:
        RowError: A column is missing or of another kind, or an answer does not stand in the context.
    """
    names = {str(name).casefold(): name for name in reversed(list(row)) if row[name] is not None}
    lacking = [name for name in ("context", "question") if name not in names]
    if lacking or not {"answers", "answer"} & names.keys():
        lacking += [] if {"answers", "answer"} & names.keys() else ["answers"]
        raise RowError(f"lacks {', '.join(lacking)}; extractive question answering needs {', '.join(QUESTION_COLUMNS)}")
    question, context = (_text(row[names[name]], name) for name in ("question", "context"))
    found = row[names["answers"]] if "answers" in names else row[names["answer"]]
    texts, starts = _texts_and_starts(found)
    return Question(
        question,
        context,
        tuple(_located(context, text, start) for text, start in zip(texts, starts, strict=True) if text.strip()),
    )


def has_columns_of(task: str, columns: Sequence[str]) -> bool:
    """Whether rows with these columns can be of the task at all."""
    names = {name.casefold() for name in columns}
    if task == "extractive-question-answering":
        return {"context", "question"} <= names and bool({"answers", "answer"} & names)
    return True


def _one_exchange(example: Example) -> tuple[str, str]:
    columns = example.columns
    turns = columns.get("messages")
    if turns is None and {"prompt", "completion"} <= columns.keys():
        if isinstance(columns["prompt"], str) and isinstance(columns["completion"], str):
            return columns["prompt"], columns["completion"]
        turns = [*columns["prompt"], *columns["completion"]]
    if turns is None or [turn["role"] for turn in turns] != ["user", "assistant"]:
        raise RowError(
            f"looks like {example.shape}, which is no document with its summary; expected "
            + ", or ".join(SUMMARY_COLUMNS)
        )
    return turns[0].get("content") or "", turns[1].get("content") or ""


def _texts_and_starts(found: Any) -> tuple[list[str], list[int | None]]:
    starts: Any = None
    if isinstance(found, Mapping):
        found, starts = found.get("text", []), found.get("answer_start")
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RowError(f"answers is {type(found).__name__}; expected a text, a list of texts, or text and answer_start")
    starts = [starts] if isinstance(starts, int) else starts
    if not starts:
        return list(texts), [None] * len(texts)
    if len(starts) != len(texts) or not all(isinstance(start, int) for start in starts):
        raise RowError(f"answers has {len(texts)} texts and {len(starts)} answer_start; expected one for each text")
    return list(texts), list(starts)


def _located(context: str, text: str, start: int | None) -> Answer:
    """The answer where it stands: as the row says, else where it is found, nearest to what the row says."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    if not places:
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise RowError(f"the answer {shown!r} does not stand in the context, so no span of it can be learnt")
    return Answer(text, min(places, key=lambda at: abs(at - (start or 0))))


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{column} is {'empty' if isinstance(value, str) else type(value).__name__}; expected text")
    return value
