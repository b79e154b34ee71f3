"""The audit log: a file that only grows, and the proof that it only grew.

`AuditLogger` appends events, `verify_audit_log` checks a log, `read_entries` reads one.
The log is tamper-evident, not protected: whoever can write the files can change them,
and is found out by the chain, the checkpoint beside the log, the keys, or a checkpoint
that was kept elsewhere, as far as there are any. `VerifyResult.not_checked` says how far.
"""

from forge_pipeline.audit_log.chain import Anchor, Receipt
from forge_pipeline.audit_log.checkpoint import Checkpoint
from forge_pipeline.audit_log.entry import Entry
from forge_pipeline.audit_log.events import CATALOGUE, EventType, catalogue_markdown
from forge_pipeline.audit_log.reading import (
    ConsistencyProof,
    InclusionProof,
    iter_entries,
    prove_consistency,
    prove_inclusion,
    read_entries,
)
from forge_pipeline.audit_log.rfc3161 import TimestampResult, timestamp, verify_timestamp
from forge_pipeline.audit_log.settings import AuditSettings
from forge_pipeline.audit_log.vault import VAULT_FILE, Opening, Vault
from forge_pipeline.audit_log.verify import Check, FailureKind, VerifyResult, verify_audit_log
from forge_pipeline.audit_log.writer import LOG_FILE, AuditLogger

__all__ = [
    "CATALOGUE",
    "LOG_FILE",
    "VAULT_FILE",
    "Anchor",
    "AuditLogger",
    "AuditSettings",
    "Check",
    "Checkpoint",
    "ConsistencyProof",
    "Entry",
    "EventType",
    "FailureKind",
    "InclusionProof",
    "Opening",
    "Receipt",
    "TimestampResult",
    "Vault",
    "VerifyResult",
    "catalogue_markdown",
    "iter_entries",
    "prove_consistency",
    "prove_inclusion",
    "read_entries",
    "timestamp",
    "verify_audit_log",
    "verify_timestamp",
]
