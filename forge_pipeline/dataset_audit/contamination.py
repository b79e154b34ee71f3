"""Benchmark items in training rows: shared runs of words, and near-duplicates.

A training row holds a benchmark item when the two share a run of `ngram` words (the
whole item where it is shorter), as GPT-3's authors looked for it (Brown et al. 2020,
arXiv 2005.14165, appendix C), or when their word sets are `jaccard` alike. Runs that
stand in more than ten items are boilerplate of the benchmark ("The following are
multiple choice questions ...") and prove nothing. Items of fewer than `min_words` words
say too little to be looked for; they are counted apart.

Runs and words are compared by 64-bit hashes: among 10^8 places and 10^5 runs a chance
hit has a probability below 10^-6.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit.runs_of_words import UIntArray, hash_of_run, runs_in
from forge_pipeline.dataset_audit.tokens import Tokenizer, token_hash, tokens_of

MOST_SHARED = 10  # items; a run in more of them is boilerplate
_EXAMPLES = 20

HitKind = Literal["ngram", "near_duplicate"]
_Found = dict[tuple[int, int], HitKind]  # (number of the item among all, row) -> how


@dataclass(frozen=True)
class TaskContamination:
    """One benchmark task.

    Attributes:
        items: Items long enough to be looked for.
        contaminated: Those found in at least one training row.
        too_short: Items of too few words.
    """

    items: int
    contaminated: int
    too_short: int


@dataclass(frozen=True)
class Hit:
    """A training row that holds an item; `item` counts in the task and `row` in the split, both from 0."""

    task: str
    item: int
    row: int
    kind: HitKind


@dataclass(frozen=True)
class Contamination:
    """What was looked for and found.

    Attributes:
        tasks: By task name.
        ngram, jaccard: The thresholds.
        hits: Every item and row that belong together, by task, item and row; one hit for each pair.
    """

    tasks: Mapping[str, TaskContamination]
    ngram: int
    jaccard: float
    hits: tuple[Hit, ...] = field(repr=False, default=())

    @property
    def items(self) -> int:
        return sum(task.items for task in self.tasks.values())

    @property
    def contaminated(self) -> int:
        return sum(task.contaminated for task in self.tasks.values())

    @property
    def too_short(self) -> int:
        return sum(task.too_short for task in self.tasks.values())

    @property
    def rows(self) -> frozenset[int]:
        """Training rows that hold an item."""
        return frozenset(hit.row for hit in self.hits)

    def summary(self) -> dict[str, Any]:
        """As it stands in the audit's report: counts by task, thresholds, the first twenty hits."""
        return {
            "ngram": self.ngram,
            "jaccard_threshold": self.jaccard,
            "items": self.items,
            "contaminated": self.contaminated,
            "too_short": self.too_short,
            "contaminated_rows": len(self.rows),
            "tasks": {name: vars(task) for name, task in self.tasks.items()},
            "examples": [vars(hit) for hit in self.hits[:_EXAMPLES]],
        }


def find_contamination(
    items: Mapping[str, Sequence[str]],
    texts: Iterable[pa.StringArray],
    *,
    ngram: int = 13,
    min_words: int = 8,
    jaccard: float = 0.85,
) -> Contamination:
    """Look for benchmark items in training rows.

    Args:
        items: Texts of each task's items.
        texts: The rows' texts in reading order, in blocks.
        ngram: Words in a row that an item and a row must share.
        min_words: Fewest words of an item that is looked for.
        jaccard: Smallest similarity of word sets of a near-duplicate (0 to 1).
    """
    wanted = [
        _Item(task, number, words)
        for task, of_task in items.items()
        for number, text in enumerate(of_task)
        if len(words := tokens_of(text)) >= min_words
    ]
    runs, sets = _Runs.of(wanted, ngram), _WordSets.of(wanted, jaccard)
    found: _Found = {}
    row = 0
    for block in texts:
        found |= {(item, row + place): "near_duplicate" for item, place in sets.find(block)}
        found |= {(item, row + place): "ngram" for item, place in runs.find(block)}  # the better proof of the two
        row += len(block)
    held = Counter(wanted[item].task for item in {item for item, _ in found})
    long_enough = Counter(item.task for item in wanted)
    return Contamination(
        tasks={
            task: TaskContamination(long_enough[task], held[task], len(of_task) - long_enough[task])
            for task, of_task in items.items()
        },
        ngram=ngram,
        jaccard=jaccard,
        hits=tuple(
            Hit(wanted[item].task, wanted[item].number, place, kind) for (item, place), kind in sorted(found.items())
        ),
    )


@dataclass(frozen=True)
class _Item:
    task: str
    number: int
    words: list[str]


@dataclass(frozen=True)
class _Runs:
    """The items' runs of words: `hashes` sorted, and the items that hold each."""

    lengths: tuple[int, ...]
    hashes: UIntArray
    holders: dict[int, list[int]]

    @classmethod
    def of(cls, items: Sequence[_Item], ngram: int) -> "_Runs":
        holders: dict[int, list[int]] = {}
        lengths = set()
        for index, item in enumerate(items):
            length = min(ngram, len(item.words))
            lengths.add(length)
            runs = {hash_of_run(item.words[at : at + length]) for at in range(len(item.words) - length + 1)}
            for run in runs:
                holders.setdefault(run, []).append(index)
        telling = {run: of for run, of in holders.items() if len(of) <= MOST_SHARED}
        return cls(tuple(sorted(lengths)), np.array(sorted(telling), dtype=np.uint64), telling)

    def find(self, texts: pa.StringArray) -> Iterator[tuple[int, int]]:
        """Pairs of item and index of a text."""
        if not len(self.hashes):
            return
        places, runs = runs_in(texts, self.lengths, self.hashes)
        for place, run in zip(places.tolist(), runs.tolist(), strict=True):
            for item in self.holders[run]:
                yield item, place


@dataclass(frozen=True)
class _WordSets:
    """The items' sets of words, found by their rarest ones.

    Two sets with a Jaccard similarity of j share at least ``ceil(j * size)`` words of the smaller one, hence one of
    any ``size - ceil(j * size) + 1`` of its words (prefix filter: Chaudhuri et al. 2006, Bayardo et al. 2007).
    """

    jaccard: float
    sets: list[frozenset[int]]
    rare: dict[int, list[int]]
    keys: UIntArray

    @classmethod
    def of(cls, items: Sequence[_Item], jaccard: float) -> "_WordSets":
        sets = [frozenset(token_hash(word) for word in item.words) for item in items]
        often = Counter(word for words in sets for word in words)
        rare: dict[int, list[int]] = {}
        for index, words in enumerate(sets):
            needed = len(words) - math.ceil(jaccard * len(words) - 1e-9) + 1
            for word in sorted(words, key=lambda word: (often[word], word))[:needed]:
                rare.setdefault(word, []).append(index)
        return cls(jaccard, sets, rare, np.array(sorted(rare), dtype=np.uint64))

    def find(self, texts: pa.StringArray) -> Iterator[tuple[int, int]]:
        """Pairs of item and index of a text."""
        if not self.sets:
            return
        rows = Tokenizer().tokenize(texts)
        telling = np.isin(rows.vocabulary, self.keys)
        places = np.flatnonzero(telling[rows.indices])
        row_of: npt.NDArray[np.int64] = np.searchsorted(rows.offsets, places, side="right") - 1
        hashes, checked = rows.hashes, set()
        for place, row in zip(places.tolist(), row_of.tolist(), strict=True):
            for item in self.rare[int(hashes[place])]:
                if (item, row) in checked:
                    continue
                checked.add((item, row))
                size = int(rows.offsets[row + 1] - rows.offsets[row])
                wanted = self.sets[item]
                if min(size, len(wanted)) < self.jaccard * max(size, len(wanted)) - 1e-9:
                    continue
                shared = len(wanted.intersection(hashes[rows.offsets[row] : rows.offsets[row + 1]].tolist()))
                if shared >= self.jaccard * (size + len(wanted) - shared) - 1e-9:
                    yield item, row
