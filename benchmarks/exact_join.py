"""All pairs of token sets with Jaccard similarity of at least a threshold: exactly, for the truth.

Shares no code and no idea with the audit's MinHash join. Two sets A and B, the larger of b
tokens, are as similar as t only if they differ in at most d = (1 - t)/(1 + t) * 2b tokens.
Cut the universe of tokens into d + 1 parts: by the pigeonhole principle such sets agree
completely in at least one part. So sets are bucketed by what each holds of each part, and the
pairs of a bucket are verified. Where sizes differ, `parts` follows the larger set: sets are joined
in ranges of size, each range with the smaller sets that can be similar to its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_RANGE = 1.15  # largest over smallest size in a range
_CHUNK = 1 << 21  # candidate pairs looked at together


@dataclass(frozen=True)
class SimilarRows:
    """Rows by their token sets, and which sets are similar.

    Attributes:
        set_of: The number of each row's token set; equal sets, equal numbers; -1 for rows without tokens.
        pairs: Pairs of different sets, the smaller number first; (n, 2).
        jaccard: Exact similarity of each pair; (n,).
    """

    set_of: I64
    pairs: I64
    jaccard: npt.NDArray[np.float64]


def similar_rows(token_sets: Sequence[frozenset[str]], threshold: float) -> SimilarRows:
    """All pairs at `threshold` or above, exactly.

    Args:
        token_sets: One a row.
        threshold: From just above 0 to 1.
    """
    numbers: dict[frozenset[str], int] = {}
    set_of = np.array([numbers.setdefault(tokens, len(numbers)) if tokens else -1 for tokens in token_sets])
    vocabulary: dict[str, int] = {}
    sets = [np.array(sorted(vocabulary.setdefault(token, len(vocabulary)) for token in tokens)) for tokens in numbers]
    if len(sets) < 2:
        return SimilarRows(set_of, np.zeros((0, 2), np.int64), np.zeros(0))
    # A random number for each token: sums of them stand for sets, and its bits place the token.
    marks = np.random.default_rng(1).integers(1, 1 << 63, len(vocabulary), dtype=np.uint64)
    joined = _Sets(sets, marks)
    found = [pairs for pairs in _similar(joined, threshold) if len(pairs)]
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
    return SimilarRows(set_of, pairs, joined.jaccard(pairs))


class _Sets:
    """Token sets end to end, with what makes comparing them fast."""

    def __init__(self, sets: list[I64], marks: U64) -> None:
        self.sizes = np.array([len(tokens) for tokens in sets])
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.tokens = np.concatenate(sets)
        self.marks = marks[self.tokens]
        self.owner = np.repeat(np.arange(len(sets)), self.sizes)
        # Parity of the set's tokens over 256 bits: sets differ in at least as many tokens as bits.
        self.parity = np.zeros((len(sets), 4), dtype=np.uint64)
        bit = (self.marks >> np.uint64(40)) % np.uint64(256)
        np.bitwise_xor.at(
            self.parity, (self.owner, (bit // np.uint64(64)).astype(np.int64)), np.uint64(1) << bit % np.uint64(64)
        )

    def part_sums(self, chosen: I64, parts: int) -> U64:
        """What each chosen set holds of each part of the universe, as one number each; (chosen, parts)."""
        place = np.full(len(self.sizes), -1)
        place[chosen] = np.arange(len(chosen))
        rows = place[self.owner]
        kept = rows >= 0
        part = (self.marks[kept] >> np.uint64(20)) % np.uint64(parts)
        sums = np.zeros(len(chosen) * parts, dtype=np.uint64)
        np.add.at(sums, rows[kept] * parts + part.astype(np.int64), self.marks[kept])
        return sums.reshape(len(chosen), parts)

    def may_be_similar(self, first: I64, second: I64, threshold: float) -> npt.NDArray[np.bool_]:
        """False only for pairs that are not: by their sizes and by the bits of parity in which they differ."""
        total = self.sizes[first] + self.sizes[second]
        most = (1 - threshold) / (1 + threshold) * total + 1e-9
        kept: npt.NDArray[np.bool_] = np.abs(self.sizes[first] - self.sizes[second]) <= most
        differing = np.zeros(int(kept.sum()), dtype=np.int64)
        for word in range(4):
            differing += np.bitwise_count(self.parity[first[kept], word] ^ self.parity[second[kept], word])
        kept[kept] = differing <= most[kept]
        return kept

    def jaccard(self, pairs: I64) -> npt.NDArray[np.float64]:
        similarity = np.zeros(len(pairs))
        for index, (first, second) in enumerate(pairs.tolist()):
            one = self.tokens[self.offsets[first] : self.offsets[first + 1]]
            other = self.tokens[self.offsets[second] : self.offsets[second + 1]]
            common = len(np.intersect1d(one, other, assume_unique=True))
            similarity[index] = common / (len(one) + len(other) - common)
        return similarity


def _similar(sets: _Sets, threshold: float) -> Iterator[I64]:
    low = 1
    while low <= sets.sizes.max():
        high = max(low, int(low * _RANGE))
        smallest = int(np.ceil(threshold * low - 1e-9))
        chosen = np.flatnonzero((sets.sizes >= smallest) & (sets.sizes <= high))
        if len(chosen) > 1:
            parts = int((1 - threshold) / (1 + threshold) * 2 * high + 1e-9) + 1
            yield from _join(sets, chosen, parts, threshold)
        low = high + 1


def _join(sets: _Sets, chosen: I64, parts: int, threshold: float) -> Iterator[I64]:
    sums = sets.part_sums(chosen, parts)
    for part in range(parts):
        order = np.argsort(sums[:, part], kind="stable")
        key, rows = sums[order, part], chosen[order]
        begins = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        lengths = np.diff(np.concatenate([begins, [len(key)]]))
        # Position p of a bucket goes with each later one: as many candidates as stand behind it.
        behind = np.repeat(begins + lengths, lengths) - np.arange(len(key)) - 1
        for first, second in _chunks(behind):
            one, other = rows[first], rows[second]
            kept = sets.may_be_similar(one, other, threshold)
            one, other = one[kept], other[kept]
            candidates = np.unique(np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1), axis=0)
            yield candidates[sets.jaccard(candidates) >= threshold - 1e-12]


def _chunks(behind: I64) -> Iterator[tuple[I64, I64]]:
    """Positions (p, p + 1 ... p + behind[p]) of all p, some at a time."""
    ends = np.cumsum(behind)
    at = 0
    while at < len(behind):
        before = int(ends[at - 1]) if at else 0
        to = max(at + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        count = behind[at:to]
        first = np.repeat(np.arange(at, to), count)
        step = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
        yield first, first + 1 + step
        at = to
