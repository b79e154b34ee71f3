"""`audit_dataset`: plan the shards, scan them, join what they found, write the report.

The report depends on the data and the options alone: not on the number of workers, the
hash seed or the order in which shards are done. (`generated_at` is the one exception.)
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import pii, pii_ml, secret_scan
from forge_pipeline.dataset_audit.croissant import DataFile, card
from forge_pipeline.dataset_audit.finding import SEVERITIES, RowFinding, Severity
from forge_pipeline.dataset_audit.minhash import SCHEME, band_keys, permutations
from forge_pipeline.dataset_audit.near_duplicates import Signatures, find_pairs, group_units
from forge_pipeline.dataset_audit.overlap import Repeats
from forge_pipeline.dataset_audit.quality import REASONS
from forge_pipeline.dataset_audit.reading import find_splits, plan
from forge_pipeline.dataset_audit.report import REPORT_NAME, AuditReport
from forge_pipeline.dataset_audit.scan import ScanOptions, ShardScan, merged, scan_all, shifted
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, write_report
from forge_pipeline.progress import Progress, Report, silent

_METHODS = ("simhash", "minhash")
_SEVERITY: dict[str, Severity] = {**pii.SEVERITY, **pii_ml.SEVERITY}


@dataclass(frozen=True)
class AuditOptions:
    """The keyword arguments of `audit_dataset` that decide what is looked for, checked on construction.

    Raises:
        ConfigError: One is out of range; the message names it.
    """

    near_dup_threshold: int = 3
    dedup_method: str = "simhash"
    minhash_jaccard: float = 0.85
    minhash_num_perm: int = 128
    enable_quality_filter: bool = False
    enable_pii_ml: bool = False
    pii_ml_language: str = "en"
    emit_croissant: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        _expect("near_dup_threshold", self.near_dup_threshold, "a whole number of bits, 0 to 64", _is_int, 0, 64)
        _expect("minhash_jaccard", self.minhash_jaccard, "a number from 0 to 1", _is_number, 0, 1)
        _expect("minhash_num_perm", self.minhash_num_perm, "a whole number from 1", _is_int, 1, 1 << 20)
        _expect("workers", self.workers, "a whole number of processes from 1", _is_int, 1, 1 << 20)
        if self.dedup_method not in _METHODS:
            raise ConfigError(f"dedup_method: found {self.dedup_method!r}; expected one of {', '.join(_METHODS)}")
        if not isinstance(self.pii_ml_language, str) or not self.pii_ml_language:
            raise ConfigError(f"pii_ml_language: found {self.pii_ml_language!r}; expected a language code such as 'en'")

    @property
    def hamming(self) -> int | None:
        """The SimHash threshold in bits; None for MinHash."""
        return self.near_dup_threshold if self.dedup_method == "simhash" else None

    @property
    def thresholds(self) -> dict[str, Any]:
        """The method and its thresholds, as they stand in the report."""
        own = {"hamming_threshold": self.near_dup_threshold} if self.dedup_method == "simhash" else {
            "num_perm": self.minhash_num_perm, "scheme": SCHEME,
        }  # fmt: skip
        return {"method": self.dedup_method, **own, "jaccard_threshold": self.minhash_jaccard}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _expect(name: str, value: Any, expected: str, is_kind: Any, low: float, high: float) -> None:
    if not is_kind(value) or not low <= value <= high:
        raise ConfigError(f"{name}: found {value!r}; expected {expected}")


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
) -> AuditReport:
    """Look over a dataset: personal data, secrets, duplicates, overlap of splits, lengths.

    Args:
        source: A file (JSONL, JSON, CSV, Parquet) or a directory of them; names say which split a file belongs to.
        output_dir: Where ``data_audit_report.json`` is written; None writes nothing.
        near_dup_threshold: Largest SimHash distance of a near-duplicate pair, in bits (0 to 64).
        dedup_method: ``simhash`` or ``minhash``.
        minhash_jaccard: Smallest Jaccard similarity of the word sets of a near-duplicate pair (0 to 1); every pair
            is verified by it, whichever method found it.
        minhash_num_perm: Length of a MinHash signature.
        enable_quality_filter: Count rows that five heuristics doubt to be prose.
        enable_pii_ml: Look for names of people, places and organizations too (extra ``pii-ml``; slow).
        pii_ml_language: Language of that model.
        emit_croissant: Put a Croissant card into the report.
        workers: Processes that scan. The report does not depend on it.

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
    )
    path = Path(os.fspath(source))
    report = replace(
        audit_path(path, options),
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source_path=str(path.absolute()),
        source_input=str(source),
    )
    if output_dir is not None:
        write_report(Path(output_dir) / REPORT_NAME, report)
    return report


def audit_path(
    source: Path, options: AuditOptions, *, name: str | None = None, progress: Report = silent
) -> AuditReport:
    """The report on a file or directory, without time and place.

    Args:
        source: The file or directory.
        options: What to look for, and how.
        name: The dataset's name on its Croissant card; the source's own unless it is given.
        progress: Told after each shard.

    Raises:
        As `audit_dataset`.
    """
    if options.dedup_method == "minhash":
        permutations(options.minhash_num_perm)  # fails here, before anything is read
    if options.enable_pii_ml:
        pii_ml.entity_finder(options.pii_ml_language)
    splits = find_splits(source)
    files = _data_files(source, splits)
    scans = _scan(splits, options, progress)
    repeats = _repeats(scans, options)
    pairs_per_split = repeats.pairs_per_split()
    findings = tuple(finding for scan in scans.values() for finding in scan.findings)
    pii_counts = _counts(findings, _SEVERITY, placeholders=True)
    return AuditReport(
        generated_at=None,
        source_path="",
        source_input="",
        total_samples=sum(scan.row_count for scan in scans.values()),
        splits={split: _split_summary(scan, options, pairs_per_split[split]) for split, scan in scans.items()},
        cross_split_overlap={**options.thresholds, "pairs": repeats.overlap()},
        pii_summary=pii_counts,
        pii_severity=_severity(pii_counts),
        near_duplicate_summary={
            **options.thresholds,
            "pairs_per_split": pairs_per_split,
            "pairs_are_lower_bounds": not repeats.pairs.complete,
            "exact_duplicates_per_split": repeats.exact_duplicates_per_split(),
            "clusters_per_split": repeats.clusters_per_split(),
            "examples": repeats.examples(),
        },
        secrets_summary=_counts(findings, secret_scan.FAMILIES, placeholders=False),
        quality_summary=_quality_summary(scans.values()) if options.enable_quality_filter else {},
        croissant=_croissant(name or source.stem, files, scans) if options.emit_croissant else {},
        notes=tuple(_notes(scans, findings, repeats.pairs.complete)),
        findings=findings,
        dataset_digest=_dataset_digest(source, files),
    )


def _data_files(source: Path, splits: Mapping[str, Sequence[Path]]) -> list[DataFile]:
    root = source if source.is_dir() else source.parent
    return [
        DataFile(path.relative_to(root).as_posix(), split, path.stat().st_size, Digest.of_file(path))
        for split, paths in splits.items()
        for path in paths
    ]


def _dataset_digest(source: Path, files: Sequence[DataFile]) -> Digest:
    if source.is_file():
        return files[0].digest
    return Manifest(tuple(sorted(ManifestEntry(file.name, file.size, file.digest) for file in files))).digest


def _scan(splits: Mapping[str, Sequence[Path]], options: AuditOptions, progress: Report) -> dict[str, ShardScan]:
    shards = plan({split: tuple(paths) for split, paths in splits.items()})
    scan_options = ScanOptions(
        num_perm=options.minhash_num_perm if options.dedup_method == "minhash" else None,
        quality=options.enable_quality_filter,
        pii_ml_language=options.pii_ml_language if options.enable_pii_ml else None,
    )
    of_split: dict[str, list[ShardScan]] = {split: [] for split in splits}
    rows = dict.fromkeys(splits, 0)
    for done, (shard, scan) in enumerate(zip(shards, scan_all(shards, scan_options, options.workers), strict=True)):
        of_split[shard.split].append(shifted(scan, rows[shard.split]))
        rows[shard.split] += scan.row_count
        progress(Progress("dataset_audit", done + 1, len(shards), f"{sum(rows.values())} rows scanned"))
    nothing = ShardScan.empty(scan_options.num_perm)
    return {split: merged([nothing, *scans]) for split, scans in of_split.items()}


def _repeats(scans: Mapping[str, ShardScan], options: AuditOptions) -> Repeats:
    names, every = tuple(scans), list(scans.values())
    rows = Signatures(
        split=np.repeat(np.arange(len(every)), [scan.row_count for scan in every]),
        text=np.concatenate([scan.text for scan in every]),
        tokens=np.concatenate([scan.tokens for scan in every]),
        offsets=np.concatenate([[0], np.cumsum(np.concatenate([scan.token_counts for scan in every]))]),
        values=np.concatenate([scan.values for scan in every]),
        signature=np.concatenate([scan.signature for scan in every]),
    )
    units = group_units(rows, len(names))
    pairs = find_pairs(rows, units, hamming=options.hamming, jaccard=options.minhash_jaccard)
    return Repeats(names, rows, units, pairs)


def _split_summary(scan: ShardScan, options: AuditOptions, pairs: int) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "sample_count": scan.row_count,
        "columns": list(scan.columns),
        "text_length": _length_summary(scan),
        "null_or_empty_count": scan.blank,
        "null_or_empty_rate": round(scan.blank / scan.row_count, 4) if scan.row_count else 0.0,
        "languages_top3": [{"code": "unknown", "count": scan.row_count}] if scan.row_count else [],
        f"{options.dedup_method}_distinct": _distinct(scan.signature),
        "pii_counts": _counts(scan.findings, _SEVERITY, placeholders=True),
        "secrets_counts": _counts(scan.findings, secret_scan.FAMILIES, placeholders=False),
        "near_duplicate_pairs": pairs,
    }
    for name in ("parse_errors", "decode_errors", "non_object_rows"):
        if getattr(scan, name):
            summary[name] = getattr(scan, name)
    if options.enable_quality_filter:
        summary["quality_samples_evaluated"] = scan.row_count - scan.blank
        summary["quality_samples_flagged"] = scan.quality["flagged"]
        summary["quality_flags_counts"] = {name: scan.quality[name] for name in REASONS if scan.quality[name]}
    return summary


def _distinct(signature: npt.NDArray[Any]) -> int:
    """Number of different signatures, MinHash or SimHash."""
    return len(np.unique(band_keys(signature, 1.0) if signature.ndim == 2 else signature))


def _length_summary(scan: ShardScan) -> dict[str, Any]:
    """Characters of the rows' texts. Percentiles are the nearest rank above."""
    if not scan.row_count:
        return {}
    p50, p95 = np.percentile(scan.lengths, [50, 95], method="higher")
    return {
        "min": int(scan.lengths.min()),
        "max": int(scan.lengths.max()),
        "mean": round(float(scan.lengths.mean()), 1),
        "p50": int(p50),
        "p95": int(p95),
    }


def _counts(findings: Sequence[RowFinding], kinds: Any, *, placeholders: bool) -> dict[str, int]:
    found = Counter(finding.category for finding in findings if placeholders or not finding.placeholder)
    return {kind: found[kind] for kind in kinds if found[kind]}


def _severity(pii_counts: Mapping[str, int]) -> dict[str, Any]:
    by_tier = {tier: sum(n for kind, n in pii_counts.items() if _SEVERITY[kind] == tier) for tier in SEVERITIES}
    return {
        "total": sum(pii_counts.values()),
        "by_tier": by_tier,
        "by_type": {kind: {"count": count, "tier": _SEVERITY[kind]} for kind, count in pii_counts.items()},
        "worst_tier": next((tier for tier in SEVERITIES if by_tier[tier]), None),
    }


def _quality_summary(scans: Any) -> dict[str, Any]:
    total: Counter[str] = Counter()
    evaluated = 0
    for scan in scans:
        total += scan.quality
        evaluated += scan.row_count - scan.blank
    return {
        "samples_flagged": total["flagged"],
        "samples_evaluated": evaluated,
        "by_check": {name: total[name] for name in REASONS if total[name]},
        "overall_quality_score": round(1 - total["flagged"] / evaluated, 4) if evaluated else None,
    }


def _croissant(name: str, files: Sequence[DataFile], scans: Mapping[str, ShardScan]) -> dict[str, Any]:
    return card(name, files, {split: scan.columns for split, scan in scans.items()})


def _notes(scans: Mapping[str, ShardScan], findings: Sequence[RowFinding], complete: bool) -> list[str]:
    notes = []
    for split, scan in scans.items():
        if scan.parse_errors:
            notes.append(f"{split}: {scan.parse_errors} line(s) could not be read as rows and were not audited.")
        if scan.decode_errors:
            notes.append(
                f"{split}: {scan.decode_errors} row(s) hold bytes that are not UTF-8, audited with U+FFFD instead."
            )
        if scan.non_object_rows:
            notes.append(f"{split}: {scan.non_object_rows} row(s) are JSON but no object; their strings were audited.")
        if not scan.row_count:
            notes.append(f"{split}: no rows.")
    placeholders = sum(finding.placeholder for finding in findings)
    if placeholders:
        notes.append(
            f"{placeholders} secret finding(s) are placeholders from a vendor's documentation and are not counted."
        )
    if not complete:
        notes.append(
            "Some groups of similar rows are so large that not every pair was compared; pair counts are lower bounds."
        )
    notes.append("Languages were not identified: this version has no language model.")
    return notes
