"""One row of any supported layout -> an `Example` in TRL's own columns.

This is the only place that interprets rows: ingestion validates with it, tokenization
and evaluation read through it. Text is never changed here, only moved: an Alpaca
`input` is appended to the instruction after an empty line, parts of list content are
joined as they are. A row that cannot be learnt from raises `RowError` with the reason.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forge_pipeline.data.messages import Message, RowError, alternating, messages_of, tools_of
from forge_pipeline.data.schemas import (
    CHAT_PAIRS,
    COMPLETION_COLUMNS,
    CONTEXT_COLUMNS,
    CONVERSATION_COLUMNS,
    LABEL_COLUMNS,
    PREFERENCE_PAIRS,
    QUESTION_COLUMNS,
    SYSTEM_COLUMNS,
    TEXT_COLUMNS,
    Shape,
)
from forge_pipeline.data.task_layouts import (
    answer_in_context,
    called_tools,
    check_no_tree_node,
    glaive_conversation,
    steps_of,
    summary_of,
    translation_of,
)

__all__ = ["Example", "Message", "RowError", "common_prefix_length", "conversation_of", "example_of", "unpaired"]

# Where an answer begins in a text of turns, as HH-RLHF writes its dialogues.
_ANSWER_TURN = "\n\nAssistant:"
_YES = frozenset(("true", "1", "+1", "yes", "good", "desirable", "up", "thumbs up", "thumbs_up", "👍"))
_NO = frozenset(("false", "0", "-1", "no", "bad", "undesirable", "down", "thumbs down", "thumbs_down", "👎"))


@dataclass(frozen=True)
class Example:
    """A row in TRL's columns.

    Attributes:
        shape: The layout that the row was recognised by.
        columns: `messages` | `text` | `prompt` | `prompt`, `completion` | `prompt`, `chosen`,
            `rejected` | `prompt`, `completion`, `label` | `prompt`, `completions`, `labels`. Text in
            standard format, lists of messages in conversational format.
        tools: Tool definitions that the row brings for its chat template, or None.
        template_options: What else it brings for it (TRL's `chat_template_kwargs`), such as ``enable_thinking``.
    """

    shape: Shape
    columns: dict[str, Any]
    tools: list[Any] | None = None
    template_options: Mapping[str, Any] | None = None


def example_of(row: Mapping[str, Any]) -> Example:
    """Read one row.

    Raises:
        RowError: No known layout, or its texts are empty, null or of the wrong type.
    """
    names = {name.casefold(): name for name in reversed(list(row)) if row[name] is not None}
    for recognise in _RECOGNISERS:
        example = recognise(row, names)
        if example is not None:
            options = row.get("chat_template_kwargs")
            return replace(example, template_options=options) if isinstance(options, dict) and options else example
    raise RowError(f"columns {', '.join(row) or '(none)'} form no known dataset layout")


def conversation_of(row: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """Any supported row as messages with `role` and `content`, or None for plain text and unknown rows.

    Preference rows give the prompt and the chosen answer.
    """
    try:
        columns = example_of(row).columns
    except RowError:
        return None
    if "messages" in columns:
        turns = columns["messages"]
    elif "text" in columns:
        return None
    elif "completions" in columns:
        turns = [*_as_turns(columns["prompt"], "user"), *_as_turns("\n".join(columns["completions"]), "assistant")]
    else:
        answer = columns.get("chosen", columns.get("completion", []))
        turns = [*_as_turns(columns["prompt"], "user"), *_as_turns(answer, "assistant")]
    return [{"role": turn["role"], "content": turn.get("content") or ""} for turn in turns]


def common_prefix_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many leading items (tokens, messages, characters) two sequences share."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _as_turns(value: Any, role: str) -> list[Message]:
    """A text as one turn of `role`; a list of messages as it is; nothing for empty text."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else []
    return list(value)


def unpaired(example: Example) -> tuple[Example, Example]:
    """A preference row as two rows with a label: the chosen answer is good, the rejected one is not."""
    columns = ("prompt", "completion", "label")
    shape = Shape("completion with label", columns, "unpaired preference", example.shape.dataset_format)
    prompt, chosen, rejected = (example.columns[name] for name in ("prompt", "chosen", "rejected"))
    good, bad = (
        dict(zip(columns, values, strict=True)) for values in ((prompt, chosen, True), (prompt, rejected, False))
    )
    return replace(example, shape=shape, columns=good), replace(example, shape=shape, columns=bad)


def _preference(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    pair = next((pair for pair in PREFERENCE_PAIRS if set(pair) <= names.keys()), None)
    if pair is None:
        return None
    chosen, rejected = (_answer(row[names[name]], name) for name in pair)
    prompt, own = _prompt(row, names)
    if prompt is None or _begin_with_a_question(chosen, rejected):
        prompt, chosen, rejected = _split_common_prompt(chosen, rejected)
    if chosen == rejected:
        raise RowError(f"{pair[0]} and {pair[1]} are the same, so neither is preferred")
    columns = ("prompt", "chosen", "rejected")
    if own and all(isinstance(value, str) for value in (prompt, chosen, rejected)):
        shape = Shape("preference", ("prompt", *pair), "preference", "standard")
        return Example(shape, dict(zip(columns, (prompt, chosen, rejected), strict=True)))
    shape = Shape("preference", ("prompt", *pair), "preference", "conversational")
    values = (_as_turns(prompt, "user"), _as_turns(chosen, "assistant"), _as_turns(rejected, "assistant"))
    if not all(values):
        raise RowError("prompt, chosen or rejected has no message")
    return Example(shape, dict(zip(columns, values, strict=True)), tools_of(row))


def _unpaired(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    labels = (_label(row[names[name]]) for name in LABEL_COLUMNS if name in names)
    label = next((label for label in labels if label is not None), None)
    if label is None:
        return None
    columns = ("prompt", "completion", "label")
    completion = next((names[name] for name in COMPLETION_COLUMNS if name in names), None)
    if completion is None:
        return _judged_conversation(row, names, label)
    prompt, own = _prompt(row, names)
    if prompt is None:
        return None
    answer = _answer(row[completion], completion)
    if own and isinstance(prompt, str) and isinstance(answer, str):
        shape = Shape("completion with label", columns, "unpaired preference", "standard")
        return Example(shape, {"prompt": prompt, "completion": answer, "label": label})
    shape = Shape("completion with label", columns, "unpaired preference", "conversational")
    turns = {"prompt": _as_turns(prompt, "user"), "completion": _as_turns(answer, "assistant")}
    return Example(shape, {**turns, "label": label}, tools_of(row))


def _judged_conversation(row: Mapping[str, Any], names: Mapping[str, str], label: bool) -> Example | None:
    """LLaMA-Factory's layout: the label is about the last answer of a conversation."""
    example = _conversation(row, names)
    if example is None:
        return None
    *prompt, answer = example.columns["messages"]
    if answer["role"] != "assistant" or not prompt:
        raise RowError("has a label, but its conversation does not end with an answer of the assistant")
    shape = Shape("conversation with label", (*example.shape.columns, "label"), "unpaired preference", "conversational")
    return replace(example, shape=shape, columns={"prompt": prompt, "completion": [answer], "label": label})


def _steps(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    columns = steps_of(row, names)
    if columns is None:
        return None
    return Example(Shape("steps with labels", tuple(columns), "stepwise supervision", "standard"), columns)


def _conversation(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    for column in CONVERSATION_COLUMNS:
        if column not in names or not isinstance(row[names[column]], Sequence) or isinstance(row[names[column]], str):
            continue
        messages = messages_of(alternating(row[names[column]]), names[column])
        if messages[0]["role"] != "system":
            messages = [*_system(row, names), *messages]
        from_value = any(isinstance(item, Mapping) and "from" in item for item in row[names[column]])
        name = "ShareGPT" if from_value else "chat"
        return Example(
            Shape(name, (column,), "language modeling", "conversational"), {"messages": messages}, tools_of(row)
        )
    messages = glaive_conversation(row, names) or []
    if messages:
        return Example(Shape("Glaive", ("chat",), "language modeling", "conversational"), {"messages": messages})
    return None


def _tool_use(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    found = called_tools(row, names)
    if found is None:
        return None
    query, calls = found
    shape = Shape("xLAM", ("query", "tools", "answers"), "prompt-completion", "conversational")
    columns = {
        "prompt": [*_system(row, names), {"role": "user", "content": query}],
        "completion": [{"role": "assistant", "content": "", "tool_calls": calls}],
    }
    return Example(shape, columns, tools_of({"tools": row[names["tools"]]}))


def _task(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    """Extractive questions, summaries and translations."""
    if squad := answer_in_context(row, names):
        question, context, answer = squad
        return _one_turn(row, names, "SQuAD", ("question", "context", "answers"), f"{question}\n\n{context}", answer)
    if pair := summary_of(row, names):
        document, summary = (_text_value(row[names[name]], name) for name in pair)
        return _one_turn(row, names, f"{pair[0]} and {pair[1]}", pair, document, summary)
    if translation := translation_of(row, names):
        source, target, original, translated = translation
        name = f"translation from {source} to {target}"
        return _one_turn(row, names, name, ("translation",), original, translated)
    return None


def _one_turn(
    row: Mapping[str, Any], names: Mapping[str, str], name: str, columns: tuple[str, ...], question: str, answer: str
) -> Example:
    turns = {
        "prompt": [*_system(row, names), {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }
    return Example(Shape(name, columns, "prompt-completion", "conversational"), turns)


def _prompt_completion(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    if not {"prompt", "completion"} <= names.keys():
        return None
    prompt = _prompt_value(row[names["prompt"]], "prompt")
    completion = _answer(row[names["completion"]], "completion")
    columns = ("prompt", "completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        shape = Shape("prompt and completion", columns, "prompt-completion", "standard")
        return Example(shape, {"prompt": prompt, "completion": completion})
    shape = Shape("prompt and completion", columns, "prompt-completion", "conversational")
    turns = {"prompt": _as_turns(prompt, "user"), "completion": _as_turns(completion, "assistant")}
    return Example(shape, turns, tools_of(row))


def _chat_pair(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    for question, answer in CHAT_PAIRS:
        if question not in names or answer not in names:
            continue
        context = [name for name in CONTEXT_COLUMNS if name in names and name != question]
        prompt = _chat_prompt(row, names, question)
        completion = [{"role": "assistant", "content": _text_value(row[names[answer]], answer)}]
        name = "Alpaca" if question == "instruction" else f"{question} and {answer}"
        shape = Shape(name, (question, *context, answer), "prompt-completion", "conversational")
        return Example(shape, {"prompt": prompt, "completion": completion})
    return None


def _text(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    check_no_tree_node(row, names)
    column = next((name for name in TEXT_COLUMNS if name in names), None)
    if column is None or (column == "content" and "role" in names):
        return None
    shape = Shape("text", (column,), "language modeling", "standard")
    return Example(shape, {"text": _text_value(row[names[column]], column)})


def _prompt_only(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    if "prompt" not in names:
        return None
    prompt = _prompt_value(row[names["prompt"]], "prompt")
    shape = Shape("prompt", ("prompt",), "prompt-only", "standard" if isinstance(prompt, str) else "conversational")
    return Example(shape, {"prompt": prompt}, tools_of(row))


def _prompt(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str | list[Message] | None, bool]:
    """The prompt of a preference row, and whether it stands in TRL's own column (or is implicit)."""
    if "prompt" in names:
        return _prompt_value(row[names["prompt"]], "prompt"), True
    for column in CONVERSATION_COLUMNS:
        if column in names:
            return [*_system(row, names), *messages_of(row[names[column]], column)], False
    for column in QUESTION_COLUMNS:
        if column in names:
            return _chat_prompt(row, names, column), False
    return None, True


def _chat_prompt(row: Mapping[str, Any], names: Mapping[str, str], question: str) -> list[Message]:
    text = _text_value(row[names[question]], question)
    for column in CONTEXT_COLUMNS:
        context = row[names[column]] if column in names and column != question else None
        if isinstance(context, str) and context.strip():
            text = f"{text}\n\n{context}"
    return [*_system(row, names), {"role": "user", "content": text}]


def _system(row: Mapping[str, Any], names: Mapping[str, str]) -> list[Message]:
    """The system message that stands in a column of its own, or nothing."""
    texts = (row[names[column]] for column in SYSTEM_COLUMNS if column in names)
    return [{"role": "system", "content": text} for text in texts if isinstance(text, str) and text][:1]


def _split_common_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The longest common beginning of both answers is the prompt, where none is given (as TRL does)."""
    if type(chosen) is not type(rejected):
        raise RowError("chosen and rejected are of different kinds; expected two texts or two lists of messages")
    common = common_prefix_length(chosen, rejected)
    if isinstance(chosen, str) and _ANSWER_TURN in chosen[:common]:
        common = chosen.rindex(_ANSWER_TURN, 0, common) + len(_ANSWER_TURN)
    elif common and chosen[common - 1] == " ":  # the space belongs to the first word of the answer
        common -= 1
    if not common or not chosen[common:] or not rejected[common:]:
        raise RowError("there is no prompt column, and chosen and rejected do not share a beginning and then differ")
    return chosen[:common], chosen[common:], rejected[common:]


def _begin_with_a_question(*answers: Any) -> bool:
    """Whether all answers are conversations that repeat the prompt, as UltraFeedback's are."""
    return all(isinstance(answer, list) and answer[0]["role"] != "assistant" for answer in answers)


def _answer(value: Any, column: str) -> str | list[Message]:
    if isinstance(value, Mapping):  # one message, as LLaMA-Factory writes chosen and rejected
        return messages_of([value], column)
    return _prompt_value(value, column)


def _prompt_value(value: Any, column: str) -> str | list[Message]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return messages_of(value, column)
    return _text_value(value, column)


def _text_value(value: Any, column: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)  # {"question": "6 * 7?", "answer": 42}
    if not isinstance(value, str):
        raise RowError(f"{column} is {type(value).__name__}; expected text")
    if not value.strip():
        raise RowError(f"{column} is empty")
    return value


def _label(value: Any) -> bool | None:
    """A verdict as files write it, or None when it is something else."""
    if isinstance(value, str):
        word = value.strip().casefold()
        return True if word in _YES else False if word in _NO else None
    if not isinstance(value, bool | int | float) or value not in (0, 1, -1):
        return None
    return value == 1


_RECOGNISERS = (
    _preference,
    _unpaired,
    _steps,
    _conversation,
    _tool_use,
    _prompt_completion,
    _chat_pair,
    _task,
    _text,
    _prompt_only,
)
