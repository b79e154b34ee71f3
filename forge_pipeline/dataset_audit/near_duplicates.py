"""Near-duplicate pairs of rows, over all splits at once.

Rows with the same tokens are one *unit*, named by its first row and never paired one by
one, so that ten thousand copies of a sentence cost as much as two. Units that share a
bucket (equal bits under a SimHash mask, an equal MinHash band) are candidates; each is
verified by the exact Jaccard similarity of its token sets, and for SimHash by the distance
too. A pair is taken in the first table in which it matches, so tables know nothing of each
other and may be done anywhere, in any order.

In a bucket of more units than the table's `reach`, each is compared with the next `reach`
and with the first only (fewer in a bucket of more than five thousand, so that work stays linear):
then the numbers of pairs are lower bounds, and `Pairs.complete` says so.

State: 450 bytes a row of 74 distinct tokens (MinHash, 16 bands): 430 MB a million rows in
memory, or 16 MB where signatures lie in files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain, pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit.groups import equal_groups, first_equal
from forge_pipeline.dataset_audit.machine_code import any_loaded, loops
from forge_pipeline.dataset_audit.simhash import table_masks
from forge_pipeline.dataset_audit.tokens import IntArray, ranges

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
KeyArray = npt.NDArray[np.uint64]
ValueArray = npt.NDArray[np.uint32]

_CHUNK_PAIRS = 1 << 16
_MOST_PAIRS = 1 << 20  # candidates of one bucket
_FEW = 1 << 12  # keys that are sorted as soon as looked at
_KERNEL_PAIRS = 20_000  # from here on, compiled loops are worth loading


class JoinKernels(NamedTuple):
    """Compiled loops over keys, and over pairs of rows.

    Attributes:
        met_again: ``(keys, bits, once, twice, out)``: writes the places of keys whose upper bits, so many of them, are
            those of another one, ascending, and returns how many they are. `once` and `twice` are sets of such bits,
            empty at first; `out` has room for one place more than there are keys.
        common: ``(left, right, offsets, values, threshold, out)``: `out[i]` becomes the number of values that the
            sorted runs of `left[i]` and `right[i]` share, or -1 as soon as their Jaccard similarity must be below
            `threshold`.
        in_earlier_band: ``(left, right, keys, table, out)``: whether a column before `table` of `keys` is equal.
        in_earlier_mask: ``(left, right, signatures, masks, table, hamming, out)``: whether the signatures are equal
            under a mask before `table`, or more than `hamming` bits apart.
    """

    met_again: Any
    common: Any
    in_earlier_band: Any
    in_earlier_mask: Any


@cache
def join_kernels() -> JoinKernels | None:
    """The loops of `join_kernels`, or None where numba is not installed."""
    compiled = None if find_spec("numba") is None else loops("join_kernels", "groups")
    return None if compiled is None else JoinKernels(**compiled)


class Signatures(Protocol):
    """What is kept of the rows of one shard, in memory or in a file (`scan.RowSignatures`); n rows, m tokens.

    Attributes:
        text, tokens: As in `SignedRows`; shape (n,).
        keys: MinHash band keys, or the SimHash alone; shape (n, k).
        offsets, values: Distinct tokens of row `i`: 32-bit hashes `values[offsets[i]:offsets[i + 1]]`, ascending;
            shapes (n + 1,) and (m,).
    """

    @property
    def text(self) -> KeyArray: ...
    @property
    def tokens(self) -> KeyArray: ...
    @property
    def keys(self) -> KeyArray: ...
    @property
    def offsets(self) -> IntArray: ...
    @property
    def values(self) -> ValueArray: ...


class Shards(Protocol):
    """The signatures of all shards; `shards[i]` gives those of one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Signatures: ...


@dataclass(frozen=True)
class SignedRows:
    """What the scan kept of every row, all splits and shards one after another; N rows.

    Attributes:
        text: Hash of the row's text; equal texts have equal hashes; shape (N,).
        tokens: Hash of the row's tokens; rows of one unit are equal here. 0 means no tokens; shape (N,).
        shards: Where keys and token sets are read from, as they are needed.
        starts: First row of each shard, and N; shape (shards + 1,).
    """

    text: KeyArray
    tokens: KeyArray
    shards: Shards
    starts: IntArray

    @classmethod
    def of(cls, shards: Shards) -> "SignedRows":
        """Take the small columns of each shard; the large ones stay where they are."""
        text, tokens = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.uint64)]
        for index in range(len(shards)):
            rows = shards[index]
            text.append(np.array(rows.text))
            tokens.append(np.array(rows.tokens))
        starts = np.concatenate([[0], np.cumsum([len(part) for part in text[1:]])]).astype(np.int64)
        return cls(np.concatenate(text), np.concatenate(tokens), shards, starts)

    def keys(self, rows: IntArray, columns: int | None = None) -> KeyArray:
        """What the buckets of the given rows (ascending) are made of, or the first so many columns of it."""
        parts = [np.take(np.asarray(shard.keys).T[:columns], local, axis=1) for shard, local in self._by_shard(rows)]
        return np.concatenate(parts, axis=1).T if parts else np.zeros((0, 1), dtype=np.uint64)

    def column(self, rows: IntArray, column: int) -> KeyArray:
        """One column of `keys`; shape (rows,)."""
        parts = [np.asarray(shard.keys)[:, column][local] for shard, local in self._by_shard(rows)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)

    def token_sets(self, rows: IntArray) -> tuple[IntArray, ValueArray]:
        """Offsets and values of the token sets of the given rows (ascending)."""
        sizes, values = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.uint32)]
        for shard, local in self._by_shard(rows):
            offsets = np.asarray(shard.offsets)
            own = offsets[local + 1] - offsets[local]
            sizes.append(own)
            values.append(np.asarray(shard.values)[ranges(offsets[local], own)])
        return np.cumsum(np.concatenate(sizes)), np.concatenate(values)

    def _by_shard(self, rows: IntArray) -> Iterator[tuple[Signatures, IntArray]]:
        cuts = np.searchsorted(rows, self.starts)
        for index, (start, stop) in enumerate(pairwise(cuts.tolist())):
            if stop > start:
                yield self.shards[index], rows[start:stop] - self.starts[index]


@dataclass(frozen=True)
class Pairs:
    """Verified pairs of different units, each named by its first row, in order.

    Attributes:
        left, right: Rows, `left` < `right`; shape (pairs,).
        similarity: Jaccard of their tokens; shape (pairs,).
        complete: False where a bucket was too large to compare all of it.
    """

    left: IntArray
    right: IntArray
    similarity: FloatArray
    complete: bool

    @classmethod
    def merged(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """Pairs of several tables as one, sorted."""
        nothing = np.zeros(0, dtype=np.int64)
        left = np.concatenate([nothing, *(part.left for part in parts)])
        right = np.concatenate([nothing, *(part.right for part in parts)])
        similarity = np.concatenate([np.zeros(0), *(part.similarity for part in parts)])
        order = np.lexsort((right, left))
        return cls(left[order], right[order], similarity[order], all(part.complete for part in parts))


def unit_of(tokens: KeyArray) -> IntArray:
    """The first row of each row's unit, -1 where it has no tokens; shape (N,)."""
    return np.where(tokens != 0, first_equal(tokens), -1)


@dataclass(frozen=True)
class Tables:
    """The ways to put units into buckets.

    Attributes:
        count: Number of tables.
        jaccard: Smallest Jaccard similarity of a pair's token sets.
        hamming: Largest SimHash distance in bits; None for MinHash, where a table is a band.
        masks: SimHash bits that each table compares; empty for MinHash.
        reach: How many of a bucket are compared with one unit.
    """

    count: int
    jaccard: float
    hamming: int | None
    masks: KeyArray
    reach: int

    @classmethod
    def of(cls, rows: SignedRows, units: IntArray, *, hamming: int | None, jaccard: float) -> "Tables":
        """For the given units: by MinHash bands, or by SimHash where `hamming` is given."""
        if hamming is not None:
            return cls.of_simhash(len(units), hamming, jaccard)
        return cls.of_bands(rows.keys(units[:1]).shape[1] if len(units) else 0, jaccard)

    @classmethod
    def of_bands(cls, bands: int, jaccard: float) -> "Tables":
        return cls(bands, jaccard, None, np.zeros(0, dtype=np.uint64), 200)

    @classmethod
    def of_simhash(cls, units: int, hamming: int, jaccard: float) -> "Tables":
        masks = np.array(table_masks(hamming, units), dtype=np.uint64)
        return cls(len(masks), jaccard, hamming, masks, 400)

    def column(self, table: int) -> int:
        """The column of the rows' keys that a table needs."""
        return table if self.hamming is None else 0

    def columns_before(self, table: int) -> int:
        """How many columns of the rows' keys tell which pairs the tables before a table have."""
        return table if self.hamming is None else 1

    def bucket_keys(self, column: KeyArray, table: int) -> KeyArray:
        """What units of one bucket of a table have in common, from its column."""
        return column if self.hamming is None else column & self.masks[table]

    def taken_elsewhere(
        self, keys: KeyArray, left: IntArray, right: IntArray, table: int, kernels: JoinKernels | None = None
    ) -> BoolArray:
        """Whether an earlier table has the pair, or its signatures rule it out; shape (pairs,).

        Args:
            keys: Of some units; shape (units, `columns_before`).
            left, right: The pairs, as places in `keys`.
            table: The table that found them.
            kernels: Compiled loops, which give the same.
        """
        result = np.zeros(len(left), dtype=np.bool_)
        if kernels is not None and self.hamming is None:
            kernels.in_earlier_band(left, right, keys, table, result)
        elif kernels is not None:
            kernels.in_earlier_mask(left, right, keys, self.masks, table, self.hamming, result)
        elif self.hamming is None:
            for earlier in range(table):
                result |= keys[left, earlier] == keys[right, earlier]
        else:
            apart = keys[left, 0] ^ keys[right, 0]
            result |= np.bitwise_count(apart) > self.hamming
            for mask in self.masks[:table]:
                result |= (apart & mask) == 0
        return result


class Candidates(NamedTuple):
    """Pairs for the token sets to decide, as places in an array of units; and whether none were left out."""

    left: IntArray
    right: IntArray
    complete: bool

    @classmethod
    def joined(cls, parts: "Sequence[Candidates]") -> "Candidates":
        nothing = np.zeros(0, dtype=np.int64)
        left = np.concatenate([nothing, *(part.left for part in parts)])
        right = np.concatenate([nothing, *(part.right for part in parts)])
        return cls(left, right, all(part.complete for part in parts))


_OfTable: TypeAlias = tuple[list[Pairs], Candidates]


def find_pairs(
    rows: SignedRows,
    units: IntArray,
    tables: Tables,
    map_tables: Callable[[Callable[[int], _OfTable], Sequence[int]], Iterable[_OfTable]] = map,
) -> Pairs:
    """All near-duplicate pairs of units.

    Args:
        rows: The scanned rows.
        units: The first row of each unit, ascending.
        tables: How units come into buckets.
        map_tables: Does the tables; they do not depend on each other.
    """

    def of_table(table: int) -> _OfTable:
        keys = tables.bucket_keys(rows.column(units, tables.column(table)), table)
        *large, rest = _candidates(rows, units, keys, tables, table)
        return [_verified(rows, units, piece, tables.jaccard) for piece in large], rest

    found, rests = zip(*map_tables(of_table, range(tables.count)), strict=True) if tables.count else ((), ())
    # What is left of each table is verified together: most rows that look alike do so in several tables.
    pieces = _pieces(rests)
    return Pairs.merged([*chain.from_iterable(found), *(_verified(rows, units, own, tables.jaccard) for own in pieces)])


def pairs_of_table(rows: SignedRows, units: IntArray, keys: KeyArray, tables: Tables, table: int) -> Pairs:
    """The pairs that one table is the first to find.

    Args:
        rows: Where keys and token sets of candidates are read from.
        units: Some units, ascending: all those with their keys.
        keys: Their bucket keys; shape (units,).
        tables: The whole scheme.
        table: Which of its tables.
    """
    pieces = _candidates(rows, units, keys, tables, table)
    return Pairs.merged([_verified(rows, units, piece, tables.jaccard) for piece in pieces])


def _pieces(parts: Iterable[Candidates]) -> Iterator[Candidates]:
    """The pairs in pieces of at least `_CHUNK_PAIRS`, but the last one, which may be empty."""
    held: list[Candidates] = []
    for part in parts:
        held.append(part)
        if sum(len(own.left) for own in held) >= _CHUNK_PAIRS:
            yield Candidates.joined(held)
            held = []
    yield Candidates.joined(held)


def _candidates(rows: SignedRows, units: IntArray, keys: KeyArray, tables: Tables, table: int) -> Iterator[Candidates]:
    """The pairs that one table is the first to have, in `_pieces`; arguments as of `pairs_of_table`."""
    members, bounds = _equal_groups(keys)
    order = np.argsort(members)
    place = np.empty(len(order), dtype=np.int64)  # of each member among all, in the order of the units
    place[order] = np.arange(len(order))
    ordered = members[order]
    earlier = np.ascontiguousarray(rows.keys(units[ordered], tables.columns_before(table)))
    kernels = _kernels(bounds, tables.reach)

    def new(one: IntArray, other: IntArray, complete: bool) -> Candidates:
        left, right = place[one], place[other]
        kept = ~tables.taken_elsewhere(earlier, left, right, table, kernels)
        return Candidates(ordered[left[kept]], ordered[right[kept]], complete)

    return _pieces(new(*pairs) for pairs in _bucket_pairs(bounds, tables.reach))


def _equal_groups(keys: KeyArray) -> tuple[IntArray, IntArray]:
    """As `equal_groups`; where compiled loops are there, keys that cannot have an equal one are not sorted."""
    kernels = join_kernels() if any_loaded() else None
    if kernels is None or len(keys) < _FEW:
        return equal_groups(keys)
    bits = (len(keys) - 1).bit_length() + 3  # so many values that seven of eight keys meet no other by chance
    once, twice = (np.zeros(1 << (bits - 6), dtype=np.uint64) for _ in range(2))
    places = np.empty(len(keys) + 1, dtype=np.int64)
    places = places[: kernels.met_again(keys, bits, once, twice, places)]
    members, bounds = equal_groups(keys[places])
    return places[members], bounds


def _verified(rows: SignedRows, units: IntArray, pairs: Candidates, jaccard: float) -> Pairs:
    """Those of the pairs whose token sets are similar enough."""
    used = np.zeros(len(units), dtype=bool)
    used[pairs.left] = used[pairs.right] = True
    place = np.cumsum(used) - 1  # of each used unit among them
    offsets, values = rows.token_sets(units[used])
    kernels = join_kernels() if len(pairs.left) >= _KERNEL_PAIRS or any_loaded() else None
    similarity = jaccard_of(offsets, values, place[pairs.left], place[pairs.right], jaccard, kernels)
    same = similarity >= jaccard - 1e-12
    return Pairs(units[pairs.left[same]], units[pairs.right[same]], similarity[same], pairs.complete)


def _kernels(bounds: IntArray, reach: int) -> JoinKernels | None:
    """Compiled loops where they are there already, or the pairs are many enough to pay for loading them."""
    sizes = np.diff(bounds)
    pairs = int((sizes * np.minimum(sizes, reach)).sum()) // 2
    return join_kernels() if pairs >= _KERNEL_PAIRS or any_loaded() else None


def _bucket_pairs(bounds: IntArray, reach: int) -> Iterator[tuple[IntArray, IntArray, bool]]:
    """Pairs of places in one bucket, in pieces; False with the piece that stands for pairs left out."""
    sizes = np.diff(bounds)
    steps = np.minimum(reach, np.maximum(1, _MOST_PAIRS // np.maximum(sizes, 1)))
    start, stop, limit = (np.repeat(column, sizes) for column in (bounds[:-1], bounds[1:], steps))
    place = np.arange(len(start), dtype=np.int64)
    last = np.minimum(stop - 1, place + limit)  # the last place that each is compared with
    held: list[tuple[IntArray, IntArray]] = []
    active, size, step = place, 0, 0
    while True:
        step += 1
        active = active[last[active] >= active + step]
        if not len(active):
            break
        held.append((active, active + step))
        size += len(active)
        if size >= _CHUNK_PAIRS:
            yield *_joined(held), True
            held, size = [], 0
    if held:
        yield *_joined(held), True
    far = place[place - start > limit]
    if len(far):
        yield start[far], far, False


def _joined(held: list[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    one, other = (np.concatenate(column) for column in zip(*held, strict=True))
    return one, other


def jaccard_of(
    offsets: IntArray,
    values: ValueArray,
    left: IntArray,
    right: IntArray,
    threshold: float = 0.0,
    kernels: JoinKernels | None = None,
) -> FloatArray:
    """Exact Jaccard similarity of token sets; with `kernels`, a pair below `threshold` may come out as 0.

    Args:
        offsets, values: Set `i` is `values[offsets[i]:offsets[i + 1]]`, sorted, without repeats.
        left, right: Sets to compare; shape (pairs,).
    """
    sizes = np.diff(offsets)
    common = np.empty(len(left), dtype=np.int64)
    if kernels is not None:
        kernels.common(left, right, offsets, values, float(threshold), common)
    else:
        step = max(1, (1 << 22) // max(1, int(sizes.max(initial=1))))
        for first in range(0, len(left), step):
            part = slice(first, first + step)
            common[part] = _common(offsets, values, sizes, left[part], right[part])
    together = sizes[left] + sizes[right] - np.maximum(common, 0)
    result: FloatArray = np.maximum(common, 0) / np.maximum(together, 1)
    return result


def _common(offsets: IntArray, values: ValueArray, sizes: IntArray, left: IntArray, right: IntArray) -> IntArray:
    """How many values both sets of a pair hold: values that stand twice behind the number of their pair."""
    both = np.concatenate([left, right])
    pair = np.tile(np.arange(len(left), dtype=np.uint64), 2)
    keyed = np.repeat(pair << np.uint64(32), sizes[both]) | values[ranges(offsets[both], sizes[both])]
    keyed.sort()
    shared = keyed[1:][keyed[1:] == keyed[:-1]] >> np.uint64(32)
    counts: IntArray = np.bincount(shared.astype(np.int64), minlength=len(left))
    return counts
