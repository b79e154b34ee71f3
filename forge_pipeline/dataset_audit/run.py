"""`audit_dataset`: plan the shards, scan them, join what they found, write the report.

The report depends on the data and the options alone: not on the engine, the number of
workers, the hash seed or the order in which shards are done. (`generated_at` is the one
exception.) Findings go row by row into a Parquet file as they come, so what is held of a
row while all others are scanned is its signatures.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from forge_pipeline.dataset_audit import language, secret_scan
from forge_pipeline.dataset_audit.artifacts import CLUSTERS_FILE, FINDINGS_FILE
from forge_pipeline.dataset_audit.clusters import CLUSTERS, cluster_table
from forge_pipeline.dataset_audit.croissant import DataFile, card
from forge_pipeline.dataset_audit.executors import Engine, Executor, open_executor
from forge_pipeline.dataset_audit.finding import SEVERITIES, RowFinding
from forge_pipeline.dataset_audit.garbage import collected_by_shard
from forge_pipeline.dataset_audit.options import AuditOptions
from forge_pipeline.dataset_audit.parquet_files import Rows, parquet_file
from forge_pipeline.dataset_audit.reading import find_splits
from forge_pipeline.dataset_audit.report import (
    MOST_FINDINGS,
    REPORT_NAME,
    AuditReport,
    FindingColumns,
    changed,
    write_audit_report,
)
from forge_pipeline.dataset_audit.scanned import (
    FINDINGS,
    ScannedDataset,
    scan_dataset,
    signature_directory,
    worth_forking,
)
from forge_pipeline.dataset_audit.split_totals import SEVERITY_OF, SplitTotals, flag_counts, sum_of
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry
from forge_pipeline.progress import Report, silent

__all__ = ["AuditOptions", "audit_dataset", "audit_path"]


def audit_dataset(
    source: str,
    *,
    output_dir: str | None = None,
    near_dup_threshold: int = 3,
    dedup_method: str = "simhash",
    minhash_jaccard: float = 0.85,
    minhash_num_perm: int = 128,
    enable_quality_filter: bool = False,
    enable_pii_ml: bool = False,
    pii_ml_language: str = "en",
    emit_croissant: bool = False,
    workers: int = 1,
    engine: Engine = "local",
    work_dir: str | None = None,
) -> AuditReport:
    """Look over a dataset: personal data, secrets, duplicates, overlap of splits, languages, lengths.

    Args:
        source: A file (JSONL, JSON, CSV, Parquet) or a directory of them; names say which split a file belongs to.
        output_dir: Where ``data_audit_report.json``, ``findings.parquet`` (every finding) and ``clusters.parquet``
            (every row that has a duplicate or near-duplicate) are written; None writes nothing.
        near_dup_threshold: Largest SimHash distance of a near-duplicate pair, in bits (0 to 64).
        dedup_method: ``simhash`` or ``minhash``.
        minhash_jaccard: Smallest Jaccard similarity of the word sets of a near-duplicate pair (0 to 1); every pair
            is verified by it, whichever method found it.
        minhash_num_perm: Length of a MinHash signature.
        enable_quality_filter: Count rows that heuristics doubt to be prose.
        enable_pii_ml: Look for names of people, places and organizations too (extra ``pii-ml``; slow).
        pii_ml_language: Language of that model.
        emit_croissant: Put a Croissant card into the report.
        workers: Processes or threads that scan (processes where there is much to scan and the system can fork a
            process that has no other threads), or processes of a Ray cluster that is started here. The report does
            not depend on it.
        engine: ``local``, or ``ray`` for the tasks of a Ray cluster (extra ``ray``): the one that this process is
            connected with, the one that ``RAY_ADDRESS`` names, or a new one on this machine.
        work_dir: Where signatures are kept while the audit runs, 450 bytes a row; on several machines, a directory
            that all of them share. By default memory, and for more than a gigabyte of rows a temporary directory.

    Raises:
        ValueError: An argument is out of range, or a file cannot be read as what it is; the message names it.
        OSError: The source is missing (FileNotFoundError), or something cannot be read or written.
        OptionalDependencyError: An extra that was asked for is not installed.
    """
    options = AuditOptions(
        near_dup_threshold=near_dup_threshold,
        dedup_method=dedup_method,
        minhash_jaccard=minhash_jaccard,
        minhash_num_perm=minhash_num_perm,
        enable_quality_filter=enable_quality_filter,
        enable_pii_ml=enable_pii_ml,
        pii_ml_language=pii_ml_language,
        emit_croissant=emit_croissant,
        workers=workers,
        engine=engine,
        work_dir=work_dir,
    )
    path = Path(os.fspath(source))
    directory = None if output_dir is None else Path(output_dir)
    with collected_by_shard():
        report = changed(
            audit_path(path, options, output_dir=directory),
            generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source_path=str(path.absolute()),
            source_input=str(source),
        )
        if directory is not None:
            write_audit_report(directory / REPORT_NAME, report)
    return report


def audit_path(
    source: Path,
    options: AuditOptions,
    *,
    name: str | None = None,
    progress: Report = silent,
    output_dir: Path | None = None,
    only: Collection[str] | None = None,
) -> AuditReport:
    """The report on a file or directory, without time and place.

    Args:
        source: The file or directory.
        options: What to look for, and how.
        name: The dataset's name on its Croissant card; the source's own unless it is given.
        progress: Told after each shard.
        output_dir: Where ``findings.parquet`` and ``clusters.parquet`` are written; None writes nothing. The report
            itself is the caller's to write.
        only: Splits to look at; None takes all that there are. Beside a stored dataset's rows lie accounts of them.

    Raises:
        As `audit_dataset`.
    """
    options.require_extras()
    if options.engine != "local":
        source = source.absolute()  # workers elsewhere have working directories of their own
    splits = files_by_split(source)
    if only is not None:
        splits = {split: paths for split, paths in splits.items() if split in only}
    with collected_by_shard(), ExitStack() as stack:
        executor = stack.enter_context(open_executor(options.engine, options.workers, fork=worth_forking(splits)))
        side = stack.enter_context(signature_directory(splits, options, output_dir, executor))
        findings = stack.enter_context(_findings_to(output_dir))
        scanned = scan_dataset(
            splits,
            options,
            executor,
            side,
            take_findings=findings.take,
            all_taken=lambda: findings.end(executor),
            progress=progress,
        )
        if output_dir is not None:
            with parquet_file(output_dir / CLUSTERS_FILE, CLUSTERS) as rows:
                rows.append(cluster_table(scanned.repeats))
            findings.ended()
    files = _data_files(source, splits, scanned.digests)
    croissant = _croissant(name or source.stem, files, scanned.totals) if options.emit_croissant else {}
    return _report(scanned, options, findings, croissant, _dataset_digest(source, files))


def files_by_split(source: Path) -> dict[str, tuple[Path, ...]]:
    """As `reading.find_splits`, without what an earlier audit wrote there.

    Raises:
        FileNotFoundError: There is no such file or directory, or no data file in it.
        DataError: A file of a kind that cannot be read.
    """
    splits = find_splits(source)
    kept = {split: tuple(path for path in paths if not _is_audits_own(path)) for split, paths in splits.items()}
    if source.is_dir() and not any(kept.values()):
        raise FileNotFoundError(f"source: {str(source)!r} holds no data files but those of an earlier audit")
    return {split: paths for split, paths in kept.items() if paths} if source.is_dir() else splits


def _is_audits_own(path: Path) -> bool:
    return path.name in (FINDINGS_FILE, CLUSTERS_FILE) and (path.parent / REPORT_NAME).is_file()


@dataclass
class _Findings:
    """The first findings, all of them counted."""

    rows: Rows | None
    first: FindingColumns = field(default_factory=FindingColumns)
    total: int = 0
    ended: Callable[[], object] = lambda: None

    def take(self, table: pa.Table) -> None:
        self.total += len(table)
        if len(self.first) < MOST_FINDINGS and len(table):
            columns = table.slice(0, MOST_FINDINGS - len(self.first)).select(RowFinding.__match_args__).columns
            self.first.extend(column.to_pylist() for column in columns)
        if self.rows is not None:
            self.rows.append(table)
            self.first.encode()

    def end(self, executor: Executor) -> None:
        """Begin to write what is left: beside the search for pairs, where something is idle then."""
        if self.rows is not None and executor.beside is not None:
            self.ended = executor.beside.ahead(Rows.end, [self.rows])


@contextmanager
def _findings_to(output_dir: Path | None) -> Iterator[_Findings]:
    if output_dir is None:
        yield _Findings(None)
        return
    with parquet_file(output_dir / FINDINGS_FILE, FINDINGS) as rows:
        yield _Findings(rows)


def _data_files(source: Path, splits: Mapping[str, Sequence[Path]], digests: Mapping[Path, Digest]) -> list[DataFile]:
    root = source if source.is_dir() else source.parent
    return [
        DataFile(path.relative_to(root).as_posix(), split, path.stat().st_size, digests[path])
        for split, paths in splits.items()
        for path in paths
    ]


def _dataset_digest(source: Path, files: Sequence[DataFile]) -> Digest:
    if source.is_file():
        return files[0].digest
    return Manifest(tuple(sorted(ManifestEntry(file.name, file.size, file.digest) for file in files))).digest


def _croissant(name: str, files: Sequence[DataFile], totals: Mapping[str, SplitTotals]) -> dict[str, Any]:
    return card(name, files, {split: tuple(own.columns) for split, own in totals.items()})


def _report(
    scanned: ScannedDataset, options: AuditOptions, findings: _Findings, croissant: dict[str, Any], digest: Digest
) -> AuditReport:
    totals, repeats = scanned.totals, scanned.repeats
    pairs_per_split = repeats.pairs_per_split()
    quality = options.enable_quality_filter
    pii_counts = sum_of([own.pii_counts() for own in totals.values()], tuple(SEVERITY_OF))
    return AuditReport(
        generated_at=None,
        source_path="",
        source_input="",
        total_samples=sum(own.row_count for own in totals.values()),
        splits={
            split: own.summary(options.dedup_method, pairs_per_split[split], with_quality=quality)
            for split, own in totals.items()
        },
        cross_split_overlap={**options.thresholds, "pairs": repeats.overlap()},
        pii_summary=pii_counts,
        pii_severity=_severity(pii_counts),
        near_duplicate_summary={
            **options.thresholds,
            "pairs_per_split": pairs_per_split,
            "pairs_are_lower_bounds": not repeats.pairs.complete,
            "exact_duplicates_per_split": repeats.exact_duplicates_per_split(),
            "clusters_per_split": repeats.clusters_per_split(),
            "clusters_over_all_splits": repeats.clusters_over_all(),
            "examples": repeats.examples(),
        },
        secrets_summary=sum_of([own.secrets_counts() for own in totals.values()], secret_scan.FAMILIES),
        quality_summary=_quality_summary(totals) if quality else {},
        croissant=croissant,
        notes=tuple(_notes(totals, findings, repeats.pairs.complete)),
        findings=cast("tuple[RowFinding, ...]", findings.first),
        findings_total=findings.total,
        dataset_digest=digest,
    )


def _severity(pii_counts: Mapping[str, int]) -> dict[str, Any]:
    by_tier = {tier: sum(n for kind, n in pii_counts.items() if SEVERITY_OF[kind] == tier) for tier in SEVERITIES}
    return {
        "total": sum(pii_counts.values()),
        "by_tier": by_tier,
        "by_type": {kind: {"count": count, "tier": SEVERITY_OF[kind]} for kind, count in pii_counts.items()},
        "worst_tier": next((tier for tier in SEVERITIES if by_tier[tier]), None),
    }


def _quality_summary(totals: Mapping[str, SplitTotals]) -> dict[str, Any]:
    flags = sum((own.quality for own in totals.values()), Counter())
    evaluated = sum(own.row_count - own.blank for own in totals.values())
    return {
        "samples_flagged": flags["flagged"],
        "samples_evaluated": evaluated,
        "by_check": flag_counts(flags),
        "overall_quality_score": round(1 - flags["flagged"] / evaluated, 4) if evaluated else None,
    }


def _notes(totals: Mapping[str, SplitTotals], findings: _Findings, complete: bool) -> Iterator[str]:
    for split, own in totals.items():
        if own.parse_errors:
            yield f"{split}: {own.parse_errors} line(s) could not be read as rows and were not audited."
        if own.decode_errors:
            yield f"{split}: {own.decode_errors} row(s) hold bytes that are not UTF-8, audited with U+FFFD instead."
        if own.non_object_rows:
            yield f"{split}: {own.non_object_rows} row(s) are JSON but no object; their strings were audited."
        if not own.row_count:
            yield f"{split}: no rows."
    placeholders = sum(own.placeholders for own in totals.values())
    if placeholders:
        yield f"{placeholders} secret finding(s) are placeholders from a vendor's documentation and are not counted."
    if findings.total > len(findings.first):
        yield (
            f"The report lists the first {len(findings.first)} of {findings.total} findings; {FINDINGS_FILE}, which is "
            "written where an output directory is given, holds all of them."
        )
    if not complete:
        yield "Some groups of similar rows are so large that not every pair was compared; pair counts are lower bounds."
    missing = language.available()
    if missing:
        yield missing
