"""Releases that wait for people, as the REST contract shows them, and decisions in the name of an API key.

A decision here is as good as the API key behind it: whoever holds the key, or this server, can make one. One
that is signed (`forge approve --key`) can be made by whoever holds the private key alone, and checked by
anybody. Lines with four eyes or with named approvers take signed ones only.
"""

import uuid
from datetime import UTC, datetime
from pathlib import Path

from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.errors import ConfigError, IntegrityError, StoreError
from forge_pipeline.registry import ApprovalRequestRow, ModelRow, Registry
from forge_pipeline.release import NotCounted, Standing, approve, reject, revoke, rollback, standing
from forge_pipeline.server.approval_schemas import (
    ApprovalRequest,
    Decide,
    Rollback,
    RolledBack,
    ShownDecision,
    ShownGate,
)
from forge_pipeline.server.errors import ConflictError, ForbiddenError, NotFoundError
from forge_pipeline.server.settings import ServerSettings


def requests(registry: Registry, *, all_of_them: bool) -> list[ApprovalRequest]:
    """Requests, oldest first; only those that are open or approved unless all are asked for."""
    now = datetime.now(UTC)
    rows = [row for row in registry.approval_requests() if all_of_them or row.expires_at > now]
    found = [_shown(registry, row) for row in rows]
    return [each for each in found if all_of_them or each.state in ("open", "approved", "unreadable")]


def request(registry: Registry, request_id: str) -> ApprovalRequest:
    """One request.

    Raises:
        NotFoundError: There is none of that id.
    """
    return _shown(registry, _row(registry, request_id))


def decide(registry: Registry, request_id: str, body: Decide, key_name: str | None) -> ApprovalRequest:
    """Record a decision in the name of an API key.

    Raises:
        ForbiddenError: No API key stands behind the call.
        NotFoundError: There is no such request.
        RequestError, ConfigError: No reason, or the decision would not count; why is named.
        ConflictError: Decided already, revoked already, or registry and log do not agree about the request.
    """
    if key_name is None:
        raise ForbiddenError(
            "A decision needs a person behind it: give this server an API key with the scope 'approve', "
            "or decide with: forge approve"
        )
    row = _row(registry, request_id)
    if not Path(row.log_directory).is_dir():
        raise ConflictError("The audit log that the decision belongs into does not lie on this machine")
    log = AuditLogger(row.log_directory, f"studio-{uuid.uuid4().hex[:12]}")
    try:
        if body.decision == "revoked":
            revoke(registry, row.request_id, approver=key_name, reason=body.reason, log=log)
        else:
            deciding = approve if body.decision == "granted" else reject
            deciding(
                registry,
                row.request_id,
                approver=key_name,
                reason=body.reason,
                log=log,
                subject=body.model,
                identity="api_key",
            )
    except (StoreError, IntegrityError) as error:
        raise ConflictError(str(error)) from error
    return request(registry, row.request_id)


def roll_back(settings: ServerSettings, registry: Registry, model: ModelRow, body: Rollback) -> RolledBack:
    """Roll back an alias that means `model`.

    Raises:
        ConflictError: The alias means another model by now, or there is nothing to go back to.
        ConfigError: No reason.
    """
    if not registry.alias_history(model.line, body.alias):
        raise ConflictError(f"Line {model.line} has no alias {body.alias[:80]!r}")
    log = AuditLogger(str(settings.data_dir / "audit_log" / model.line), f"studio-{uuid.uuid4().hex[:12]}")
    try:
        row = rollback(
            registry,
            model.line,
            body.alias,
            reason=body.reason,
            log=log,
            away_from=model.uid,
            quarantine=body.quarantine,
        )
    except (StoreError, IntegrityError) as error:
        raise ConflictError(str(error)) from error
    message = f"{row.alias} of {row.line} means {row.model_uid} from now on"
    return RolledBack(line=row.line, alias=row.alias, uid=str(row.model_uid), message=message)


def bundle_folder(registry: Registry, request_id: str) -> Path | None:
    """Where the bundle of a request lies; None where that is not on this machine.

    Raises:
        NotFoundError: There is no request of that id.
    """
    return _bundle_of(_row(registry, request_id))


def _bundle_of(row: ApprovalRequestRow) -> Path | None:
    path = str((row.details or {}).get("bundle_path") or "")
    return Path(path) if path and Path(path).is_dir() else None


def _row(registry: Registry, request_id: str) -> ApprovalRequestRow:
    found = [row for row in registry.approval_requests() if row.request_id == request_id]
    if not found:
        raise NotFoundError(f"There is no request {request_id[:80]}; GET /api/approvals lists them")
    return found[0]


def _shown(registry: Registry, row: ApprovalRequestRow) -> ApprovalRequest:
    try:
        found, problem = standing(registry, row.request_id), None
    except (ConfigError, IntegrityError) as error:
        found, problem = None, str(error)
    terms = found.request.terms if found else None
    key = " --key KEY.pem" if terms and terms.signed_only else ""
    model = row.subject.removeprefix("sha256:")[:12]
    return ApprovalRequest(
        request_id=row.request_id,
        line=row.line,
        state=found.state if found else "unreadable",
        problem=problem,
        model=str(row.subject),
        bundle=str(row.bundle),
        recipe=str(row.policy_digest),
        needed=terms.needed if terms else row.needed,
        still_needed=found.still_needed if found else row.needed,
        four_eyes=bool(terms and terms.four_eyes),
        missing_roles=list(found.missing_roles) if found else [],
        signed_only=bool(terms and terms.signed_only),
        requested_by=found.request.requested_by if found else row.requested_by,
        created_at=_time(row.created_at),
        expires_at=_time(row.expires_at),
        shown={name: str(digest) for name, digest in found.request.shown.items()} if found else {},
        gates=_gates(found) if found else [],
        decisions=_decisions(found) if found else [],
        has_bundle=_bundle_of(row) is not None,
        command=f'forge approve {row.request_id} --model {model}{key} --reason "..."',
    )


def _gates(found: Standing) -> list[ShownGate]:
    return [
        ShownGate(
            gate=each.gate,
            verdict=each.verdict.value,
            reason=each.reason,
            metric=each.metric,
            observed=each.observed,
            threshold=each.threshold,
            n=each.n,
        )
        for each in found.request.gates
    ]


def _decisions(found: Standing) -> list[ShownDecision]:
    counted = [NotCounted(each, "") for each in (*found.granted, *found.rejected)]
    return [
        ShownDecision(
            decision=each.approval.decision,
            approver=each.approval.approver,
            identity=each.approval.identity,
            reason=each.approval.reason,
            decided_at=each.approval.decided_at,
            not_counted=each.why or None,
        )
        for each in sorted((*counted, *found.not_counted), key=lambda each: each.approval.decided_at)
    ]


def _time(value: datetime) -> str:
    return value.isoformat(timespec="seconds").replace("+00:00", "Z")
