"""How much compute the modification took, and what that means for the one-third rule.

Who modifies a general-purpose AI model with more than a third of the original's training
compute counts, indicatively, as provider of the modified model; where the original's
compute is unknown, a third of the general threshold is taken. The estimate is the
architecture method, ``C = 6 * P * D`` (P parameters, D tokens over all epochs): for
adapters an upper estimate, since weight gradients of frozen layers are not computed.
Evaluation and activation recomputation are not counted. Any method within the regime's
tolerance will do when its assumptions stand beside it.
"""

from dataclasses import dataclass
from typing import Literal

from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.regime import GpaiThresholds, load_regime

OneThird = Literal["below", "above", "undetermined"]


@dataclass(frozen=True)
class ComputeEstimate:
    """Training compute of the modification.

    Attributes:
        modification_flop: 6 * P * D in FLOP, None if P or D is not known.
        base_training_flop: The original's training compute in FLOP, None if not known.
        threshold_flop: What the modification is held against.
        threshold_used: In words, where `threshold_flop` comes from.
        ratio: modification / threshold.
        verdict: ``undetermined`` also when the estimate lies within its tolerance of the threshold.
    """

    parameters: int
    tokens: int | None
    modification_flop: float | None
    base_training_flop: float | None
    threshold_flop: float
    threshold_used: str
    ratio: float | None
    verdict: OneThird
    assumptions: tuple[str, ...]


def estimate_compute(
    parameters: int, tokens: int | None, thresholds: GpaiThresholds, *, base_training_flop: float | None = None
) -> ComputeEstimate:
    """Estimate the modification's compute and hold it against the one-third threshold.

    Args:
        parameters: All parameters, frozen ones included.
        tokens: Tokens that went through the model in training, repeats counted each time.
        base_training_flop: Training compute of the original model, if its provider published it.
    """
    flop = 6.0 * parameters * tokens if parameters > 0 and tokens else None
    original = base_training_flop or thresholds.training_flop
    threshold = original * thresholds.modification_share
    ratio = flop / threshold if flop is not None else None
    used = (
        "one third of the original model's training compute"
        if base_training_flop
        else f"the original's compute is not known: one third of {thresholds.training_flop:.0e} FLOP"
    )
    return ComputeEstimate(
        parameters=parameters,
        tokens=tokens,
        modification_flop=flop,
        base_training_flop=base_training_flop,
        threshold_flop=threshold,
        threshold_used=used,
        ratio=ratio,
        verdict=_verdict(ratio, thresholds.estimate_tolerance),
        assumptions=(
            "architecture method 6*P*D for a dense model, forward and backward pass",
            "P counts frozen weights too, which makes the figure an upper estimate for adapters",
            "D counts every token that went through the model in training, repeats each time, padding excluded",
            "evaluation, export and activation recomputation are not counted",
            f"tolerance {thresholds.estimate_tolerance:.0%}; {thresholds.reference}",
        ),
    )


def compute_of(evidence: Evidence) -> ComputeEstimate:
    """The estimate for a bundle's fine-tune: tokens as the trainer counted them, else training split times epochs."""
    training, split = evidence.training, evidence.tokenization.splits.get("train")
    tokens = training.tokens_trained
    if tokens is None and split is not None:
        tokens = round(split.tokens * training.epochs)
    return estimate_compute(training.total_parameters, tokens, load_regime(evidence.run.regime).gpai)


def _verdict(ratio: float | None, tolerance: float) -> OneThird:
    if ratio is None or 1 - tolerance <= ratio <= 1 + tolerance:
        return "undetermined"
    return "above" if ratio > 1 else "below"
