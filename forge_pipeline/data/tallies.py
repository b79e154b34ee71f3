"""What tokenization counts, so that no row and no token is lost unseen."""

from collections import Counter
from dataclasses import dataclass, field

MOST_NAMED = 100
"""Rows that are named; the others are counted."""


@dataclass(frozen=True)
class UnusedRow:
    """A row that could not be tokenized: which split, its number there (from 0), and why."""

    split: str
    row: int
    reason: str


@dataclass
class Tally:
    """Counts of one split, or of a part of one; tallies add up.

    Attributes:
        rows_in: Rows of the raw dataset.
        added: Rows beyond one for each of them: conversations learnt in several rows, pairs taken apart.
        lengths: Rows by length in tokens, before truncation.
        kept_rows, kept_tokens, longest_kept: After truncation, without what is left out.
        trained: Learnt tokens; stays 0 for trainer types that label while training.
        ends: Learnt turns by the id of the token that ends them.
    """

    rows_in: int = 0
    added: int = 0
    skipped: int = 0
    unused: list[UnusedRow] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    kept_rows: int = 0
    kept_tokens: int = 0
    longest_kept: int = 0
    trained: int = 0
    truncated: int = 0
    truncated_tokens: int = 0
    fully_masked: int = 0
    unknown: int = 0
    repeats: int = 0
    ends: Counter[int] = field(default_factory=Counter)

    def skip(self, split: str, row: int, reason: str) -> None:
        self.skipped += 1
        if len(self.unused) < MOST_NAMED:
            self.unused.append(UnusedRow(split, row, reason))

    def keep(self, length: int) -> None:
        self.kept_rows += 1
        self.kept_tokens += length
        self.longest_kept = max(self.longest_kept, length)

    def add(self, other: "Tally") -> None:
        """Count what `other` counted, too."""
        for name in (
            "rows_in",
            "added",
            "skipped",
            "kept_rows",
            "kept_tokens",
            "trained",
            "truncated",
            "truncated_tokens",
            "fully_masked",
            "unknown",
            "repeats",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_kept = max(self.longest_kept, other.longest_kept)
        self.lengths.update(other.lengths)
        self.ends.update(other.ends)
        self.unused = [*self.unused, *other.unused][:MOST_NAMED]

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def mean_length(self) -> float:
        rows = self.lengths.total()
        return sum(length * count for length, count in self.lengths.items()) / rows if rows else 0.0

    def histogram(self) -> tuple[tuple[int, int], ...]:
        """Rows by length: (most tokens, rows), the bounds being powers of two, so there are few."""
        bins: Counter[int] = Counter()
        for length, count in self.lengths.items():
            bins[1 << max(length - 1, 0).bit_length()] += count
        return tuple(sorted(bins.items()))
