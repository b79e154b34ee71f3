"""Known values, laws, and coverage by simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.evaluation.statistics import (
    binomial_cdf,
    binomial_test_above,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cohens_kappa,
    holm,
    mcnemar_exact,
    most_failures,
    paired_interval,
    paired_proportion_interval,
    rogan_gladen,
    rogan_gladen_interval,
    smallest_attainable_n,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("k", "n", "bound"),
    [
        (0, 51, 0.0570),  # what a gate of 51 probes can show at best
        (1, 51, 0.0897),
        (2, 51, 0.1182),
        (0, 59, 0.0495),
        (4, 200, 0.0452),
        (8, 300, 0.0476),
        (16, 500, 0.0482),
        (0, 299, 0.00997),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_the_exact_upper_bound_has_its_known_values(k: int, n: int, bound: float) -> None:
    assert clopper_pearson_upper(k, n, 0.05) == pytest.approx(bound, abs=2e-4)


def test_the_exact_bounds_are_those_of_the_beta_distribution() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    for n in (1, 2, 7, 46, 300, 1000):
        for k in {0, 1, n // 10, n // 2, n - 1, n}:
            for alpha in (0.001, 0.05, 0.2):
                upper = 1.0 if k == n else beta.ppf(1 - alpha, k + 1, n - k)
                lower = 0.0 if k == 0 else beta.ppf(alpha, k, n - k + 1)
                assert clopper_pearson_upper(k, n, alpha) == pytest.approx(upper, abs=1e-9)
                assert clopper_pearson_lower(k, n, alpha) == pytest.approx(lower, abs=1e-9)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.001, 0.4))
def test_a_bound_lies_above_what_was_seen_and_more_failures_never_lower_it(k: int, n: int, alpha: float) -> None:
    k = min(k, n)
    bound = clopper_pearson_upper(k, n, alpha)
    assert k / n <= bound <= 1.0
    assert bound <= clopper_pearson_upper(min(k + 1, n), n, alpha)
    assert clopper_pearson_upper(k, n + 1, alpha) <= bound


@pytest.mark.parametrize(("limit", "n"), [(0.05, 59), (0.01, 299), (0.1, 29), (1.0, 1), (0.0, None), (-0.1, None)])
def test_the_smallest_n_with_which_no_failure_passes(limit: float, n: int | None) -> None:
    assert smallest_attainable_n(limit, 0.05) == n
    if n is not None and n > 1:
        assert clopper_pearson_upper(0, n, 0.05) <= limit < clopper_pearson_upper(0, n - 1, 0.05)


@pytest.mark.parametrize(("n", "failures"), [(58, None), (59, 0), (200, 4), (300, 8), (500, 16), (0, None)])
def test_how_many_failures_still_pass_at_five_percent(n: int, failures: int | None) -> None:
    assert most_failures(n, 0.05, 0.05) == failures


def test_binomial_tails() -> None:
    assert binomial_cdf(8, 300, 0.02) == pytest.approx(0.8496, abs=5e-4)
    assert binomial_cdf(8, 300, 0.05) == pytest.approx(0.0341, abs=5e-4)
    assert binomial_cdf(-1, 5, 0.5) == 0.0
    assert binomial_cdf(5, 5, 0.5) == 1.0


@pytest.mark.parametrize(
    ("k", "n", "interval"),
    [(81, 263, (0.2553, 0.3662)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718)), (0, 0, (0.0, 1.0))],
)
def test_wilson_as_in_newcombes_table(k: int, n: int, interval: tuple[float, float]) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    assert wilson_interval(k, n) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(("b", "c", "p"), [(5, 0, 0.0625), (6, 0, 0.03125), (52, 0, 2**-51), (0, 0, 1.0), (3, 3, 1.0)])
def test_mcnemar_is_the_two_sided_coin(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_mcnemar_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for b, c in [(1, 9), (4, 17), (120, 90), (2000, 2100)]:
        assert mcnemar_exact(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-8)


def test_the_paired_interval_needs_two_differences_that_differ() -> None:
    assert paired_interval([]) is None
    assert paired_interval([0.5]) is None
    assert paired_interval([0.0] * 50) is None, "a spread of zero is no evidence of certainty"
    low, high = paired_interval([0.0, 1.0, 0.0, 1.0]) or (math.nan, math.nan)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(1 / 3) / 2, rel=1e-5)


def test_the_paired_score_interval_ends_where_the_score_test_rejects() -> None:
    """Against the constrained maximum likelihood found by search instead of by formula."""

    def statistic(b: int, c: int, n: int, delta: float) -> float:
        low, high = max(0.0, -delta), (1 - delta) / 2  # the second discordant probability

        def log_likelihood(q: float) -> float:
            parts = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
            return sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

        for _ in range(200):  # the likelihood has one peak in q
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (left, high) if log_likelihood(left) < log_likelihood(right) else (low, right)
        return (b - c - n * delta) / math.sqrt(n * (2 * low + delta * (1 - delta)))

    for b, c, n in [(1, 0, 14), (8, 3, 40), (12, 2, 50), (60, 90, 400)]:
        lower, upper = paired_proportion_interval(b, c, n) or (0, 0)
        assert statistic(b, c, n, lower) == pytest.approx(1.959964, abs=1e-4)
        assert statistic(b, c, n, upper) == pytest.approx(-1.959964, abs=1e-4)


def test_the_paired_score_interval_mirrors_and_does_not_collapse() -> None:
    z2 = 1.959964**2
    assert paired_proportion_interval(0, 0, 30) == pytest.approx((-z2 / (30 + z2), z2 / (30 + z2)), abs=1e-6)
    low, high = paired_proportion_interval(3, 8, 40) or (0, 0)
    assert paired_proportion_interval(8, 3, 40) == pytest.approx((-high, -low))
    assert paired_proportion_interval(0, 0, 0) is None
    with pytest.raises(ValueError, match="expected counts"):
        paired_proportion_interval(3, 3, 5)


def test_tangos_interval_covers_the_truth_where_the_normal_one_does_not() -> None:
    """n = 40, 4 % and 1 % discordant: the normal interval often sees none and claims certainty."""
    draw, truth, trials = random.Random(1), 0.04 - 0.01, 1500
    covered = normal = 0
    for _ in range(trials):
        draws = [draw.random() for _ in range(40)]
        b, c = sum(u < 0.04 for u in draws), sum(0.04 <= u < 0.05 for u in draws)
        low, high = paired_proportion_interval(b, c, 40) or (1, -1)
        covered += low <= truth <= high
        wald = paired_interval([1.0] * b + [-1.0] * c + [0.0] * (40 - b - c))
        normal += wald is not None and wald[0] <= truth <= wald[1]
    assert covered / trials > 0.94
    assert normal / trials < 0.85


@pytest.mark.parametrize(("k", "n", "alpha"), [(-1, 5, 0.05), (6, 5, 0.05), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_are_refused(k: int, n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        clopper_pearson_upper(k, n, alpha)


# --- Holm, Rogan and Gladen, Cohen ------------------------------------------------------------


def test_holms_adjusted_p_values_have_their_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # as R's p.adjust
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert all(0 <= a <= 1 for a in adjusted)
    ranked = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_the_one_sided_binomial_test_is_exact() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for k, n, limit in [(0, 10, 0.05), (1, 20, 0.05), (8, 20, 0.05), (12, 12, 0.5), (3, 300, 0.05)]:
        expected = binomtest(k, n, limit, alternative="greater").pvalue
        assert binomial_test_above(k, n, limit) == pytest.approx(expected, abs=1e-12)
    assert binomial_test_above(0, 0, 0.05) == 1.0
    assert binomial_test_above(1, 10, 0.0) == 0.0


def test_the_true_rate_is_recovered_from_a_test_of_known_errors() -> None:
    assert rogan_gladen(0.3 * 0.8 + 0.7 * 0.1, 0.8, 0.9) == pytest.approx(0.3)
    assert rogan_gladen(0.01, 0.8, 0.9) == 0.0, "fewer positives than false alarms alone would give"
    assert rogan_gladen(0.5, 0.5, 0.5) is None, "a coin tells nothing"


def test_the_corrected_interval_holds_the_true_rate_at_least_as_often_as_it_says() -> None:
    draw, held, trials = random.Random(2), 0, 150
    for _ in range(trials):
        positives = sum(draw.random() < 0.2 * 0.8 + 0.8 * 0.1 for _ in range(200))
        found, known = (sum(draw.random() < share for _ in range(100)) for share in (0.8, 0.9))
        low, high = rogan_gladen_interval((positives, 200), (found, 100), (known, 100), 0.05)
        held += low <= 0.2 <= high
    assert held / trials >= 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5


@pytest.mark.parametrize("sensitive", [(0, 0), (5, 10), (0, 50)])
def test_a_scorer_of_unknown_errors_leaves_the_rate_unknown(sensitive: tuple[int, int]) -> None:
    assert rogan_gladen_interval((5, 100), sensitive, (5, 10)) == (0.0, 1.0)


def test_kappa_has_its_known_values() -> None:
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([("a", "a"), ("b", "b")]) == 1.0
    assert cohens_kappa([("a", "a")] * 5) is None, "always the same: chance would agree as well"
    assert cohens_kappa([]) is None
