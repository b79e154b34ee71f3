"""Benchmark texts in training data: shared runs of words.

An item is found in the training rows when one of them holds a run of `RUN` words of it
(the whole item where it is shorter). Items of fewer than `SHORTEST` words say too little
to be looked for; they are counted apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.dataset_audit.reading import Shard, plan, read_blocks
from forge_pipeline.dataset_audit.texts import row_texts, strings_of
from forge_pipeline.dataset_audit.tokens import tokens_of

RUN = 13  # words, as GPT-3's authors chose
SHORTEST = 8  # words


@dataclass(frozen=True)
class Contamination:
    """Benchmark items looked for, those found, and those too short to look for."""

    items: int
    contaminated: int
    too_short: int


def find_contamination(benchmark_texts: Sequence[str], train: Path) -> Contamination:
    """Look for the benchmark's items in the rows of one file."""
    items = [tokens_of(text) for text in benchmark_texts]
    long_enough = [words for words in items if len(words) >= SHORTEST]
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, words in enumerate(long_enough):
        for run in _runs(words, min(RUN, len(words))):
            holders.setdefault(run, []).append(index)
    lengths = sorted({len(run) for run in holders})
    found: set[int] = set()
    for shard in plan({"train": (train,)}):
        for text in _texts(shard):
            words = tokens_of(text)
            for length in lengths:
                for run in _runs(words, length):
                    found.update(holders.get(run, ()))
    return Contamination(len(long_enough), len(found), len(items) - len(long_enough))


def _texts(shard: Shard) -> Iterator[str]:
    for block in read_blocks(shard):
        yield from row_texts(strings_of(block), block.row_count).to_pylist()


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(length)), strict=False)
