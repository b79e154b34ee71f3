"""Near-duplicates that an audit found, held against all that there are."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.audited import THRESHOLD, Corpus, Place
from benchmarks.corpus import Repeat
from benchmarks.exact_join import SimilarRows


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates found, against all that there are (exact Jaccard of at least 0.85).

    Attributes:
        true_rows: Rows that have a duplicate or near-duplicate somewhere.
        found_rows: Rows that the audit says have one.
        right_rows: Of the found, those that have one among the rows found with them.
        true_pairs: Pairs of rows, exact duplicates among them.
        found_pairs: Of the true pairs, those whose rows were found together.
        within: True pairs inside each split.
        leaks: Per held-out split: rows of it with a partner in train: (true, found).
    """

    true_rows: int
    found_rows: int
    right_rows: int
    true_pairs: int
    found_pairs: int
    within: dict[str, int]
    leaks: dict[str, tuple[int, int]]

    @property
    def precision(self) -> float:
        return self.right_rows / self.found_rows if self.found_rows else 0.0

    @property
    def row_recall(self) -> float:
        return self.right_rows / self.true_rows if self.true_rows else 0.0

    @property
    def pair_recall(self) -> float:
        return self.found_pairs / self.true_pairs if self.true_pairs else 0.0


def duplicates(corpus: Corpus, groups: dict[Place, int], leaks: dict[str, int]) -> Duplicates:
    """Hold groups of rows against the truth.

    Args:
        corpus: The corpus.
        groups: The number of the group that each found row is in.
        leaks: Rows of each held-out split that were reported to have a partner in train.
    """
    places, similar = corpus.places, corpus.similar
    group_of = np.array([groups.get(place, -1) for place in places])
    split_of = np.array([split for split, _ in places])
    of_set: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(similar.set_of.tolist()):
        if number >= 0:
            of_set[number].append(index)
    has_partner = np.zeros(len(places), dtype=bool)
    right = np.zeros(len(places), dtype=bool)
    true_pairs = found_pairs = 0
    within: Counter[str] = Counter(dict.fromkeys(corpus.truth.rows, 0))
    # All pairs of equal token sets, then all pairs of two sets that are similar.
    for rows in of_set.values():
        if len(rows) > 1:
            together = Counter(group_of[rows].tolist())
            has_partner[rows] = True
            right[rows] |= np.array([group >= 0 and together[group] > 1 for group in group_of[rows].tolist()])
            true_pairs += _pairs(len(rows))
            found_pairs += sum(_pairs(count) for group, count in together.items() if group >= 0)
            within.update({split: _pairs(count) for split, count in Counter(split_of[rows].tolist()).items()})
    for first, second in similar.pairs.tolist():
        one, other = of_set[first], of_set[second]
        for here, there in ((one, other), (other, one)):
            partners = set(group_of[there].tolist()) - {-1}
            has_partner[here] = True
            right[here] |= np.isin(group_of[here], list(partners))
        true_pairs += len(one) * len(other)
        found_pairs += _common(group_of[one].tolist(), group_of[other].tolist(), without=-1)
        for split in within:
            within[split] += int((split_of[one] == split).sum() * (split_of[other] == split).sum())
    leaked = _rows_with_partner_in_train(similar, of_set, split_of)
    return Duplicates(
        true_rows=int(has_partner.sum()),
        found_rows=int((group_of >= 0).sum()),
        right_rows=int(right.sum()),
        true_pairs=true_pairs,
        found_pairs=found_pairs,
        within=dict(within),
        leaks={split: (int((leaked & (split_of == split)).sum()), leaks[split]) for split in leaks},
    )


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _common(here: Sequence[int], there: Sequence[int], *, without: int) -> int:
    """Number of pairs (one of `here`, one of `there`) of equal members, `without` not counted."""
    counted = Counter(there)
    return sum(counted[group] for group in here if group != without)


def _rows_with_partner_in_train(
    similar: SimilarRows, of_set: dict[int, list[int]], split_of: npt.NDArray[np.str_]
) -> npt.NDArray[np.bool_]:
    in_train = {number for number, members in of_set.items() if any(split_of[index] == "train" for index in members)}
    leaking = set(in_train)
    for first, second in similar.pairs.tolist():
        leaking |= {second} if first in in_train else set()
        leaking |= {first} if second in in_train else set()
    leaked = np.zeros(len(split_of), dtype=bool)
    for number in leaking:
        leaked[of_set[number]] = True
    leaked &= split_of != "train"
    return leaked


def groups_of_pairs(places: Sequence[Place], pairs: Iterable[tuple[int, int]]) -> dict[Place, int]:
    """Connected components of pairs of row numbers, as `duplicates` takes them."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while parent.setdefault(index, index) != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        parent[root(second)] = root(first)
    return {places[index]: root(index) for index in list(parent)}


@dataclass(frozen=True)
class RepeatRecall:
    """Of the planted repeats of one kind whose Jaccard is at least 0.85: how many were found with their source."""

    what: str
    kind: str
    planted: int
    similar: int
    found: list[int | None]  # by contestant


def repeat_recall(repeats: Sequence[Repeat], contestants: Sequence[dict[Place, int] | None]) -> list[RepeatRecall]:
    """By kind of repeat; a contestant whose groups are None was not asked."""
    by_kind: dict[tuple[str, str], list[Repeat]] = defaultdict(list)
    for repeat in repeats:
        by_kind[repeat.what, repeat.kind].append(repeat)
    rows = []
    for (what, kind), members in sorted(by_kind.items()):
        similar = [repeat for repeat in members if repeat.jaccard >= THRESHOLD]
        found = [
            None if groups is None else sum(_together(groups, repeat) for repeat in similar) for groups in contestants
        ]
        rows.append(RepeatRecall(what, kind, len(members), len(similar), found))
    return rows


def _together(groups: dict[Place, int], repeat: Repeat) -> bool:
    own = groups.get((repeat.split, repeat.row))
    return own is not None and own == groups.get((repeat.source_split, repeat.source_row))
