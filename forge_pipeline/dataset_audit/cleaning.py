"""`clean`: mask or remove what the recipe does not want in its rows, and account for every row that changes.

Two passes. First what a row holds by itself: credentials and personal data (masked or
removed), benchmark items, texts that fail a quality filter or are in another language.
Then what it shares with others: training rows that stand in validation or test too,
and repeats, of which the first row that is left stays. The second pass looks at masked
texts, so rows that differ in nothing but a masked value are repeats.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.artifacts import PROVENANCE_FILE, RawDataset, Transformation
from forge_pipeline.data.columns import Row, TableBuilder, write_parquet
from forge_pipeline.dataset_audit import language, pii, quality, secret_scan
from forge_pipeline.dataset_audit.artifacts import CLUSTERS_FILE, FINDINGS_FILE
from forge_pipeline.dataset_audit.contamination import find_contamination
from forge_pipeline.dataset_audit.finding import Finding, masked, without_overlaps
from forge_pipeline.dataset_audit.rows import row_texts_of
from forge_pipeline.dataset_audit.run import audit_path
from forge_pipeline.dataset_audit.settings import audit_options
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import Digest, read_report, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.config.data import CleanSection
    from forge_pipeline.dataset_audit.stage import BenchmarkItems

CHANGES_FILE = "changes.parquet"
CLEANING_FILE = "cleaning.json"

MASK_PII, MASK_SECRET = "[REDACTED]", "[REDACTED-SECRET]"

_CHANGES = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kept_split", pa.string()),
        ("kept_row", pa.int64()),
    ]
)
_Place = tuple[str, int]  # split and row


@dataclass(frozen=True)
class CleaningReport:
    """What became of the rows.

    Attributes:
        dataset_digest: The dataset that was cleaned.
        rows_in, rows_out: By split.
        removed: Reason -> rows, each row under the first reason that applied.
        masked_rows: Rows in which something was masked and that stayed.
        masked: Category -> findings masked.
    """

    dataset_digest: Digest
    rows_in: dict[str, int]
    rows_out: dict[str, int]
    removed: dict[str, int]
    masked_rows: int
    masked: dict[str, int]


def cleaning_report(dataset: RawDataset) -> CleaningReport:
    """The account of a dataset that `clean` made.

    Raises:
        OSError: The dataset was not made by it.
    """
    return read_report(dataset.path / CLEANING_FILE, CleaningReport)


@dataclass(frozen=True)
class _Change:
    split: str
    row: int
    action: str  # "removed" or "masked"
    reason: str
    detail: str = ""
    kept: _Place | None = None


def clean(
    config: "ForgeConfig",
    dataset: RawDataset,
    output_dir: Path,
    *,
    benchmark_items: "BenchmarkItems | None" = None,
    progress: Report = silent,
) -> RawDataset:
    """Apply `config.data.clean` to a stored dataset.

    Beside the rows lie ``cleaning.json`` (counts, and the digest of what was cleaned) and ``changes.parquet``: one row
    for each removed or masked row, with its split and number in `dataset`, the reason, and of a repeat the row that
    was kept instead.

    Args:
        config: The recipe.
        dataset: What `data.ingest` wrote.
        output_dir: The directory to make.
        benchmark_items: As `audit_raw_dataset` takes them; needed where ``contaminated: remove`` is set.
        progress: Told as the stage goes on.

    Raises:
        ConfigError: The recipe names a category, filter or language that there is not, or asks for the removal of
            benchmark items and has no benchmark.
        DataError: No training row is left.
        FileExistsError: `output_dir` exists and is not empty.
    """
    section = config.data.clean
    _check(section, benchmark_items is not None)
    with tempfile.TemporaryDirectory(prefix="forge-clean-") as scratch, publishing(output_dir) as staging:
        first = Path(scratch, "rows")
        first.mkdir()
        changes, places = _look_at_each_row(config, dataset, first, Path(scratch), benchmark_items, progress)
        _check_rows_left(dataset, bool(places.get("train")), changes)
        repeats = _repeats(config, first, Path(scratch), places, progress)
        rows_out = _write_kept(first, staging, places, {(change.split, change.row) for change in repeats})
        changes = _without_removed(changes, repeats)
        _check_rows_left(dataset, bool(rows_out.get("train")), changes)
        _write_changes(staging / CHANGES_FILE, changes)
        report = _report(dataset, changes, rows_out)
        write_report(staging / CLEANING_FILE, report)
        provenance = dataset.provenance
        steps = (*provenance.transformations, *_steps(report))
        write_report(staging / PROVENANCE_FILE, replace(provenance, rows=rows_out, transformations=steps))
    progress(Progress("clean", 1, 1, f"{sum(rows_out.values())} of {sum(report.rows_in.values())} rows kept"))
    return RawDataset.open(output_dir)


def _check(section: "CleanSection", has_benchmark: bool) -> None:
    for key, found, known in (
        ("pii_categories", section.pii_categories, pii.CATEGORIES),
        ("quality", section.quality, quality.REASONS),
        ("languages", section.languages, language.CODES),
    ):
        unknown = [name for name in found or () if name not in known]
        if unknown:
            raise ConfigError(f"data.clean.{key}: found {unknown[0]!r}; expected some of {', '.join(known)}")
    if section.contaminated == "remove" and not has_benchmark:
        raise ConfigError(
            "data.clean.contaminated: remove needs evaluation.benchmark, whose items are looked for; there is none"
        )


def _check_rows_left(dataset: RawDataset, some: bool, changes: list[_Change]) -> None:
    if not some:
        counts = Counter(change.reason for change in changes if change.action == "removed")
        raise DataError(
            f"{dataset.path}: no training row is left after data.clean: {dict(counts)}; keep more, or check the data"
        )


# First pass: what a row holds by itself.


def _look_at_each_row(
    config: "ForgeConfig",
    dataset: RawDataset,
    target: Path,
    scratch: Path,
    benchmark_items: "BenchmarkItems | None",
    progress: Report,
) -> tuple[list[_Change], dict[str, list[int]]]:
    """Write the rows that stay, masked, under `target`; return the changes, and the old number of each row kept."""
    section = config.data.clean
    options = replace(audit_options(config.data.audit), emit_croissant=False, enable_quality_filter=False)
    audit_path(dataset.path, options, output_dir=scratch, only=dataset.splits, progress=progress)
    found = _findings(scratch / FINDINGS_FILE)
    contaminated = _contaminated(config, dataset, benchmark_items)
    changes: list[_Change] = []
    places: dict[str, list[int]] = {}
    for split in dataset.splits:
        builder, kept = TableBuilder(), []
        doubts = _doubts(dataset.path / f"{split}.parquet", section)
        for number, (row, doubt) in enumerate(zip(dataset.rows(split), doubts, strict=True)):
            progress(Progress("clean", number, message=f"split {split}")) if number % 5000 == 0 else None
            sources = found.get((split, number), frozenset())
            change = _removal(section, split, number, sources, doubt, split == "train" and number in contaminated)
            if change is None and _masks(section, sources):
                row, counts = _masked_row(row, section)
                detail = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
                change = _Change(split, number, "masked", "findings", detail) if counts else None
            if change is not None:
                changes.append(change)
            if change is None or change.action == "masked":
                builder.append(row)
                kept.append(number)
        if kept:
            write_parquet(builder.finish(), target / f"{split}.parquet")
        places[split] = kept
    return changes, places


def _findings(path: Path) -> dict[_Place, frozenset[str]]:
    """Which detectors and categories found something in each row."""
    table = pq.read_table(path, columns=["split", "row", "source", "category"])
    found: dict[_Place, set[str]] = {}
    for split, row, source, category in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault((split, row), set()).update((source, category))
    return {place: frozenset(names) for place, names in found.items()}


def _contaminated(
    config: "ForgeConfig", dataset: RawDataset, benchmark_items: "BenchmarkItems | None"
) -> frozenset[int]:
    if config.data.clean.contaminated != "remove" or benchmark_items is None:
        return frozenset()
    wanted = config.data.audit.contamination
    found = find_contamination(
        benchmark_items(),
        row_texts_of(dataset.path / "train.parquet"),
        ngram=wanted.ngram,
        min_words=wanted.min_words,
        jaccard=wanted.jaccard,
    )
    return found.rows


def _doubts(path: Path, section: "CleanSection") -> Iterator[tuple[str, str] | None]:
    """For each row the quality filter it fails or the language it is in, where the recipe minds; as reason, detail."""
    for texts in row_texts_of(path):
        result: list[tuple[str, str] | None] = [None] * len(texts)
        if section.languages is not None:
            for index, code in enumerate(language.identify(texts).tolist()):
                name = language.CODES[code]
                if code and name not in section.languages:
                    result[index] = ("language", name)
        if section.quality:
            bits = [1 << quality.REASONS.index(name) for name in section.quality]
            families = quality.families_of(section.quality)
            for index, mask in enumerate(quality.quality_masks(texts, families=families).tolist()):
                failed = [name for name, bit in zip(section.quality, bits, strict=True) if mask & bit]
                if failed:
                    result[index] = ("quality", ", ".join(failed))
        yield from result


def _removal(
    section: "CleanSection",
    split: str,
    row: int,
    found: frozenset[str],
    doubt: tuple[str, str] | None,
    holds_benchmark_item: bool,
) -> _Change | None:
    if section.secrets == "remove" and "secret" in found:
        return _Change(split, row, "removed", "secrets", ", ".join(sorted(found.intersection(secret_scan.FAMILIES))))
    personal = found - {"pii", "pii_ml", "secret", *secret_scan.FAMILIES}
    wanted = personal if section.pii_categories is None else personal.intersection(section.pii_categories)
    if section.pii == "remove" and wanted:
        return _Change(split, row, "removed", "pii", ", ".join(sorted(wanted)))
    if holds_benchmark_item:
        return _Change(split, row, "removed", "contaminated")
    return _Change(split, row, "removed", *doubt) if doubt else None


def _masks(section: "CleanSection", found: frozenset[str]) -> bool:
    return (section.secrets == "mask" and "secret" in found) or (section.pii == "mask" and bool(found - {"secret"}))


def _masked_row(row: Row, section: "CleanSection") -> tuple[Row, Counter[str]]:
    """The row with every finding masked, in whatever column and depth, and how many of each category."""
    counts: Counter[str] = Counter()

    def mask_text(text: str) -> str:
        secrets, personal = secret_scan.find_secrets(text), pii.find_pii(text)
        kept = without_overlaps([*secrets, *personal], (*secret_scan.FAMILIES, *pii.CATEGORIES))
        families = frozenset(secret_scan.FAMILIES)
        chosen = [finding for finding in kept if _is_masked(finding, section, finding.kind in families)]
        counts.update(finding.kind for finding in chosen)
        for finding in reversed(chosen):
            text = masked(text, [finding], MASK_SECRET if finding.kind in families else MASK_PII)
        return text

    return _mapped(row, mask_text), counts


def _is_masked(finding: Finding, section: "CleanSection", is_secret: bool) -> bool:
    if is_secret:
        return section.secrets == "mask"
    return section.pii == "mask" and (section.pii_categories is None or finding.kind in section.pii_categories)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value


# Second pass: what rows share.


def _repeats(
    config: "ForgeConfig", rows: Path, scratch: Path, places: dict[str, list[int]], progress: Report
) -> list[_Change]:
    """Rows to remove because another one says the same. Rows are named as in the dataset before cleaning."""
    section = config.data.clean
    if "remove" not in (section.exact_duplicates, section.near_duplicates, section.split_overlap):
        return []
    options = replace(audit_options(config.data.audit), emit_croissant=False, enable_quality_filter=False)
    audit_path(rows, options, output_dir=scratch, progress=progress)
    table = pq.read_table(scratch / CLUSTERS_FILE, columns=["split", "row", "cluster"])
    members: dict[int, list[_Place]] = {}
    for split, row, cluster in zip(*(column.to_pylist() for column in table.columns), strict=True):
        members.setdefault(cluster, []).append((split, row))
    texts = _texts(rows, {place for cluster in members.values() for place in cluster})
    changes = []
    for cluster in members.values():
        for place, reason, kept in _surplus(cluster, texts, section):
            old_split, old_row = place[0], places[place[0]][place[1]]
            kept_row = places[kept[0]][kept[1]]
            changes.append(_Change(old_split, old_row, "removed", reason, kept=(kept[0], kept_row)))
    return changes


def _surplus(
    cluster: list[_Place], texts: dict[_Place, Digest], section: "CleanSection"
) -> Iterator[tuple[_Place, str, _Place]]:
    """Of the rows of one cluster those that go, why, and which row stays instead."""
    held_out = [place for place in cluster if place[0] != "train"]
    first: dict[str, _Place] = {}
    first_text: dict[tuple[str, Digest], _Place] = {}
    for place in cluster:
        split = place[0]
        if split == "train" and held_out and section.split_overlap == "remove":
            yield place, "split_overlap", held_out[0]
        elif section.exact_duplicates == "remove" and (split, texts[place]) in first_text:
            yield place, "exact_duplicate", first_text[split, texts[place]]
        elif section.near_duplicates == "remove" and split in first:
            yield place, "near_duplicate", first[split]
        else:
            first.setdefault(split, place)
            first_text.setdefault((split, texts[place]), place)


def _texts(rows: Path, wanted: set[_Place]) -> dict[_Place, Digest]:
    """What the wanted rows say, as digests: whole texts of many repeats would fill the memory."""
    found: dict[_Place, Digest] = {}
    for path in sorted(rows.glob("*.parquet")):
        number = 0
        for block in row_texts_of(path):
            numbers = [n for n in range(number, number + len(block)) if (path.stem, n) in wanted]
            chosen = block.take(pa.array([n - number for n in numbers], pa.int64())).to_pylist()
            found.update({(path.stem, n): Digest.of(text.encode()) for n, text in zip(numbers, chosen, strict=True)})
            number += len(block)
    return found


# What is written.


def _write_kept(rows: Path, staging: Path, places: dict[str, list[int]], gone: set[_Place]) -> dict[str, int]:
    """Copy the rows that stay, in bounded pieces; return how many there are by split."""
    counts = {}
    for split, numbers in places.items():
        stays = np.array([(split, number) not in gone for number in numbers], dtype=bool)
        if not stays.any():
            continue
        counts[split] = int(stays.sum())
        table = pq.read_table(rows / f"{split}.parquet")
        write_parquet(table if stays.all() else table.filter(pa.array(stays)), staging / f"{split}.parquet")
    return counts


def _without_removed(changes: list[_Change], repeats: list[_Change]) -> list[_Change]:
    """All changes by split and row. A row that was masked and then removed counts as removed."""
    gone = {(change.split, change.row) for change in repeats}
    stay = [change for change in changes if (change.split, change.row) not in gone]
    return sorted([*stay, *repeats], key=lambda change: (change.split, change.row))


def _write_changes(path: Path, changes: list[_Change]) -> None:
    columns = {
        "split": [change.split for change in changes],
        "row": [change.row for change in changes],
        "action": [change.action for change in changes],
        "reason": [change.reason for change in changes],
        "detail": [change.detail for change in changes],
        "kept_split": [change.kept[0] if change.kept else None for change in changes],
        "kept_row": [change.kept[1] if change.kept else None for change in changes],
    }
    write_parquet(pa.table(columns, schema=_CHANGES), path)


def _report(dataset: RawDataset, changes: list[_Change], rows_out: dict[str, int]) -> CleaningReport:
    masked_changes = [change for change in changes if change.action == "masked"]
    counts: Counter[str] = Counter()
    for change in masked_changes:
        for part in change.detail.split(", "):
            kind, count = part.split(": ")
            counts[kind] += int(count)
    removed = Counter(change.reason for change in changes if change.action == "removed")
    return CleaningReport(
        dataset_digest=dataset.digest,
        rows_in=dict(dataset.provenance.rows),
        rows_out=rows_out,
        removed=dict(sorted(removed.items())),
        masked_rows=len(masked_changes),
        masked=dict(sorted(counts.items())),
    )


def _steps(report: CleaningReport) -> list[Transformation]:
    rows = sum(report.rows_in.values())
    steps = [Transformation("mask", rows, rows)] if report.masked_rows else []
    for reason, count in report.removed.items():
        steps.append(Transformation(f"remove {reason}", rows, rows - count))
        rows -= count
    return steps
