"""Bodies of the approval routes and of a rollback; `schemas` holds the others."""

from typing import Literal

from pydantic import BaseModel, StrictBool

from forge_pipeline.server.schemas import RequestBody, Text


class Rollback(RequestBody):
    """An alias to roll back."""

    alias: Text = "released"
    reason: Text
    quarantine: StrictBool = False
    """Quarantine the model that is rolled away from."""


class RolledBack(BaseModel):
    line: str
    alias: str
    uid: str
    """Digest of the model that the alias means now."""
    message: str


class Decide(RequestBody):
    """A decision about a release, in the name of the API key."""

    decision: Literal["granted", "rejected", "revoked"]
    reason: Text
    model: Text
    """Digest of the model that was looked at; refused unless the request is about it."""


class ShownGate(BaseModel):
    gate: str
    verdict: str
    reason: str
    metric: str | None
    observed: float | None
    threshold: float | None
    n: int | None


class ShownDecision(BaseModel):
    decision: str
    approver: str
    identity: str
    """``stated``, ``api_key`` or ``signed``, the weakest first."""
    reason: str
    decided_at: str
    not_counted: str | None
    """Why it does not count; null if it does."""


class ApprovalRequest(BaseModel):
    """A release that waits for people, with what they are shown. All of it but `has_bundle` is read from the log."""

    request_id: str
    line: str
    state: str
    """``open``, ``approved``, ``rejected``, ``superseded``, ``expired``, ``released``, or ``unreadable``."""
    problem: str | None
    """Why the request cannot be read from its log."""
    model: str
    bundle: str
    recipe: str
    needed: int
    still_needed: int
    four_eyes: bool
    missing_roles: list[str]
    signed_only: bool
    """Decisions count only if they are signed, so none can be made here."""
    requested_by: str
    created_at: str
    expires_at: str
    shown: dict[str, str]
    gates: list[ShownGate]
    decisions: list[ShownDecision]
    has_bundle: bool
    """Whether the bundle lies on this machine, and can be fetched from `/api/approvals/{request_id}/bundle`."""
    command: str
    """What to type to decide with a signature."""


class ApprovalList(BaseModel):
    approvals: list[ApprovalRequest]
    may_decide: bool
    """Whether this server knows a key with the scope ``approve``."""
