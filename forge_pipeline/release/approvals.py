"""Approvals: decisions by named people about exactly one model, one bundle and one recipe.

A decision is logged first and entered in the registry second; it counts only if both
hold the same record and `standing` finds no rule against it. It expires, needs a reason, and may be
signed (Ed25519). Names are what people say they are, unless decisions are signed and the recipe, or
the caller, says whose keys count.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.audit_log import LOG_FILE, AuditLogger, Entry, read_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import AwaitingApprovalError, ConfigError, GateFailedError, IntegrityError, StoreError
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import ApprovalDecision, ApprovalRequestRow, ApprovalRow, Registry, RevocationRow
from forge_pipeline.release.decisions import (
    Approval,
    Identity,
    Revocation,
    approver_key,
    fingerprint,
    read_approval,
    read_revocation,
    same_name,
)
from forge_pipeline.release.journal import changing
from forge_pipeline.release.requests import Request, open_request, read_requests, utc_text
from forge_pipeline.release.standing import (
    EVENT_OF,
    REVOKED,
    Standing,
    judge,
    problem_with_reason,
    why_not_by,
)

EXPIRED = "human_approval.expired"


@dataclass(frozen=True)
class PendingApproval:
    """A request and where it stands, by the registry alone; `standing` holds it against the log."""

    request: ApprovalRequestRow
    approvals: tuple[Approval, ...]
    expired: bool
    revoked: tuple[Digest, ...] = ()
    superseded: bool = False

    @property
    def still_needed(self) -> int:
        """Approvals still missing; 0 once there are enough."""
        granted = sum(each.decision == "granted" and each.digest not in self.revoked for each in self.approvals)
        return max(0, self.request.needed - granted)

    @property
    def rejected(self) -> bool:
        return any(each.decision == "rejected" and each.digest not in self.revoked for each in self.approvals)


def approve(
    registry: Registry,
    request_id: str,
    *,
    approver: str,
    reason: str,
    key: Path | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
    role: str | None = None,
    subject: str | None = None,
    identity: Identity = "stated",
) -> Approval:
    """Grant a release request: logged first, then entered in the registry.

    Args:
        request_id: Of an open request; a beginning that fits only one will do.
        approver: Who decides.
        reason: Why, in words; a placeholder is refused.
        key: Ed25519 private key in PEM; the decision is then signed.
        log: The line's log; by default the one that the request names.
        role: What the person speaks for.
        subject: Digest of the model that the person looked at, or its beginning from 8 characters on; refused unless
            the request is about it.
        identity: How the caller knows the name; a key makes it ``signed``.

    Raises:
        ConfigError: No such request, no reason, no name, an unusable key, the request expired or another took its
            place, or the approval would not count, because of whose it is or because it is not signed.
        StoreError: This person has decided already.
        IntegrityError: The log does not hold the request, or the bundle is not the one that was asked about.
        EvidenceError: The decision could not be logged; nothing was entered.
    """
    return _decide(registry, request_id, "granted", approver, reason, key, log, at, role, subject, identity)


def reject(
    registry: Registry,
    request_id: str,
    *,
    approver: str,
    reason: str,
    key: Path | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
    role: str | None = None,
    subject: str | None = None,
    identity: Identity = "stated",
) -> Approval:
    """Reject a release request: one rejection is enough. Arguments and errors as for `approve`."""
    return _decide(registry, request_id, "rejected", approver, reason, key, log, at, role, subject, identity)


def revoke(
    registry: Registry,
    request_id: str,
    *,
    approver: str,
    reason: str,
    key: Path | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
) -> Revocation:
    """Take back one's own decision; who has revoked decides no more about this request.

    A release that has happened stays: `aliases.rollback` takes it back.

    Args:
        approver: Who decided, and now takes it back.
        key: The key that the decision was signed with, if it was.

    Raises:
        ConfigError: No such request, no such decision, no reason, or not the key of the decision.
        StoreError: It was revoked already.
        EvidenceError: The revocation could not be logged; nothing was entered.
    """
    moment = at or datetime.now(UTC)
    row = find_request(registry, request_id)
    if problem := problem_with_reason(reason, 1):
        raise ConfigError(problem)
    private = approver_key(key) if key is not None else None
    logger = log or AuditLogger(row.log_directory)
    with changing(logger):
        made = _decision_of(registry, row, approver, fingerprint(private) if private else None)
        approval = read_approval(made.record)
        if any(each.approval_id == made.id for each in registry.revocations(row.request_id)):
            raise StoreError(f"request {row.request_id}: the decision of {made.approver} was revoked before")
        revocation = Revocation(
            request_id=row.request_id,
            subject=row.subject,
            approval=approval.digest,
            approver=approval.approver,
            reason=reason.strip(),
            revoked_at=utc_text(moment),
        )
        if private is not None and approval.key is not None:
            revocation = revocation.signed(private)
        if not revocation.revokes(approval):
            raise ConfigError(
                f"the decision of {approval.approver} is signed with key {approval.key}; revoke it with the same key"
            )
        logger.log_event(REVOKED, subject=row.subject, request_id=row.request_id, revocation=asdict(revocation))
        _enter_revocation(registry, made, revocation, moment)
    return revocation


def pending_approvals(registry: Registry, *, at: datetime | None = None) -> tuple[PendingApproval, ...]:
    """Requests that still wait, oldest first: not expired, superseded, rejected or granted by enough people."""
    return tuple(
        each
        for each in all_approvals(registry, at=at)
        if not each.expired and not each.superseded and not each.rejected and each.still_needed
    )


def all_approvals(registry: Registry, *, at: datetime | None = None) -> tuple[PendingApproval, ...]:
    """Every request with its decisions as the registry holds them, oldest first."""
    moment = at or datetime.now(UTC)
    requests = registry.approval_requests()
    newest = {request.line: request for request in requests}

    def about(request: ApprovalRequestRow) -> tuple[Digest, Digest, Digest]:
        return (request.subject, request.bundle, request.policy_digest)

    return tuple(
        PendingApproval(
            request,
            tuple(read_approval(row.record) for row in registry.approvals(request.request_id)),
            request.expires_at <= moment,
            tuple(read_revocation(row.record).approval for row in registry.revocations(request.request_id)),
            about(newest[request.line]) != about(request),
        )
        for request in requests
    )


def standing(
    registry: Registry,
    request_id: str,
    *,
    at: datetime | None = None,
    approver_keys: Collection[Digest] | None = None,
) -> Standing:
    """Where a request stands by the log that it names, with the rule that each uncounted decision breaks.

    Raises:
        ConfigError: No such request.
        IntegrityError: The log does not hold it.
    """
    row = find_request(registry, request_id)
    entries = _entries_of(row)
    return judge(_request_in(row, entries), _decisions(registry, row), entries, at or datetime.now(UTC), approver_keys)


def check_approvals(
    config: ForgeConfig,
    model: ModelDirectory,
    bundle: AnnexIvBundle,
    gates: Sequence[GateDecision],
    registry: Registry,
    log: AuditLogger,
    approver_keys: Collection[Digest] | None,
    moment: datetime,
) -> tuple[Approval, ...]:
    """The approvals that let this release happen; none if the recipe asks for none.

    Without an open request one is made, so that people can decide.

    Raises:
        GateFailedError: Somebody rejected it.
        AwaitingApprovalError: Approvals are missing.
    """
    if config.approvals_needed == 0:
        return ()
    request = open_request(config, model, bundle, gates, registry, log, moment)
    row = find_request(registry, request.request_id)
    found = judge(request, _decisions(registry, row), read_entries(log.log_path), moment, approver_keys)
    for each in found.rejected:
        raise GateFailedError(f"release refused: {each.approver} rejected it: {each.reason}")
    if found.still_needed:
        raise AwaitingApprovalError(_what_is_missing(found))
    return found.granted


def announce_expired(registry: Registry, log: AuditLogger, line: str, *, at: datetime | None = None) -> tuple[str, ...]:
    """Log each of the line's requests that expired undecided, once; returns the ids of those logged now."""
    moment = at or datetime.now(UTC)
    told = []
    with changing(log):
        entries = read_entries(log.log_path)
        known = {str(entry.data.get("request_id")) for entry in entries if entry.event == EXPIRED}
        for request in read_requests(entries).values():
            if request.line != line or request.request_id in known or request.expires_at > utc_text(moment):
                continue
            rows = [row for row in registry.approval_requests(line=line) if row.request_id == request.request_id]
            decisions = _decisions(registry, rows[0]) if rows else []
            if judge(request, decisions, entries, moment).state == "expired":
                log.log_event(
                    EXPIRED, subject=request.subject, request_id=request.request_id, expired_at=request.expires_at
                )
                told.append(request.request_id)
    return tuple(told)


def find_request(registry: Registry, request_id: str) -> ApprovalRequestRow:
    """The request whose id begins so.

    Raises:
        ConfigError: There is none, or more than one.
    """
    fitting = [each for each in registry.approval_requests() if request_id and each.request_id.startswith(request_id)]
    if len(fitting) != 1:
        found = f"{len(fitting)} requests begin with" if fitting else "there is no request"
        raise ConfigError(f"{found} {request_id!r}; see: forge approvals")
    return fitting[0]


# What a crash between log and registry left out of the registry


def missing_entries(registry: Registry, entries: Iterable[Entry]) -> list[Entry]:
    """Requests, decisions and revocations of a log that the registry does not hold."""
    entries = list(entries)
    requests = {row.request_id for row in registry.approval_requests()}
    held = {name: {read_approval(r.record).digest for r in registry.approvals(name)} for name in requests}
    revoked = {name: {read_revocation(r.record).approval for r in registry.revocations(name)} for name in requests}
    asked, missing = read_requests(entries), []
    for entry in entries:
        if entry.event == "human_approval.required":
            request = asked.get(str(entry.data.get("request_id")))
            if request is not None and request.seq == entry.seq and request.request_id not in requests:
                missing.append(entry)
        elif entry.event in EVENT_OF.values():
            approval = _approval_in(entry)
            if approval is not None and approval.request_id in asked:
                people = {same_name(row.approver) for row in registry.approvals(approval.request_id)}
                unknown = approval.digest not in held.get(approval.request_id, set())
                if unknown and same_name(approval.approver) not in people:
                    missing.append(entry)
        elif entry.event == REVOKED:
            revocation = _revocation_in(entry)
            if revocation is not None and revocation.approval not in revoked.get(revocation.request_id, {""}):
                missing.append(entry)
    return missing


def enter_missing(registry: Registry, entries: Iterable[Entry], log_directory: str) -> list[Entry]:
    """Enter `missing_entries` in the registry; returns those that were."""
    entries = list(entries)
    asked, entered = read_requests(entries), []
    for entry in missing_entries(registry, entries):
        if entry.event == "human_approval.required":
            registry.add_approval_request(asked[str(entry.data["request_id"])].row(log_directory))
        elif entry.event in EVENT_OF.values():
            approval = _approval_in(entry)
            assert approval is not None
            _enter(registry, approval, entry.time)
        else:
            revocation = _revocation_in(entry)
            made = [
                row
                for row in (registry.approvals(revocation.request_id) if revocation else ())
                if revocation and revocation.revokes(read_approval(row.record))
            ]
            if revocation is None or not made:
                continue
            _enter_revocation(registry, made[0], revocation, entry.time)
        entered.append(entry)
    return entered


def _decide(
    registry: Registry,
    request_id: str,
    decision: ApprovalDecision,
    approver: str,
    reason: str,
    key: Path | None,
    log: AuditLogger | None,
    at: datetime | None,
    role: str | None,
    subject: str | None,
    identity: Identity,
) -> Approval:
    moment = at or datetime.now(UTC)
    row = find_request(registry, request_id)
    if row.expires_at <= moment:
        raise ConfigError(f"request {row.request_id} expired at {utc_text(row.expires_at)}; promote again to ask anew")
    if not approver.strip():
        raise ConfigError("an approval needs the approver's name; pass it, or set FORGE_OPERATOR")
    if problem := problem_with_reason(reason, 1):
        raise ConfigError(problem)
    if subject is not None and (len(_hex(subject)) < 8 or not _hex(row.subject).startswith(_hex(subject))):
        raise ConfigError(f"request {row.request_id} is about {row.subject}, not about {subject}; look at it again")
    private = approver_key(key) if key is not None else None
    logger = log or AuditLogger(row.log_directory)
    with changing(logger):
        entries = read_entries(logger.log_path)
        request = _request_in(row, entries)
        if any(each.approver == approver for each in registry.approvals(row.request_id)):
            raise StoreError(f"request {row.request_id}: {approver} has decided already")
        approval = Approval(
            request_id=request.request_id,
            subject=request.subject,
            bundle=request.bundle,
            policy_digest=request.policy_digest,
            decision=decision,
            approver=approver.strip(),
            reason=reason.strip(),
            decided_at=utc_text(moment),
            expires_at=request.expires_at,
            shown=request.shown,
            role=role,
            identity="stated" if identity == "signed" else identity,
        )
        if private is not None:
            approval = approval.signed(private)
        _check_worth(approval, request, row, entries, moment)
        logger.log_event(EVENT_OF[decision], subject=request.subject, approval=asdict(approval))
        _enter(registry, approval, moment)
    return approval


def _check_worth(
    approval: Approval, request: Request, row: ApprovalRequestRow, entries: Sequence[Entry], moment: datetime
) -> None:
    """Refuse what would not count, before anything is written."""
    terms = request.terms
    where = f"request {request.request_id}"
    if request.expires_at <= utc_text(moment):
        raise ConfigError(f"{where} expired at {request.expires_at}; promote again to ask anew")
    if later := judge(request, (), entries, moment).superseded_by:
        raise ConfigError(f"{where}: the model, bundle or recipe changed since; decide about {later} instead")
    if problem := problem_with_reason(approval.reason, terms.min_reason_length):
        raise ConfigError(problem)
    named = {(each.key, same_name(each.name)): each for each in terms.approvers}
    person = named.get((approval.key or Digest.of(b""), same_name(approval.approver)))
    if terms.approvers and person is None:
        raise ConfigError(f"{where} takes decisions signed by one of release.approvers, under the name given there")
    if person is not None and approval.role is not None and approval.role not in person.roles:
        raise ConfigError(f"{where}: {approval.approver} does not have the role {approval.role!r} in release.approvers")
    if approval.decision == "granted":
        if terms.four_eyes and approval.key is None:
            raise ConfigError(f"{where} asks for four eyes, so an approval must be signed; pass a key")
        if why := why_not_by(approval.approver, approval.key, request, entries):
            raise ConfigError(f"{where}: this approval would not count: {why}")
    _check_bundle_at_hand(row)


def _check_bundle_at_hand(row: ApprovalRequestRow) -> None:
    """Whoever decides here and now must not have read another bundle. One that lies elsewhere is checked on release."""
    path = Path(str((row.details or {}).get("bundle_path", "")))
    if str(path) != "." and path.is_dir() and (found := Manifest.of_directory(path).digest) != row.bundle:
        raise IntegrityError(
            f"{path} is {found} now; request {row.request_id} is about {row.bundle}. Nothing was decided"
        )


def _request_in(row: ApprovalRequestRow, entries: Iterable[Entry]) -> Request:
    request = read_requests(entries).get(row.request_id)
    asked = (row.request_id, row.subject, row.bundle, row.policy_digest)
    if request is None or request.about != asked:
        raise IntegrityError(
            f"request {row.request_id} stands in the registry, but the audit log in {row.log_directory} does not hold "
            "it; nobody asked for this release, or one of the two was changed"
        )
    return request


def _entries_of(row: ApprovalRequestRow) -> list[Entry]:
    try:
        return read_entries(Path(row.log_directory) / LOG_FILE)
    except OSError as error:
        raise IntegrityError(f"request {row.request_id}: its audit log cannot be read: {error}") from error


def _decisions(registry: Registry, row: ApprovalRequestRow) -> list[Approval]:
    return [read_approval(each.record) for each in registry.approvals(row.request_id)]


def _decision_of(registry: Registry, row: ApprovalRequestRow, approver: str, key: Digest | None) -> ApprovalRow:
    made = [each for each in registry.approvals(row.request_id) if same_name(each.approver) == same_name(approver)]
    if len(made) > 1:  # of one name, as people spell it
        made = [each for each in made if read_approval(each.record).key == key] or made
    if not made:
        raise ConfigError(f"request {row.request_id}: {approver} has decided nothing that could be revoked")
    return made[0]


def _enter(registry: Registry, approval: Approval, moment: datetime) -> None:
    registry.add_approval(
        request_id=approval.request_id,
        subject=approval.subject,
        decision=approval.decision,
        approver=approval.approver,
        reason=approval.reason,
        decided_at=moment,
        record=asdict(approval),
    )


def _enter_revocation(registry: Registry, made: ApprovalRow, revocation: Revocation, moment: datetime) -> RevocationRow:
    return registry.add_revocation(made, reason=revocation.reason, revoked_at=moment, record=asdict(revocation))


def _approval_in(entry: Entry) -> Approval | None:
    try:
        return read_approval(entry.data["approval"])
    except (IntegrityError, KeyError, TypeError, ValueError):
        return None


def _revocation_in(entry: Entry) -> Revocation | None:
    try:
        return read_revocation(entry.data["revocation"])
    except (IntegrityError, KeyError, TypeError, ValueError):
        return None


def _what_is_missing(found: Standing) -> str:
    request = found.request
    names = ", ".join(each.approver for each in found.granted) or "nobody yet"
    needed, has = request.terms.needed, len(found.granted)
    words = f"the release of {request.subject} needs {needed} approvals and has {has} ({names})"
    if found.missing_roles:
        words += f"; nobody approved as {', '.join(found.missing_roles)}"
    if found.not_counted:
        words += "; not counted: " + "; ".join(f"{each.approval.approver}: {each.why}" for each in found.not_counted)
    return f'{words}. Approve with: forge approve {request.request_id} --reason "..."'


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:").lower()
