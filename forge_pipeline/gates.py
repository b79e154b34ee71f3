"""Gates: a metric held against a threshold that the recipe fixed before training.

A gate knows three answers: passed, failed, not evaluated. Nothing missing, empty or
too small to decide ever counts as passed, and a failed gate never deletes anything:
it stops the stages that it guards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from forge_pipeline.errors import GateFailedError
from forge_pipeline.integrity import Digest


class Verdict(StrEnum):
    """What a gate answers."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_EVALUATED = "not_evaluated"


Outcome = Literal["pass", "fail", "insufficient_evidence", "not_run"]
GuardedStage = Literal["training", "export", "release"]


@dataclass(frozen=True)
class GateDecision:
    """One gate's answer about one artefact.

    Attributes:
        gate: The gate's name: ``no_secrets``, ``loss``, ``benchmark``, ``safety``, ...
        outcome: Why in one word; `verdict` follows from it.
        reason: A sentence with the numbers, for the person who must act.
        subject: Digest of exactly what was judged.
        guards: The stages that this gate stops unless it passed. A failed gate stops
            export and release whatever stands here.
        metric, observed, threshold: What was measured and held against what; None if nothing was.
        interval: Confidence interval (low, high) of `observed`, where one was computed.
        n: Number of items behind `observed`.
    """

    gate: str
    outcome: Outcome
    reason: str
    subject: Digest
    guards: tuple[GuardedStage, ...] = ("export", "release")
    metric: str | None = None
    observed: float | None = None
    threshold: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None

    @property
    def verdict(self) -> Verdict:
        if self.outcome == "pass":
            return Verdict.PASSED
        return Verdict.FAILED if self.outcome == "fail" else Verdict.NOT_EVALUATED

    def stops(self, stage: GuardedStage) -> bool:
        """Whether this decision keeps `stage` from running."""
        if self.verdict is Verdict.PASSED:
            return False
        if self.verdict is Verdict.FAILED and stage in ("export", "release"):
            return True
        return stage in self.guards


def overall_verdict(decisions: Iterable[GateDecision]) -> Verdict:
    """Failed if any failed; passed only if there is at least one and all passed."""
    verdicts = [decision.verdict for decision in decisions]
    if Verdict.FAILED in verdicts:
        return Verdict.FAILED
    if verdicts and all(verdict is Verdict.PASSED for verdict in verdicts):
        return Verdict.PASSED
    return Verdict.NOT_EVALUATED


def check_gates(
    stage: GuardedStage, decisions: Iterable[GateDecision], *, subject: Digest, required: Iterable[str] = ()
) -> None:
    """Refuse to go on unless every gate that guards `stage` passed for exactly `subject`.

    Args:
        stage: The stage about to run.
        decisions: What the reports say.
        subject: Digest of the artefact that the stage is about to use.
        required: Names of gates that must be among the decisions.

    Raises:
        GateFailedError: A gate stops this stage, judged other bytes, or is missing.
    """
    decisions = list(decisions)
    problems = [
        f"gate {decision.gate!r} judged {decision.subject}, but this stage uses {subject}; "
        "materialize the report again for this artefact"
        for decision in decisions
        if decision.subject != subject
    ]
    problems += [
        f"gate {decision.gate!r} {decision.verdict.value.replace('_', ' ')} ({decision.outcome}): {decision.reason}"
        for decision in decisions
        if decision.subject == subject and decision.stops(stage)
    ]
    present = {decision.gate for decision in decisions}
    problems += [f"gate {name!r} was never evaluated" for name in required if name not in present]
    if problems:
        raise GateFailedError(f"{stage} refused: " + "; ".join(problems))
