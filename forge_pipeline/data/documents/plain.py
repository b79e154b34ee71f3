"""Plain text: paragraphs, which blank lines set apart."""

from collections.abc import Iterator
from pathlib import Path

from forge_pipeline.data.documents.block import Block, Blocks
from forge_pipeline.data.readers import text
from forge_pipeline.data.readers.row import BrokenRow, too_long

_LARGEST_BLOCK = 1 << 20  # characters of lines without a blank one between them


def plain_blocks(path: Path) -> Blocks:
    """The paragraphs, with their line breaks; blank lines between them are not kept. `line` is a line's number.

    Raises:
        DataError: The file is not UTF-8.
    """
    return _paragraphs(path)


def _paragraphs(path: Path) -> Iterator[Block | BrokenRow]:
    pending: list[str] = []
    start, size, glue = 1, 0, "\n\n"
    for number, raw in text.lines(path):
        line = None if raw is None else text.decoded(raw, path, number).removesuffix("\r")
        if line is not None and "\0" in line:
            yield BrokenRow(number, "holds NUL bytes; is this a text file?")
            continue
        blank = line is None or not line or line.isspace()
        if pending and (blank or size > _LARGEST_BLOCK):
            yield Block("\n".join(pending), start, glue=glue)
            pending, size, glue = [], 0, "\n\n" if blank else "\n"
        if line is None:
            yield too_long(number)
        elif not blank:
            start = start if pending else number
            pending.append(line)
            size += len(line)
    if pending:
        yield Block("\n".join(pending), start, glue=glue)
