"""Files -> rows, with the line number kept for every row and every error.

JSONL, JSON (an array, or objects one after another), CSV, Parquet, and ChatterBot-corpus
YAML; all but Parquet also gzipped. One broken row becomes a `BrokenRow` and reading goes
on; a file that cannot be trusted as a whole (missing, empty, not UTF-8, cut off) raises
`DataError`. Text is never changed: no stripping, no guessing of numbers in CSV.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.columns import Row, json_columns, without_nulls
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import loads_strict

_DEEPEST = 32  # levels of nesting; more is no training row, and recursion in the libraries below has an end


@dataclass(frozen=True)
class ReadRow:
    """A row and where it began: `line` counts from 1; in Parquet it counts rows."""

    line: int
    values: Row


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    line: int
    reason: str


Rows = Iterator[ReadRow | BrokenRow]


def read_rows(path: Path) -> Rows:
    """Read one file; the ending of its name says how.

    Raises:
        DataError: The file is missing, unreadable, empty, of an unknown kind, or broken as a whole.
    """
    reader = _READERS.get(_suffix(path))
    if reader is None:
        raise DataError(
            f"{path}: cannot read files of this kind; expected {', '.join(known_suffixes())}, or .gz of them"
        )
    try:
        if path.stat().st_size == 0:
            raise _empty(path)
        some = False
        for row in reader(path):
            some = True
            yield _checked(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check data.dataset_name_or_path") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); fetch or compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not some:
        raise _empty(path)


def known_suffixes() -> list[str]:
    """The endings that `read_rows` knows, without .gz."""
    return list(_READERS)


def is_data_file(path: Path) -> bool:
    """Whether `read_rows` would know how to read a file of this name."""
    return _suffix(path) in _READERS


def _suffix(path: Path) -> str:
    name = path.name.casefold()
    zipped = name.endswith(".gz")
    suffix = Path(name.removesuffix(".gz")).suffix
    return f"{suffix}.gz" if zipped and suffix == ".parquet" else suffix


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: holds no rows; expected at least one training row")


def _checked(row: ReadRow | BrokenRow) -> ReadRow | BrokenRow:
    if isinstance(row, BrokenRow):
        return row
    problem = _problem(row.values)
    return BrokenRow(row.line, problem) if problem else ReadRow(row.line, without_nulls(row.values))


def _problem(value: Any, depth: int = 0) -> str | None:
    """Why a parsed row cannot be stored, or None."""
    if not depth and not isinstance(value, dict):
        return f"{type(value).__name__} instead of an object with named columns"
    if depth > _DEEPEST:
        return f"nested more than {_DEEPEST} levels deep"
    if isinstance(value, str):
        return (
            None
            if value.isascii() or not _has_surrogate(value)
            else "text with half of a surrogate pair (\\ud800-\\udfff)"
        )
    if isinstance(value, dict):
        keys = (_problem(key, depth + 1) for key in value if isinstance(key, str))
        inner = (_problem(item, depth + 1) for item in value.values())
        return next((found for found in (*keys, *inner) if found), None)
    if isinstance(value, list):
        return next((found for item in value if (found := _problem(item, depth + 1))), None)
    return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    zipped = path.name.casefold().endswith(".gz")
    with cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb") as file:
        yield file


def _lines(path: Path, *, first: int = 1) -> Iterator[tuple[int, str]]:
    """Lines with their numbers. Only a line feed ends a line: U+2028 may stand inside JSON text.

    Raises:
        DataError: A line is not UTF-8.
    """
    with _opened(path) as file:
        for number, raw in enumerate(file, start=first):
            yield number, _decoded(raw, path, number)


def _decoded(raw: bytes, path: Path, line: int) -> str:
    if line == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: line 1 begins like UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        at = raw[: error.start].count(b"\n")
        raise DataError(
            f"{path}: line {line + at}: byte 0x{raw[error.start]:02x} is not UTF-8. "
            "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    return text.removeprefix("\ufeff") if line == 1 else text


def _whole_text(path: Path) -> str:
    with _opened(path) as file:
        return _decoded(file.read(), path, 1)


def _read_jsonl(path: Path) -> Rows:
    first = next((text for _, text in _lines(path) if text.strip()), "")
    if first.lstrip().startswith("["):
        text = _whole_text(path)
        if _is_array_of_objects(text):
            yield from _values(text, path)
            return
    for number, text in _lines(path):
        if text.strip():
            yield _parsed(text, number)


def _is_array_of_objects(text: str) -> bool:
    """Whether a JSONL file is in truth one JSON array; a first line like ``[1, 2]`` does not make it one."""
    rest = text.lstrip()[1:].lstrip()
    return rest.startswith("{") and text.rstrip().endswith("]")


def _parsed(text: str, line: int) -> ReadRow | BrokenRow:
    try:
        return ReadRow(line, loads_strict(text))
    except json.JSONDecodeError as error:
        if "\0" in text:
            return BrokenRow(line, "holds NUL bytes; the file was perhaps cut off or copied while being written")
        return BrokenRow(line, f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return BrokenRow(line, str(error))


def _read_json(path: Path) -> Rows:
    text = _whole_text(path)
    start = text.lstrip()
    if not start:
        return
    if not start.startswith("[") and isinstance(_parsed(start.partition("\n")[0], 1), ReadRow):
        yield from _read_jsonl(path)  # objects, one a line
        return
    yield from _values(text, path)


def _values(text: str, path: Path) -> Rows:
    """The elements of a JSON array, or values one after another, each with the line on which it begins.

    Raises:
        DataError: One is broken: nothing says where the next one would begin.
    """
    scanner = json.JSONDecoder()
    at, line, last = _skip(text, 0), 1, 0
    in_array = text[at : at + 1] == "["
    at = _skip(text, at + 1) if in_array else at
    while at < len(text) and text[at] != "]":
        line += text.count("\n", last, at)
        last = at
        try:
            _, end = scanner.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            too_deep = isinstance(error, RecursionError)
            what = "nested too deeply" if too_deep else getattr(error, "msg", None) or str(error)
            raise DataError(
                f"{path}: line {line}: the row that begins here is not JSON: {what}. "
                "Repair it, or write one object a line (.jsonl), where one broken row does not end the reading"
            ) from error
        yield _parsed(text[at:end], line)
        at = _skip(text, end)
        if in_array:
            if text[at : at + 1] not in (",", "]"):
                raise DataError(
                    f"{path}: line {line}: no ',' or ']' after the row that begins here; is the file cut off?"
                )
            at = _skip(text, at + 1) if text[at] == "," else at
    if in_array and at >= len(text):
        raise DataError(f"{path}: the array that begins the file is never closed with ']'; is the file cut off?")
    if in_array and text[at + 1 :].strip():
        raise DataError(f"{path}: line {line}: there is more text after the array that holds the rows")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(path: Path) -> Rows:
    delimiter = "\t" if _suffix(path) == ".tsv" else ","
    stream = io.StringIO(_whole_text(path), newline="")
    with _long_fields():
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = next(reader, [])
        if not header or len(set(header)) != len(header) or not all(name.strip() for name in header):
            raise DataError(f"{path}: line 1: expected a header with one distinct name a column, found {header}")
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(f"{path}: line {line}: a quote that opens in this row is never closed") from error
                yield BrokenRow(line, f"not CSV: {error}")
                continue
            if not fields:
                continue
            if len(fields) != len(header):
                yield BrokenRow(line, f"{len(fields)} fields under a header of {len(header)} columns")
            elif any("\0" in field for field in fields):
                yield BrokenRow(line, "holds NUL bytes; the file was perhaps cut off or copied while being written")
            else:
                yield ReadRow(line, dict(zip(header, fields, strict=True)))


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB a field, which is process-wide, for the time of reading."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path) -> Rows:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            encoded = json_columns(file.schema_arrow)
            for batch in file.iter_batches(batch_size=4096):
                for values in batch.to_pylist():
                    number += 1
                    for name in encoded:
                        values[name] = None if values[name] is None else json.loads(values[name])
                    yield ReadRow(number, values)
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not readable as Parquet after row {number}: {error}") from error


def _read_chatterbot(path: Path) -> Rows:
    """A ChatterBot corpus: each item of `conversations` is a list of turns, user and assistant in turn.

    Scalars stay text: ``- Yes`` and ``- 1963`` are turns, not a boolean and a number.
    """
    import yaml

    text = _whole_text(path)
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{path}: {where}not YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply to be a corpus") from error
    entries = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    conversations = entries.get("conversations")
    if not isinstance(conversations, yaml.SequenceNode):
        raise DataError(f"{path}: expected a key 'conversations' with a list of conversations (ChatterBot corpus)")
    categories = entries.get("categories")
    extra: Row = {}
    if isinstance(categories, yaml.SequenceNode) and all(isinstance(n, yaml.ScalarNode) for n in categories.value):
        extra["categories"] = [node.value for node in categories.value]
    for node in conversations.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.SequenceNode) or not all(isinstance(t, yaml.ScalarNode) for t in node.value):
            yield BrokenRow(line, "not a list of turns")
            continue
        turns = [{"role": ("user", "assistant")[i % 2], "content": turn.value} for i, turn in enumerate(node.value)]
        yield ReadRow(line, {"messages": turns, **extra})


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".yml": _read_chatterbot,
    ".yaml": _read_chatterbot,
}
