"""`ingest`: read every dataset of a recipe, decide what it is, split it, write it down.

Rows are read once, a chunk at a time, and written once: memory holds a few numbers for
each row and no text (see `gathering` and `spill`). They are stored as they were read, in
the order of reading; their text changes only where the recipe says `clean_text`.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.config.data import DataSection, DatasetEntry
from forge_pipeline.data import mixing
from forge_pipeline.data.artifacts import (
    PROVENANCE_FILE,
    DatasetProvenance,
    RawDataset,
    SkippedRow,
    SourceProvenance,
)
from forge_pipeline.data.detection import Detection
from forge_pipeline.data.documents import CountTokens
from forge_pipeline.data.gathering import Gathered
from forge_pipeline.data.local_files import LocalFile, ReadFile
from forge_pipeline.data.parts import Source, file_parts
from forge_pipeline.data.reading import read_rows
from forge_pipeline.data.selection import GroupRows, Selection
from forge_pipeline.data.sources import resolve_source
from forge_pipeline.data.splits import shares
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig


def ingest(
    config: "ForgeConfig",
    output_dir: Path,
    *,
    progress: Report = silent,
    group_rows: GroupRows | None = None,
    count_tokens: CountTokens | None = None,
    synthetic: Path | None = None,
    refused: Callable[[str], bool] | None = None,
) -> RawDataset:
    """Read the datasets of `config.data` and publish them as one raw dataset.

    Args:
        group_rows: Finds near-duplicate clusters, which `data.split.keep_together` may ask to keep in one split.
            Without it only rows with equal words are kept together.
        count_tokens: Length of a text in tokens of the recipe's tokenizer, for documents that are cut into rows.
        synthetic: Rows that the recipe's teacher wrote (``rows.jsonl`` of a `SyntheticDataset`), read as one more
            dataset after the others, of category ``synthetic``.
        refused: Whether a row, given as JSON text, must not be taken, such as one that names an erased person.

    Raises:
        ConfigError: The recipe weighs its datasets, but not the teacher's rows.
        DataError: A dataset is missing, unreadable, of no known layout, or more than a tenth of it is broken.
        FileExistsError: `output_dir` exists and is not empty.
    """
    data = mixed_section(config) if synthetic else config.data
    if data.split.keep_together != "near_duplicates" or not shares(data.split):
        group_rows = None
    with publishing(output_dir) as staging, _scratch(output_dir) as scratch:
        sources = list(_sources(config, scratch, count_tokens, synthetic))
        rows = Gathered(sources, scratch, seed=data.split.seed, with_texts=group_rows is not None, refused=refused)
        rows.read_all(data.clean_text, progress)
        detection = rows.detect()
        selection = Selection(rows, rows.keep_family(detection))
        if data.clean_text:
            selection.note_step("clean_text")
        if mixing.mixes(data):
            selection.mix(data)
        if data.limit is not None:
            selection.limit(data.limit)
        by_split = selection.split(data.split, group_rows)
        rows.rows.write({staging / f"{split}.parquet": positions for split, positions in by_split.items()})
        counts = {split: len(positions) for split, positions in by_split.items()}
        entries = [*data.datasets, *([_synthetic_entry(config, sources[-1])] if synthetic else [])]
        notes = (*rows.document_notes(data.documents, count_tokens), *selection.notes)
        write_report(staging / PROVENANCE_FILE, _provenance(entries, rows, detection, selection, counts, notes))
    progress(Progress("ingest", selection.count, selection.count, f"{selection.count} rows: {detection.dataset_type}"))
    return RawDataset.open(output_dir)


@contextmanager
def _scratch(output_dir: Path) -> Iterator[Path]:
    """A folder on the same disk as the output, gone when ingestion ends."""
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.rows.", dir=output_dir.parent) as folder:
        yield Path(folder)


def mixed_section(config: "ForgeConfig") -> DataSection:
    """`data:` with a weight for the teacher's rows where the recipe weighs its datasets.

    Raises:
        ConfigError: It does not say which.
    """
    data = config.data
    if data.mix_ratio is None:
        return data
    weight = config.synthetic.mix_weight if config.synthetic else None
    if weight is None:
        raise ConfigError(
            "synthetic.mix_weight: data.mix_ratio gives each dataset a weight; the teacher's rows need one too"
        )
    return data.model_copy(update={"mix_ratio": [*data.mix_ratio, weight]})


def _sources(
    config: "ForgeConfig", scratch: Path, count_tokens: CountTokens | None, synthetic: Path | None
) -> Iterable[Source]:
    read = partial(read_rows, documents=config.data.documents, count_tokens=count_tokens)
    for number, entry in enumerate(config.data.datasets):
        yield resolve_source(
            entry.name_or_path,
            revision=entry.revision,
            offline=config.model.offline,
            read=read,
            scratch=scratch / f"dataset-{number}",
        )
    if synthetic:
        yield _synthetic_source(synthetic, read)


def _synthetic_source(path: Path, read: ReadFile) -> Source:
    """The teacher's rows, named after the teacher that their own column `synthetic` names."""
    file = LocalFile.of(path)
    with path.open("rb") as lines:
        first = lines.readline()
    try:
        facts = json.loads(first)["synthetic"]
        teacher, backend = str(facts["teacher"]), str(facts["backend"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path}: the first row does not say which teacher wrote it; expected {path.name} as the "
            "stage synthetic_dataset writes it"
        ) from error
    revision, place = facts.get("revision"), facts.get("endpoint")
    return Source(
        "synthetic",
        f"synthetic:{teacher}" + (f"@{revision}" if revision else ""),
        lambda: file_parts(path.parent, [file], read),
        revision=revision,
        origin=f"answers of the teacher {teacher} ({backend}{f', {place}' if place else ''}) to the recipe's prompts",
        digest=file.digest,
    )


def _synthetic_entry(config: "ForgeConfig", source: Source) -> DatasetEntry:
    license_name = config.synthetic.license if config.synthetic else None
    return DatasetEntry(name_or_path=source.name, license=license_name, category="synthetic")


def _provenance(
    entries: Iterable[DatasetEntry],
    rows: Gathered,
    detection: Detection,
    selection: Selection,
    counts: dict[str, int],
    notes: tuple[str, ...],
) -> DatasetProvenance:
    sources = []
    for number, (source, entry) in enumerate(zip(rows.sources, entries, strict=True)):
        sources.append(
            SourceProvenance(
                name=source.name,
                uri=source.uri,
                revision=source.revision,
                license=entry.license or source.license,
                origin=entry.origin or source.origin,
                category=entry.category,
                digest=source.digest,
                rows_read=rows.rows_read(number),
                rows_skipped=rows.skips[number],
                rows_taken=selection.by_source[number],
                repeats=selection.repeats(number),
                declared_splits=rows.declared_splits(number),
            )
        )
    return DatasetProvenance(
        sources=tuple(sources),
        dataset_type=detection.dataset_type,
        dataset_format=detection.dataset_format,
        reason=detection.reason,
        rows=counts,
        skipped=tuple(SkippedRow(label, item.line, item.reason) for label, item in rows.skipped()),
        skipped_count=sum(rows.skips),
        transformations=tuple(selection.steps),
        notes=notes,
    )
