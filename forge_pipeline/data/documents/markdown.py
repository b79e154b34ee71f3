"""Markdown: blocks of the source as it stands, under its headings. Nothing is rendered, so nothing is lost."""

import re
from collections.abc import Iterator
from pathlib import Path

from forge_pipeline._optional import require
from forge_pipeline.data.documents.block import LARGEST_TEXT, Block, Blocks, Kind
from forge_pipeline.data.readers import text

_KINDS: dict[str, Kind] = {
    "fence": "code",
    "code_block": "code",
    "html_block": "code",
    "table_open": "table",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
}
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")


def markdown_blocks(path: Path) -> Blocks:
    """The blocks of a CommonMark text with tables; front matter is a block of its own. `line` is a line's number.

    Raises:
        DataError: The file is not UTF-8, or larger than 64 MiB.
        OptionalDependencyError: markdown-it-py is not installed.
    """
    module = require("markdown_it", extra="documents", purpose="Markdown files")
    # Only the structure is asked for; what stands in a line stays as it is.
    parser = module.MarkdownIt("commonmark").enable("table").disable("inline")
    source = text.whole_text(path, LARGEST_TEXT).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "�")
    front = _FRONT_MATTER.match(source)
    skipped = source.count("\n", 0, front.end()) if front else 0
    lines = source.split("\n")
    if front:
        yield Block(front.group().rstrip("\n"), 1, "code")
    yield from _blocks(parser.parse("\n".join(lines[skipped:])), lines, skipped)


def _blocks(tokens: list, lines: list[str], skipped: int) -> Iterator[Block]:  # type: ignore[type-arg]
    done = skipped
    for i, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        start, end = (skipped + line for line in token.map)
        yield from _paragraph(lines, done, start)
        block = "\n".join(lines[start:end]).rstrip("\n")
        done = max(done, end)
        if token.type == "heading_open":
            title = tokens[i + 1].content.strip()
            yield Block(block, start + 1, "heading", level=int(token.tag[1:]), title=title)
        elif block.strip():
            yield Block(block, start + 1, _KINDS.get(token.type, "paragraph"))
    yield from _paragraph(lines, done, len(lines))


def _paragraph(lines: list[str], start: int, end: int) -> Iterator[Block]:
    """Lines that make no token, such as the definitions of link targets."""
    block = "\n".join(lines[start:end]).strip("\n")
    if block.strip():
        while not lines[start].strip():
            start += 1
        yield Block(block, start + 1)
