"""The recipe's `data.audit` as the options of an audit."""

from typing import TYPE_CHECKING

from forge_pipeline.dataset_audit.run import AuditOptions

if TYPE_CHECKING:
    from forge_pipeline.config.data import AuditSection


def audit_options(section: "AuditSection") -> AuditOptions:
    """What `audit_dataset` takes as keyword arguments, from the recipe."""
    return AuditOptions(
        near_dup_threshold=section.near_dup_threshold,
        dedup_method=section.dedup_method,
        minhash_jaccard=section.minhash_jaccard,
        minhash_num_perm=section.minhash_num_perm,
        enable_quality_filter=section.enable_quality_filter,
        enable_pii_ml=section.enable_pii_ml,
        pii_ml_language=section.pii_ml_language,
        emit_croissant=section.emit_croissant,
        workers=section.workers,
    )
