"""What the scans of a split's shards add up to: counts and lengths, nothing of a row but its length."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import language, pii, pii_ml, quality, secret_scan
from forge_pipeline.dataset_audit.finding import Severity
from forge_pipeline.dataset_audit.scan import ShardScan

SEVERITY_OF: dict[str, Severity] = {**pii.SEVERITY, **pii_ml.SEVERITY}
"""Categories of personal data, in the order of the report."""


@dataclass
class SplitTotals:
    """Of one split; `add` takes the scan of its next shard."""

    row_count: int = 0
    columns: dict[str, None] = field(default_factory=dict)
    blank: int = 0
    parse_errors: int = 0
    decode_errors: int = 0
    non_object_rows: int = 0
    languages: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(language.CODES), dtype=np.int64))
    quality: Counter[str] = field(default_factory=Counter)
    findings: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """By category, and whether it is a documented placeholder."""
    _lengths: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _signatures: list[npt.NDArray[np.uint64]] = field(default_factory=list)

    def add(self, scan: ShardScan) -> None:
        self.row_count += scan.row_count
        self.columns.update(dict.fromkeys(scan.columns))
        self.blank += scan.blank
        self.parse_errors += scan.parse_errors
        self.decode_errors += scan.decode_errors
        self.non_object_rows += scan.non_object_rows
        self.languages += np.bincount(scan.languages, minlength=len(self.languages))
        self.quality += scan.quality
        self.findings += scan.finding_counts
        self._lengths.append(scan.lengths)
        self._signatures.append(scan.signature_hashes)

    def summary(self, method: str, pairs: int, *, with_quality: bool) -> dict[str, Any]:
        """The split's entry in the report.

        Args:
            method: ``simhash`` or ``minhash``.
            pairs: Duplicate and near-duplicate pairs of its rows.
            with_quality: Whether quality was looked at.
        """
        result: dict[str, Any] = {
            "sample_count": self.row_count,
            "columns": list(self.columns),
            "text_length": self._length_summary(),
            "null_or_empty_count": self.blank,
            "null_or_empty_rate": round(self.blank / self.row_count, 4) if self.row_count else 0.0,
            "languages_top3": self._languages_top3(),
            f"{method}_distinct": _distinct(np.concatenate([np.zeros(0, dtype=np.uint64), *self._signatures])),
            "pii_counts": self.pii_counts(),
            "secrets_counts": self.secrets_counts(),
            "near_duplicate_pairs": pairs,
        }
        for name in ("parse_errors", "decode_errors", "non_object_rows"):
            if getattr(self, name):
                result[name] = getattr(self, name)
        if with_quality:
            result["quality_samples_evaluated"] = self.row_count - self.blank
            result["quality_samples_flagged"] = self.quality["flagged"]
            result["quality_flags_counts"] = flag_counts(self.quality)
        return result

    def pii_counts(self) -> dict[str, int]:
        """Category -> findings, in the order of the report."""
        return {
            kind: count for kind in SEVERITY_OF if (count := self.findings[kind, False] + self.findings[kind, True])
        }

    def secrets_counts(self) -> dict[str, int]:
        """Family -> findings that are no documented placeholder."""
        return {kind: count for kind in secret_scan.FAMILIES if (count := self.findings[kind, False])}

    @property
    def placeholders(self) -> int:
        """Findings that are documented placeholders."""
        return sum(count for (_, placeholder), count in self.findings.items() if placeholder)

    def _length_summary(self) -> dict[str, Any]:
        """Characters of the rows' texts. Percentiles are the nearest rank above."""
        if not self.row_count:
            return {}
        lengths = np.concatenate(self._lengths)
        p50, p95 = np.percentile(lengths, [50, 95], method="higher")
        return {
            "min": int(lengths.min()),
            "max": int(lengths.max()),
            "mean": round(float(lengths.mean(dtype=np.float64)), 1),
            "p50": int(p50),
            "p95": int(p95),
        }

    def _languages_top3(self) -> list[dict[str, Any]]:
        """The most frequent languages, the first in the alphabet where counts are equal."""
        found = [(-int(count), language.CODES[code]) for code, count in enumerate(self.languages) if count]
        return [{"code": code, "count": -count} for count, code in sorted(found)[:3]]


def sum_of(counts: "list[dict[str, int]]", order: Mapping[str, Any] | tuple[str, ...]) -> dict[str, int]:
    """Several counts as one, in the given order; what is nowhere found is left out."""
    return {name: total for name in order if (total := sum(count.get(name, 0) for count in counts))}


def flag_counts(flags: Counter[str]) -> dict[str, int]:
    """Rows that fail each heuristic, in the order of `quality.REASONS`; those that none fails are left out."""
    return {name: flags[name] for name in quality.REASONS if flags[name]}


def _distinct(keys: npt.NDArray[np.uint64]) -> int:
    """How many different keys there are. Sorting takes a fifth of the time of `np.unique`."""
    keys.sort()
    return int(np.count_nonzero(keys[1:] != keys[:-1])) + (len(keys) > 0)
