"""The simulation decides through the real gates, and its page says what it found."""

import numpy as np
import pytest

from benchmarks import gates


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MODELS", 400)


def test_each_distinct_outcome_is_decided_once():
    asked = []

    def decided(k):
        asked.append(k)
        return k == 0

    assert gates.share_passing(decided, np.array([0, 0, 1, 2, 2, 0])) == 0.5
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("sensitivity", [1.0, 0.6])
def test_good_models_pass_and_models_at_the_threshold_do_not(sensitivity):
    rng = np.random.default_rng(1)
    assert gates.p_pass_rate(rng, 0.0, 300, sensitivity, 1000) == 1.0
    assert gates.p_pass_rate(rng, 0.05, 300, sensitivity, 1000) <= 0.05
    assert gates.p_pass_rate(rng, 0.0, 20, sensitivity, 1000) == 0.0, "20 probes show nothing"


def test_the_other_gates_hold_at_their_thresholds():
    rng = np.random.default_rng(1)
    assert gates.p_pass_regression(rng, 0.05, 300, 0.15) <= 0.08
    assert gates.p_pass_over_refusal(rng, 0.1, 250, 0.95, 109) <= 0.05
    assert gates.p_pass_pairwise(rng, 0.45, 100, 0.4) <= 0.09
    assert gates.p_pass_pairwise(rng, 0.6, 200, 0.4) > 0.9
    assert gates.p_category_alarm(rng, 14, 5, models=60) <= 0.12
