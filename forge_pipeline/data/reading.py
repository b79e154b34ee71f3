"""Files -> rows, with the line number kept for every row and every error.

JSONL, JSON (an array, or objects one after another), CSV, TSV and ChatterBot-corpus YAML, plain
or compressed (.gz, .zst, .bz2, .xz); Parquet and Arrow; documents (PDF, DOCX, EPUB, HTML,
Markdown, text), which become rows of chunks. One broken row becomes a `BrokenRow` and reading
goes on; a file that cannot be trusted as a whole (missing, empty, not UTF-8, cut off) raises
`DataError`. Text is never changed: no stripping, no guessing of numbers in CSV. One row, or
one batch of rows, is held at a time; a row of more than 256 MiB is skipped and named.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.data.compression import without_compression
from forge_pipeline.data.documents import CountTokens, document_suffixes, is_document, read_document
from forge_pipeline.data.readers.arrow import read_arrow
from forge_pipeline.data.readers.chatterbot import read_chatterbot
from forge_pipeline.data.readers.delimited import read_delimited
from forge_pipeline.data.readers.json_files import read_json, read_json_lines
from forge_pipeline.data.readers.parquet import read_parquet
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows
from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from forge_pipeline.config.data import DocumentsSection

__all__ = [
    "BrokenRow",
    "ReadRow",
    "Rows",
    "document_suffixes",
    "is_data_file",
    "is_document",
    "known_suffixes",
    "read_rows",
]

_TEXT_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".yml": read_chatterbot,
    ".yaml": read_chatterbot,
}
# Compressed inside; a file of this kind within another compression is nobody's habit.
_BINARY_READERS: dict[str, Callable[[Path], Rows]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}


def read_rows(
    path: Path,
    *,
    documents: "DocumentsSection | None" = None,
    count_tokens: CountTokens | None = None,
    source: str | None = None,
) -> Rows:
    """Read one file; the ending of its name says how.

    Args:
        path: A data file or a document.
        documents: How a document is cut into rows; None means the section's defaults. Data files need none.
        count_tokens: Counts the tokens of a text, for documents; see `documents.read_document`.
        source: What the rows of a document call it; its file name, if not given.

    Raises:
        DataError: The file is missing, unreadable, empty, of an unknown kind, or broken as a whole.
        OptionalDependencyError: A document's parser is not installed.
    """
    reader = _reader(path)
    if reader is None and not is_document(path):
        known = ", ".join([*known_suffixes(), *document_suffixes()])
        raise DataError(f"{path}: cannot read files of this kind; expected {known}, or .gz, .zst, .bz2 or .xz of text")
    try:
        check_plain_file(path)
        if path.stat().st_size == 0:
            raise _empty(path)
        some = False
        if reader:
            rows = reader(path)
        else:
            rows = read_document(path, documents or _default_documents(), count_tokens, source=source)
        for row in rows:
            some = True
            yield row
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check data.dataset_name_or_path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not some:
        raise _empty(path)


def known_suffixes() -> list[str]:
    """The endings of data files that `read_rows` knows, without those of compression."""
    return [*_TEXT_READERS, *_BINARY_READERS]


def is_data_file(path: Path) -> bool:
    """Whether `read_rows` would know how to read a file of this name as rows; documents are not meant."""
    return _reader(path) is not None


def check_plain_file(path: Path) -> None:
    """Refuse what opening would wait for, or read without end.

    Raises:
        DataError: It is a folder, a pipe, a socket or a device.
        OSError: It is not there, or cannot be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _SPECIAL if test(mode)), "special file")
        raise DataError(f"{path}: is a {kind}; expected a plain file")


_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def _reader(path: Path) -> Callable[[Path], Rows] | None:
    name, compression = without_compression(path.name)
    suffix = Path(name).suffix
    return _TEXT_READERS.get(suffix) or (None if compression else _BINARY_READERS.get(suffix))


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: holds no rows; expected at least one training row")


def _default_documents() -> "DocumentsSection":
    from forge_pipeline.config.data import DocumentsSection

    return DocumentsSection()
