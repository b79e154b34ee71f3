"""A dataset without its redundant rows, and an account of each row that was left out.

Rows that stay are copied as they are: lines of JSON byte by byte, rows of Parquet and Arrow
files with their types. What is written is decided by `clusters.redundant_rows`, so as many
rows of a split go as an audit of the same files counts redundant ones, and, if asked for,
the training rows that stand in another split too.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import BufferedReader, RawIOBase
from itertools import chain, repeat
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.data.columns import rows_of, to_json
from forge_pipeline.data.compression import opened, without_compression
from forge_pipeline.dataset_audit.clusters import REMOVED, redundant_rows
from forge_pipeline.dataset_audit.executors import Engine, open_executor
from forge_pipeline.dataset_audit.groups import IntArray, first_equal
from forge_pipeline.dataset_audit.near_duplicates import BoolArray, Pairs
from forge_pipeline.dataset_audit.options import AuditOptions
from forge_pipeline.dataset_audit.overlap import Repeats
from forge_pipeline.dataset_audit.parquet_files import parquet_file
from forge_pipeline.dataset_audit.reading import LONGEST_LINE, plan, read_blocks
from forge_pipeline.dataset_audit.run import files_by_split
from forge_pipeline.dataset_audit.scanned import ScannedDataset, scan_dataset, signature_directory, worth_forking
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Report, silent

REMOVED_FILE = "removed_rows.parquet"
DEDUPLICATION_FILE = "deduplication.json"

_LINES = (".jsonl", ".ndjson")
_TABLES = (".parquet", ".arrow", ".feather")
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class DeduplicationReport:
    """What became of the rows.

    Attributes:
        method: ``simhash`` or ``minhash``, with their thresholds, or ``exact``.
        rows_in, rows_out: By split.
        removed: By split, reason -> rows; reasons are `clusters.REASONS`.
        unreadable: By split, lines that are no rows, and so are not in what was written.
        files: What was written, by split.
    """

    method: dict[str, str | int | float]
    rows_in: dict[str, int]
    rows_out: dict[str, int]
    removed: dict[str, dict[str, int]]
    unreadable: dict[str, int]
    files: dict[str, str]


def deduplicate(
    source: str | Path,
    output_dir: str | Path,
    *,
    remove_split_overlap: bool = True,
    exact_only: bool = False,
    near_dup_threshold: int = 3,
    dedup_method: str = "minhash",
    minhash_jaccard: float = 0.85,
    minhash_num_perm: int = 128,
    workers: int = 1,
    engine: Engine = "local",
    work_dir: str | None = None,
    progress: Report = silent,
) -> DeduplicationReport:
    """Write a dataset without its redundant rows.

    Of each cluster of duplicates and near-duplicates in a split the first row is kept. A split becomes
    ``<split>.parquet`` where all its files are Parquet or Arrow files, and ``<split>.jsonl`` otherwise. Beside them
    lie ``removed_rows.parquet`` (split, row, reason, and which row stays instead) and ``deduplication.json``, the
    report.

    Args:
        source: A file or a directory, as `audit_dataset` takes it.
        output_dir: The directory to make.
        remove_split_overlap: Remove training rows that stand in another split too, exactly or nearly.
        exact_only: Take only rows with the same text for repeats. Rows without words are never repeats.
        near_dup_threshold, dedup_method, minhash_jaccard, minhash_num_perm: What is a near-duplicate, as for
            `audit_dataset`, but MinHash by default.
        workers, engine, work_dir: As for `audit_dataset`. The result does not depend on them.
        progress: Told after each shard.

    Raises:
        ValueError: An argument is out of range, or a file cannot be read as what it is; the message names it.
        OSError: The source is missing (FileNotFoundError), or `output_dir` exists and is not empty (FileExistsError).
        OptionalDependencyError: An extra that was asked for is not installed.
    """
    options = AuditOptions(
        near_dup_threshold=near_dup_threshold,
        dedup_method="simhash" if exact_only else dedup_method,
        minhash_jaccard=minhash_jaccard,
        minhash_num_perm=minhash_num_perm,
        workers=workers,
        engine=engine,
        work_dir=work_dir,
    )
    options.require_extras()
    splits = files_by_split(Path(source) if engine == "local" else Path(source).absolute())
    with ExitStack() as stack:
        staging = stack.enter_context(publishing(Path(output_dir)))
        executor = stack.enter_context(open_executor(engine, workers, fork=worth_forking(splits)))
        side = stack.enter_context(signature_directory(splits, options, None, executor))
        scanned = scan_dataset(
            splits,
            options,
            executor,
            side,
            take_findings=lambda _: None,
            progress=progress,
            pairs=not exact_only,
            detect=False,
        )
        repeats = _by_text(scanned.repeats) if exact_only else scanned.repeats
        removed = redundant_rows(repeats, split_overlap=remove_split_overlap)
        files = {
            split: _write_split(staging, split, paths, scanned, _rows_of(removed, split))
            for split, paths in splits.items()
        }
        with parquet_file(staging / REMOVED_FILE, REMOVED) as rows:
            rows.append(removed)
        report = _report(scanned, removed, {"method": "exact"} if exact_only else options.thresholds, files)
        write_report(staging / DEDUPLICATION_FILE, report)
    return report


def _by_text(repeats: Repeats) -> Repeats:
    """The same rows, where only equal texts are repeats."""
    unit = np.where(repeats.unit >= 0, first_equal(repeats.rows.text), -1)
    # A text without words may be the first with its hash only among others without words: equal texts, equal words.
    return replace(repeats, unit=unit, pairs=Pairs.merged([]))


def _rows_of(removed: pa.Table, split: str) -> IntArray:
    """Numbers of the removed rows of one split, ascending."""
    chosen = np.array(removed["split"].to_pylist(), dtype=object) == split
    rows: IntArray = removed["row"].to_numpy()[chosen]
    return rows


def _report(
    scanned: ScannedDataset, removed: pa.Table, method: Mapping[str, str | int | float], files: Mapping[str, str]
) -> DeduplicationReport:
    counts = Counter(zip(removed["split"].to_pylist(), removed["reason"].to_pylist(), strict=True))
    reasons: dict[str, dict[str, int]] = {split: {} for split in scanned.totals}
    for (split, reason), count in sorted(counts.items()):
        reasons[split][reason] = count
    rows_in = {split: own.row_count for split, own in scanned.totals.items()}
    return DeduplicationReport(
        method=dict(method),
        rows_in=rows_in,
        rows_out={split: rows - sum(reasons[split].values()) for split, rows in rows_in.items()},
        removed=reasons,
        unreadable={split: own.parse_errors for split, own in scanned.totals.items() if own.parse_errors},
        files=dict(files),
    )


def _write_split(staging: Path, split: str, paths: Sequence[Path], scanned: ScannedDataset, removed: IntArray) -> str:
    """Copy the rows of one split that stay; return the name of the file."""
    totals = scanned.totals[split]
    stays = np.ones(totals.row_count, dtype=bool)
    stays[removed] = False
    if all(_kind(path) in _TABLES for path in paths):
        name = f"{split}.parquet"
        copied = _copy_tables(paths, staging / name, stays)
    else:
        name = f"{split}.jsonl"
        lines = chain.from_iterable(_lines_of(path, some_are_no_rows=totals.parse_errors > 0) for path in paths)
        copied = _copy_lines(lines, staging / name, stays)
    if copied != len(stays):
        raise DataError(
            f"{paths[0]}: split {split!r} had {len(stays)} rows when it was scanned and {copied} when it was copied; "
            "let nobody write to the source meanwhile"
        )
    return name


def _copy_lines(lines: Iterator[bytes], target: Path, stays: BoolArray) -> int:
    """Write the lines that stay; return how many lines there were."""
    count = 0
    with target.open("wb") as file:
        for line, kept in zip(lines, chain(stays.tobytes(), repeat(0)), strict=False):
            count += 1
            if kept:
                file.write(line + b"\n")
    return count


def _lines_of(path: Path, *, some_are_no_rows: bool) -> Iterator[bytes]:
    """The rows of a file as lines of JSON: its own bytes where it holds lines of JSON."""
    if _kind(path) not in _LINES or _holds_array(path):
        for shard in plan({"": (path,)}):
            for block in read_blocks(shard):
                for row in block.rows if block.table is None else rows_of(block.table):
                    yield to_json(row).encode(errors="replace")
        return
    with opened(path) as source:
        buffered = source if isinstance(source, BufferedReader) else BufferedReader(cast(RawIOBase, source))
        for number, line in enumerate(buffered):
            line = (line if number else line.removeprefix(b"\xef\xbb\xbf")).removesuffix(b"\n")
            if line.strip() and (not some_are_no_rows or _is_row(line)):
                yield line


def _holds_array(path: Path) -> bool:
    with opened(path) as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _is_row(line: bytes) -> bool:
    """As `reading` decides where it reads line by line."""
    try:
        json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    return len(line) <= LONGEST_LINE


def _copy_tables(paths: Sequence[Path], target: Path, stays: BoolArray) -> int:
    """Write the rows that stay under the union of the files' columns; return how many rows there were."""
    try:
        schema = pa.unify_schemas([_schema(path) for path in paths], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{paths[0].parent}: the files of this split do not agree in their columns' types ({error}); "
            "convert them to one type, or to lines of JSON"
        ) from error
    count = 0
    with parquet_file(target, schema) as rows:
        for table in chain.from_iterable(_tables(path) for path in paths):
            kept = table.filter(pa.array(np.resize(stays[count : count + len(table)], len(table))))
            rows.append(pa.concat_tables([schema.empty_table(), kept], promote_options="permissive").cast(schema))
            count += len(table)
    return count


def _schema(path: Path) -> pa.Schema:
    return pq.read_schema(path) if _kind(path) == ".parquet" else next(_tables(path)).schema


def _tables(path: Path) -> Iterator[pa.Table]:
    if _kind(path) == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield pa.Table.from_batches([batch], file.schema_arrow)
        return
    for shard in plan({"": (path,)}):
        for block in read_blocks(shard):
            if block.table is None:
                raise DataError(f"{path}: holds text that is not UTF-8; repair it, or convert it to lines of JSON")
            yield block.table


def _kind(path: Path) -> str:
    return Path(without_compression(path.name)[0]).suffix
