"""What repeats inside a split, and what stands in more than one: counts, rates, clusters and examples.

Only rows that repeat cost anything here. They are counted as *entries*: one for each unit
and split that has rows of it. Two units that are a pair give an edge between their entries
of one split, so the clusters of every split come out of one search for components.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from forge_pipeline.dataset_audit.groups import components, distinct, equal_groups
from forge_pipeline.dataset_audit.near_duplicates import BoolArray, FloatArray, Pairs, SignedRows
from forge_pipeline.dataset_audit.tokens import IntArray, ranges

_EXAMPLES = 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entries:
    """Rows of unit and split, counted: one entry for each unit and split that has some; sorted by both.

    Attributes:
        unit, split, rows: Of each entry; shape (entries,).
        splits: Number of splits.
    """

    unit: IntArray
    split: IntArray
    rows: IntArray
    splits: int

    @classmethod
    def of(cls, unit: IntArray, split: IntArray, splits: int) -> "Entries":
        """Count rows, given the unit and the split of each."""
        keys, rows = np.unique(unit * splits + split, return_counts=True)
        return cls(keys // max(splits, 1), keys % max(splits, 1), rows.astype(np.int64), splits)

    @cached_property
    def keys(self) -> IntArray:
        """Unit and split as one ascending number."""
        return self.unit * self.splits + self.split

    def of_units(self, units: IntArray) -> tuple[IntArray, IntArray]:
        """Entries of the given units: which of `units` each belongs to, and its place here."""
        starts = np.searchsorted(self.unit, units)
        counts = np.searchsorted(self.unit, units, side="right") - starts
        return np.repeat(np.arange(len(units), dtype=np.int64), counts), ranges(starts, counts)

    def find(self, unit: IntArray, split: IntArray) -> IntArray:
        """Place of each entry, -1 where there is none."""
        wanted = unit * self.splits + split
        if not len(self.keys):
            return np.full(len(wanted), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    def edges(self, pairs: Pairs) -> tuple[IntArray, IntArray]:
        """Places of entries of one split whose units are a pair."""
        index, left = self.of_units(pairs.left)
        right = self.find(pairs.right[index], self.split[left])
        return left[right >= 0], right[right >= 0]

    def shared(self, present_unit: IntArray, present_split: IntArray) -> IntArray:
        """Rows of split `here` whose unit is present in split `there`; shape (splits, splits) as [here, there]."""
        result = np.zeros((self.splits, self.splits), dtype=np.int64)
        for first in range(0, len(present_unit), _CHUNK):
            part = slice(first, first + _CHUNK)
            index, place = self.of_units(present_unit[part])
            np.add.at(result, (self.split[place], present_split[part][index]), self.rows[place])
        return result


@dataclass(frozen=True)
class Repeats:
    """The near-duplicate search's result over the splits `names`, ready to be summed up.

    Attributes:
        names: The splits, in reading order.
        starts: First row of each split, and the number of all rows N; shape (splits + 1,).
        rows: The scanned rows; keys and token sets are not looked at again.
        unit: First row of each row's unit, -1 where it has no tokens; shape (N,).
        pairs: Verified pairs of units.
    """

    names: tuple[str, ...]
    starts: IntArray
    rows: SignedRows
    unit: IntArray
    pairs: Pairs

    def pairs_per_split(self) -> dict[str, int]:
        """Pairs of rows of one split that are equal in tokens or near-duplicates."""
        entries, (left, right) = self._entries, self._edges
        counts = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(counts, entries.split, entries.rows * (entries.rows - 1) // 2)
        np.add.at(counts, entries.split[left], entries.rows[left] * entries.rows[right])
        return dict(zip(self.names, counts.tolist(), strict=True))

    def clusters_per_split(self) -> dict[str, dict[str, int]]:
        """Clusters of at least two rows of a split: how many, the rows of the largest, and the rows beyond one each."""
        entries = self._entries
        sizes = np.zeros(len(entries.unit), dtype=np.int64)
        np.add.at(sizes, components(len(sizes), *self._edges), entries.rows)
        result = {}
        for index, name in enumerate(self.names):
            own = sizes[entries.split == index]
            result[name] = {
                "clusters": int((own > 1).sum()),
                "largest": int(own.max(initial=1 if self._filled_rows[index] else 0)),
                "redundant_rows": int(np.maximum(own - 1, 0).sum()),
            }
        return result

    def clusters_over_all(self) -> dict[str, int]:
        """The same over all splits together, and the rows that belong to such a cluster."""
        sizes = np.bincount(self.cluster_rows()[1]) if self.names else np.zeros(0, dtype=np.int64)
        return {"clusters": len(sizes), "largest": int(sizes.max(initial=0)), "rows": int(sizes.sum())}

    def exact_duplicates_per_split(self) -> dict[str, int]:
        """Rows whose text stands in an earlier row of the same split, character by character."""
        entries = self._texts
        counts = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(counts, entries.split, entries.rows - 1)
        return dict(zip(self.names, counts.tolist(), strict=True))

    def overlap(self) -> dict[str, dict[str, int | float]]:
        """For each two splits, how many rows of each have a duplicate or near-duplicate in the other.

        Rates are of the rows that have words, to four decimals; None where there are none.
        """
        near = self._entries.shared(*self._within_reach)
        exact = self._texts.shared(self._texts.unit, self._texts.split)
        result = {}
        for one, other in combinations(range(len(self.names)), 2):
            entry: dict[str, Any] = {}
            for here, there in ((one, other), (other, one)):
                name, leaked, total = self.names[here], int(near[here, there]), int(self._filled_rows[here])
                entry[f"leaked_rows_in_{name}"] = leaked
                entry[f"leak_rate_{name}"] = round(leaked / total, 4) if total else None
                entry[f"exact_rows_in_{name}"] = int(exact[here, there])
                entry[f"rows_compared_in_{name}"] = total
            result[f"{self.names[one]}__{self.names[other]}"] = entry
        return result

    def examples(self) -> list[dict[str, Any]]:
        """The first twenty pairs in reading order, to look at."""
        rows, unit = self._repeated
        order = np.argsort(unit, kind="stable")
        first = np.flatnonzero(np.diff(unit[order], prepend=-1))[:_EXAMPLES]
        by_unit = rows[order]
        found = [(int(by_unit[at]), int(by_unit[at + 1]), 1.0) for at in first]
        found += list(
            zip(
                self.pairs.left[:_EXAMPLES].tolist(),
                self.pairs.right[:_EXAMPLES].tolist(),
                np.round(self.pairs.similarity[:_EXAMPLES], 4).tolist(),
                strict=True,
            )
        )
        return [
            {**self._place("a", a), **self._place("b", b), "similarity": similarity}
            for a, b, similarity in sorted(found)[:_EXAMPLES]
        ]

    def cluster_rows(self) -> tuple[IntArray, IntArray]:
        """Rows of clusters of at least two rows over all splits, ascending, and the number of each one's cluster.

        Clusters are numbered from 0 in the order of their first rows.
        """
        return self._clusters

    @cached_property
    def _clusters(self) -> tuple[IntArray, IntArray]:
        rows, units = self._connected
        number = np.searchsorted(units, self.unit[rows])
        left, right = np.searchsorted(units, self.pairs.left), np.searchsorted(units, self.pairs.right)
        # A unit is named by its first row, so components in the order of units are in the order of first rows.
        _, cluster = np.unique(components(len(units), left, right)[number], return_inverse=True)
        return rows, cluster.astype(np.int64).reshape(-1)

    def first_in_split(self, rows: IntArray) -> IntArray:
        """The first row of each row's cluster within its own split, among the given rows alone; shape (rows,).

        Args:
            rows: Some rows with words, ascending.
        """
        split = self.split_of(rows)
        entries = Entries.of(self.unit[rows], split, len(self.names))
        cluster = components(len(entries.unit), *entries.edges(self.pairs))
        _, first, inverse = np.unique(
            cluster[entries.find(self.unit[rows], split)], return_index=True, return_inverse=True
        )
        result: IntArray = rows[first[inverse.reshape(-1)]]
        return result

    def has_twin(self, rows: IntArray) -> BoolArray:
        """Whether another of the given rows has the same text; shape (rows,)."""
        twin = np.zeros(len(rows), dtype=bool)
        twin[equal_groups(self.rows.text[rows])[0]] = True
        return twin

    def highest_similarity(self, rows: IntArray) -> FloatArray:
        """The highest Jaccard similarity of each row to another one; rows of `cluster_rows`."""
        units = self._connected[1]
        highest = np.zeros(len(units))
        for side in (self.pairs.left, self.pairs.right):
            np.maximum.at(highest, np.searchsorted(units, side), self.pairs.similarity)
        result: FloatArray = highest[np.searchsorted(units, self.unit[rows])]
        result[np.isin(rows, self._repeated[0])] = 1.0
        return result

    def first_near(self, rows: IntArray, split: int) -> IntArray:
        """The first row of `split` that is equal in tokens to each row, or its near-duplicate; -1 where there is none.

        Args:
            rows: Of `cluster_rows`.
            split: Index in `names`.
        """
        members, units = self._connected
        members = members[self.split_of(members) == split]
        own, first = np.unique(self.unit[members], return_index=True)
        nowhere = np.iinfo(np.int64).max
        there = np.full(len(units), nowhere)  # of each unit, its first row in the split
        there[np.searchsorted(units, own)] = members[first]
        left, right = np.searchsorted(units, self.pairs.left), np.searchsorted(units, self.pairs.right)
        near = there.copy()
        np.minimum.at(near, left, there[right])
        np.minimum.at(near, right, there[left])
        result = near[np.searchsorted(units, self.unit[rows])]
        return np.where(result == nowhere, -1, result)

    def split_of(self, rows: IntArray) -> IntArray:
        """Index of each row's split."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def _place(self, suffix: str, row: int) -> dict[str, Any]:
        split = int(self.split_of(np.array([row]))[0])
        return {f"split_{suffix}": self.names[split], f"row_{suffix}": row - int(self.starts[split])}

    @cached_property
    def _filled_rows(self) -> IntArray:
        """Rows with words, by split."""
        filled = np.concatenate([[0], np.cumsum(self.unit >= 0)])
        return np.diff(filled[self.starts])

    @cached_property
    def _repeated(self) -> tuple[IntArray, IntArray]:
        """Rows of units of at least two rows, ascending, and their units."""
        filled = np.flatnonzero(self.unit >= 0)
        other = filled[self.unit[filled] != filled]
        rows = distinct(other, self.unit[other])
        return rows, self.unit[rows]

    @cached_property
    def _connected(self) -> tuple[IntArray, IntArray]:
        """Rows whose unit has two rows or is in a pair, ascending; and those units, ascending."""
        paired = distinct(self.pairs.left, self.pairs.right)
        rows, units = self._repeated
        return distinct(rows, paired), distinct(units, paired)

    @cached_property
    def _entries(self) -> Entries:
        rows, _ = self._connected
        return Entries.of(self.unit[rows], self.split_of(rows), len(self.names))

    @cached_property
    def _edges(self) -> tuple[IntArray, IntArray]:
        return self._entries.edges(self.pairs)

    @cached_property
    def _within_reach(self) -> tuple[IntArray, IntArray]:
        """Units and splits that hold the unit or a near-duplicate of it, each once."""
        entries = self._entries
        keys = [entries.keys]
        for here, there in ((self.pairs.left, self.pairs.right), (self.pairs.right, self.pairs.left)):
            index, place = entries.of_units(there)
            keys.append(here[index] * entries.splits + entries.split[place])
        reached = distinct(*keys)
        return reached // max(entries.splits, 1), reached % max(entries.splits, 1)

    @cached_property
    def _texts(self) -> Entries:
        """Entries of texts that stand in several rows with words; a unit is here the first row of the text."""
        filled = np.flatnonzero(self.unit >= 0)
        positions, bounds = equal_groups(self.rows.text[filled])
        rows = filled[positions]
        first = np.repeat(rows[bounds[:-1]], np.diff(bounds))
        return Entries.of(first, self.split_of(rows), len(self.names))
