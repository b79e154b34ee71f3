"""Documents -> rows of chunks: PDF, DOCX, EPUB, HTML, Markdown and plain text.

A parser turns a document into blocks (headings, paragraphs, lists, tables, code) in reading
order; `chunking` puts blocks together, or cuts them, into rows

    {"text": ..., "source": file name, "page": 3, "section": ["Chapter", "Heading"], "chunk": 1}

where `page` (PDF only) is the page on which the chunk begins, `section` the headings above its
beginning, and `chunk` its number in the document; pages and chunks count from 1. Law: without
overlap, the chunks of a document, in order, hold all its text.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.data.compression import without_compression
from forge_pipeline.data.documents.block import Blocks
from forge_pipeline.data.documents.chunking import CountTokens, chunked, chunking_note, count_units
from forge_pipeline.data.readers.row import Rows

if TYPE_CHECKING:
    from forge_pipeline.config.data import DocumentsSection

__all__ = [
    "CountTokens",
    "chunking_note",
    "count_units",
    "document_suffixes",
    "is_document",
    "read_document",
]

# The module of each; its function is called ``<module>_blocks``. It is imported with the first document of its kind:
# who reads rows alone does not pay for it.
_TEXT_PARSERS = {
    ".txt": "plain",
    ".text": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
_BINARY_PARSERS = {".pdf": "pdf", ".docx": "docx", ".epub": "epub"}


def document_suffixes() -> list[str]:
    """The endings of documents."""
    return [*_BINARY_PARSERS, *_TEXT_PARSERS]


def is_document(path: Path) -> bool:
    """Whether `read_document` would know how to read a file of this name."""
    return _kind(path) is not None


def read_document(
    path: Path, options: "DocumentsSection", count_tokens: CountTokens | None = None, *, source: str | None = None
) -> Rows:
    """The chunks of one document as rows; what cannot be used becomes a `BrokenRow` with its reason.

    Args:
        path: A file whose ending is one of `document_suffixes()`.
        options: How to cut.
        count_tokens: Counts the tokens of a text. None: words and marks are counted instead (`count_units`), and
            whoever keeps the rows should keep `chunking_note` with them.
        source: What the rows call the document; its file name, if not given.

    Raises:
        DataError: The document is damaged, encrypted, or of another kind than its name says.
        OptionalDependencyError: Its parser, in the extra ``documents``, is not installed.
    """
    kind = _kind(path)
    if kind is None:
        raise ValueError(f"{path}: no document; expected {', '.join(document_suffixes())}")
    return chunked(_parser(kind)(path), options, count_tokens or count_units, source=source or path.name)


def _kind(path: Path) -> str | None:
    name, compression = without_compression(path.name)
    suffix = Path(name).suffix
    return _TEXT_PARSERS.get(suffix) or (None if compression else _BINARY_PARSERS.get(suffix))


def _parser(kind: str) -> Callable[[Path], Blocks]:
    parser: Callable[[Path], Blocks] = getattr(import_module(f"{__name__}.{kind}"), f"{kind}_blocks")
    return parser
