"""What repeats inside a split, and what stands in more than one: counts, rates and examples."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from forge_pipeline.dataset_audit.near_duplicates import Pairs, Signatures, Units, clusters
from forge_pipeline.dataset_audit.tokens import IntArray

_EXAMPLES = 20


@dataclass(frozen=True)
class Repeats:
    """The near-duplicate search's result over the splits `names`, ready to be summed up."""

    names: tuple[str, ...]
    rows: Signatures
    units: Units
    pairs: Pairs

    def pairs_per_split(self) -> dict[str, int]:
        """Pairs of rows of one split that are equal in tokens or near-duplicates."""
        counts = self.units.counts
        inside = (counts * (counts - 1) // 2).sum(axis=0)
        across = (counts[self.pairs.left] * counts[self.pairs.right]).sum(axis=0)
        return dict(zip(self.names, (inside + across).tolist(), strict=True))

    def clusters_per_split(self) -> dict[str, dict[str, int]]:
        """Clusters of at least two rows of a split: how many, the rows of the largest, and the rows beyond one each."""
        result = {}
        for index, name in enumerate(self.names):
            counts = self.units.counts[:, index]
            cluster = clusters(len(counts), self.pairs, counts > 0)
            sizes = np.bincount(cluster, weights=counts, minlength=1).astype(np.int64)
            result[name] = {
                "clusters": int((sizes > 1).sum()),
                "largest": int(sizes.max(initial=0)),
                "redundant_rows": int(np.maximum(sizes - 1, 0).sum()),
            }
        return result

    def exact_duplicates_per_split(self) -> dict[str, int]:
        """Rows whose text stands in an earlier row of the same split, character by character."""
        result = {}
        for index, name in enumerate(self.names):
            texts = self.rows.text[self._filled(index)]
            result[name] = int(len(texts) - len(np.unique(texts)))
        return result

    def overlap(self) -> dict[str, dict[str, int | float]]:
        """For each two splits, how many rows of each have a duplicate or near-duplicate in the other.

        Rates are of the rows that have words, to four decimals; None where there are none.
        """
        reach = self.units.counts > 0  # (units, splits): the unit or a near-duplicate of it is there
        reach = reach.copy()
        np.logical_or.at(reach, self.pairs.left, self.units.counts[self.pairs.right] > 0)
        np.logical_or.at(reach, self.pairs.right, self.units.counts[self.pairs.left] > 0)
        result = {}
        for one, other in combinations(range(len(self.names)), 2):
            entry: dict[str, Any] = {}
            for here, there in ((one, other), (other, one)):
                name, counts = self.names[here], self.units.counts[:, here]
                leaked, total = int(counts[reach[:, there]].sum()), int(counts.sum())
                texts = self.rows.text[self._filled(here)]
                entry[f"leaked_rows_in_{name}"] = leaked
                entry[f"leak_rate_{name}"] = round(leaked / total, 4) if total else None
                entry[f"exact_rows_in_{name}"] = int(np.isin(texts, self.rows.text[self._filled(there)]).sum())
                entry[f"rows_compared_in_{name}"] = total
            result[f"{self.names[one]}__{self.names[other]}"] = entry
        return result

    def examples(self) -> list[dict[str, Any]]:
        """The first twenty pairs in reading order, to look at."""
        found = [(*pair, 1.0) for pair in self._pairs_inside_units()]
        first = self.units.first_row
        found += list(
            zip(
                first[self.pairs.left[:_EXAMPLES]].tolist(),
                first[self.pairs.right[:_EXAMPLES]].tolist(),
                np.round(self.pairs.similarity[:_EXAMPLES], 4).tolist(),
                strict=True,
            )
        )
        starts = np.searchsorted(self.rows.split, np.arange(len(self.names)))
        return [
            {
                "split_a": self.names[self.rows.split[a]],
                "row_a": int(a - starts[self.rows.split[a]]),
                "split_b": self.names[self.rows.split[b]],
                "row_b": int(b - starts[self.rows.split[b]]),
                "similarity": similarity,
            }
            for a, b, similarity in sorted(found)[:_EXAMPLES]
        ]

    def _pairs_inside_units(self) -> list[tuple[int, int]]:
        """The first and second row of the first units that have two."""
        repeated = np.flatnonzero(self.units.counts.sum(axis=1) > 1)[:_EXAMPLES]
        pairs = []
        for unit in repeated.tolist():
            rows: IntArray = np.flatnonzero(self.units.of_row == unit)
            pairs.append((int(rows[0]), int(rows[1])))
        return pairs

    def _filled(self, split: int) -> IntArray:
        """Rows of a split that have words."""
        return np.flatnonzero((self.rows.split == split) & (self.units.of_row >= 0))
