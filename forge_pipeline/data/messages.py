"""Messages as chat templates want them, from every spelling of them in the wild.

OpenAI's (`role`, `content`, `tool_calls`, the older `function_call`), ShareGPT's (`from`,
`value`, with `function_call`, `observation` and `function_response` as speakers) and lists
of plain turns. Text is never changed, only moved; what is JSON inside a text (the arguments
of a call, a list of tools) is parsed, because templates write it out as JSON themselves
and would write a text of JSON twice encoded.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forge_pipeline.data.schemas import CALLING_ROLES, ROLES

Message = dict[str, Any]


class RowError(ValueError):
    """Why one row cannot be used. Internal: it becomes a named skip, or a `DataError`."""


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Whether a turn is one to learn from: not with OpenAI's ``weight: 0`` or Axolotl's ``train: false``."""
    return message.get("weight") != 0 and message.get("train") is not False


def messages_of(value: Any, column: str) -> list[Message]:
    """A list of messages with role and content, or of turns with from and value.

    Raises:
        RowError: It is no such list, or nobody says anything in it.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RowError(f"{column} is {type(value).__name__}; expected a list of messages")
    if not value:
        raise RowError(f"{column} has no messages")
    messages = [_message(item, f"{column}[{i}]") for i, item in enumerate(value)]
    if not any(str(message.get("content", "")).strip() or "tool_calls" in message for message in messages):
        raise RowError(f"{column} holds no text")
    return messages


def alternating(turns: Sequence[Any]) -> Sequence[Any]:
    """Plain texts as turns of user and assistant; anything else as it is."""
    if not all(isinstance(turn, str) for turn in turns):
        return turns
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def tools_of(row: Mapping[str, Any]) -> list[Any] | None:
    """The row's tool definitions in OpenAI's form, or None: from `tools` or `functions`, as a list or as JSON text."""
    name = next((name for name in ("tools", "functions") if row.get(name)), None)
    if name is None:
        return None
    tools = parsed(row[name], name) if isinstance(row[name], str) else row[name]
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list):
        return None
    definitions = [parsed(tool, name) if isinstance(tool, str) else tool for tool in tools]
    for definition in definitions:
        if not isinstance(definition, Mapping):
            raise RowError(f"{name} holds {type(definition).__name__}; expected tool definitions")
    bare = ("function" not in definition and "name" in definition for definition in definitions)
    return [
        {"type": "function", "function": definition} if is_bare else definition
        for definition, is_bare in zip(definitions, bare, strict=True)
    ] or None


def calls_of(value: Any, where: str) -> list[dict[str, Any]] | None:
    """Tool calls in OpenAI's form, from a call or a list of calls; None where it is something else."""
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list) or not calls or not all(isinstance(call, Mapping) for call in calls):
        return None
    return [_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def parsed(text: str, column: str) -> Any:
    """JSON that stands in a column as text.

    Raises:
        RowError: It is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{column} is not JSON: {error}") from error


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(f"{where} is {type(item).__name__}; expected a message with role and content")
    spoken = item.get("role", item.get("from"))
    role = ROLES.get(spoken.casefold()) if isinstance(spoken, str) else None
    if role is None:
        raise RowError(f"{where} has the role {spoken!r}; expected system, user, assistant or tool")
    known = ("role", "from", "content", "value", "function_call")
    extra = {key: value for key, value in item.items() if key not in known and value is not None}
    content = item.get("content", item.get("value"))
    calls = _tool_calls(item, str(spoken).casefold(), content, where)
    if calls:
        extra["tool_calls"] = calls
        content = "" if str(spoken).casefold() in CALLING_ROLES else content
    if content is None and not calls:
        raise RowError(f"{where} ({role}) has no content")
    return {"role": role, "content": _content(content, where), **extra}


def _tool_calls(item: Mapping[str, Any], spoken: str, content: Any, where: str) -> list[dict[str, Any]] | None:
    """The calls of a message, wherever they stand in it."""
    if spoken in CALLING_ROLES and isinstance(content, str):
        try:
            return calls_of(json.loads(content), where)
        except (ValueError, RecursionError):
            return None  # words about a call, or a call in a model's own notation: learnt as they stand
    if item.get("function_call"):
        return calls_of(item["function_call"], f"{where}.function_call")
    calls = item.get("tool_calls")
    if not calls:
        return None
    found = calls_of(parsed(calls, f"{where}.tool_calls") if isinstance(calls, str) else calls, f"{where}.tool_calls")
    if found is None:
        raise RowError(f"{where}.tool_calls is {type(calls).__name__}; expected a list of calls")
    return found


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} names no function")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise RowError(f"{where}: the arguments of {function['name']} are not JSON: {error}") from error
    if "function" in call:
        return {**call, "function": {**function, "arguments": arguments}}
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


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
