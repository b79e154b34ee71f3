"""Which of the rows that were read are taken, how often, and for which split; with the steps that led there."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.config.data import DataSection, SplitSection
from forge_pipeline.data import mixing, splits
from forge_pipeline.data.artifacts import Transformation
from forge_pipeline.data.gathering import Gathered
from forge_pipeline.data.mixing import Times
from forge_pipeline.data.splits import SPLITS, Numbers
from forge_pipeline.errors import DataError

GroupRows = Callable[[pa.LargeStringArray], Numbers]
"""Texts -> for each the index of the first text of its near-duplicate cluster. The array lies on disk, mapped."""
_TRAIN = SPLITS.index("train")


class Selection:
    """How often each row is taken.

    Attributes:
        times: One number a row: 0 left out, 1 taken, more: repeated by the mix.
        steps: What has been done, in order.
        notes: What a person should know of it.
    """

    def __init__(self, rows: Gathered, taken: npt.NDArray[np.bool_]) -> None:
        self.times: Times = taken.astype(np.int32)
        self.steps: list[Transformation] = []
        self.notes: list[str] = []
        self._rows = rows
        self._sources = rows.row_sources
        self._declared = rows.row_splits

    @property
    def count(self) -> int:
        return int(self.times.sum())

    @property
    def by_source(self) -> tuple[int, ...]:
        """Rows taken of each source, repeats included."""
        return tuple(np.bincount(self._sources, self.times, len(self._rows.sources)).astype(int).tolist())

    def repeats(self, source: int) -> dict[str, int]:
        """How many rows of a source are taken 2 times, 3 times, ..."""
        times = self.times[self._sources == source]
        return {str(count): rows for count, rows in sorted(Counter(times[times > 1].tolist()).items())}

    def note_step(self, name: str, times: Times | None = None) -> None:
        """Record a step, and the times that came of it, if it changed them."""
        before = self.count
        self.times = self.times if times is None else times
        self.steps.append(Transformation(name, before, self.count, self.by_source))

    def mix(self, data: DataSection) -> None:
        """Take rows as often as the mix says. Declared validation and test rows stay as they are.

        Raises:
            DataError: A dataset that should be mixed in has no training rows.
        """
        taken = self._open
        members = [np.flatnonzero(taken & (self._sources == number)) for number in range(len(self._rows.sources))]
        names = [source.name for source in self._rows.sources]
        wanted = mixing.wanted_rows(data, names, [len(rows) for rows in members])
        times = np.where(taken, 0, self.times).astype(np.int32)
        for rows, count in zip(members, wanted, strict=True):
            times[rows] = mixing.times_taken(self._rows.facts.keys[rows], count, data.split.seed)
        self.note_step("mix", times)

    def limit(self, count: int) -> None:
        """Take at most `count` rows, chosen by content."""
        positions = self._positions(self.times > 0)
        chosen = positions[splits.smallest(self._rows.facts.keys[positions], count)]
        self.note_step("limit", np.bincount(chosen, minlength=len(self.times)).astype(np.int32))

    def split(self, wanted: SplitSection, group_rows: GroupRows | None) -> dict[str, Numbers]:
        """Positions of the rows of each split that has any, in the order of reading.

        Declared splits stay; missing ones come from training rows. Held-out rows are taken once, whatever the mix
        says: to measure on a row twice measures nothing more.

        Raises:
            DataError: There is nothing to train on.
        """
        split = self._split_of_rows(wanted, group_rows)
        once = np.where(split == _TRAIN, self.times, np.minimum(self.times, 1))
        if not np.array_equal(once, self.times):
            self.note_step("held_out_once", once)
        positions = {name: self._positions(split == number) for number, name in enumerate(SPLITS)}
        return {name: rows for name, rows in positions.items() if len(rows)}

    @property
    def _open(self) -> npt.NDArray[np.bool_]:
        """Rows taken that no dataset declares to be held out."""
        taken: npt.NDArray[np.bool_] = (self.times > 0) & (self._declared == _TRAIN)
        return taken

    def _positions(self, rows: npt.NDArray[np.bool_]) -> Numbers:
        """Positions of those of `rows` that are taken, repeated as often as they are."""
        return np.repeat(np.arange(len(rows)), np.where(rows, self.times, 0))

    def _split_of_rows(self, wanted: SplitSection, group_rows: GroupRows | None) -> npt.NDArray[np.int8]:
        taken, facts = self._open, self._rows.facts
        if not taken.any():
            raise DataError(
                f"{self._rows.sources[0].name}: no training rows are left; raise data.limit, or give every dataset a "
                "weight"
            )
        declared = frozenset(SPLITS[number] for number in np.unique(self._declared[self.times > 0]))
        clusters = None
        if splits.shares(wanted, declared):
            clusters = self._clusters(taken, group_rows)
            self.notes.append(_kept_together(clusters))
        split = self._declared.copy()
        split[taken] = splits.assign(facts.groups[taken], facts.places[taken], wanted, clusters=clusters, skip=declared)
        return split

    def _clusters(self, taken: npt.NDArray[np.bool_], group_rows: GroupRows | None) -> Numbers | None:
        if group_rows is None or self._rows.texts is None:
            return None
        clusters = group_rows(self._rows.texts.texts(taken))
        if len(clusters) != np.count_nonzero(taken):
            raise ValueError(f"group_rows gave {len(clusters)} numbers for {np.count_nonzero(taken)} texts")
        return clusters


def _kept_together(clusters: Numbers | None) -> str:
    if clusters is None:
        return "rows with equal words are in one split; near-duplicate rows were not looked for"
    sizes = np.unique(clusters, return_counts=True)[1]
    many = sizes > 1
    return (
        f"near-duplicate rows are in one split: {int(sizes[many].sum())} rows in {int(many.sum())} clusters, "
        f"the largest of {int(sizes.max())}"
    )
