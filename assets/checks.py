"""Gate decisions and plain facts as asset checks, each anchored in the audit log.

A check that failed, or a gate without an answer that guards a later stage, is an ERROR and
blocks the rest of its run. A gate without an answer that guards the release alone is a
WARN: the files are made, and the release refuses them. Checks are a signal; every stage
that relies on a gate reads the verdict itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from assets.line import Line
from forge_pipeline.config import ForgeConfig, policy_digest
from forge_pipeline.gates import GateDecision, Verdict
from forge_pipeline.integrity import Digest
from resources.evidence import AuditLogResource

_BUILDING: tuple[str, ...] = ("training", "export")


def gate_checks(
    context: dg.AssetCheckExecutionContext,
    audit_log: AuditLogResource,
    line: Line,
    stage: str,
    decisions: Iterable[GateDecision],
    names: Mapping[str, str],
    recipe: ForgeConfig,
) -> Iterator[dg.AssetCheckResult]:
    """One result for each check in `names`; a gate without a decision counts as not evaluated.

    Args:
        names: Check name -> gate name.
        recipe: Whose policy the gates were decided under; its digest stands in the log before anything was trained.
    """
    found = {decision.gate: decision for decision in decisions}
    for check, gate in names.items():
        decision = found.get(gate)
        if decision is None:
            words = f"not evaluated: the report holds no decision of the gate {gate!r}"
            yield _result(context, audit_log, line, stage, check, False, words, subject=None, warn_only=True)
            continue
        anchor = audit_log.log(
            line.name,
            context.run.run_id,
            "gate.decided",
            asset_key=line.key(stage).to_user_string(),
            check=check,
            gate=decision.gate,
            verdict=decision.verdict.value,
            outcome=decision.outcome,
            subject=decision.subject,
            policy_digest=policy_digest(recipe),
            reason=decision.reason,
        )
        blocks = any(decision.stops(later) for later in _BUILDING)  # type: ignore[arg-type]
        yield dg.AssetCheckResult(
            asset_key=line.key(stage),
            check_name=check,
            passed=decision.verdict is Verdict.PASSED,
            severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
            description=decision.reason,
            metadata=_gate_metadata(decision) | anchor,
        )


def report_checks(
    context: dg.AssetCheckExecutionContext,
    audit_log: AuditLogResource,
    line: Line,
    stage: str,
    facts: Mapping[str, tuple[bool, str]],
    *,
    subject: Digest,
    warn_only: bool = False,
) -> Iterator[dg.AssetCheckResult]:
    """One result for each plain fact about `subject`: name -> (holds, words)."""
    for check, (passed, words) in facts.items():
        yield _result(context, audit_log, line, stage, check, passed, words, subject=subject, warn_only=warn_only)


def _result(
    context: dg.AssetCheckExecutionContext,
    audit_log: AuditLogResource,
    line: Line,
    stage: str,
    check: str,
    passed: bool,
    words: str,
    *,
    subject: Digest | None,
    warn_only: bool,
) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN if warn_only else dg.AssetCheckSeverity.ERROR
    anchor = audit_log.log(
        line.name,
        context.run.run_id,
        "asset_check.evaluated",
        asset_key=line.key(stage).to_user_string(),
        check=check,
        passed=passed,
        severity=severity.value,
        subject=subject,
        reason=words,
    )
    return dg.AssetCheckResult(
        asset_key=line.key(stage),
        check_name=check,
        passed=passed,
        severity=severity,
        description=words,
        metadata={"reason": words, "subject": str(subject), **anchor},
    )


def _gate_metadata(decision: GateDecision) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "verdict": decision.verdict.value,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "subject": str(decision.subject),
        "guards": ", ".join(decision.guards),
        "metric": decision.metric,
        "observed": decision.observed,
        "threshold": decision.threshold,
        "interval": f"{decision.interval[0]:.4g} to {decision.interval[1]:.4g}" if decision.interval else None,
        "n": decision.n,
    }
    return {name: value for name, value in facts.items() if value is not None}
