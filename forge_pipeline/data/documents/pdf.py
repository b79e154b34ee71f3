"""PDF: the text layer of each page; bookmarks are the headings. Pages without text are named, never read by OCR."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.data.documents.block import Block, Blocks
from forge_pipeline.data.readers.row import BrokenRow
from forge_pipeline.errors import DataError

_MOST_PAGES = 100_000
_DEEPEST_BOOKMARK = 20
_MOST_BOOKMARKS = 100_000


def pdf_blocks(path: Path) -> Blocks:
    """One block a page; `line` and `page` are its number, from 1.

    Raises:
        DataError: The file is damaged, no PDF, or encrypted with a password.
        OptionalDependencyError: pypdf is not installed.
    """
    pypdf = require("pypdf", extra="documents", purpose="PDF files")
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(1024):
            raise DataError(f"{path}: no PDF file: it does not begin with %PDF-")
        file.seek(0)
        reader, pages = _opened(pypdf, file, path)
        headings = _bookmarks(reader)
        for number in range(1, pages + 1):
            for level, title in headings.get(number, ()):
                yield Block("", number, "heading", level, title, page=number)
            yield _page(reader, number)


def _opened(pypdf: Any, file: Any, path: Path) -> tuple[Any, int]:
    """The reader and the number of pages."""
    try:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{path}: encrypted with a password; remove it first: qpdf --password=... --decrypt in out")
        pages = len(reader.pages)
    except DataError:
        raise
    # pypdf meets a damaged file with errors of many kinds besides its own: KeyError, TypeError, RecursionError, ...
    except Exception as error:
        raise DataError(
            f"{path}: no whole PDF file: {error or type(error).__name__}; fetch or save it again"
        ) from error
    if pages > _MOST_PAGES:
        raise DataError(f"{path}: claims {pages} pages; at most {_MOST_PAGES} are read")
    if not pages:
        raise DataError(f"{path}: no whole PDF file: it has no pages")
    return reader, pages


def _page(reader: Any, number: int) -> Block | BrokenRow:
    try:
        text = reader.pages[number - 1].extract_text().strip("\n")
    # As above; the other pages are not touched by it.
    except Exception as error:
        return BrokenRow(number, f"page {number} cannot be read: {error or type(error).__name__}")
    if not text.strip():
        return BrokenRow(number, f"page {number} has no text layer (OCR is not done)")
    return Block(text, number, page=number)


def _bookmarks(reader: Any) -> dict[int, list[tuple[int, str]]]:
    """Levels and titles of the bookmarks by the page that they point to; those that point nowhere are left out."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for i, (level, item) in enumerate(_flat(reader.outline, 1)):
            page = reader.get_destination_page_number(item)
            title = " ".join(str(item.title or "").split())
            if page is not None and page >= 0 and title and i < _MOST_BOOKMARKS:
                found.setdefault(page + 1, []).append((level, title))
    # Bookmarks help, but a document with broken ones is still read.
    except Exception:
        return {}
    return found


def _flat(outline: Any, level: int) -> Iterator[tuple[int, Any]]:
    for item in outline:
        if isinstance(item, list):
            if level < _DEEPEST_BOOKMARK:
                yield from _flat(item, level + 1)
        else:
            yield level, item
