"""What a parser gives for a document: its text in blocks, in reading order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from forge_pipeline.data.readers.row import BrokenRow

Kind = Literal["heading", "paragraph", "list", "table", "code"]

LARGEST_TEXT = 64 * 2**20  # bytes of one HTML, Markdown or XML text; its tree takes about thirty times as much


@dataclass(frozen=True)
class Block:
    """A piece of a document that belongs together.

    Attributes:
        text: With its white space. Empty only for a heading that stands outside the text (a PDF bookmark).
        line: Where it begins: the page of a PDF, the line of a text, else the number of the block, from 1.
        kind: `code` is cut at line breaks, and only where it has to be.
        level: Of a heading, from 1 (the highest).
        title: Of a heading, for the `section` of rows.
        page: From 1; None where the format has no pages.
        glue: What stands between the block before and this one, when they are put together.
    """

    text: str
    line: int
    kind: Kind = "paragraph"
    level: int = 0
    title: str = ""
    page: int | None = None
    glue: str = "\n\n"


Blocks = Iterator[Block | BrokenRow]
