"""`AuditReport`: what a dataset audit found, without a word of the data itself."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from forge_pipeline.dataset_audit.finding import RowFinding
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, atomic, canonical_json, report_to_json

SCHEMA_VERSION = 1
REPORT_NAME = "data_audit_report.json"
MOST_FINDINGS = 100_000
"""A report lists so many findings; the Parquet file beside it holds all of them."""


# Findings hold text, whole numbers and booleans only, which the compiled encoder writes as RFC 8785 asks.
_encode = json.JSONEncoder(ensure_ascii=False).encode


class FindingColumns:
    """Findings as a list for each field of `RowFinding`. A report is mostly written and seldom asked for its findings:
    in an audit of 200,000 rows, objects for them cost as much time as the search for duplicates.
    """

    def __init__(self) -> None:
        self._columns: tuple[list[Any], ...] = tuple([] for _ in RowFinding.__match_args__)
        self._lines: list[str] = []
        self._frames: dict[tuple[Any, ...], tuple[str, str, str]] = {}
        self._previews: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._columns[0])

    def extend(self, columns: Iterable[list[Any]]) -> None:
        for own, more in zip(self._columns, columns, strict=True):
            own.extend(more)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The fields of each finding."""
        return zip(*self._columns, strict=True)

    def encode(self) -> None:
        """Write as JSON what was not yet: best while workers are at further rows."""
        done, frames, previews = len(self._lines), self._frames, self._previews
        rows = zip(*(column[done:] for column in self._columns), strict=True)
        # Nearly all that a finding says is said of many: it is encoded once.
        for split, row, column, category, start, end, source, severity, preview, placeholder in rows:
            said = (category, column, placeholder, severity, source, split)
            frame = frames.get(said)
            if frame is None:
                frame = frames[said] = _frame(*said)
            text = previews.get(preview)
            if text is None:
                text = previews[preview] = _encode(preview)
            self._lines.append(f'{frame[0]}{end}{frame[1]}{text},"row":{row}{frame[2]}{start}}}')

    def to_json(self) -> bytes:
        """A canonical JSON array of the findings as objects."""
        self.encode()
        return f"[{','.join(self._lines)}]".encode()


def _frame(
    category: str, column: str, placeholder: bool, severity: str, source: str, split: str
) -> tuple[str, str, str]:
    """A finding's keys in order, with values, but for its numbers and its preview."""
    return (
        f'{{"category":{_encode(category)},"column":{_encode(column)},"end":',
        f',"placeholder":{"true" if placeholder else "false"},"preview":',
        f',"severity":{_encode(severity)},"source":{_encode(source)},"split":{_encode(split)},"start":',
    )


class _Findings:
    """The attribute `AuditReport.findings`: made of `FindingColumns` when it is first asked for."""

    def __get__(self, report: "AuditReport | None", owner: type | None = None) -> tuple[RowFinding, ...]:
        if report is None:
            return ()  # the field's default
        held = vars(report)["findings"]
        if isinstance(held, FindingColumns):
            held = vars(report)["findings"] = tuple(itertools.starmap(RowFinding, held.rows()))
        return cast(tuple[RowFinding, ...], held)

    def __set__(self, report: "AuditReport", value: tuple[RowFinding, ...] | FindingColumns) -> None:
        vars(report)["findings"] = value


@dataclass(frozen=True)
class AuditReport:
    """What `audit_dataset` found. Written as canonical JSON and read back with `integrity.read_report`.

    Attributes:
        generated_at: UTC time, ISO 8601; None in a report that is an artefact of a pipeline, which is equal for
            equal data.
        source_path: Absolute path of what was audited; "" where the audit was given a stored dataset.
        source_input: The source as it was named by the caller; the digest of a stored dataset.
        total_samples: Rows in all splits.
        splits: For each split: `sample_count`, `columns`, `text_length` (characters: min, max, mean, p50, p95),
            `null_or_empty_count`, `null_or_empty_rate`, `languages_top3`, `simhash_distinct` or `minhash_distinct`,
            `pii_counts`, `secrets_counts`, `near_duplicate_pairs`, and, where there are any, `parse_errors`,
            `decode_errors`, `non_object_rows`; with the quality filter, `quality_samples_evaluated`,
            `quality_samples_flagged` and `quality_flags_counts`.
        cross_split_overlap: `method`, its thresholds, and `pairs`: for ``<a>__<b>`` the rows of each split that
            have a duplicate or near-duplicate in the other (`leaked_rows_in_<a>`, `leak_rate_<a>`,
            `exact_rows_in_<a>`, `rows_compared_in_<a>`).
        pii_summary: Category -> findings.
        pii_severity: `total`, `by_tier`, `by_type`, `worst_tier`.
        near_duplicate_summary: `method`, its thresholds, `pairs_per_split`, `pairs_are_lower_bounds`,
            `exact_duplicates_per_split`, `clusters_per_split`, `clusters_over_all_splits`, `examples` (pairs of rows,
            each with its split and number).
        secrets_summary: Family -> findings that are no documented placeholder.
        quality_summary: `samples_flagged`, `samples_evaluated`, `by_check`, `overall_quality_score`; or empty.
        croissant: The dataset's Croissant 1.0 card (JSON-LD); empty if not asked.
        notes: Sentences about what was left out or could not be looked at.
        findings: The first `MOST_FINDINGS` findings, by split and row.
        dataset_digest: Digest of the file, of the manifest of the files read, or of the stored dataset.
        gates: Decisions of the recipe's gates; none outside a pipeline.
        contamination: Benchmark items in the training rows (`contamination.Contamination.summary`); empty where none
            were looked for.
        token_lengths: By split, lengths of the rows' texts in tokens of the recipe's tokenizer; or empty.
        findings_total: Number of all findings; None in reports of versions that listed all of them.
        schema_version: Of this layout.
    """

    generated_at: str | None
    source_path: str
    source_input: str
    total_samples: int
    splits: dict[str, dict[str, Any]]
    cross_split_overlap: dict[str, Any]
    pii_summary: dict[str, int]
    pii_severity: dict[str, Any]
    near_duplicate_summary: dict[str, Any]
    secrets_summary: dict[str, int]
    quality_summary: dict[str, Any]
    croissant: dict[str, Any]
    notes: tuple[str, ...] = ()
    findings: tuple[RowFinding, ...] = ()
    dataset_digest: Digest | None = None
    gates: tuple[GateDecision, ...] = ()
    contamination: dict[str, Any] = field(default_factory=dict)
    token_lengths: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings_total: int | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def duplicate_count(self) -> int:
        """Rows beyond the first of each cluster of duplicates and near-duplicates: a split could do without them."""
        per_split = self.near_duplicate_summary.get("clusters_per_split", {})
        return sum(entry["redundant_rows"] for entry in per_split.values())

    @property
    def pii_findings(self) -> list[RowFinding]:
        """Findings of personal data: split, row, column, category, start, end; never the text itself."""
        return [finding for finding in self.findings if finding.source != "secret"]

    @property
    def secret_findings(self) -> list[RowFinding]:
        """Findings of credentials, documented placeholders included."""
        return [finding for finding in self.findings if finding.source == "secret"]


AuditReport.findings = _Findings()  # type: ignore[assignment]  # frozen for everyone but its own `__init__`


def changed(report: AuditReport, **changes: Any) -> AuditReport:
    """As `dataclasses.replace`, which would ask for the findings."""
    return replace(report, **{"findings": vars(report)["findings"], **changes})


def write_audit_report(path: Path, report: AuditReport) -> None:
    """As `integrity.write_report`, to the byte, without pydantic, whose import takes as long as thousands of rows.

    Raises:
        ValueError: A value cannot be represented in canonical JSON.
        OSError: The file cannot be written.
    """
    atomic.write_file(path, _canonical(report))


def _canonical(report: AuditReport) -> bytes:
    # Gates are objects of their own kind; everything else is plain already.
    value = report_to_json(changed(report, findings=())) if report.gates else vars(report)
    findings: FindingColumns | tuple[RowFinding, ...] = vars(report)["findings"]
    if not isinstance(findings, FindingColumns):
        columns = FindingColumns()
        columns.extend([getattr(found, name) for found in findings] for name in RowFinding.__match_args__)
        findings = columns
    parts = [
        canonical_json({key: value[key] for key in value if key < "findings"})[:-1],
        b'"findings":' + findings.to_json(),
        canonical_json({key: value[key] for key in value if key > "findings"})[1:],
    ]
    return b",".join(parts)
