"""The one pass over a recipe's datasets: rows to disk, a few numbers about each to memory.

A row that is kept costs 38 bytes of memory, whatever its length: where it stood, its
layout, and three keys of its content (see `RowFacts`). Broken rows are counted by
source, and the first of them kept with the reason.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from forge_pipeline.data.columns import Row, to_json
from forge_pipeline.data.detection import Detection, detect
from forge_pipeline.data.documents import CountTokens, chunking_note, is_document
from forge_pipeline.data.examples import Example, RowError, example_of
from forge_pipeline.data.parts import Part, Source
from forge_pipeline.data.reading import BrokenRow
from forge_pipeline.data.row_texts import row_text
from forge_pipeline.data.schemas import EXPECTED_COLUMNS, Shape
from forge_pipeline.data.spill import RowSpill, TextSpill
from forge_pipeline.data.splits import SPLITS, Keys, Numbers, group_key, json_digest_of, salted_key
from forge_pipeline.errors import DataError
from forge_pipeline.progress import Progress, Report

if TYPE_CHECKING:
    from forge_pipeline.config.data import DocumentsSection

REPORTED_SKIPS = 100
_MOST_BROKEN = 0.1  # of a source's rows
_MOST_COLUMNS = 1000  # of all rows together; more is a map with rows for keys, not a table
_REFUSED = "holds data of a person whose erasure was carried out (the deployment's deny-list)"
_REPORT_EVERY = 5000  # rows


@dataclass(frozen=True)
class SkippedAt:
    """A broken row: number of its part over all sources, line from 1, reason. Ordered as read."""

    part: int
    line: int
    reason: str


class RowFacts:
    """What is known of each kept row, in the order of reading.

    Attributes:
        parts: Number of the part over all sources.
        lines: Line in the part, from 1.
        shapes: Number of the layout in `Gathered.shapes`.
        keys: Of the row's content, for selection.
        groups: Of the words of its first exchange (`splits.group_key`).
        places: From 0 to 2**64: what the group's key and the split seed say about the split.
    """

    def __init__(self) -> None:
        self._parts, self._lines, self._shapes = array("i"), array("q"), array("h")
        self._keys, self._groups, self._places = array("Q"), array("Q"), array("Q")

    def append(self, part: int, line: int, shape: int, key: int, group: int, place: int) -> None:
        self._parts.append(part)
        self._lines.append(line)
        self._shapes.append(shape)
        self._keys.append(key)
        self._groups.append(group)
        self._places.append(place)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def parts(self) -> npt.NDArray[np.int32]:
        return np.frombuffer(self._parts, np.int32)

    @property
    def lines(self) -> Numbers:
        return np.frombuffer(self._lines, np.int64)

    @property
    def shapes(self) -> npt.NDArray[np.int16]:
        return np.frombuffer(self._shapes, np.int16)

    @property
    def keys(self) -> Keys:
        return np.frombuffer(self._keys, np.uint64)

    @property
    def groups(self) -> Keys:
        return np.frombuffer(self._groups, np.uint64)

    @property
    def places(self) -> Keys:
        return np.frombuffer(self._places, np.uint64)


class Gathered:
    """Everything that was read.

    Attributes:
        sources: As the recipe names them, in order.
        read: Rows by part, broken ones included.
        skips: By source, how many rows are broken.
        rows: The kept rows, on disk.
        texts: What they say (`row_texts`), on disk; None where nobody asks.
        shapes: The layouts seen, in order of first appearance.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        scratch: Path,
        *,
        seed: int,
        with_texts: bool,
        refused: Callable[[str], bool] | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.read: list[int] = []
        self.skips = [0] * len(sources)
        self.rows = RowSpill(scratch / "rows")
        self.texts = TextSpill(scratch / "texts") if with_texts else None
        self.facts = RowFacts()
        self.shapes: dict[Shape, int] = {}
        self._parts: list[tuple[int, Part]] = []  # with the number of the source
        self._skipped: list[list[SkippedAt]] = [[] for _ in sources]  # the first ones of each source
        self._salt = f"split {seed}"
        self._refused = refused
        self._columns: set[str] = set()

    def read_all(self, clean_text: bool, progress: Report) -> None:
        """Read every source once.

        Raises:
            DataError: A file is broken as a whole.
        """
        try:
            for number, source in enumerate(self.sources):
                for part in source.parts:
                    self._parts.append((number, part))
                    self.read.append(0)
                    self._read_part(part, clean_text, progress)
        finally:
            if self.texts:
                self.texts.finish()
        self.rows.finish()

    def _read_part(self, part: Part, clean_text: bool, progress: Report) -> None:
        before = sum(self.read)
        for count, item in enumerate(part.read(), start=1):
            if (before + count) % _REPORT_EVERY == 1:
                progress(Progress("ingest", before + count, message=f"reading {part.label}"))
            self.read[-1] = count
            if isinstance(item, BrokenRow):
                self._skip(item.line, item.reason)
                continue
            row = _cleaned(item.values) if clean_text else item.values
            try:
                example = example_of(row)
            except RowError as error:
                self._skip(item.line, str(error))
                continue
            if self._refused is not None and self._refused(to_json(row)):
                self._skip(item.line, _REFUSED)
            else:
                self._keep(item.line, row, example)

    def _keep(self, line: int, row: Row, example: Example) -> None:
        if not row.keys() <= self._columns:
            self._columns |= row.keys()
            self._check_columns(line)
        text = to_json(row)
        group = group_key(example)
        self.rows.append(row, len(text))
        self.facts.append(
            len(self._parts) - 1,
            line,
            self.shapes.setdefault(example.shape, len(self.shapes)),
            salted_key("select", json_digest_of(text)),
            int.from_bytes(group[:8], "big"),
            salted_key(self._salt, group),
        )
        if self.texts:
            self.texts.append(row_text(row))

    def _check_columns(self, line: int) -> None:
        if len(self._columns) > _MOST_COLUMNS:
            raise DataError(
                f"{self._parts[-1][1].label} line {line}: with this row there are more than {_MOST_COLUMNS} different "
                "columns. Put keys that differ from row to row into one column, as a list of key and value"
            )

    def _skip(self, line: int, reason: str) -> None:
        source = self._parts[-1][0]
        self.skips[source] += 1
        if len(self._skipped[source]) < REPORTED_SKIPS:
            self._skipped[source].append(SkippedAt(len(self._parts) - 1, line, reason))

    @property
    def row_sources(self) -> npt.NDArray[np.int32]:
        """The number of each kept row's source."""
        return np.array([source for source, _ in self._parts], np.int32)[self.facts.parts]

    @property
    def row_splits(self) -> npt.NDArray[np.int8]:
        """The split that each kept row declares, as an index into `SPLITS`; train where it declares none."""
        return np.array([SPLITS.index(part.split or "train") for _, part in self._parts], np.int8)[self.facts.parts]

    def declared_splits(self, source: int) -> dict[str, int]:
        """Rows read of a source, by what the source itself calls their split."""
        rows: dict[str, int] = {}
        for (number, part), count in zip(self._parts, self.read, strict=True):
            if number == source:
                rows[part.declared] = rows.get(part.declared, 0) + count
        return rows

    def document_notes(self, options: "DocumentsSection", count_tokens: CountTokens | None) -> list[str]:
        """How documents were cut into rows, where there are any."""
        some = any(is_document(Path(part.label)) for _, part in self._parts)
        return [chunking_note(options, count_tokens)] if some else []

    def rows_read(self, source: int) -> int:
        return sum(count for (number, _), count in zip(self._parts, self.read, strict=True) if number == source)

    def skipped(self, source: int | None = None) -> list[tuple[str, SkippedAt]]:
        """The first broken rows in the order of reading, of one source or of all, each with its part's label."""
        some = self._skipped if source is None else [self._skipped[source]]
        first = sorted((item for items in some for item in items), key=lambda item: (item.part, item.line))
        return [(self._parts[item.part][1].label, item) for item in first[:REPORTED_SKIPS]]

    def detect(self) -> Detection:
        """What the rows are, by majority.

        Raises:
            DataError: There is not one usable row.
        """
        if self.shapes:
            counts = np.bincount(self.facts.shapes, minlength=len(self.shapes))
            return detect({shape: int(counts[number]) for shape, number in self.shapes.items()})
        names = ", ".join(source.name for source in self.sources)
        raise DataError(
            f"{names}: no usable row; {_examples(self.skipped())}. "
            f"Expected one of these columns: {'; '.join(EXPECTED_COLUMNS.values())}"
        )

    def keep_family(self, detection: Detection) -> npt.NDArray[np.bool_]:
        """Which rows are of the detected family; the others become broken rows.

        Raises:
            DataError: More than a tenth of the rows of a source are broken.
        """
        shapes = list(self.shapes)
        fits = np.array([shape.family == detection.family for shape in shapes])[self.facts.shapes]
        sources = self.row_sources
        for number, source in enumerate(self.sources):
            outside = np.flatnonzero(~fits & (sources == number))
            self.skips[number] += len(outside)
            for row in outside[:REPORTED_SKIPS].tolist():
                shape = shapes[self.facts.shapes[row]]
                reason = f"looks like {shape}, but most rows are {', '.join(detection.family)}"
                self._skipped[number].append(SkippedAt(int(self.facts.parts[row]), int(self.facts.lines[row]), reason))
            if self.skips[number] > _MOST_BROKEN * self.rows_read(number):
                raise DataError(
                    f"{source.name}: {self.skips[number]} of {self.rows_read(number)} rows cannot be used, more than "
                    f"a tenth; {_examples(self.skipped(number))}. Repair or remove them"
                )
        return fits


def _examples(skipped: list[tuple[str, SkippedAt]]) -> str:
    return "for example " + "; ".join(f"{label} line {item.line}: {item.reason}" for label, item in skipped[:3])


def _cleaned(value: Any) -> Any:
    """Every run of white space in every text becomes one space."""
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip()
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value
