"""Which decisions count, and whether there are enough. The rules:

(1) It is about this request, model, bundle and recipe, and the reports that were shown are those of the bundle.
(2) The log holds the same record, made after the request and before it expired, with a reason of some length.
(3) A signature, where there is one, holds. On four-eyes terms, and where the recipe names the approvers, there
    must be one; where it names them, by their keys.
(4) No approval is by a key of the process that trains. On four-eyes terms none is by whoever trained the model
    or asked for its release either.
(5) It was not revoked: a revocation in the log, by the same key, or for an unsigned decision under the same name.
(6) Approvals of one name, or of one key, are one approval.

One rejection that counts by (1), (2), (3) and (5) is enough, also by whoever trained the model.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from forge_pipeline.annex_iv import is_placeholder
from forge_pipeline.audit_log import Entry
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import ApprovalDecision
from forge_pipeline.release.decisions import Approval, Revocation, read_revocation, same_name
from forge_pipeline.release.requests import Request, read_requests, superseded_by, utc_text

EVENT_OF: dict[ApprovalDecision, str] = {"granted": "human_approval.granted", "rejected": "human_approval.rejected"}
REVOKED = "human_approval.revoked"


@dataclass(frozen=True)
class NotCounted:
    """A decision that does not count, and why."""

    approval: Approval
    why: str


@dataclass(frozen=True)
class Standing:
    """Where a request stands.

    Attributes:
        granted: Approvals that count, of distinct people.
        rejected: Rejections that count.
        not_counted: The others, each with the rule that it breaks.
        missing_roles: Roles that the terms ask for and no approver held.
        expired: Whether its time is over.
        superseded_by: A later request of the line about other bytes.
        released: Whether the log holds a release of this model and bundle after the request.
    """

    request: Request
    granted: tuple[Approval, ...]
    rejected: tuple[Approval, ...]
    not_counted: tuple[NotCounted, ...]
    missing_roles: tuple[str, ...]
    expired: bool
    superseded_by: str | None
    released: bool

    @property
    def still_needed(self) -> int:
        """Approvals still missing; 0 once there are enough."""
        return max(0, self.request.terms.needed - len(self.granted), len(self.missing_roles))

    @property
    def state(self) -> str:
        """``released``, ``rejected``, ``superseded``, ``expired``, ``approved`` or ``open``, the first that fits."""
        fits = {
            "released": self.released,
            "rejected": bool(self.rejected),
            "superseded": self.superseded_by is not None,
            "expired": self.expired,
            "approved": self.still_needed == 0,
        }
        return next((name for name, holds in fits.items() if holds), "open")


def judge(
    request: Request,
    approvals: Iterable[Approval],
    entries: Sequence[Entry],
    moment: datetime,
    approver_keys: Collection[Digest] | None = None,
) -> Standing:
    """Apply the rules.

    Args:
        approvals: Decisions as the registry holds them, oldest first.
        entries: The line's whole log.
        approver_keys: Fingerprints of the keys whose signed approvals count; None adds no rule.
    """
    granted: list[Approval] = []
    rejected: list[Approval] = []
    not_counted: list[NotCounted] = []
    for each in approvals:
        why = _why_not(each, request, entries, moment, approver_keys)
        if why is None and each.decision == "granted":
            why = why_not_by(each.approver, each.key, request, entries) or _why_again(each, granted)
        if why is not None:
            not_counted.append(NotCounted(each, why))
        else:
            (granted if each.decision == "granted" else rejected).append(each)
    roles_of = {each.key: each.roles for each in request.terms.approvers}
    held = {role for each in granted if each.key is not None for role in roles_of.get(each.key, ())}
    later = superseded_by(request, read_requests(entries).values())
    return Standing(
        request=request,
        granted=tuple(granted),
        rejected=tuple(rejected),
        not_counted=tuple(not_counted),
        missing_roles=tuple(role for role in request.terms.roles if role not in held),
        expired=request.expires_at <= utc_text(moment),
        superseded_by=later.request_id if later else None,
        released=any(_is_release_of(request, entry) for entry in entries[request.seq :]),
    )


def _why_not(
    approval: Approval,
    request: Request,
    entries: Sequence[Entry],
    moment: datetime,
    approver_keys: Collection[Digest] | None,
) -> str | None:
    """Rules (1), (2), (3) and (5): None if all hold."""
    terms = request.terms
    if approval.about != request.about:
        return "it is about another model, bundle or recipe"
    if approval.shown != request.shown:
        return "other reports were shown than those of the bundle"
    record = asdict(approval)
    after = entries[request.seq :]
    if not any(entry.event == EVENT_OF[approval.decision] and entry.data.get("approval") == record for entry in after):
        return "the audit log does not hold it"
    if not request.created_at <= approval.decided_at <= utc_text(moment):
        return "it was made before the request, or in the future"
    if request.expires_at <= utc_text(moment) or approval.expires_at != request.expires_at:
        return f"it expired at {request.expires_at}"
    if problem := problem_with_reason(approval.reason, terms.min_reason_length):
        return problem
    if (approval.signature is not None or approval.identity == "signed") and not approval.signature_holds():
        return "its signature does not hold"
    if terms.approvers and (approval.key, same_name(approval.approver)) not in {
        (each.key, same_name(each.name)) for each in terms.approvers
    }:
        return "it is not signed by one of the recipe's release.approvers"
    if terms.four_eyes and approval.decision == "granted" and approval.signature is None:
        return "it is not signed, and four eyes are asked for"
    if approver_keys is not None and (approval.signature is None or approval.key not in approver_keys):
        return "it is not signed with a key that counts"
    revoked = any(each.revokes(approval) for each in revocations_in(after))
    return "it was revoked" if revoked else None


def why_not_by(name: str, key: Digest | None, request: Request, entries: Sequence[Entry]) -> str | None:
    """Rule (4): why this person's approval would not count; None if it would."""
    if key is not None and key in training_keys(entries):
        return "its key is one that the process which trains signs with"
    if request.terms.four_eyes and same_name(name) in {same_name(each) for each in makers_of(request, entries)}:
        return f"{name} trained the model or asked for its release, and four eyes are asked for"
    return None


def problem_with_reason(reason: str, length: int) -> str | None:
    """Why `reason` is none, or None."""
    if is_placeholder(reason):
        return f"the reason {reason!r} says nothing; write why, in words"
    if len(" ".join(reason.split())) < length:
        return f"the reason {reason!r} is too short; write why, in at least {length} characters"
    return None


def training_keys(entries: Iterable[Entry]) -> set[str]:
    """Fingerprints of the keys that the log's own writers sign with."""
    named = [entry.data.get("keys") for entry in entries if entry.event in ("audit.genesis", "audit.keys_added")]
    return {str(each["ed25519"]) for each in named if isinstance(each, dict) and each.get("ed25519")}


def makers_of(request: Request, entries: Sequence[Entry]) -> set[str]:
    """Operators of the runs that stored the model, and of the request."""
    stored = {
        e.run_id for e in entries if e.event == "artifact.materialized" and e.data.get("digest") == request.subject
    }
    return {entry.operator for entry in entries if entry.run_id in stored} | {request.requested_by}


def revocations_in(entries: Iterable[Entry]) -> list[Revocation]:
    """Revocations that a log holds; what is none is left out."""
    found = []
    for entry in entries:
        if entry.event != REVOKED:
            continue
        try:
            found.append(read_revocation(entry.data["revocation"]))
        except (IntegrityError, KeyError, TypeError, ValueError):
            continue
    return found


def _why_again(approval: Approval, counted: Iterable[Approval]) -> str | None:
    """Rule (6)."""
    for each in counted:
        if same_name(each.approver) == same_name(approval.approver):
            return f"{each.approver} has approved already"
        if approval.key is not None and each.key == approval.key:
            return f"{each.approver} has approved already with the same key"
    return None


def _is_release_of(request: Request, entry: Entry) -> bool:
    about = (entry.data.get("subject"), entry.data.get("bundle"))
    return entry.event == "model.released" and about == (request.subject, request.bundle)
