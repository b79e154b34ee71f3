"""Approvals: decisions by named people about exactly one model, one bundle and one recipe.

A decision is logged first and entered in the registry second; it counts only if both
hold the same record. It expires, needs a reason, and may be signed (Ed25519). Names are
what people say they are, unless decisions are signed and the caller says whose keys count.
"""

import base64
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from forge_pipeline.annex_iv import AnnexIvBundle, is_placeholder
from forge_pipeline.audit_log import AuditLogger, Entry, read_entries
from forge_pipeline.audit_log.keys import load_private_key, public_key_fingerprint, signature_matches
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import AwaitingApprovalError, ConfigError, GateFailedError, IntegrityError, StoreError
from forge_pipeline.integrity import Digest, canonical_json, json_digest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import ApprovalDecision, ApprovalRequestRow, Registry

_SIGNATURE_CONTEXT = b"forge-pipeline approval v1\n"
_EVENTS: Mapping[ApprovalDecision, str] = {
    "granted": "human_approval.granted",
    "rejected": "human_approval.rejected",
}


@dataclass(frozen=True)
class Approval:
    """One person's decision about one request, as it is logged and signed.

    Attributes:
        subject, bundle, policy_digest: What was decided about: model directory, bundle shown, recipe.
        decided_at, expires_at: ISO 8601 in UTC.
        key: Fingerprint of the approver's public key (SHA-256 of its DER); None: not signed.
        public_key: That key, 32 raw bytes in base64.
        signature: Ed25519 over the record without it, in base64.
    """

    request_id: str
    subject: Digest
    bundle: Digest
    policy_digest: Digest
    decision: ApprovalDecision
    approver: str
    reason: str
    decided_at: str
    expires_at: str
    key: Digest | None = None
    public_key: str | None = None
    signature: str | None = None

    def bytes_to_sign(self) -> bytes:
        return _SIGNATURE_CONTEXT + canonical_json(asdict(replace(self, signature=None)))

    def signature_holds(self) -> bool:
        """Whether the signature matches, and the key is the one named."""
        if self.signature is None or self.public_key is None:
            return False
        try:
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public_key, validate=True))
            raw = base64.b64decode(self.signature, validate=True)
        except ValueError:
            return False
        return public_key_fingerprint(public) == self.key and signature_matches(public, raw, self.bytes_to_sign())


@dataclass(frozen=True)
class PendingApproval:
    """A request and where it stands."""

    request: ApprovalRequestRow
    approvals: tuple[Approval, ...]
    expired: bool

    @property
    def still_needed(self) -> int:
        """Approvals still missing; 0 once there are enough."""
        granted = sum(each.decision == "granted" for each in self.approvals)
        return max(0, self.request.needed - granted)

    @property
    def rejected(self) -> bool:
        return any(each.decision == "rejected" for each in self.approvals)


def approve(
    registry: Registry,
    request_id: str,
    *,
    approver: str,
    reason: str,
    key: Path | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
) -> Approval:
    """Grant a release request: logged first, then entered in the registry.

    Args:
        request_id: Of an open request; a beginning that fits only one will do.
        approver: Who decides.
        reason: Why, in words; a placeholder is refused.
        key: Ed25519 private key in PEM; the decision is then signed.
        log: The line's log; by default the one that the request names.

    Raises:
        ConfigError: No such request, no reason, no name, an unusable key, or the request expired.
        StoreError: This person has decided already.
        EvidenceError: The decision could not be logged; nothing was entered.
    """
    return _decide(registry, request_id, "granted", approver, reason, key, log, at)


def reject(
    registry: Registry,
    request_id: str,
    *,
    approver: str,
    reason: str,
    key: Path | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
) -> Approval:
    """Reject a release request: one rejection is enough. Arguments and errors as for `approve`."""
    return _decide(registry, request_id, "rejected", approver, reason, key, log, at)


def pending_approvals(registry: Registry, *, at: datetime | None = None) -> tuple[PendingApproval, ...]:
    """Requests that still wait: neither expired nor rejected nor granted by enough people, oldest first."""
    return tuple(
        each for each in all_approvals(registry, at=at) if not each.expired and not each.rejected and each.still_needed
    )


def all_approvals(registry: Registry, *, at: datetime | None = None) -> tuple[PendingApproval, ...]:
    """Every request with its decisions as the registry holds them, oldest first."""
    moment = at or datetime.now(UTC)
    return tuple(
        PendingApproval(
            request,
            tuple(read_approval(row.record) for row in registry.approvals(request.request_id)),
            request.expires_at <= moment,
        )
        for request in registry.approval_requests()
    )


def read_approval(record: Mapping[str, Any]) -> Approval:
    """An approval from its JSON form.

    Raises:
        IntegrityError: It is not one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Approval).validate_python(dict(record))
    except ValidationError as error:
        raise IntegrityError(f"not an approval record: {error}") from error


def check_approvals(
    config: ForgeConfig,
    model: ModelDirectory,
    bundle: AnnexIvBundle,
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
    needed = config.approvals_needed
    if needed == 0:
        return ()
    request = _open_request(config, model, bundle, registry, moment)
    if request is None:
        request = _request_approval(config, model, bundle, registry, log, needed, moment)
    entries = read_entries(log.log_path)
    approvals = [read_approval(row.record) for row in registry.approvals(request.request_id)]
    counted = [each for each in approvals if _counts(each, request, entries, approver_keys, moment)]
    for each in counted:
        if each.decision == "rejected":
            raise GateFailedError(f"release refused: {each.approver} rejected it: {each.reason}")
    granted = _distinct(counted)
    if len(granted) < needed:
        names = ", ".join(each.approver for each in granted) or "nobody yet"
        raise AwaitingApprovalError(
            f"the release of {model.digest} needs {needed} approvals and has {len(granted)} ({names}). "
            f'Approve with: forge approve {request.request_id} --reason "..."'
        )
    return tuple(granted)


def _open_request(
    config: ForgeConfig, model: ModelDirectory, bundle: AnnexIvBundle, registry: Registry, moment: datetime
) -> ApprovalRequestRow | None:
    """The newest request about exactly this model, bundle and recipe that has not expired."""
    policy = config_digest(config)
    requests = registry.approval_requests(subject=model.digest)
    fitting = [each for each in requests if each.bundle == bundle.digest and each.policy_digest == policy]
    alive = [each for each in fitting if each.expires_at > moment]
    return alive[-1] if alive else None


def _request_approval(
    config: ForgeConfig,
    model: ModelDirectory,
    bundle: AnnexIvBundle,
    registry: Registry,
    log: AuditLogger,
    needed: int,
    moment: datetime,
) -> ApprovalRequestRow:
    expires = moment + timedelta(days=config.release.approval_ttl_days)
    about = {"subject": model.digest, "bundle": bundle.digest, "policy_digest": config_digest(config)}
    request_id = json_digest({**about, "created_at": utc_text(moment)}).short
    receipt = log.append(
        "human_approval.required",
        {**about, "request_id": request_id, "needed": needed, "expires_at": utc_text(expires)},
    )
    request = ApprovalRequestRow(
        request_id=request_id,
        line=config.name,
        subject=model.digest,
        bundle=bundle.digest,
        policy_digest=config_digest(config),
        needed=needed,
        requested_by=operator_of(log, receipt.seq),
        created_at=moment,
        expires_at=expires,
        log_directory=str(log.log_path.parent.resolve()),
    )
    registry.add_approval_request(request)
    return request


def _counts(
    approval: Approval,
    request: ApprovalRequestRow,
    entries: Iterable[Entry],
    approver_keys: Collection[Digest] | None,
    moment: datetime,
) -> bool:
    """Whether a decision in the registry is one: about this request, in the log, in time, reasoned, rightly signed."""
    about = (approval.request_id, approval.subject, approval.bundle, approval.policy_digest)
    if about != (request.request_id, request.subject, request.bundle, request.policy_digest):
        return False
    record, event = asdict(approval), _EVENTS[approval.decision]
    if not any(entry.event == event and entry.data.get("approval") == record for entry in entries):
        return False
    if (
        approval.decided_at > utc_text(moment)
        or approval.expires_at <= utc_text(moment)
        or is_placeholder(approval.reason)
    ):
        return False
    if approval.signature is not None and not approval.signature_holds():
        return False
    return approver_keys is None or (approval.signature is not None and approval.key in approver_keys)


def _distinct(approvals: Iterable[Approval]) -> list[Approval]:
    """Granted approvals by people with different names and different keys."""
    names: set[str] = set()
    keys: set[Digest] = set()
    distinct = []
    for each in approvals:
        name = " ".join(each.approver.casefold().split())
        if each.decision == "granted" and name not in names and each.key not in keys:
            distinct.append(each)
            names.add(name)
            if each.key is not None:
                keys.add(each.key)
    return distinct


def _decide(
    registry: Registry,
    request_id: str,
    decision: ApprovalDecision,
    approver: str,
    reason: str,
    key: Path | None,
    log: AuditLogger | None,
    at: datetime | None,
) -> Approval:
    moment = at or datetime.now(UTC)
    request = _find_request(registry, request_id)
    if request.expires_at <= moment:
        raise ConfigError(
            f"request {request.request_id} expired at {utc_text(request.expires_at)}; promote again to ask anew"
        )
    if not approver.strip():
        raise ConfigError("an approval needs the approver's name; pass it, or set FORGE_OPERATOR")
    if is_placeholder(reason):
        raise ConfigError(f"the reason {reason!r} says nothing; write why, in words")
    if any(row.approver == approver for row in registry.approvals(request.request_id)):
        raise StoreError(f"request {request.request_id}: {approver} has decided already")
    approval = Approval(
        request_id=request.request_id,
        subject=request.subject,
        bundle=request.bundle,
        policy_digest=request.policy_digest,
        decision=decision,
        approver=approver.strip(),
        reason=reason.strip(),
        decided_at=utc_text(moment),
        expires_at=utc_text(request.expires_at),
    )
    if key is not None:
        approval = _signed(approval, key)
    logger = log or AuditLogger(request.log_directory)
    logger.log_event(_EVENTS[decision], subject=request.subject, approval=asdict(approval))
    registry.add_approval(
        request_id=request.request_id,
        subject=request.subject,
        decision=decision,
        approver=approval.approver,
        reason=approval.reason,
        decided_at=moment,
        record=asdict(approval),
    )
    return approval


def _find_request(registry: Registry, request_id: str) -> ApprovalRequestRow:
    fitting = [each for each in registry.approval_requests() if request_id and each.request_id.startswith(request_id)]
    if len(fitting) != 1:
        found = f"{len(fitting)} requests begin with" if fitting else "there is no request"
        raise ConfigError(f"{found} {request_id!r}; see: forge approvals")
    return fitting[0]


def _signed(approval: Approval, key: Path) -> Approval:
    try:
        private = load_private_key(key)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"approver key {key}: {error}; expected an unencrypted Ed25519 key in PEM, as "
            "`openssl genpkey -algorithm ed25519` writes it"
        ) from error
    public = private.public_key()
    raw = base64.b64encode(public.public_bytes_raw()).decode()
    approval = replace(approval, key=public_key_fingerprint(public), public_key=raw)
    return replace(approval, signature=base64.b64encode(private.sign(approval.bytes_to_sign())).decode())


def operator_of(log: AuditLogger, seq: int) -> str:
    """Who the log says appended entry `seq`."""
    return read_entries(log.log_path)[seq].operator


def utc_text(moment: datetime) -> str:
    """UTC with microseconds, so that texts sort as moments do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
