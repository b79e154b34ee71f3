"""DOCX: paragraphs, headings, lists and tables in the order of the document, then foot- and endnotes.

Text that a reader does not see in the final document (deleted by a tracked change, a fallback
for old programs, page headers and footers) is left out; inserted text, content controls, text
boxes and formulas are kept.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge_pipeline._optional import require
from forge_pipeline.data.documents.archive import open_archive, parse_xml, read_member
from forge_pipeline.data.documents.block import LARGEST_TEXT, Block, Blocks
from forge_pipeline.errors import DataError

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_MARKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "\u2011", f"{_W}ptab": "\t"}
_UNSEEN = frozenset((f"{_W}del", f"{_W}moveFrom", f"{_MC}Fallback", f"{_W}rPr", f"{_W}pPr", f"{_W}instrText"))
_HEADING_STYLE = re.compile(r"heading ([1-9])", re.IGNORECASE)
_NOTES = ("footnotes", "endnotes")


def docx_blocks(path: Path) -> Blocks:
    """The blocks of a Word document; `line` is the number of the block.

    Raises:
        DataError: The file is damaged, encrypted, or no Word document.
        OptionalDependencyError: python-docx is not installed.
    """
    docx = require("docx", extra="documents", purpose="DOCX files")
    with open_archive(path, "DOCX") as archive:
        for member in archive.infolist():
            if member.filename.casefold().endswith((".xml", ".rels")):
                parse_xml(
                    read_member(archive, member.filename, path, LARGEST_TEXT), f"{path}: {member.filename!r} in it"
                )
    try:
        document = docx.Document(str(path))
        levels = dict(_style_levels(document))
    # python-docx tells of a damaged or foreign package in many ways: KeyError, ValueError, AttributeError, its own.
    except Exception as error:
        raise DataError(f"{path}: no whole DOCX file: {error}; save it again as .docx") from error
    walk = _Walk(levels)
    bodies = [document.element.body, *_notes(document)]
    for number, block in enumerate((block for body in bodies for block in walk.blocks(body)), start=1):
        yield Block(block.text, number, block.kind, block.level, block.title, glue=block.glue)


def _style_levels(document: Any) -> Iterator[tuple[str, int]]:
    """Heading levels of paragraph styles, by id: by name, else by outline level, own or inherited."""
    for style in document.styles.element.iter(f"{_W}style"):
        level = None
        for ancestor in _with_bases(
            style, {s.get(f"{_W}styleId"): s for s in document.styles.element.iter(f"{_W}style")}
        ):
            name = ancestor.find(f"{_W}name")
            match = _HEADING_STYLE.fullmatch(str(name.get(f"{_W}val"))) if name is not None else None
            if match:
                level = int(match[1])
            elif name is not None and str(name.get(f"{_W}val")).casefold() == "title":
                level = 0  # above every heading
            else:
                level = _outline_level(ancestor)
            if level is not None:
                yield style.get(f"{_W}styleId"), level
                break


def _with_bases(style: Any, styles: dict[str, Any]) -> Iterator[Any]:
    seen: set[int] = set()
    while style is not None and id(style) not in seen:
        yield style
        seen.add(id(style))
        base = style.find(f"{_W}basedOn")
        style = None if base is None else styles.get(base.get(f"{_W}val"))


def _outline_level(owner: Any) -> int | None:
    found = owner.find(f"{_W}pPr/{_W}outlineLvl")
    value = "" if found is None else str(found.get(f"{_W}val"))
    return int(value) + 1 if value.isdigit() and int(value) < 9 else None


def _notes(document: Any) -> Iterator[Any]:
    for relation in document.part.rels.values():
        if not relation.is_external and relation.reltype.rpartition("/")[2] in _NOTES:
            yield parse_xml(relation.target_part.blob, "notes")


class _Walk:
    """Goes through the body's elements. `levels` are the heading levels of paragraph styles."""

    def __init__(self, levels: dict[str, int]) -> None:
        self._levels = levels
        self._in_list = False

    def blocks(self, container: Any) -> Iterator[Block]:
        for child in container.iterchildren():
            if child.tag == f"{_W}p":
                yield from self._paragraph(child)
            elif child.tag == f"{_W}tbl":
                self._in_list = False
                rows = "\n".join(_rows(child))
                if rows.strip():
                    yield Block(rows, 0, "table")
            elif child.tag not in _UNSEEN and isinstance(child.tag, str):
                yield from self.blocks(child)  # content controls, tracked insertions, notes

    def _paragraph(self, paragraph: Any) -> Iterator[Block]:
        text = _text(paragraph)
        properties = paragraph.find(f"{_W}pPr")
        level = self._level(paragraph, properties)
        is_item = properties is not None and properties.find(f"{_W}numPr") is not None
        style = "" if properties is None else _style(properties)
        is_item = is_item or style.startswith("List")
        if text.strip() and level is not None:
            yield Block(text, 0, "heading", level, " ".join(text.split()))
        elif text.strip() and is_item:
            yield Block(f"- {text}", 0, "list", glue="\n" if self._in_list else "\n\n")
        elif text.strip():
            yield Block(text, 0)
        if text.strip():
            self._in_list = is_item and level is None
        for box in paragraph.iter(f"{_W}txbxContent"):
            if not any(ancestor.tag in _UNSEEN for ancestor in box.iterancestors()):
                yield from self.blocks(box)

    def _level(self, paragraph: Any, properties: Any) -> int | None:
        if properties is None:
            return None
        own = _outline_level(paragraph)
        return own if own is not None else self._levels.get(_style(properties))


def _style(properties: Any) -> str:
    style = properties.find(f"{_W}pStyle")
    return "" if style is None else str(style.get(f"{_W}val"))


def _text(element: Any) -> str:
    """The text of a paragraph or formula, in order; text boxes in it are blocks of their own."""
    parts: list[str] = []
    stack = [iter(element)]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
        elif child.tag in (f"{_W}t", f"{_M}t"):
            parts.append(child.text or "")
        elif child.tag in _MARKS:
            parts.append(_MARKS[child.tag])
        elif isinstance(child.tag, str) and child.tag not in _UNSEEN and child.tag != f"{_W}txbxContent":
            stack.append(iter(child))
    return "".join(parts)


def _rows(table: Any) -> Iterator[str]:
    """Rows as ``cell | cell``; of a cell that spans rows, the text stands in the first."""
    for row in table.iter(f"{_W}tr"):
        cells = []
        for cell in row.iter(f"{_W}tc"):
            if next(cell.iterancestors(f"{_W}tr")) is row:
                paragraphs = (" ".join(_text(paragraph).split()) for paragraph in cell.iter(f"{_W}p"))
                cells.append(" ".join(text for text in paragraphs if text))
        if any(cells) and next(row.iterancestors(f"{_W}tbl")) is table:
            yield " | ".join(cells)
