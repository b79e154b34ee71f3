"""Release: gates, digests and approvals checked once more, then the line's alias moves.

Approvals support Art. 9 and 17 and the signed reports of Annex IV 2(g); they are not the
human oversight of the system in use (Art. 14).
"""

from forge_pipeline.release.approvals import (
    Approval,
    PendingApproval,
    all_approvals,
    approve,
    pending_approvals,
    read_approval,
    reject,
)
from forge_pipeline.release.promotion import DEFAULT_ALIAS, ReleaseRecord, promote, required_gates

__all__ = [
    "DEFAULT_ALIAS",
    "Approval",
    "PendingApproval",
    "ReleaseRecord",
    "all_approvals",
    "approve",
    "pending_approvals",
    "promote",
    "read_approval",
    "reject",
    "required_gates",
]
