"""Release: gates, digests and approvals checked once more, then the line's alias moves.

`promote` releases, `approve`, `reject` and `revoke` are what people decide, `aliases` moves, rolls back,
archives and quarantines, `recover` puts right what a crash left. Approvals support Art. 9 and 17 and the
signed reports of Annex IV 2(g); they are not the human oversight of the system in use (Art. 14).
"""

from forge_pipeline.release.aliases import archive, quarantine, revert_failed, rollback, set_alias
from forge_pipeline.release.approvals import (
    PendingApproval,
    all_approvals,
    announce_expired,
    approve,
    pending_approvals,
    reject,
    revoke,
    standing,
)
from forge_pipeline.release.decisions import Approval, Revocation, read_approval, read_revocation
from forge_pipeline.release.promotion import DEFAULT_ALIAS, ReleaseRecord, promote, required_gates
from forge_pipeline.release.recovery import Recovery, check_alias, recover
from forge_pipeline.release.requests import Approver, Request, Terms
from forge_pipeline.release.standing import NotCounted, Standing

__all__ = [
    "DEFAULT_ALIAS",
    "Approval",
    "Approver",
    "NotCounted",
    "PendingApproval",
    "Recovery",
    "ReleaseRecord",
    "Request",
    "Revocation",
    "Standing",
    "Terms",
    "all_approvals",
    "announce_expired",
    "approve",
    "archive",
    "check_alias",
    "pending_approvals",
    "promote",
    "quarantine",
    "read_approval",
    "read_revocation",
    "recover",
    "reject",
    "required_gates",
    "revert_failed",
    "revoke",
    "rollback",
    "set_alias",
    "standing",
]
