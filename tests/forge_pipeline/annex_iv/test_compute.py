"""The one-third rule."""

import pytest

from forge_pipeline.annex_iv import HardwareUse, estimate_compute, load_regime

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


def test_the_hardware_decides_only_where_the_architecture_cannot() -> None:
    hardware = HardwareUse("a device", 1e6, 1e15, 0.5)
    both = estimate_compute(10**9, 10**9, GPAI, hardware=hardware)
    assert (both.method, both.modification_flop, both.hardware_flop) == ("architecture", 6e18, 5e20)
    alone = estimate_compute(10**9, None, GPAI, hardware=hardware)
    assert (alone.method, alone.verdict) == ("hardware", "below")
    assert alone.ratio == pytest.approx(5e20 / (1e23 / 3))


@pytest.mark.parametrize(
    ("seconds", "utilization", "verdict"),
    [
        (1e6, None, "below"),  # even at full utilization
        (1e9, None, "undetermined"),  # an upper limit above the threshold shows nothing
        (1e9, 0.5, "above"),
        (1e23 / 3 / 1e15, 1.0, "undetermined"),  # on the threshold
    ],
)
def test_an_upper_limit_can_only_show_that_it_is_below(seconds: float, utilization: float | None, verdict: str) -> None:
    hardware = HardwareUse("a device", seconds, 1e15, utilization)
    assert estimate_compute(0, None, GPAI, hardware=hardware).verdict == verdict


def test_a_base_with_systemic_risk_is_held_against_a_third_of_its_own_threshold() -> None:
    estimate = estimate_compute(10**9, 10**12, GPAI, base_systemic_risk=True)
    assert estimate.threshold_flop == pytest.approx(1e25 / 3)
    assert estimate_compute(10**9, 10**12, GPAI, base_systemic_risk=None).threshold_flop == pytest.approx(1e23 / 3)
    known = estimate_compute(10**9, 10**12, GPAI, base_training_flop=3e20, base_systemic_risk=True)
    assert known.threshold_flop == pytest.approx(1e20)
    assert known.verdict == "above"
