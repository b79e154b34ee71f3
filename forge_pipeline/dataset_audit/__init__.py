"""Looking over a dataset before a model learns it: personal data, secrets, repeats, overlap of splits."""

from typing import TYPE_CHECKING

from forge_pipeline._lazy import attributes

if TYPE_CHECKING:
    from forge_pipeline.dataset_audit.artifacts import DatasetAudit
    from forge_pipeline.dataset_audit.benchmark_items_seen import seen_items
    from forge_pipeline.dataset_audit.cleaning import CleaningReport, clean, cleaning_report
    from forge_pipeline.dataset_audit.deduplicated import DeduplicationReport, deduplicate
    from forge_pipeline.dataset_audit.finding import Finding, RowFinding
    from forge_pipeline.dataset_audit.grouping import near_duplicate_groups, row_grouping
    from forge_pipeline.dataset_audit.minhash import compute_minhash
    from forge_pipeline.dataset_audit.pii import detect_pii, find_pii, mask_pii
    from forge_pipeline.dataset_audit.report import AuditReport
    from forge_pipeline.dataset_audit.run import audit_dataset
    from forge_pipeline.dataset_audit.secret_scan import detect_secrets, find_secrets, mask_secrets
    from forge_pipeline.dataset_audit.simhash import compute_simhash
    from forge_pipeline.dataset_audit.stage import audit_raw_dataset

_EXPORTS = {
    "AuditReport": "report",
    "CleaningReport": "cleaning",
    "DatasetAudit": "artifacts",
    "DeduplicationReport": "deduplicated",
    "Finding": "finding",
    "RowFinding": "finding",
    "audit_dataset": "run",
    "audit_raw_dataset": "stage",
    "clean": "cleaning",
    "cleaning_report": "cleaning",
    "compute_minhash": "minhash",
    "compute_simhash": "simhash",
    "deduplicate": "deduplicated",
    "detect_pii": "pii",
    "detect_secrets": "secret_scan",
    "find_pii": "pii",
    "find_secrets": "secret_scan",
    "mask_pii": "pii",
    "mask_secrets": "secret_scan",
    "near_duplicate_groups": "grouping",
    "row_grouping": "grouping",
    "seen_items": "benchmark_items_seen",
}

__all__ = [
    "AuditReport",
    "CleaningReport",
    "DatasetAudit",
    "DeduplicationReport",
    "Finding",
    "RowFinding",
    "audit_dataset",
    "audit_raw_dataset",
    "clean",
    "cleaning_report",
    "compute_minhash",
    "compute_simhash",
    "deduplicate",
    "detect_pii",
    "detect_secrets",
    "find_pii",
    "find_secrets",
    "mask_pii",
    "mask_secrets",
    "near_duplicate_groups",
    "row_grouping",
    "seen_items",
]

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__, _EXPORTS)
