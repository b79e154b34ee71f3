"""The scans of all shards, put together: totals by split, findings as they come, and what repeats.

Shards are scanned anywhere and taken in reading order. What is kept of a row is 450 bytes
of signatures, in memory or, with a directory for them, in files; findings are handed on as
tables and not kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit.arrow_arrays import number_scalar, text_scalar
from forge_pipeline.dataset_audit.executors import Executor
from forge_pipeline.dataset_audit.garbage import collect_young
from forge_pipeline.dataset_audit.groups import IntArray
from forge_pipeline.dataset_audit.near_duplicates import Pairs, SignedRows, Tables, find_pairs, unit_of
from forge_pipeline.dataset_audit.options import AuditOptions
from forge_pipeline.dataset_audit.overlap import Repeats
from forge_pipeline.dataset_audit.reading import Shard, plan
from forge_pipeline.dataset_audit.scan import FINDINGS as SHARD_FINDINGS
from forge_pipeline.dataset_audit.scan import ScanOptions, ShardScan, load, scan_shard, worth_compiling
from forge_pipeline.dataset_audit.shuffle import SignatureFiles, find_pairs_in_files
from forge_pipeline.dataset_audit.signatures import RowSignatures
from forge_pipeline.dataset_audit.split_totals import SplitTotals
from forge_pipeline.integrity import Digest
from forge_pipeline.progress import Progress, Report

_IN_MEMORY = 1 << 30  # bytes of JSONL whose signatures stay in memory: some 600 MB of them
_FORKED_FROM = 16 << 20  # bytes, as lines of JSON: half a second of work
_MAPPED = 512  # files of signatures that stay open at a time
_COMPRESSED = 4  # how much larger rows are than the Parquet or gzip file that holds them

FINDINGS = pa.schema([("split", pa.string()), *SHARD_FINDINGS])
"""Columns of the findings of a dataset: split, and as in `scan.FINDINGS`; `row` counts from the split's beginning."""


@dataclass(frozen=True)
class ScannedDataset:
    """What is known of all rows.

    Attributes:
        digests: Of the files, in reading order.
        totals: By split, in reading order.
        repeats: What repeats among the rows.
    """

    digests: dict[Path, Digest]
    totals: dict[str, SplitTotals]
    repeats: Repeats


def worth_forking(splits: Mapping[str, Sequence[Path]]) -> bool:
    """Whether there is so much to scan that processes save more time than it takes to start them."""
    return _size(splits) >= _FORKED_FROM


def _size(splits: Mapping[str, Sequence[Path]]) -> int:
    """Bytes, about, that the rows would have as lines of JSON."""
    return sum(
        path.stat().st_size * (_COMPRESSED if path.suffix in (".parquet", ".gz", ".zst") else 1)
        for paths in splits.values()
        for path in paths
    )


@contextmanager
def signature_directory(
    splits: Mapping[str, Sequence[Path]], options: AuditOptions, output_dir: Path | None, executor: Executor
) -> Iterator[Path | None]:
    """A temporary directory for signatures, where they are many or workers are elsewhere; else None.

    It lies in `options.work_dir`, else in `output_dir`, else where the system keeps temporary files.
    """
    if executor.in_memory and options.work_dir is None and _size(splits) <= _IN_MEMORY:
        yield None
        return
    parent = Path(options.work_dir) if options.work_dir else output_dir
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    # Files that are still mapped cannot be removed on Windows; they go with the process's temporary files.
    with TemporaryDirectory(prefix=".dataset-audit-", dir=parent, ignore_cleanup_errors=True) as directory:
        yield Path(directory).absolute()


def scan_dataset(
    splits: Mapping[str, Sequence[Path]],
    options: AuditOptions,
    executor: Executor,
    side: Path | None,
    *,
    take_findings: Callable[[pa.Table], None],
    progress: Report,
    all_taken: Callable[[], None] = lambda: None,
    pairs: bool = True,
    detect: bool = True,
) -> ScannedDataset:
    """Scan all files and find what repeats.

    Args:
        splits: Files by split.
        options: What to look for.
        executor: Does the work.
        side: Where signatures are kept; None keeps them in memory.
        take_findings: Takes the findings of each shard, in reading order, as `FINDINGS` says.
        progress: Told after each shard.
        all_taken: Called when no more findings will come.
        pairs: Whether to look for pairs of near-duplicates.
        detect: Whether to look for personal data, credentials and languages.
    """
    files = [path for paths in splits.values() for path in paths]
    shards = plan({split: tuple(paths) for split, paths in splits.items()})
    wanted = ScanOptions(
        num_perm=options.minhash_num_perm if options.dedup_method == "minhash" else None,
        quality=options.enable_quality_filter,
        pii_ml_language=options.pii_ml_language if options.enable_pii_ml else None,
        jaccard=options.minhash_jaccard,
        compiled=worth_compiling(shards),
        detect=detect,
    )
    totals = {split: SplitTotals() for split in splits}
    held: list[RowSignatures] = []
    paths: list[Path] = []
    rows = 0
    mapped = executor.beside is not None and options.work_dir is None and len(shards) <= _MAPPED
    digests = executor.ahead(Digest.of_file, files)
    if not executor.in_memory and executor.beside is not None:
        load(wanted)  # before they are forked, once for all of them
    results = executor.map(partial(_scan, options=wanted, side=side), shards)
    for done, (shard, scan) in enumerate(zip(shards, results, strict=True)):
        own = totals[shard.split]
        take_findings(_placed(scan.findings, shard.split, own.row_count))
        own.add(scan)
        if scan.signatures is not None:
            held.append(scan.signatures)
        elif scan.signatures_path is not None and mapped:
            held.append(RowSignatures.read(scan.signatures_path))
        elif scan.signatures_path is not None:
            paths.append(scan.signatures_path)
        rows += scan.row_count
        progress(Progress("dataset_audit", done + 1, len(shards), f"{rows} rows scanned"))
    if executor.beside is not None:
        executor.done()
    all_taken()
    signatures = SignatureFiles(tuple(paths)) if paths else held
    repeats = _repeats(totals, signatures, options, executor, side) if pairs else _without_pairs(totals, signatures)
    return ScannedDataset(dict(zip(files, digests(), strict=True)), totals, repeats)


def _scan(shard: Shard, options: ScanOptions, side: Path | None) -> ShardScan:
    scan = scan_shard(shard, options, side)
    collect_young()
    return scan


def _placed(findings: pa.Table, split: str, first_row: int) -> pa.Table:
    """A shard's findings with their split, and rows counted from its beginning."""
    columns = dict(zip(findings.column_names, findings.columns, strict=True))
    columns["split"] = pa.repeat(text_scalar(split, pa.string()), len(findings))
    columns["row"] = pc.add(columns["row"], number_scalar(first_row, pa.int64()))
    return pa.Table.from_arrays([columns[name] for name in FINDINGS.names], schema=FINDINGS)


def _without_pairs(totals: Mapping[str, SplitTotals], shards: SignatureFiles | list[RowSignatures]) -> Repeats:
    rows = SignedRows.of(shards)
    return Repeats(tuple(totals), _starts(totals), rows, unit_of(rows.tokens), Pairs.merged([]))


def _starts(totals: Mapping[str, SplitTotals]) -> IntArray:
    starts: IntArray = np.cumsum([0, *(own.row_count for own in totals.values())]).astype(np.int64)
    return starts


def _repeats(
    totals: Mapping[str, SplitTotals],
    shards: SignatureFiles | list[RowSignatures],
    options: AuditOptions,
    executor: Executor,
    side: Path | None,
) -> Repeats:
    rows = SignedRows.of(shards)
    unit = unit_of(rows.tokens)
    units = np.flatnonzero(unit == np.arange(len(unit)))
    tables = Tables.of(rows, units, hamming=options.hamming, jaccard=options.minhash_jaccard)
    if executor.beside is not None:
        pairs = find_pairs(rows, units, tables, executor.beside.map)
    else:
        assert isinstance(shards, SignatureFiles)
        assert side is not None
        pairs = find_pairs_in_files(rows, shards, units, tables, executor, side)
    return Repeats(tuple(totals), _starts(totals), rows, unit, pairs)
