"""`promote`: a model becomes what its line's alias means, and nothing is taken on trust."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from forge_pipeline.annex_iv import AnnexIvBundle, Evidence, verify_annex_iv_artifact
from forge_pipeline.annex_iv.evidence import AnchorRecord
from forge_pipeline.annex_iv.manifest import MANIFEST_NAME
from forge_pipeline.audit_log import Anchor, AuditLogger, verify_audit_log
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import AwaitingApprovalError, GateFailedError, IntegrityError
from forge_pipeline.export import GgufModel
from forge_pipeline.gates import GateDecision, Verdict, check_gates
from forge_pipeline.integrity import Digest, DirectoryArtifact, Manifest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import ModelRow, Registry
from forge_pipeline.release.approvals import check_approvals
from forge_pipeline.release.decisions import Approval
from forge_pipeline.release.journal import announce, changing, complete, log_stage
from forge_pipeline.release.recovery import recover_locked
from forge_pipeline.release.requests import utc_text

DEFAULT_ALIAS = "released"


@dataclass(frozen=True)
class ReleaseRecord:
    """A release that happened.

    Attributes:
        subject: Digest of the released model directory.
        model_id: Its id in the registry.
        policy_digest: Digest of the recipe whose gates were met.
        gates: Every decision that was counted.
        approvals: Those that were counted.
        previous: The model that the alias meant before.
        anchor: The audit log with the release as its last entry.
    """

    line: str
    alias: str
    subject: Digest
    model_id: int
    bundle: Digest
    manifest_hash: Digest
    policy_digest: Digest
    gates: tuple[GateDecision, ...]
    approvals: tuple[Approval, ...]
    released_at: str
    released_by: str
    previous: Digest | None
    anchor: AnchorRecord


def promote(
    config: ForgeConfig,
    *,
    model: ModelDirectory,
    decisions: Sequence[GateDecision],
    bundle: AnnexIvBundle,
    registry: Registry,
    log: AuditLogger,
    gguf: GgufModel | None = None,
    alias: str = DEFAULT_ALIAS,
    approver_keys: Collection[Digest] | None = None,
    at: datetime | None = None,
) -> ReleaseRecord:
    """Release a model. The steps:

    (1) Model directory, GGUF files and bundle still have the bytes of their digests.
    (2) The bundle verifies, is about this model and this recipe, and its log is a beginning of `log`.
    (3) Every gate that guards the release, of `decisions` and of the bundle, passed for exactly the bytes
        released; gates that the recipe asks for are among them.
    (4) Enough distinct people approved this request; nobody rejected it. If not, it is recorded as waiting.
    (5) The intent is logged, the registry changed in one transaction, the release logged. A crash in between is
        finished or taken back by `recover`, which runs before (4).

    From (4) on nobody else decides, releases or moves an alias of the line.

    Args:
        decisions: The gates' decisions as the reports hold them; those in the bundle count as well.
        approver_keys: Fingerprints of the keys whose signed approvals count; None counts every named person.
        at: Now, unless given.

    Raises:
        IntegrityError: (1) or (2) does not hold.
        GateFailedError: (3) does not hold, or somebody rejected the release. A failed gate quarantines the
            candidate; nothing is deleted.
        AwaitingApprovalError: Approvals are missing; the request's id and the command are named.
        EvidenceError: The audit log could not be written; the release did not happen or is not finished.
    """
    moment = at or datetime.now(UTC)
    row = registry.register_model(
        uid=model.digest,
        name=config.name,
        line=config.name,
        base_model=config.model.name_or_path,
        strategy=config.training.trainer_type,
        path=str(model.path),
        created_at=moment,
    )
    try:
        _check_bytes(model, bundle, gguf)  # (1)
        evidence = _check_bundle(config, model, bundle, gguf, log)  # (2)
        gates = _all_gates(evidence, decisions)
        _check_release_gates(config, model, evidence, gates)  # (3)
        with changing(log):
            recover_locked(registry, log)
            approvals = check_approvals(config, model, bundle, gates, registry, log, approver_keys, moment)  # (4)
            return _release(config, row, bundle, registry, log, alias, gates, approvals, moment)  # (5)
    except AwaitingApprovalError:
        if row.stage == "candidate":
            registry.set_stage(row.uid, "staging", reason="waits for people")
        raise
    except (GateFailedError, IntegrityError) as error:
        _refuse(error, row, bundle, registry, log, decisions)
        raise


def _refuse(
    error: Exception,
    row: ModelRow,
    bundle: AnnexIvBundle,
    registry: Registry,
    log: AuditLogger,
    decisions: Sequence[GateDecision],
) -> None:
    """Record a refusal. A log that cannot take it (perhaps the reason for it) must not hide why."""
    current = registry.find_model(row.uid)
    waits = current is not None and current.stage in ("candidate", "staging")
    try:
        if waits and any(each.verdict is Verdict.FAILED and each.subject == row.uid for each in decisions):
            with changing(log):
                log_stage(registry, log, row.uid, "quarantined", str(error))
        log.log_event("release.refused", subject=row.uid, bundle=bundle.digest, reason=str(error))
    except OSError as unlogged:
        error.add_note(f"the refusal could not be logged: {unlogged}")


def required_gates(config: ForgeConfig) -> tuple[str, ...]:
    """Gates without whose decision nothing is released, as the recipe asks for them."""
    evaluation, audit = config.evaluation, config.data.audit
    names = ["loss_is_finite"]
    if evaluation.max_acceptable_loss is not None or evaluation.baseline_loss is not None:
        names.append("loss")
    if audit.enabled:
        names += ["no_secrets", "no_critical_pii", "no_split_overlap", "minimum_rows"]
    benchmark = evaluation.benchmark
    if benchmark and benchmark.enabled and (benchmark.min_score is not None or benchmark.max_regression is not None):
        names.append("benchmark")
    if evaluation.safety and evaluation.safety.enabled:
        names.append("safety")
    if evaluation.llm_judge and evaluation.llm_judge.enabled:
        names.append("judge")
    return tuple(names)


# (1)
def _check_bytes(*artifacts: DirectoryArtifact | None) -> None:
    for artifact in artifacts:
        if artifact is None:
            continue
        found = Manifest.of_directory(artifact.path).digest
        if found != artifact.digest:
            raise IntegrityError(f"{artifact.path} is {found} now; expected {artifact.digest}. Nothing was released")


# (2)
def _check_bundle(
    config: ForgeConfig, model: ModelDirectory, bundle: AnnexIvBundle, gguf: GgufModel | None, log: AuditLogger
) -> Evidence:
    result = verify_annex_iv_artifact(str(bundle.path / MANIFEST_NAME))
    if not result.valid:
        raise IntegrityError(f"the bundle at {bundle.path} does not verify: {result.reason}")
    evidence = bundle.evidence
    expected = {"fine_tuned_model": model.digest}
    if gguf is not None:
        expected["gguf_model"] = gguf.digest
    for asset, digest in expected.items():
        if evidence.subjects.get(asset) != digest:
            raise IntegrityError(
                f"the bundle is about {asset} {evidence.subjects.get(asset)}, not {digest}; make it again"
            )
    if config_digest(evidence.config) != config_digest(config):
        raise IntegrityError("the bundle was made under another recipe than this release; make it again")
    anchor = evidence.run.anchor
    if anchor is None:
        raise IntegrityError("the bundle holds no audit log, so nobody could tell later who made this model")
    named = Anchor(anchor.log_id, anchor.size, Digest(anchor.root))
    verified = verify_audit_log(log.log_path, checkpoint=named, expected_log_id=named.log_id)
    if not verified.valid:
        raise IntegrityError(f"the audit log {log.log_path} is not the one in the bundle: {verified.reason}")
    return evidence


# (3)
def _all_gates(evidence: Evidence, decisions: Sequence[GateDecision]) -> tuple[GateDecision, ...]:
    """The bundle's decisions, and those given that it does not hold."""
    return (*evidence.gates, *(each for each in decisions if each not in evidence.gates))


def _check_release_gates(
    config: ForgeConfig, model: ModelDirectory, evidence: Evidence, gates: Sequence[GateDecision]
) -> None:
    """Each decision is held against the artefact that it names; one about bytes unknown to the bundle is refused."""
    others = set(evidence.subjects.values()) - {model.digest}
    about_others = [each for each in gates if each.subject in others]
    for subject in sorted({each.subject for each in about_others}):
        check_gates("release", [each for each in about_others if each.subject == subject], subject=subject)
    decided = {each.gate for each in about_others}
    required = [name for name in required_gates(config) if name not in decided]
    rest = [each for each in gates if each not in about_others]
    check_gates("release", rest, subject=model.digest, required=required)


# (5)
def _release(
    config: ForgeConfig,
    row: ModelRow,
    bundle: AnnexIvBundle,
    registry: Registry,
    log: AuditLogger,
    alias: str,
    gates: tuple[GateDecision, ...],
    approvals: tuple[Approval, ...],
    moment: datetime,
) -> ReleaseRecord:
    manifest_hash = Digest(bundle.manifest["manifest_hash"])
    about = {
        "line": config.name,
        "subject": row.uid,
        "bundle": bundle.digest,
        "manifest_hash": manifest_hash,
        "alias": alias,
        "model_id": row.id,
        "approvers": [each.approver for each in approvals],
    }
    current = registry.resolve_alias(config.name, alias)
    intent = announce(log, "release.started", about)
    registry.move_alias(
        config.name,
        alias,
        row.uid,
        operation="release",
        intent=intent.hash,
        set_by=intent.operator,
        reason=f"release of bundle {bundle.digest}",
        stages={row.uid: ("released", None)},
        set_at=moment,
    )
    anchor = complete(log, intent).anchor
    return ReleaseRecord(
        line=config.name,
        alias=alias,
        subject=row.uid,
        model_id=row.id,
        bundle=bundle.digest,
        manifest_hash=manifest_hash,
        policy_digest=config_digest(config),
        gates=gates,
        approvals=approvals,
        released_at=utc_text(moment),
        released_by=intent.operator,
        previous=current.uid if current is not None and current.uid != row.uid else None,
        anchor=AnchorRecord(anchor.log_id, anchor.size, str(anchor.root)),
    )
