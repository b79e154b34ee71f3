"""JSON files by their layout, whatever their name says: one object a line, one array, or values one after another."""

from pathlib import Path

from forge_pipeline.data.readers import text
from forge_pipeline.data.readers.json_text import parsed_row
from forge_pipeline.data.readers.json_values import read_values
from forge_pipeline.data.readers.row import ReadRow, Rows, too_long


def read_json_lines(path: Path) -> Rows:
    """The rows of a .jsonl file. A line that is no row becomes a `BrokenRow`; one array of objects is read as such.

    Raises:
        DataError: The file is not UTF-8, or holds an array that is broken.
    """
    return read_values(path) if _is_array_of_objects(text.head(path)) else _read_lines(path)


def read_json(path: Path) -> Rows:
    """The rows of a .json file; where the first line is a row by itself, every line is.

    Raises:
        DataError: The file is not UTF-8; an element is broken, so that nothing says where the next one begins.
    """
    if text.head(path).lstrip().startswith("["):
        return read_values(path)
    first = next((raw for _, raw in text.lines(path) if raw is None or raw.strip()), None)
    if first is None or not isinstance(parsed_row(first.decode(errors="replace"), 1), ReadRow):
        return read_values(path)
    return _read_lines(path)


def _read_lines(path: Path) -> Rows:
    for number, raw in text.lines(path):
        if raw is None:
            yield too_long(number)
            continue
        line = text.decoded(raw, path, number)
        if line and not line.isspace():
            yield parsed_row(line, number)


def _is_array_of_objects(head: str) -> bool:
    """Whether the file is in truth one JSON array; a first line like ``[1, 2]`` does not make it one.

    Nor does a first line ``[{...}]`` with an object on the next line: no array has such a line break.
    """
    start = head.lstrip()
    if not start.startswith("[") or not start[1:].lstrip().startswith("{"):
        return False
    first, _, others = start.partition("\n")
    return not (first.rstrip().endswith(("]", "}")) and others.lstrip().startswith(("{", "[")))
