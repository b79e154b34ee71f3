"""ChatterBot-corpus YAML, read from the parser's events: a hostile depth or web of aliases builds nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge_pipeline.data.columns import Row
from forge_pipeline.data.readers import text
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows
from forge_pipeline.errors import DataError

_LARGEST = 64 * 2**20  # bytes; a corpus is written by people
_DEEPEST = 100  # levels; the parser below recurses nowhere, but its memory grows


def read_chatterbot(path: Path) -> Rows:
    """Each item of `conversations` is a list of turns, user and assistant in turn.

    Scalars stay text: ``- Yes`` and ``- 1963`` are turns, not a boolean and a number.

    Raises:
        DataError: The file is not YAML, or no corpus.
    """
    root = _document(path)
    conversations = root.get("conversations") if isinstance(root, dict) else None
    if not isinstance(conversations, list):
        raise DataError(f"{path}: expected a key 'conversations' with a list of conversations (ChatterBot corpus)")
    categories = root.get("categories") if isinstance(root, dict) else None
    extra: Row = {}
    if isinstance(categories, list) and all(isinstance(name, str) for _, name in categories):
        extra["categories"] = [name for _, name in categories]
    for line, turns in conversations:
        if not isinstance(turns, list) or not all(isinstance(turn, str) for _, turn in turns):
            yield BrokenRow(line, "not a list of turns")
            continue
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, (_, turn) in enumerate(turns)]
        yield ReadRow(line, {"messages": messages, **extra})


def _document(path: Path) -> Any:
    """The first document: text, a list of (line, value), or a dict of those of its keys that are text."""
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return _built(yaml.parse(text.whole_text(path, _LARGEST), Loader=loader), path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{path}: {where}not YAML: {getattr(error, 'problem', None) or error}") from error


def _built(events: Iterator[Any], path: Path) -> Any:
    import yaml

    open_nodes: list[tuple[Any, str | None, list[tuple[int, Any]]]] = []  # (event, anchor, children)
    anchors: dict[str, Any] = {}
    for event in events:
        line: int = event.start_mark.line + 1
        value: Any
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            open_nodes.append((event, event.anchor, []))
            if len(open_nodes) > _DEEPEST:
                raise DataError(f"{path}: line {line}: nested too deeply to be a corpus")
            continue
        if isinstance(event, yaml.ScalarEvent):
            value, anchor = event.value, event.anchor
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise DataError(f"{path}: line {line}: not YAML: the alias {event.anchor!r} stands for nothing")
            value, anchor = anchors[event.anchor], None
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            started, anchor, children = open_nodes.pop()
            line = started.start_mark.line + 1
            is_list = isinstance(started, yaml.SequenceStartEvent)
            value = children if is_list else _mapping(children)
        else:
            continue
        if anchor:
            anchors[anchor] = value
        if not open_nodes:
            return value
        open_nodes[-1][2].append((line, value))
    return None


def _mapping(children: list[tuple[int, Any]]) -> dict[str, Any]:
    keys, values = children[::2], children[1::2]
    return {key: value for (_, key), (_, value) in zip(keys, values, strict=True) if isinstance(key, str)}
