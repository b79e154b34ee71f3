"""Blocks -> chunks of at most so many tokens.

``structure`` puts whole blocks together and ends a chunk before a heading of the same or a
higher level than the one the chunk stands under. A block that is larger than a chunk is cut
at the last sentence (code, tables and lists: line) that fits, else the last word, else
anywhere. ``tokens`` cuts windows out of the whole text, each as long as fits, each sharing
`overlap_tokens` with the one before.

Laws: no chunk counts more than `chunk_tokens` (but for a single character that does); without
overlap, the windows joined are the text, and the chunks of ``structure`` hold every block, cut
only where nothing is lost: the pieces of a block joined are the block.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forge_pipeline.data.documents.block import Block, Blocks
from forge_pipeline.data.readers.row import BrokenRow, ReadRow, Rows, has_surrogate

if TYPE_CHECKING:
    from forge_pipeline.config.data import DocumentsSection

CountTokens = Callable[[str], int]

_UNIT = re.compile(r"\w+|[^\w\s]")
# A stop, what may close after it, and white space; or a full-width stop; or a blank line.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？][”’」』）]*\s*|\n\s*\n\s*")
_LINE_END = re.compile(r"\n+")
_WORD_END = re.compile(r"\s+")
_NO_HEADING = 1_000  # below every heading


def count_units(text: str) -> int:
    """Words and marks: what is counted where no tokenizer is at hand."""
    return sum(1 for _ in _UNIT.finditer(text))


def chunking_note(options: "DocumentsSection", count_tokens: CountTokens | None) -> str:
    """One line for the record: how documents were cut, and what was counted."""
    unit = "words and marks (no tokenizer at hand)" if count_tokens is None else "tokens of the recipe's tokenizer"
    overlap = f", overlapping by {options.overlap_tokens}" if options.chunk_by == "tokens" else ""
    return f"documents cut by {options.chunk_by} into at most {options.chunk_tokens} {unit}{overlap}"


@dataclass(frozen=True)
class _Chunk:
    """Text, and where it begins."""

    text: str
    line: int
    page: int | None
    section: tuple[str, ...]


@dataclass(frozen=True)
class _Placed:
    """A block under its headings: (level, title), its own included."""

    block: Block
    headings: tuple[tuple[int, str], ...]

    @property
    def level(self) -> int:
        return self.headings[-1][0] if self.headings else _NO_HEADING

    def chunk(self, text: str) -> _Chunk:
        return _Chunk(text, self.block.line, self.block.page, tuple(title for _, title in self.headings))


def chunked(blocks: Blocks, options: "DocumentsSection", count: CountTokens, *, source: str) -> Rows:
    """The rows of one document, in order, and broken rows where a block or a chunk cannot be used."""
    placed = _placed(blocks)
    if options.chunk_by == "structure":
        chunks = _by_structure(placed, options.chunk_tokens, count)
    else:
        chunks = _by_tokens(placed, options.chunk_tokens, options.overlap_tokens, count)
    number = 0
    for chunk in chunks:
        if isinstance(chunk, BrokenRow):
            yield chunk
            continue
        number += 1
        length = len(chunk.text.strip())
        if length < options.min_characters:
            reason = f"a chunk of {length} characters is shorter than data.documents.min_characters"
            yield BrokenRow(chunk.line, f"{reason} ({options.min_characters})")
        elif has_surrogate(chunk.text):
            yield BrokenRow(chunk.line, "text with half of a surrogate pair (\\ud800-\\udfff)")
        else:
            page = {} if chunk.page is None else {"page": chunk.page}
            row = {"text": chunk.text, "source": source, **page, "section": list(chunk.section), "chunk": number}
            yield ReadRow(chunk.line, row)


def _placed(blocks: Blocks) -> Iterable[_Placed | BrokenRow]:
    headings: tuple[tuple[int, str], ...] = ()
    for block in blocks:
        if isinstance(block, BrokenRow):
            yield block
            continue
        if block.kind == "heading":
            above = tuple(heading for heading in headings if heading[0] < block.level)
            headings = (*above, (block.level, block.title or block.text.strip()))
        yield _Placed(block, headings)


def _by_structure(
    placed: Iterable[_Placed | BrokenRow], limit: int, count: CountTokens
) -> Iterable[_Chunk | BrokenRow]:
    pending = _Pending(limit, count)
    for item in placed:
        if isinstance(item, BrokenRow):
            yield item
            continue
        block = item.block
        if block.kind == "heading" and pending.blocks and block.level <= pending.level:
            yield from pending.close()
        if not block.text.strip():
            continue
        size = pending.cost(block)
        if pending.blocks and pending.size + size > limit:
            yield from pending.flush()
            size = pending.cost(block)
        if pending.blocks and pending.size + size > limit:  # only headings are left, and they do not fit with it
            size = count(block.text)
            if size <= limit or pending.size > limit // 2:
                yield from pending.close()
        if pending.size + size <= limit:
            pending.add(item, size)
            continue
        # Larger than a chunk: headings that lead to it go with its first piece; its last piece stays open.
        start, text = pending.take(item)
        *whole, last = pieces(text, limit, count, by_line=block.kind in ("code", "table", "list"))
        for i, piece in enumerate(whole):
            yield (start if i == 0 else item).chunk(piece)
        rest = _Placed(Block(last, block.line, block.kind, page=block.page, glue=block.glue), item.headings)
        pending.add(rest, pending.cost(rest.block))
    yield from pending.close()


class _Pending:
    """The blocks of the chunk that is being put together.

    Attributes:
        size: Tokens, by the sum of the blocks; a join may count one or two more, so that `flush` counts again.
    """

    def __init__(self, limit: int, count: CountTokens) -> None:
        self._limit, self._count = limit, count
        self.blocks: list[_Placed] = []
        self.size = 0

    @property
    def level(self) -> int:
        """Of the heading under which the chunk began."""
        return self.blocks[0].level

    def cost(self, block: Block) -> int:
        return self._count(block.glue + block.text if self.blocks else block.text)

    def add(self, item: _Placed, size: int) -> None:
        self.blocks.append(item)
        self.size += size

    def take(self, item: _Placed) -> tuple[_Placed, str]:
        """Where the chunk begins with `item` in it, and its text; nothing stays pending."""
        blocks = [*self.blocks, item]
        self._keep([])
        return blocks[0], _joined(blocks)

    def flush(self) -> Iterable[_Chunk]:
        """Everything but the headings at the end, which belong to what comes next."""
        keep = len(self.blocks)
        while keep and self.blocks[keep - 1].block.kind == "heading":
            keep -= 1
        if keep:
            yield from self._close(keep)

    def close(self) -> Iterable[_Chunk]:
        while self.blocks:
            yield from self._close(len(self.blocks))

    def _close(self, keep: int) -> Iterable[_Chunk]:
        while keep > 1 and self._count(_joined(self.blocks[:keep])) > self._limit:
            keep -= 1
        yield self.blocks[0].chunk(_joined(self.blocks[:keep]))
        self._keep(self.blocks[keep:])

    def _keep(self, rest: list[_Placed]) -> None:
        self.blocks, self.size = [], 0
        for item in rest:
            self.add(item, self.cost(item.block))


def _joined(blocks: list[_Placed]) -> str:
    return "".join((item.block.glue if i else "") + item.block.text for i, item in enumerate(blocks))


def pieces(text: str, limit: int, count: CountTokens, *, by_line: bool = False) -> list[str]:
    """`text` cut into pieces of at most `limit` tokens. Law: ``"".join(pieces(text, ...)) == text``."""
    found, start, guess = [], 0, 4 * limit
    borders = (_LINE_END, _WORD_END) if by_line else (_SENTENCE_END, _LINE_END, _WORD_END)
    while start < len(text):
        end = start + longest_prefix(text[start : start + _reach(guess)], limit, count, guess)
        if end == start + _reach(guess) < len(text):  # everything in reach fits: reach further
            guess *= 4
            continue
        guess = end - start
        if end < len(text):
            end = next((at for border in borders if (at := _last_border(border, text, start, end)) > start), end)
        found.append(text[start:end])
        start = end
    return found


def _reach(guess: int) -> int:
    return 4 * guess + 64


def _last_border(border: re.Pattern[str], text: str, start: int, end: int) -> int:
    """The end of the last match in `text[start:end]`; `start` if there is none."""
    last = start
    for match in border.finditer(text, start, end):
        last = match.end()
    return last


def longest_prefix(text: str, limit: int, count: CountTokens, guess: int) -> int:
    """Characters of the longest prefix of `text` of at most `limit` tokens; at least 1, if there is any text.

    Takes `count` to grow with the prefix, by and large; the prefix found always fits. `guess` is where to look first.
    """
    fits, tokens = 0, 0
    over, over_tokens = len(text) + 1, 0
    at = max(1, min(guess, len(text)))
    looks = 0
    while over - fits > 1:
        counted = count(text[:at])
        looks += 1
        if counted <= limit:
            fits, tokens = at, counted
        else:
            over, over_tokens = at, counted
        if looks % 4 == 0 and over <= len(text):
            at = (fits + over) // 2  # so that the end is near, however unevenly tokens lie
            continue
        wide, many = (over - fits, over_tokens - tokens) if over_tokens > tokens else (fits, tokens)
        at = fits + round((limit - tokens + 0.5) * wide / max(1, many))
        at = max(fits + 1, min(at, over - 1))
    return max(fits, 1) if text else 0


def _start_of_suffix(text: str, limit: int, count: CountTokens, guess: int) -> int:
    """Where the longest suffix of `text` begins that counts at most `limit` tokens; never at 0.

    `guess` is about how many characters it has.
    """
    if limit == 0:
        return len(text)
    over, fits = 0, len(text)  # the suffix from `over` is too long, the one from `fits` is not
    at = max(1, len(text) - guess)
    while fits - over > 1:
        counted = count(text[at:])
        if counted <= limit:
            fits, step = at, round((limit - counted + 0.5) * guess / limit)
            at = max((fits + over) // 2, fits - max(1, step))
        else:
            over, step = at, round((counted - limit - 0.5) * guess / limit)
            at = min((fits + over) // 2, over + max(1, step))
        at = max(over + 1, min(at, fits - 1))
    return fits


def _by_tokens(
    placed: Iterable[_Placed | BrokenRow], limit: int, overlap: int, count: CountTokens
) -> Iterable[_Chunk | BrokenRow]:
    """Windows over the text of all blocks. Only about a window's text is held at a time."""
    source = iter(placed)
    text, at, guess = "", 0, 4 * limit  # `text[at:]` is to be cut; what stands before it, a block may still begin in
    reached = 0  # where the last window ended in `text`
    begins: deque[tuple[int, _Placed]] = deque()  # where blocks begin in `text`
    more = True
    while True:
        parts = [text]
        length = len(text)
        while more and length - at < _reach(guess):
            item = next(source, None)
            if item is None:
                more = False
            elif isinstance(item, BrokenRow):
                yield item
            elif item.block.text.strip():
                piece = (item.block.glue if begins else "") + item.block.text
                begins.append((length + len(piece) - len(item.block.text), item))
                parts.append(piece)
                length += len(piece)
        text = "".join(parts)
        if at >= len(text):
            return
        end = at + longest_prefix(text[at : at + _reach(guess)], limit, count, guess)
        if end == at + _reach(guess) < len(text) or (end == len(text) and more):
            guess *= 4
            continue
        if end <= reached:  # what is shared leaves no room for the next character
            at = reached
            continue
        reached, guess = end, max(1, end - at)
        while len(begins) > 1 and begins[1][0] <= at:
            begins.popleft()
        yield begins[0][1].chunk(text[at:end])
        if end == len(text) and not more:
            return
        at += _start_of_suffix(text[at:end], overlap, count, max(1, guess * overlap // limit))
        if 2 * at > len(text):  # seldom enough that a long block is not copied for each of its windows
            begins = deque((start - at, item) for start, item in begins)
            text, at, reached = text[at:], 0, reached - at
