"""One row of any supported layout -> an `Example` in TRL's own columns.

This is the only place that interprets rows: ingestion validates with it, tokenization
and evaluation read through it. Text is never changed here, only moved: an Alpaca
`input` is appended to the instruction after an empty line, parts of list content are
joined as they are. A row that cannot be learnt from raises `RowError` with the reason.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge_pipeline.data.schemas import CHAT_PAIRS, CONTEXT_COLUMNS, CONVERSATION_COLUMNS, ROLES, Shape

Message = dict[str, Any]


class RowError(ValueError):
    """Why one row cannot be used. Internal: it becomes a named skip, or a `DataError`."""


@dataclass(frozen=True)
class Example:
    """A row in TRL's columns.

    Attributes:
        shape: The layout that the row was recognised by.
        columns: `messages` | `text` | `prompt` | `prompt`, `completion` | `prompt`, `chosen`,
            `rejected` | `prompt`, `completion`, `label`. Text in standard format, lists of
            messages in conversational format.
        tools: Tool definitions that the row brings for its chat template, or None.
    """

    shape: Shape
    columns: dict[str, Any]
    tools: list[Any] | None = None


def example_of(row: Mapping[str, Any]) -> Example:
    """Read one row.

    Raises:
        RowError: No known layout, or its texts are empty, null or of the wrong type.
    """
    names = {name.casefold(): name for name in reversed(list(row)) if row[name] is not None}
    for recognise in (_preference, _unpaired, _conversation, _prompt_completion, _chat_pair, _text, _prompt_only):
        example = recognise(row, names)
        if example is not None:
            return example
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


def _preference(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    if not {"chosen", "rejected"} <= names.keys():
        return None
    chosen, rejected = (_answer(row[names[name]], name) for name in ("chosen", "rejected"))
    prompt, own = _prompt(row, names)
    if prompt is None or _begin_with_a_question(chosen, rejected):
        prompt, chosen, rejected = _split_common_prompt(chosen, rejected)
    columns = ("prompt", "chosen", "rejected")
    if own and all(isinstance(value, str) for value in (prompt, chosen, rejected)):
        shape = Shape("preference", columns, "preference", "standard")
        return Example(shape, dict(zip(columns, (prompt, chosen, rejected), strict=True)))
    shape = Shape("preference", columns, "preference", "conversational")
    values = (_as_turns(prompt, "user"), _as_turns(chosen, "assistant"), _as_turns(rejected, "assistant"))
    if not all(values):
        raise RowError("prompt, chosen or rejected has no message")
    return Example(shape, dict(zip(columns, values, strict=True)), _tools(row))


def _unpaired(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    completion = names.get("completion") or names.get("response")
    label = _label(row[names["label"]]) if "label" in names else None
    if completion is None or label is None:
        return None
    prompt, own = _prompt(row, names)
    if prompt is None:
        return None
    answer = _answer(row[completion], completion)
    columns = ("prompt", "completion", "label")
    if own and isinstance(prompt, str) and isinstance(answer, str):
        shape = Shape("completion with label", columns, "unpaired preference", "standard")
        return Example(shape, {"prompt": prompt, "completion": answer, "label": label})
    shape = Shape("completion with label", columns, "unpaired preference", "conversational")
    turns = {"prompt": _as_turns(prompt, "user"), "completion": _as_turns(answer, "assistant")}
    return Example(shape, {**turns, "label": label}, _tools(row))


def _conversation(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    for column in CONVERSATION_COLUMNS:
        if column not in names or not isinstance(row[names[column]], Sequence) or isinstance(row[names[column]], str):
            continue
        messages = _messages(_alternating(row[names[column]]), names[column])
        system = row.get(names.get("system", ""))
        if isinstance(system, str) and system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        from_value = any(isinstance(item, Mapping) and "from" in item for item in row[names[column]])
        name = "ShareGPT" if from_value else "chat"
        return Example(
            Shape(name, (column,), "language modeling", "conversational"), {"messages": messages}, _tools(row)
        )
    return None


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
    return Example(shape, turns, _tools(row))


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
    if "text" not in names:
        return None
    shape = Shape("text", ("text",), "language modeling", "standard")
    return Example(shape, {"text": _text_value(row[names["text"]], "text")})


def _prompt_only(row: Mapping[str, Any], names: Mapping[str, str]) -> Example | None:
    if "prompt" not in names:
        return None
    prompt = _prompt_value(row[names["prompt"]], "prompt")
    shape = Shape("prompt", ("prompt",), "prompt-only", "standard" if isinstance(prompt, str) else "conversational")
    return Example(shape, {"prompt": prompt}, _tools(row))


def _prompt(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str | list[Message] | None, bool]:
    """The prompt of a preference row, and whether it stands in TRL's own column (or is implicit)."""
    if "prompt" in names:
        return _prompt_value(row[names["prompt"]], "prompt"), True
    for column in CONVERSATION_COLUMNS:
        if column in names:
            return _messages(row[names[column]], column), False
    for column in ("instruction", "question"):
        if column in names:
            return _chat_prompt(row, names, column), False
    return None, True


def _chat_prompt(row: Mapping[str, Any], names: Mapping[str, str], question: str) -> list[Message]:
    text = _text_value(row[names[question]], question)
    for column in CONTEXT_COLUMNS:
        context = row[names[column]] if column in names and column != question else None
        if isinstance(context, str) and context.strip():
            text = f"{text}\n\n{context}"
    system = row.get(names.get("system", ""))
    lead = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return [*lead, {"role": "user", "content": text}]


def _split_common_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The longest common beginning of both answers is the prompt, where none is given (as TRL does)."""
    if type(chosen) is not type(rejected):
        raise RowError("chosen and rejected are of different kinds; expected two texts or two lists of messages")
    common = common_prefix_length(chosen, rejected)
    if common and chosen[common - 1] == " ":  # the space belongs to the first word of the answer
        common -= 1
    if not common or not chosen[common:] or not rejected[common:]:
        raise RowError("there is no prompt column, and chosen and rejected do not share a beginning and then differ")
    return chosen[:common], chosen[common:], rejected[common:]


def _begin_with_a_question(*answers: Any) -> bool:
    """Whether all answers are conversations that repeat the prompt, as UltraFeedback's are."""
    return all(isinstance(answer, list) and answer[0]["role"] != "assistant" for answer in answers)


def _answer(value: Any, column: str) -> str | list[Message]:
    if isinstance(value, Mapping):  # one message, as LLaMA-Factory writes chosen and rejected
        return _messages([value], column)
    return _prompt_value(value, column)


def _prompt_value(value: Any, column: str) -> str | list[Message]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _messages(value, column)
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
    """A yes/no label as files write it, or None when it is something else."""
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().casefold())
    return bool(value) if isinstance(value, bool | int) and value in (0, 1) else None


def _tools(row: Mapping[str, Any]) -> list[Any] | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowError(f"tools is not JSON: {error}") from error
    return list(tools) if isinstance(tools, list) and tools else None


def _messages(value: Any, column: str) -> list[Message]:
    """Messages with role and content, or turns with from and value."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RowError(f"{column} is {type(value).__name__}; expected a list of messages")
    if not value:
        raise RowError(f"{column} has no messages")
    messages = [_message(item, f"{column}[{i}]") for i, item in enumerate(value)]
    if not any(str(message.get("content", "")).strip() or "tool_calls" in message for message in messages):
        raise RowError(f"{column} holds no text")
    return messages


def _alternating(turns: Sequence[Any]) -> Sequence[Any]:
    """Plain texts as turns of user and assistant; anything else as it is."""
    if not all(isinstance(turn, str) for turn in turns):
        return turns
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(f"{where} is {type(item).__name__}; expected a message with role and content")
    spoken = item.get("role", item.get("from"))
    role = ROLES.get(spoken.casefold()) if isinstance(spoken, str) else None
    if role is None:
        raise RowError(f"{where} has the role {spoken!r}; expected system, user, assistant or tool")
    known = ("role", "from", "content", "value")
    extra = {key: value for key, value in item.items() if key not in known and value is not None}
    content = item.get("content", item.get("value"))
    if content is None and not extra.get("tool_calls"):
        raise RowError(f"{where} ({role}) has no content")
    return {"role": role, "content": _content(content, where), **extra}


def _content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RowError(f"{where} has content of type {type(content).__name__}; expected text")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise RowError(f"{where} has a content part of type {kind!r}; only text can be learnt")
        texts.append(text)
    return "".join(texts)
