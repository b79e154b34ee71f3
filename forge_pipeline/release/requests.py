"""What people are asked: about which bytes, on which terms, having been shown what.

The audit log's ``human_approval.required`` entry is the request; the registry's row is where it is
found. Terms and digests are read from the log, so that a changed row changes no rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.audit_log import AuditLogger, Entry, read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import ApprovalRequestRow, Registry

_REPORT = "_report.json"


@dataclass(frozen=True)
class Approver:
    """A person whose signed decisions count: name, fingerprint of the Ed25519 key, what the person may speak for."""

    name: str
    key: Digest
    roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Terms:
    """When a release is approved, as the recipe says.

    Attributes:
        needed: Distinct approvers.
        four_eyes: Only signed approvals, none by whoever trained the model or asked for the release.
        min_reason_length: Characters of a reason.
        roles: Each must be held by one of the approvers.
        approvers: Whose decisions count; empty: everybody's.
    """

    needed: int
    four_eyes: bool = False
    min_reason_length: int = 1
    roles: tuple[str, ...] = ()
    approvers: tuple[Approver, ...] = ()

    @classmethod
    def of(cls, config: ForgeConfig) -> "Terms":
        release = config.release
        return cls(
            needed=config.approvals_needed,
            four_eyes=config.needs_four_eyes,
            min_reason_length=release.min_reason_length,
            roles=tuple(release.roles),
            approvers=tuple(Approver(each.name, Digest(each.key), tuple(each.roles)) for each in release.approvers),
        )

    @property
    def signed_only(self) -> bool:
        return self.four_eyes or bool(self.approvers)


@dataclass(frozen=True)
class Request:
    """A request as the log holds it.

    Attributes:
        subject, bundle, policy_digest: The model directory, the bundle, the recipe.
        created_at, expires_at: ISO 8601 in UTC.
        shown: Asset -> digest of every artefact and report that the bundle shows, with the bundle's manifest.
        gates: What was decided about them.
        requested_by: Operator of the entry.
        seq: Its number.
    """

    request_id: str
    line: str
    subject: Digest
    bundle: Digest
    policy_digest: Digest
    created_at: str
    expires_at: str
    terms: Terms
    shown: dict[str, Digest]
    gates: tuple[GateDecision, ...]
    requested_by: str = ""
    seq: int = 0

    @property
    def about(self) -> tuple[str, Digest, Digest, Digest]:
        return (self.request_id, self.subject, self.bundle, self.policy_digest)

    def row(self, log_directory: str, bundle_path: str | None = None) -> ApprovalRequestRow:
        """As the registry keeps it."""
        return ApprovalRequestRow(
            request_id=self.request_id,
            line=self.line,
            subject=self.subject,
            bundle=self.bundle,
            policy_digest=self.policy_digest,
            needed=self.terms.needed,
            requested_by=self.requested_by,
            created_at=_moment(self.created_at),
            expires_at=_moment(self.expires_at),
            log_directory=log_directory,
            details={"bundle_path": bundle_path} if bundle_path else None,
        )


def read_requests(entries: Iterable[Entry]) -> dict[str, Request]:
    """Every request of a log by its id, oldest first; entries of other versions or hands are left out."""
    from pydantic import TypeAdapter, ValidationError

    reader = TypeAdapter(Request)
    found: dict[str, Request] = {}
    for entry in entries:
        if entry.event != "human_approval.required" or "terms" not in entry.data:
            continue
        try:
            value = {**entry.data, "requested_by": entry.operator, "seq": entry.seq}
            value.pop("needed", None)  # stands in the terms; it is there for readers of the log
            request = reader.validate_python(value)
            request.row("")
        except (ValidationError, ValueError):
            continue
        found.setdefault(request.request_id, request)
    return found


def superseded_by(request: Request, requests: Iterable[Request]) -> Request | None:
    """A later request of the line about other bytes: a change of the subject voids what was decided before."""
    later = [each for each in requests if each.line == request.line and each.seq > request.seq]
    return next((each for each in later if each.about[1:] != request.about[1:]), None)


def shown_in(bundle: AnnexIvBundle) -> dict[str, Digest]:
    """Digests of what a person who reads the bundle is shown."""
    evidence = bundle.evidence
    reports = {
        name.removesuffix(".json"): entry.digest for name, entry in evidence.files.items() if name.endswith(_REPORT)
    }
    whole = {"annex_iv_manifest": Digest(bundle.manifest["manifest_hash"]), "annex_iv_bundle": bundle.digest}
    return dict(sorted({**reports, **evidence.subjects, **whole}.items()))


def open_request(
    config: ForgeConfig,
    model: ModelDirectory,
    bundle: AnnexIvBundle,
    gates: Sequence[GateDecision],
    registry: Registry,
    log: AuditLogger,
    moment: datetime,
) -> Request:
    """The newest request about exactly this model, bundle and recipe that has not expired; else a new one."""
    requests = read_requests(read_entries(log.log_path))
    about = (model.digest, bundle.digest, config_digest(config))
    known = {row.request_id for row in registry.approval_requests(subject=model.digest)}
    alive = [
        each
        for each in requests.values()
        if each.about[1:] == about and each.expires_at > utc_text(moment) and each.request_id in known
    ]
    if alive and superseded_by(alive[-1], requests.values()) is None:
        return alive[-1]
    return _ask(config, about, bundle, gates, registry, log, moment)


def _ask(
    config: ForgeConfig,
    about: tuple[Digest, Digest, Digest],
    bundle: AnnexIvBundle,
    gates: Sequence[GateDecision],
    registry: Registry,
    log: AuditLogger,
    moment: datetime,
) -> Request:
    named = dict(zip(("subject", "bundle", "policy_digest"), about, strict=True))
    created, terms = utc_text(moment), Terms.of(config)
    size = log.anchor().size  # a second request about the same bytes at the same moment is another one
    fields = {
        **named,
        "request_id": json_digest({**named, "created_at": created, "seq": size}).short,
        "line": config.name,
        "created_at": created,
        "expires_at": utc_text(moment + timedelta(days=config.release.approval_ttl_days)),
        "terms": asdict(terms),
        "shown": shown_in(bundle),
        "gates": [asdict(each) for each in gates],
    }
    receipt = log.append("human_approval.required", {**fields, "needed": terms.needed})
    request = read_requests([read_entries(log.log_path)[receipt.seq]])[str(fields["request_id"])]
    registry.add_approval_request(request.row(str(log.log_path.parent.resolve()), str(bundle.path.resolve())))
    return request


def operator_of(log: AuditLogger, seq: int) -> str:
    """Who the log says appended entry `seq`."""
    return read_entries(log.log_path)[seq].operator


def utc_text(moment: datetime) -> str:
    """UTC with microseconds, so that texts sort as moments do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
