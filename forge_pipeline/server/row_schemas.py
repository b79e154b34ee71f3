"""Which rows a task and strategy can learn from, and what is wrong with a file that holds others.

A row is one line of JSON: an object whose fields fit one of `SCHEMAS`. All rows of a
file must fit one schema in common, because a dataset has one set of columns. Every
finding names its line; the first `MAX_ERRORS` are kept and all are counted. Lines are
parsed by the pipeline's own reader, so that what is taken here is taken by the run too.
"""

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from forge_pipeline.data.messages import RowError
from forge_pipeline.data.readers.json_text import parsed_row
from forge_pipeline.data.readers.row import BrokenRow
from forge_pipeline.data.task_rows import question_of

MAX_ERRORS = 100
MIN_ROWS = 10
_NAMES = {
    "str": "a string", "int": "a number", "float": "a number", "list": "a list", "bool": "true or false",
    "NoneType": "null",
}  # fmt: skip
_NO_OBJECT = " instead of an object with named columns"  # as the reader puts it
_LONGEST_LINE = 16 * 2**20  # bytes; a row beyond this is a mistake, and would be held in memory whole


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be a string, found {_kind(value)}"
    return None if value.strip() else "is empty"


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    return _NAMES.get(type(value).__name__, "an object")


def _messages(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return "must be a non-empty list of messages"
    for position, message in enumerate(value):
        calls = isinstance(message, dict) and message.get("role") == "assistant" and bool(message.get("tool_calls"))
        if not isinstance(message, dict) or "role" not in message or not (calls or "content" in message):
            return f"[{position}] must be an object with role and content"
        if message["role"] not in ("system", "user", "assistant", "tool"):
            return f"[{position}].role must be system, user, assistant or tool, found {message['role']!r}"
        problem = None if calls else _text(message["content"])
        if problem:
            return f"[{position}].content {problem}"
    return None


def _conversation(value: Any) -> str | None:
    """A whole conversation to learn from: what the assistant says in it is what is learnt."""
    problem = _messages(value)
    if problem is None and all(message["role"] != "assistant" for message in value):
        return "holds no message of the assistant, so there is nothing to learn from it"
    return problem


def _text_or_messages(value: Any) -> str | None:
    return _messages(value) if isinstance(value, list) else _text(value)


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, found {_kind(value)}"


def _answers(value: Any) -> str | None:
    """SQuAD's ``{"text": [...], "answer_start": [...]}`` (no text: unanswerable), a list of strings, or a string."""
    if isinstance(value, dict):
        texts = value.get("text")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return ".text must be a list of strings"
        return None
    if isinstance(value, list):
        return None if all(isinstance(text, str) for text in value) else "must be a list of strings"
    return _text(value)


def _answer_in_context(row: Mapping[str, Any]) -> str | None:
    try:
        question_of(row)
    except RowError as error:
        return str(error)
    return None


# Schema name -> field -> what is wrong with its value, or None. Extra fields are allowed.
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "prompt, completion": {"prompt": _text_or_messages, "completion": _text_or_messages},
    "messages": {"messages": _conversation},
    "instruction, output": {"instruction": _text, "output": _text},
    "input, output": {"input": _text, "output": _text},
    "text": {"text": _text},
    "document, summary": {"document": _text, "summary": _text},
    "article, summary": {"article": _text, "summary": _text},
    "context, question, answer": {"context": _text, "question": _text, "answer": _answers},
    "context, question, answers": {"context": _text, "question": _text, "answers": _answers},
    "prompt, chosen, rejected": {
        "prompt": _text_or_messages,
        "chosen": _text_or_messages,
        "rejected": _text_or_messages,
    },
    "prompt, completion, label": {"prompt": _text_or_messages, "completion": _text_or_messages, "label": _boolean},
    "prompt": {"prompt": _text_or_messages},
}

# What is wrong with a row as a whole, whose fields are each all right.
_WHOLE_ROW: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "context, question, answer": _answer_in_context,
    "context, question, answers": _answer_in_context,
}

_LANGUAGE = ("prompt, completion", "messages", "instruction, output", "input, output", "text")
_PREFERENCE = ("prompt, chosen, rejected",)
_BY_STRATEGY = {
    "sft": _LANGUAGE,
    "qlora": _LANGUAGE,
    "dpo": _PREFERENCE,
    "orpo": _PREFERENCE,
    "simpo": _PREFERENCE,
    "rlhf": _PREFERENCE,
    "reward": _PREFERENCE,
    "pretraining": ("text",),
    "kto": ("prompt, completion, label",),
    "grpo": ("prompt",),
}
_BY_TASK = {
    "summarization": ("document, summary", "article, summary", "input, output"),
    "extractive-question-answering": ("context, question, answer", "context, question, answers"),
}


def accepted(task: str, strategy: str) -> tuple[str, ...]:
    """Names of the schemas that `task` trained by `strategy` learns from."""
    return _BY_TASK.get(task) or _BY_STRATEGY[strategy]


@dataclass(frozen=True)
class FileReport:
    """What a JSONL file holds.

    Attributes:
        rows: Lines that are not blank.
        schema: The schema that all rows fit; None where there is none.
        errors: One sentence for each offending line, each naming it; the first `MAX_ERRORS`.
        error_count: Offending lines in all.
    """

    rows: int
    schema: str | None
    errors: tuple[str, ...]
    error_count: int

    @property
    def valid(self) -> bool:
        return self.rows > 0 and self.error_count == 0


def inspect_file(path: Path, schemas: Iterable[str] = tuple(SCHEMAS)) -> FileReport:
    """Read a whole JSONL file, one row in memory at a time. A byte order mark at its beginning is no part of it.

    Raises:
        UnicodeDecodeError: A line is not UTF-8.
        OSError: The file cannot be read.
    """
    wanted = tuple(schemas)
    common: list[str] | None = None
    errors: list[str] = []
    rows = count = 0
    with path.open("rb") as file:
        for number, line in _lines(file):
            rows += 1
            fits, problem = _fits(line, number, wanted)
            if problem is None and common is not None and not set(fits) & set(common):
                problem = (
                    f"is a row of ({fits[0]}), but those before are of ({common[0]}); a file holds one kind of row"
                )
            if problem is None:
                common = fits if common is None else [name for name in common if name in fits]
                continue
            count += 1
            if len(errors) < MAX_ERRORS:
                errors.append(f"line {number}: {problem}")
    return FileReport(rows, common[0] if common else None, tuple(errors), count)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line number from 1 and bytes; None stands for a line that is too long. Blank lines are skipped."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(_LONGEST_LINE)
            yield number, None
        elif line.strip():
            yield number, line


def _fits(line: bytes | None, number: int, schemas: tuple[str, ...]) -> tuple[list[str], str | None]:
    """The schemas that a line fits, or what is wrong with it."""
    if line is None:
        return [], f"is longer than {_LONGEST_LINE // 2**20} MiB"
    parsed = parsed_row(_decoded(line, number), number)
    if isinstance(parsed, BrokenRow):
        return [], _said(parsed.reason, line)
    row = parsed.values
    found = {name: _problem(row, name) for name in schemas}
    fits = [name for name, problem in found.items() if problem is None]
    if fits:
        return fits, None
    nearest = min(schemas, key=lambda name: (_missing(row, name), list(schemas).index(name)))
    return [], f"{found[nearest]}. Rows need one of: {'; '.join(f'({name})' for name in schemas)}"


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} of line {number} is none of UTF-8's"
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            where = "it begins like UTF-16"
        elif number == 1 and line.startswith(b"\x1f\x8b"):
            where = "it is compressed with gzip; unpack it"
        raise UnicodeDecodeError(error.encoding, error.object, error.start, error.end, where) from error


def _said(reason: str, line: bytes) -> str:
    """The reader's reason as the end of a sentence that begins with the line's number."""
    words, other = reason.removeprefix("not JSON: "), reason.removesuffix(_NO_OBJECT)
    said = f"cannot be read: {reason}" if words == reason else f"is not valid JSON: {words}"
    if other != reason:
        said = f"is {_NAMES.get(other, 'no object')}; expected an object"
    elif "set_int_max_str_digits" in reason:  # Python's advice to programmers
        said = f"cannot be read: a number has more than {sys.get_int_max_str_digits()} digits"
    spread = line.lstrip()[:1] == b"[" or line.strip() == b"{"  # one list of all rows, or a row over several lines
    return f"{said}. A dataset is JSON Lines: one object a line, and no list around them" if spread else said


def _missing(row: Mapping[str, Any], schema: str) -> float:
    fields = SCHEMAS[schema]
    return sum(field not in row for field in fields) / len(fields)


def _problem(row: Mapping[str, Any], schema: str) -> str | None:
    for field, check in SCHEMAS[schema].items():
        if field not in row:
            return f"the field {field!r} is missing (found: {', '.join(map(repr, list(row)[:8])) or 'no field'})"
        problem = check(row[field])
        if problem:
            joint = "" if problem.startswith(("[", ".")) else " "
            return f"the field {field!r}{joint}{problem}"
    return _WHOLE_ROW[schema](row) if schema in _WHOLE_ROW else None
