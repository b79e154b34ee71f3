"""`ingest`: read every dataset of a recipe, decide what it is, split it, write it down.

Steps: resolve sources, read rows (broken ones become named skips), detect the dataset
type by majority, refuse a source with more than a tenth of broken rows, mix, limit,
split. Rows are stored as they were read, in the order of reading; their text changes
only where the recipe says `clean_text`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.data import splits
from forge_pipeline.data.artifacts import (
    PROVENANCE_FILE,
    SPLITS,
    DatasetProvenance,
    RawDataset,
    SkippedRow,
    SourceProvenance,
    Transformation,
)
from forge_pipeline.data.columns import TableBuilder, write_parquet
from forge_pipeline.data.detection import Detection, detect
from forge_pipeline.data.examples import RowError, example_of
from forge_pipeline.data.reading import BrokenRow
from forge_pipeline.data.schemas import EXPECTED_COLUMNS, Shape
from forge_pipeline.data.sources import Source, resolve_source
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

_MOST_BROKEN = 0.1  # of a source's rows
_REPORTED_SKIPS = 100
_REPORT_EVERY = 5000  # rows


@dataclass(frozen=True)
class _Origin:
    """Where rows stand: number of the source, number of the part over all sources, declared split."""

    source: int
    part: int
    split: str | None


@dataclass
class _Reading:
    """Everything read so far. The lists from `lines` on run parallel to the rows in `builder`."""

    sources: list[Source]
    read: list[int]  # rows by source, broken ones included
    labels: list[str] = field(default_factory=list)  # by part
    skipped: list[tuple[_Origin, BrokenRow]] = field(default_factory=list)
    builder: TableBuilder = field(default_factory=TableBuilder)
    lines: list[int] = field(default_factory=list)
    origins: list[_Origin] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)


def ingest(config: "ForgeConfig", output_dir: Path, *, progress: Report = silent) -> RawDataset:
    """Read the datasets of `config.data` and publish them as one raw dataset.

    Raises:
        DataError: A dataset is missing, unreadable, of no known layout, or more than a tenth of it is broken.
        FileExistsError: `output_dir` exists and is not empty.
    """
    data = config.data
    sources = [
        resolve_source(name, revision=None if i else data.revision, offline=config.model.offline)
        for i, name in enumerate(data.names)
    ]
    reading = _Reading(sources, [0] * len(sources))
    for number in range(len(sources)):
        _read_source(reading, number, data.clean_text, progress)
    detection = _detect(reading)
    taken = _of_family(reading, detection)
    _check_breakage(reading)
    steps: list[Transformation] = []
    if data.clean_text:
        steps.append(Transformation("clean_text", len(taken), len(taken)))
    if data.mix_ratio is not None:
        taken = _noted(steps, "mix", taken, _mix(reading, taken, data.mix_ratio))
    if data.limit is not None:
        taken = _noted(steps, "limit", taken, _sample(reading, taken, data.limit))
    rows_by_split = _split(config, reading, taken)
    provenance = _provenance(config, reading, detection, steps, rows_by_split)
    table = reading.builder.finish()
    with publishing(output_dir) as staging:
        for split, rows in rows_by_split.items():
            write_parquet(table.take(rows), staging / f"{split}.parquet")
        write_report(staging / PROVENANCE_FILE, provenance)
    progress(Progress("ingest", len(taken), len(taken), f"{len(taken)} rows: {detection.dataset_type}"))
    return RawDataset.open(output_dir)


def _read_source(reading: _Reading, number: int, clean: bool, progress: Report) -> None:
    for part in reading.sources[number].parts:
        origin = _Origin(number, len(reading.labels), part.split)
        reading.labels.append(part.label)
        for item in part.read():
            if sum(reading.read) % _REPORT_EVERY == 0:
                progress(Progress("ingest", sum(reading.read), message=f"reading {part.label}"))
            reading.read[number] += 1
            if isinstance(item, BrokenRow):
                reading.skipped.append((origin, item))
                continue
            row = _cleaned(item.values) if clean else item.values
            try:
                shape = example_of(row).shape
            except RowError as error:
                reading.skipped.append((origin, BrokenRow(item.line, str(error))))
                continue
            reading.builder.append(row)
            reading.lines.append(item.line)
            reading.origins.append(origin)
            reading.shapes.append(shape)
            reading.digests.append(splits.row_digest(row))
            reading.groups.append(splits.group_key(row))


def _cleaned(value: Any) -> Any:
    """Every run of white space in every text becomes one space."""
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip()
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _detect(reading: _Reading) -> Detection:
    if reading.shapes:
        return detect(Counter(reading.shapes))
    names = ", ".join(source.name for source in reading.sources)
    raise DataError(
        f"{names}: no usable row; {_first_skips(reading, reading.skipped)}. "
        f"Expected one of these columns: {'; '.join(EXPECTED_COLUMNS.values())}"
    )


def _of_family(reading: _Reading, detection: Detection) -> list[int]:
    """Positions of the rows of the detected family; the others become broken rows."""
    usable = []
    for i, shape in enumerate(reading.shapes):
        if shape.family == detection.family:
            usable.append(i)
            continue
        reason = f"looks like {shape}, but most rows are {', '.join(detection.family)}"
        reading.skipped.append((reading.origins[i], BrokenRow(reading.lines[i], reason)))
    reading.skipped.sort(key=lambda item: (item[0].part, item[1].line))
    return usable


def _check_breakage(reading: _Reading) -> None:
    for number, source in enumerate(reading.sources):
        broken = [item for item in reading.skipped if item[0].source == number]
        if len(broken) > _MOST_BROKEN * reading.read[number]:
            raise DataError(
                f"{source.name}: {len(broken)} of {reading.read[number]} rows cannot be used, more than a tenth; "
                f"{_first_skips(reading, broken)}. Repair or remove them"
            )


def _first_skips(reading: _Reading, skipped: list[tuple[_Origin, BrokenRow]]) -> str:
    first = [f"{reading.labels[origin.part]} line {row.line}: {row.reason}" for origin, row in skipped[:3]]
    return "for example " + "; ".join(first)


def _noted(steps: list[Transformation], name: str, before: list[int], after: list[int]) -> list[int]:
    steps.append(Transformation(name, len(before), len(after)))
    return after


def _sample(reading: _Reading, rows: list[int], count: int) -> list[int]:
    return [rows[i] for i in splits.smallest_digests([reading.digests[row] for row in rows], count)]


def _mix(reading: _Reading, rows: list[int], weights: list[float]) -> list[int]:
    """As many training rows as the weights allow without repeating any. Declared validation and test rows stay."""
    held_out = [row for row in rows if reading.origins[row].split not in (None, "train")]
    by_source: list[list[int]] = [[] for _ in weights]
    for row in rows:
        if reading.origins[row].split in (None, "train"):
            by_source[reading.origins[row].source].append(row)
    shares = [weight / sum(weights) for weight in weights]
    total = min(len(members) / share for members, share in zip(by_source, shares, strict=True) if share > 0)
    taken: Iterable[int] = held_out
    for members, share in zip(by_source, shares, strict=True):
        wanted = min(len(members), math.floor(total * share + 0.5))
        taken = [*taken, *_sample(reading, members, wanted)]
    return sorted(taken)


def _split(config: "ForgeConfig", reading: _Reading, rows: list[int]) -> dict[str, list[int]]:
    """Positions by split. Declared splits stay; missing ones are taken from the training rows."""
    declared = {row: split for row in rows if (split := reading.origins[row].split) not in (None, "train")}
    open_rows = [row for row in rows if row not in declared]
    if not open_rows:
        raise DataError(
            f"{reading.sources[0].name}: no training rows are left; raise data.limit, or give every dataset a weight"
        )
    assigned = splits.assign(
        (reading.groups[row] for row in open_rows), config.data.split, skip=frozenset(filter(None, declared.values()))
    )
    place = {**declared, **dict(zip(open_rows, assigned, strict=True))}
    by_split = {split: [row for row in rows if place[row] == split] for split in SPLITS}
    return {split: members for split, members in by_split.items() if members}


def _provenance(
    config: "ForgeConfig",
    reading: _Reading,
    detection: Detection,
    steps: list[Transformation],
    rows_by_split: dict[str, list[int]],
) -> DatasetProvenance:
    data = config.data
    sources = []
    for number, source in enumerate(reading.sources):
        # What the recipe declares is about its dataset, not about the extra ones.
        declared = (data.license, data.origin, data.category) if number == 0 else (None, None, "other")
        skipped = sum(1 for origin, _ in reading.skipped if origin.source == number)
        sources.append(
            SourceProvenance(
                name=source.name,
                uri=source.uri,
                revision=source.revision,
                license=declared[0] or source.license,
                origin=declared[1] or source.origin,
                category=declared[2],
                digest=source.digest,
                rows_read=reading.read[number],
                rows_skipped=skipped,
            )
        )
    return DatasetProvenance(
        sources=tuple(sources),
        dataset_type=detection.dataset_type,
        dataset_format=detection.dataset_format,
        reason=detection.reason,
        rows={split: len(rows) for split, rows in rows_by_split.items()},
        skipped=tuple(
            SkippedRow(reading.labels[origin.part], row.line, row.reason)
            for origin, row in reading.skipped[:_REPORTED_SKIPS]
        ),
        skipped_count=len(reading.skipped),
        transformations=tuple(steps),
    )
