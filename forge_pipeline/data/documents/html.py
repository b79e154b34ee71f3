"""HTML: the text a reader sees, with its headings, lists, tables and code.

Scripts, styles, navigation and other parts that are no text of the page are left out; where a
page has a <main> element, what stands outside it is, too. White space is collapsed as browsers
do it, but in <pre> and <code> it stays.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.data.documents.block import LARGEST_TEXT, Block, Blocks, Kind
from forge_pipeline.data.readers import text
from forge_pipeline.errors import DataError

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CODE = ("code", "kbd", "samp")
_NO_TEXT_TAGS = """
script style nav template noscript head iframe object embed svg canvas audio video select datalist button
"""
_BLOCK_TAGS = """
address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form header
hgroup hr html legend li main ol option p pre section summary table tbody td tfoot th thead tr ul h1 h2 h3 h4 h5 h6
"""
_NO_TEXT_CLASSES = """
Comment Declaration Doctype ProcessingInstruction XMLProcessingInstruction Script Stylesheet TemplateString
"""
_DROPPED, _BREAKING = frozenset(_NO_TEXT_TAGS.split()), frozenset(_BLOCK_TAGS.split())
_NO_TEXT = frozenset(_NO_TEXT_CLASSES.split())  # names of the parser's classes
_SPACE = re.compile(r"[ \t\r\n\f]+")
_META = rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)"""
_XML = rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)"""
_DECLARED = re.compile(_META + rb"|" + _XML, re.IGNORECASE)
_DEEPEST = 150  # levels of elements


def html_blocks(path: Path) -> Blocks:
    """The blocks of an HTML page; `line` is the number of the block.

    Raises:
        DataError: The bytes are not of the encoding that the page declares (UTF-8, if it declares none), the elements
            are nested more than 150 levels deep, or the file is larger than 64 MiB.
        OptionalDependencyError: beautifulsoup4 or lxml is not installed.
    """
    markup = _decoded(text.whole_bytes(path, LARGEST_TEXT), path)
    for number, block in enumerate(markup_blocks(markup, str(path)), start=1):
        yield Block(block.text, number, block.kind, block.level, block.title, glue=block.glue)


def _decoded(raw: bytes, path: Path) -> str:
    declared = _DECLARED.search(raw[:4096])
    name = next(group for group in declared.groups() if group).decode() if declared else "utf-8"
    if raw.startswith(codecs.BOM_UTF8) or name.casefold() in ("utf-8", "utf8"):
        return text.decoded(raw.removeprefix(codecs.BOM_UTF8), path, 1)
    try:
        return raw.decode(name)
    except (LookupError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: declares the encoding {name!r} and cannot be read as that: {error}") from error


def markup_blocks(markup: str | bytes, where: str) -> Iterator[Block]:
    """The blocks of HTML or XHTML text; `where` names it in errors.

    Raises:
        DataError: The elements are nested too deeply.
        OptionalDependencyError: beautifulsoup4 or lxml is not installed.
    """
    require("lxml", extra="documents", purpose="HTML and EPUB files")
    soup = require("bs4", extra="documents", purpose="HTML and EPUB files").BeautifulSoup(markup, "lxml")
    walk = _Walk(where)
    try:
        walk.element(soup.find("main") or soup.body or soup, 0)
    except RecursionError as error:
        raise DataError(f"{where}: elements are nested too deeply to read") from error
    walk.end_paragraph()
    return iter(walk.blocks)


class _Raw(str):
    """Inline text whose white space stays."""


class _Walk:
    """Collects blocks on the way through the tree."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._inline: list[str] = []  # of the paragraph that is open
        self._lists: list[int | None] = []  # that are open: how many items an ordered one has had, None for others
        self._mark = ""  # of the list item that begins with the next block
        self.blocks: list[Block] = []

    def element(self, element: Any, depth: int) -> None:
        """Go through the children of `element`."""
        if depth > _DEEPEST:
            raise DataError(f"{self._where}: elements are nested more than {_DEEPEST} levels deep")
        for child in element.children:
            if isinstance(child, str):
                if type(child).__name__ not in _NO_TEXT:
                    self._inline.append(_SPACE.sub(" ", child))
            elif child.name not in _DROPPED and not child.has_attr("hidden"):
                self._child(child, depth + 1)

    def end_paragraph(self) -> None:
        """Make a block of the inline text so far, if there is any."""
        content = _trimmed(self._inline)
        self._inline = []
        self._add(content, "list" if self._mark else "paragraph")

    def _child(self, child: Any, depth: int) -> None:
        name = child.name
        if name == "br":
            self._inline.append(_Raw("\n"))
        elif name == "img":
            self._inline.append(_SPACE.sub(" ", str(child.get("alt") or "")))
        elif name in _CODE and child.find(list(_BREAKING)) is None:
            self._inline.append(_Raw(child.get_text()))
        elif name not in _BREAKING:
            self.element(child, depth)
        else:
            self.end_paragraph()
            self._block(child, depth)
            self.end_paragraph()

    def _block(self, child: Any, depth: int) -> None:
        name = child.name
        if name in _HEADINGS:
            title = _flat(child)
            self._add(title, "heading", level=_HEADINGS[name], title=title)
        elif name == "pre":
            self._add(child.get_text().removeprefix("\n"), "code")  # as HTML has it
        elif name == "table" and child.find("tr") and child.find(["table", "pre", "ul", "ol", *_HEADINGS]) is None:
            self._add("\n".join(_table_rows(child)), "table")
        elif name in ("ul", "ol"):
            self._lists.append(0 if name == "ol" else None)
            self.element(child, depth)
            self.end_paragraph()
            self._lists.pop()
        else:
            if name == "li":
                self._mark = self._next_mark()
            self.element(child, depth)
            self.end_paragraph()
            if name == "li":
                self._mark = ""

    def _next_mark(self) -> str:
        indent = "  " * (len(self._lists) - 1)
        if not self._lists or self._lists[-1] is None:
            return f"{indent}- "
        self._lists[-1] += 1
        return f"{indent}{self._lists[-1]}. "

    def _add(self, content: str, kind: Kind, level: int = 0, title: str = "") -> None:
        if content.strip():
            in_list = bool(self._mark) and bool(self.blocks) and self.blocks[-1].kind == "list"
            glue = "\n" if in_list else "\n\n"
            self.blocks.append(Block(self._mark + content, 0, kind, level, title, glue=glue))
            self._mark = ""


def _trimmed(parts: list[str]) -> str:
    """Inline parts as one text: a space that follows white space is dropped."""
    kept: list[str] = []
    after_space = True
    for part in parts:
        shown = part if isinstance(part, _Raw) or not after_space else part.lstrip(" ")
        if shown:
            kept.append(shown)
            after_space = shown[-1] in " \n"
    return "".join(kept).strip(" \n")


def _table_rows(table: Any) -> Iterator[str]:
    if table.caption is not None:
        yield _flat(table.caption)
    for row in table.find_all("tr"):
        cells = [_flat(cell) for cell in row.find_all(["td", "th"], recursive=False)]
        if any(cells):
            yield " | ".join(cells)


def _flat(element: Any) -> str:
    """The text of an element on one line."""
    parts = []
    for node in element.descendants:
        if isinstance(node, str):
            parts.append("" if type(node).__name__ in _NO_TEXT else node)
        elif node.name == "br" or node.name in _BREAKING:
            parts.append(" ")
    return " ".join("".join(parts).split())
