"""The arithmetic behind the gates: exact where counts allow it, in plain Python.

Rules kept here: no bound is better than the data allow (no items, no information),
and a bound that decides a gate is conservative or a score bound, never the Wald
interval, which claims certainty as soon as every item agrees.

Sources are named per function. `statistics.NormalDist` of the standard library gives
the normal quantiles; nothing here needs scipy.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

_BISECTIONS = 60  # halves [0, 1] to below the spacing of doubles


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), summed over the thinner tail until terms no longer count."""
    if k >= n or p <= 0.0:
        return 1.0
    if k < 0 or p >= 1.0:
        return 0.0
    if k < n * p:
        return min(1.0, _tail(k, n, p))
    return max(0.0, 1.0 - _tail(n - k - 1, n, 1.0 - p))


def _tail(k: int, n: int, p: float) -> float:
    """P(X <= k) where k lies below the mean, so that terms only shrink on the way down from k."""
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    term = math.exp(log_term + k * math.log(p) + (n - k) * math.log1p(-p))
    total, odds = term, (1.0 - p) / p
    for i in range(k, 0, -1):
        term *= i / (n - i + 1) * odds
        total += term
        if term < total * 1e-17:
            break
    return total


@lru_cache(maxsize=4096)
def clopper_pearson_upper(k: int, n: int, alpha: float = 0.05) -> float:
    """One-sided exact upper bound of a rate: the p at which seeing `k` or fewer of `n` has probability `alpha`.

    Whatever the true rate is, the bound falls below it with probability at most `alpha`.
    0 of n gives ``1 - alpha ** (1 / n)``; no items give 1.0.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), 404-413.

    Raises:
        ValueError: Not ``0 <= k <= n``, or alpha not in (0, 1).
    """
    _check_counts(k, n, alpha)
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log(alpha) / n)
    low, high = k / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if binomial_cdf(k, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def clopper_pearson_lower(k: int, n: int, alpha: float = 0.05) -> float:
    """One-sided exact lower bound of a rate; the mirror image of `clopper_pearson_upper`."""
    _check_counts(k, n, alpha)
    return 1.0 - clopper_pearson_upper(n - k, n, alpha)


def smallest_attainable_n(limit: float, alpha: float = 0.05) -> int | None:
    """Fewest items with which 0 failures put the exact upper bound at or below `limit`.

    59 for 5 % and 299 for 1 % at alpha 0.05. None when no number of items can: `limit` is 0 or less.
    """
    if limit <= 0.0:
        return None
    if limit >= 1.0:
        return 1
    n = max(1, math.ceil(math.log(alpha) / math.log1p(-limit)))
    while clopper_pearson_upper(0, n, alpha) > limit:  # the logarithms may round down
        n += 1
    return n


def most_failures(n: int, limit: float, alpha: float = 0.05) -> int | None:
    """Largest k of `n` whose exact upper bound is at or below `limit`; None when even 0 is too many."""
    if n < 1 or clopper_pearson_upper(0, n, alpha) > limit:
        return None
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        if clopper_pearson_upper(middle, n, alpha) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def wilson_interval(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided score interval of a rate, for display. No items give (0, 1).

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    _check_counts(k, n, alpha)
    if n == 0:
        return (0.0, 1.0)
    z, p = _quantile(alpha), k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, center - half)
    return (low, 1.0 if k == n else min(1.0, center + half))


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p-value of `b` and `c` discordant pairs; 1.0 when there are none.

    Under the null, each discordant pair falls either way with probability one half.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157, in its binomial form
    (A. Agresti, Categorical Data Analysis, 3rd ed., section 11.1.4).
    """
    if b < 0 or c < 0:
        raise ValueError(f"discordant counts must be 0 or more; found {b} and {c}")
    return min(1.0, 2.0 * binomial_cdf(min(b, c), b + c, 0.5)) if b + c else 1.0


def binomial_test_above(k: int, n: int, limit: float) -> float:
    """One-sided exact p-value of "the true rate is at most `limit`", having seen `k` of `n`: P(X >= k) at the limit.

    1.0 without items. At `limit` 0 one success is proof: the p-value is 0.
    """
    _check_counts(k, n, 0.5)
    return 1.0 if k == 0 else min(1.0, max(0.0, 1.0 - binomial_cdf(k - 1, n, limit)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: reject those at most alpha, and any false alarm has probability alpha.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float | None:
    """The true rate behind the `rate` that an imperfect test reports, held to [0, 1].

    None where the test is no better than a coin: ``sensitivity + specificity <= 1``.

    Source: W. J. Rogan and B. Gladen, American Journal of Epidemiology 107 (1978), 71-76.
    """
    youden = sensitivity + specificity - 1.0
    return None if youden <= 0.0 else min(1.0, max(0.0, (rate + specificity - 1.0) / youden))


def rogan_gladen_interval(
    reported: tuple[int, int], sensitive: tuple[int, int], specific: tuple[int, int], alpha: float = 0.05
) -> tuple[float, float]:
    """Two-sided interval of the true rate, from three counts ``(k, n)``; conservative at every size.

    Each of the three rates gets an exact two-sided interval at ``alpha / 3``; the estimate rises with the reported
    rate and the specificity and falls with the sensitivity, so its extremes lie at corners of that box.

    Args:
        reported: Positives of all items tested.
        sensitive: Of items known to be positive, those that the test found.
        specific: Of items known to be negative, those that it found to be so.
    """
    bounds = []
    for k, n in (reported, sensitive, specific):
        low = clopper_pearson_lower(k, n, alpha / 6) if n else 0.0
        bounds.append((low, clopper_pearson_upper(k, n, alpha / 6) if n else 1.0))
    (rate_low, rate_high), (sens_low, sens_high), (spec_low, spec_high) = bounds
    if sens_low + spec_low <= 1.0:  # the test might be worthless: nothing is known
        return (0.0, 1.0)
    lowest, highest = rogan_gladen(rate_low, sens_high, spec_low), rogan_gladen(rate_high, sens_low, spec_high)
    return (lowest or 0.0, 1.0 if highest is None else highest)


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two raters on the same items beyond chance: 1 is full, 0 is chance.

    None without items, and where both always gave one and the same rating: chance alone would agree as well.

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960), 37-46.
    """
    if not pairs:
        return None
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    expected = sum(firsts.count(rating) * seconds.count(rating) for rating in set(firsts)) / (n * n)
    return None if expected >= 1.0 else (observed - expected) / (1.0 - expected)


def paired_interval(differences: Sequence[float], alpha: float = 0.05) -> tuple[float, float] | None:
    """Normal interval of the mean of paired differences, from their standard error.

    None with fewer than two differences, and when all are equal: a spread of zero
    is no evidence of certainty. For 0/1 outcomes use `paired_proportion_interval`.

    Source: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 4.
    """
    if len(differences) < 2:
        return None
    spread = stdev(differences)
    if spread == 0.0:
        return None
    center, half = fmean(differences), _quantile(alpha) * spread / math.sqrt(len(differences))
    return (center - half, center + half)


def paired_proportion_interval(b: int, c: int, n: int, alpha: float = 0.05) -> tuple[float, float] | None:
    """Two-sided score interval of ``(b - c) / n``, the difference of two paired proportions.

    Unlike the normal interval it does not collapse when few pairs or none are
    discordant: 0 and 0 of n give ``± z² / (n + z²)``. Its upper end alone, at
    ``alpha = 2 * a``, is a one-sided bound at level a. None when there are no pairs.

    Args:
        b: Pairs in which only the first succeeded.
        c: Pairs in which only the second succeeded.
        n: All pairs.

    Source: T. Tango, Statistics in Medicine 17 (1998), 891-908, equations 17 to 21.
    """
    if n == 0:
        return None
    if b < 0 or c < 0 or b + c > n:
        raise ValueError(f"found {b} and {c} discordant pairs of {n}; expected counts of at most all pairs")
    upper = _tango_upper(b, c, n, _quantile(alpha))
    lower = -_tango_upper(c, b, n, _quantile(alpha))
    return (lower, upper)


def _tango_upper(b: int, c: int, n: int, z: float) -> float:
    low, high = (b - c) / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _tango_statistic(b, c, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def _tango_statistic(b: int, c: int, n: int, delta: float) -> float:
    """The score statistic of the hypothesis that the true difference is `delta`."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    q = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    distance = b - c - n * delta
    if variance <= 0.0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _quantile(alpha: float) -> float:
    """The z of a two-sided interval that misses with probability `alpha`."""
    return NormalDist().inv_cdf(1 - alpha / 2)


def _check_counts(k: int, n: int, alpha: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"found {k} of {n}; expected 0 <= k <= n")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; expected a probability between 0 and 1")
