"""The one-third rule."""

import pytest

from forge_pipeline.annex_iv import estimate_compute, load_regime

GPAI = load_regime().gpai


def test_the_worked_example() -> None:
    """1.1 billion parameters, ten million tokens, against a base of the same size trained on three trillion."""
    estimate = estimate_compute(1_100_000_000, 10_000_000, GPAI, base_training_flop=6 * 1.1e9 * 3e12)
    assert estimate.modification_flop == pytest.approx(6.6e16)
    assert estimate.threshold_flop == pytest.approx(6.6e21)
    assert estimate.ratio == pytest.approx(1e-5)
    assert estimate.verdict == "below"


@pytest.mark.parametrize(
    ("parameters", "tokens", "verdict"),
    [
        (7_000_000_000, 10**9, "below"),
        (70_000_000_000, 10**12, "above"),
        (10**9, int(1e23 / 3 / 6e9), "undetermined"),  # on the threshold
        (10**9, int(1e23 / 3 / 6e9 * 1.2), "undetermined"),  # within the tolerance of the estimate
        (10**9, int(1e23 / 3 / 6e9 * 1.4), "above"),
        (10**9, None, "undetermined"),
        (0, 10**9, "undetermined"),
        (10**9, 0, "undetermined"),
    ],
)
def test_without_the_bases_compute_a_third_of_the_general_threshold_counts(
    parameters: int, tokens: int | None, verdict: str
) -> None:
    estimate = estimate_compute(parameters, tokens, GPAI)
    assert estimate.verdict == verdict
    assert "not known" in estimate.threshold_used
    assert estimate.assumptions
