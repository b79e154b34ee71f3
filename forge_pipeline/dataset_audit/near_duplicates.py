"""Near-duplicate pairs of rows, over all splits at once.

Rows with the same tokens are one *unit*, counted and never paired one by one, so that
ten thousand copies of a sentence cost as much as two. Units that share a bucket (equal
bits under a SimHash mask, an equal MinHash band) are candidates; each is verified by the
exact Jaccard similarity of its token sets, and for SimHash by the distance too. A pair
is taken in the first table in which it matches. In a bucket of more units than the
table's `reach`, each is compared with the next `reach` and with the first only: then
the numbers of pairs are lower bounds, and `Pairs.complete` says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit.minhash import band_keys
from forge_pipeline.dataset_audit.simhash import table_masks
from forge_pipeline.dataset_audit.tokens import IntArray, ranges

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_CHUNK_PAIRS = 1 << 16


@dataclass(frozen=True)
class Signatures:
    """What the scan kept of every row, all splits one after another.

    Attributes:
        split: Number of the row's split; shape (N,).
        text: Hash of the row's text; equal texts have equal hashes.
        tokens: Hash of the row's tokens; rows of one unit are equal here. 0 means no tokens.
        offsets, values: Distinct tokens of row `i`: 32-bit hashes `values[offsets[i]:offsets[i + 1]]`.
        signature: SimHash, shape (N,), or MinHash, shape (N, num_perm).
    """

    split: IntArray
    text: npt.NDArray[np.uint64]
    tokens: npt.NDArray[np.uint64]
    offsets: IntArray
    values: npt.NDArray[np.uint32]
    signature: npt.NDArray[np.uint64] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Units:
    """Rows grouped by their tokens. Rows without tokens belong to no unit (-1)."""

    of_row: IntArray
    first_row: IntArray
    counts: IntArray
    """Rows of each unit in each split; shape (units, splits)."""


@dataclass(frozen=True)
class Pairs:
    """Verified pairs of different units: `left` < `right`, `similarity` the Jaccard of their tokens."""

    left: IntArray
    right: IntArray
    similarity: FloatArray
    complete: bool


def group_units(rows: Signatures, split_count: int) -> Units:
    """Group rows with the same tokens, units in the order of their first rows."""
    filled = np.flatnonzero(rows.tokens)
    _, first, inverse = np.unique(rows.tokens[filled], return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_row = np.full(len(rows.tokens), -1, dtype=np.int64)
    of_row[filled] = rank[inverse]
    counts = np.zeros((len(order), split_count), dtype=np.int64)
    np.add.at(counts, (of_row[filled], rows.split[filled]), 1)
    return Units(of_row, filled[first[order]], counts)


def find_pairs(rows: Signatures, units: Units, *, hamming: int | None, jaccard: float) -> Pairs:
    """All near-duplicate pairs of units.

    Args:
        rows: The scanned rows.
        units: As `group_units` grouped them.
        hamming: Largest SimHash distance in bits; None means that the signatures are MinHash.
        jaccard: Smallest Jaccard similarity of the token sets.
    """
    tables = _tables(rows.signature[units.first_row], hamming, jaccard)
    found: list[tuple[IntArray, IntArray, FloatArray]] = []
    complete = True
    for number, table in enumerate(tables):
        for left, right, whole in _bucket_pairs(table.keys(), table.reach):
            complete &= whole
            close = table.agree(left, right)
            left, right = left[close], right[close]
            for earlier in tables[:number]:
                new = ~earlier.share_bucket(left, right)
                left, right = left[new], right[new]
            similarity = jaccard_of(rows, units.first_row[left], units.first_row[right])
            same = similarity >= jaccard - 1e-12
            found.append((left[same], right[same], similarity[same]))
    if not found:
        nothing = np.zeros(0, dtype=np.int64)
        return Pairs(nothing, nothing, np.zeros(0), complete)
    left, right, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((right, left))
    return Pairs(left[order], right[order], similarity[order], complete)


class _Table(Protocol):
    """One way to put units into buckets; `reach` bounds how many of a bucket are compared with one unit."""

    @property
    def reach(self) -> int: ...
    def keys(self) -> npt.NDArray[np.uint64]: ...
    def share_bucket(self, left: IntArray, right: IntArray) -> BoolArray: ...
    def agree(self, left: IntArray, right: IntArray) -> BoolArray:
        """Whether the signatures allow the pair; the tokens decide after that."""
        ...


@dataclass(frozen=True)
class _SimhashTable:
    signature: npt.NDArray[np.uint64]
    mask: np.uint64
    hamming: int
    reach: int = 400

    def keys(self) -> npt.NDArray[np.uint64]:
        return self.signature & self.mask

    def share_bucket(self, left: IntArray, right: IntArray) -> BoolArray:
        same: BoolArray = ((self.signature[left] ^ self.signature[right]) & self.mask) == 0
        return same

    def agree(self, left: IntArray, right: IntArray) -> BoolArray:
        near: BoolArray = np.bitwise_count(self.signature[left] ^ self.signature[right]) <= self.hamming
        return near


@dataclass(frozen=True)
class _MinhashTable:
    signature: npt.NDArray[np.uint32]
    band: npt.NDArray[np.uint64]
    jaccard: float
    reach: int = 200

    def keys(self) -> npt.NDArray[np.uint64]:
        return self.band

    def share_bucket(self, left: IntArray, right: IntArray) -> BoolArray:
        same: BoolArray = self.band[left] == self.band[right]
        return same

    def agree(self, left: IntArray, right: IntArray) -> BoolArray:
        permutations = self.signature.shape[1]
        slack = 5 * np.sqrt(self.jaccard * (1 - self.jaccard) / permutations)  # five standard errors
        result = np.empty(len(left), dtype=bool)
        for first in range(0, len(left), _CHUNK_PAIRS):
            part = slice(first, first + _CHUNK_PAIRS)
            equal = np.count_nonzero(self.signature[left[part]] == self.signature[right[part]], axis=1)
            result[part] = equal >= (self.jaccard - slack) * permutations - 1
        return result


def _tables(signature: npt.NDArray[Any], hamming: int | None, jaccard: float) -> list[_Table]:
    if hamming is None:
        banded = band_keys(signature, jaccard)
        return [_MinhashTable(signature, np.ascontiguousarray(column), jaccard) for column in banded.T]
    return [_SimhashTable(signature, np.uint64(mask), hamming) for mask in table_masks(hamming, len(signature))]


def _bucket_pairs(keys: npt.NDArray[np.uint64], reach: int) -> Iterator[tuple[IntArray, IntArray, bool]]:
    """Pairs of units with equal keys, in pieces; False with the piece that stands for pairs left out."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    place = np.arange(len(keys), dtype=np.int64)
    stop = np.searchsorted(ordered, ordered, side="right")
    held: list[tuple[IntArray, IntArray]] = []
    active, size = place, 0
    for step in range(1, reach + 1):
        active = active[stop[active] > active + step]
        if not len(active):
            break
        held.append((order[active], order[active + step]))
        size += len(active)
        if size >= _CHUNK_PAIRS:
            yield *_merged(held), True
            held, size = [], 0
    if held:
        yield *_merged(held), True
    if len(active):
        start = np.searchsorted(ordered, ordered, side="left")
        far = place[place - start > reach]
        if len(far):
            yield *_merged([(order[start[far]], order[far])]), False


def _merged(held: list[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    one, other = (np.concatenate(column) for column in zip(*held, strict=True))
    return np.minimum(one, other), np.maximum(one, other)


def jaccard_of(rows: Signatures, left: IntArray, right: IntArray) -> FloatArray:
    """Exact Jaccard similarity of the token sets of pairs of rows."""
    sizes = np.diff(rows.offsets)
    result = np.empty(len(left), dtype=np.float64)
    step = max(1, (1 << 22) // max(1, int(sizes.max(initial=1))))
    for first in range(0, len(left), step):
        a, b = left[first : first + step], right[first : first + step]
        keys = np.concatenate([_keyed(rows, a, sizes), _keyed(rows, b, sizes)])
        keys.sort()
        shared = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        common = np.bincount(shared.astype(np.int64), minlength=len(a))
        result[first : first + step] = common / (sizes[a] + sizes[b] - common)
    return result


def _keyed(rows: Signatures, chosen: IntArray, sizes: IntArray) -> npt.NDArray[np.uint64]:
    """The tokens of the chosen rows, each with the number of its pair in the upper 32 bits."""
    pair = np.repeat(np.arange(len(chosen), dtype=np.uint64), sizes[chosen]) << np.uint64(32)
    keyed: npt.NDArray[np.uint64] = pair | rows.values[ranges(rows.offsets[chosen], sizes[chosen])].astype(np.uint64)
    return keyed


def clusters(count: int, pairs: Pairs, present: BoolArray) -> IntArray:
    """The smallest unit of each unit's cluster, over pairs whose units are both present; shape (count,)."""
    parent = list(range(count))

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    kept = present[pairs.left] & present[pairs.right]
    for left, right in zip(pairs.left[kept].tolist(), pairs.right[kept].tolist(), strict=True):
        a, b = root(left), root(right)
        parent[max(a, b)] = min(a, b)
    return np.array([root(unit) for unit in range(count)], dtype=np.int64)
