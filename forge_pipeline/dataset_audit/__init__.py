"""Looking over a dataset before a model learns it: personal data, secrets, repeats, overlap of splits."""

from forge_pipeline.dataset_audit.finding import Finding, RowFinding
from forge_pipeline.dataset_audit.minhash import compute_minhash
from forge_pipeline.dataset_audit.pii import detect_pii, find_pii, mask_pii
from forge_pipeline.dataset_audit.report import AuditReport
from forge_pipeline.dataset_audit.run import audit_dataset
from forge_pipeline.dataset_audit.secret_scan import detect_secrets, find_secrets, mask_secrets
from forge_pipeline.dataset_audit.simhash import compute_simhash
from forge_pipeline.dataset_audit.stage import audit_raw_dataset

__all__ = [
    "AuditReport",
    "Finding",
    "RowFinding",
    "audit_dataset",
    "audit_raw_dataset",
    "compute_minhash",
    "compute_simhash",
    "detect_pii",
    "detect_secrets",
    "find_pii",
    "find_secrets",
    "mask_pii",
    "mask_secrets",
]
