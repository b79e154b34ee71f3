"""Layouts of well-known tasks: each function reads one, or says None where a row is something else.

All of them become conversations. No instruction is made up: a document is the user's turn
as it stands and its summary the answer, so a recipe that wants "Summarize:" before it
writes that into the rows. The raw columns stay in the raw dataset, where a span head
finds `answers.answer_start`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from forge_pipeline.data.messages import Message, RowError, calls_of, messages_of, parsed
from forge_pipeline.data.schemas import SUMMARY_PAIRS, UNANSWERABLE

# Glaive's function calling v2 writes a conversation into one text.
_GLAIVE_TURN = re.compile(r"(?:^|\n)[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*")
_GLAIVE_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_GLAIVE_END = "<|endoftext|>"


def answer_in_context(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str] | None:
    """SQuAD: question, context and the answer's text; of several answers the first.

    A question without an answer (SQuAD 2.0) is answered with `UNANSWERABLE`.
    """
    if not {"question", "context", "answers"} <= names.keys():
        return None
    question, context, answers = (row[names[name]] for name in ("question", "context", "answers"))
    texts = answers.get("text", []) if isinstance(answers, Mapping) else answers
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RowError(f"answers is {type(answers).__name__}; expected a text, or text and answer_start as in SQuAD")
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, str) or not value.strip():
            raise RowError(
                f"{name} is {type(value).__name__ if not isinstance(value, str) else 'empty'}; expected text"
            )
    return question, context, next((text for text in texts if text.strip()), UNANSWERABLE)


def summary_of(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str] | None:
    """The names of the columns that hold a document and its summary."""
    return next((pair for pair in SUMMARY_PAIRS if set(pair) <= names.keys()), None)


def translation_of(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str, str, str] | None:
    """WMT's and OPUS's ``{"translation": {"en": ..., "de": ...}}``: both languages and texts, in the row's order."""
    pair = row[names["translation"]] if "translation" in names else None
    if not isinstance(pair, Mapping) or len(pair) != 2:
        return None
    (source, original), (target, translated) = pair.items()
    for language, text in pair.items():
        if not isinstance(text, str) or not text.strip():
            raise RowError(f"translation.{language} is empty or no text")
    return source, target, original, translated


def glaive_conversation(row: Mapping[str, Any], names: Mapping[str, str]) -> list[Message] | None:
    """Glaive's ``chat`` text of ``USER:``, ``ASSISTANT:`` and ``FUNCTION RESPONSE:`` turns, its markers taken out.

    Calls stay as the text ``<functioncall> {...}`` that the dataset teaches.
    """
    chat = row[names["chat"]] if "chat" in names else None
    if not isinstance(chat, str):
        return None
    start, *turns = _GLAIVE_TURN.split(chat)
    if start.strip() or not turns:
        return None
    said = [
        {"role": _GLAIVE_ROLES[speaker], "content": text.strip().removesuffix(_GLAIVE_END).rstrip()}
        for speaker, text in zip(turns[::2], turns[1::2], strict=True)
    ]
    system = row[names["system"]] if "system" in names else None
    if isinstance(system, str) and system.strip():
        said.insert(0, {"role": "system", "content": system.strip().removeprefix("SYSTEM:").strip()})
    return messages_of(said, "chat")


def called_tools(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, list[dict[str, Any]]] | None:
    """xLAM: a query and the calls that answer it."""
    if not {"query", "answers", "tools"} <= names.keys():
        return None
    query, answers = row[names["query"]], row[names["answers"]]
    calls = calls_of(parsed(answers, "answers") if isinstance(answers, str) else answers, "answers")
    if not isinstance(query, str) or not query.strip() or calls is None:
        raise RowError("query is no text, or answers is no list of calls")
    return query, calls


def steps_of(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any] | None:
    """TRL's stepwise supervision: a prompt, the steps of its solution, and which of them are right."""
    if not {"prompt", "completions", "labels"} <= names.keys():
        return None
    prompt, steps, labels = (row[names[name]] for name in ("prompt", "completions", "labels"))
    if not isinstance(steps, list) or not isinstance(labels, list):
        return None
    if not isinstance(prompt, str) or not prompt.strip() or not all(isinstance(step, str) for step in steps):
        raise RowError("prompt is empty or no text, or completions holds something else than texts")
    if len(steps) != len(labels) or not steps:
        raise RowError(f"completions has {len(steps)} steps and labels has {len(labels)}; expected one label a step")
    if not all(isinstance(label, bool | int) and label in (0, 1) for label in labels):
        raise RowError("labels holds something else than true and false")
    return {"prompt": prompt, "completions": steps, "labels": [bool(label) for label in labels]}


def check_no_tree_node(row: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Refuse OpenAssistant's rows: each is one message of a tree, and alone neither a text nor a conversation.

    Raises:
        RowError: It is one.
    """
    if {"message_id", "role", "text"} <= names.keys():  # the root of a tree has no parent_id
        raise RowError(
            "is one message of a conversation tree (message_id, parent_id, role, text); join each path through a "
            "tree into a row with messages first"
        )
