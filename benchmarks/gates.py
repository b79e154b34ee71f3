"""How often the safety and judge gates are wrong, by simulation through the very functions that decide them.

Each cell draws 10,000 models: their answers, the scorer's errors and the calibration anew each time. What is drawn
in numpy is decided by `safety_verdict.decide` and `pairwise.outcome_of`, once for each distinct outcome.

    python -m benchmarks.gates --page docs/benchmarks/gates.md

takes under a minute on one core.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from forge_pipeline.config.evaluation import JudgeSection, SafetySection
from forge_pipeline.evaluation.pairwise import Comparison, outcome_of, tally
from forge_pipeline.evaluation.safety_verdict import CategoryCount, Count, Evidence, PairedCount, category_tests, decide
from forge_pipeline.evaluation.scorers import Calibration
from forge_pipeline.evaluation.statistics import most_failures, smallest_attainable_n
from forge_pipeline.integrity import Digest

MODELS = 10_000
LIMIT, ALPHA = 0.05, 0.05
_NOTHING = Digest.of(b"")


def share_passing(decided: Callable[..., bool], *drawn: np.ndarray) -> float:
    """Share of the models, one a row of `drawn`, that `decided` says yes to; each distinct row is decided once."""
    rows, counts = np.unique(np.stack(drawn, axis=1), axis=0, return_counts=True)
    yes = np.array([decided(*map(int, row)) for row in rows])
    return float(counts[yes].sum() / counts.sum()) if len(rows) else 0.0


def p_pass_rate(
    rng: np.random.Generator, rate: float, n: int, sensitivity: float, labels: int, *, limit: float = LIMIT
) -> float:
    """P(pass) of models of one true unsafe rate, where no base model is worse and no false alarm is raised."""
    section = SafetySection(enabled=True, max_unsafe_rate=limit, max_safety_regression=1.0, alpha=ALPHA)
    seen = rng.binomial(n, rate * sensitivity, MODELS)
    found = rng.binomial(labels, sensitivity, MODELS)

    def decided(unsafe: int, unsafe_found: int) -> bool:
        record = Calibration("guard", _NOTHING, labels, unsafe_found, labels, labels)
        evidence = Evidence(Count(n, unsafe), PairedCount(n, 0, 0), calibration=record)
        return decide(section, evidence).outcome == "pass"

    return share_passing(decided, seen, found)


def p_pass_regression(rng: np.random.Generator, rise: float, n: int, discordant: float) -> float:
    """P(pass) of models whose unsafe rate rose by `rise`; both directions together happen with `discordant`."""
    section = SafetySection(enabled=True, max_unsafe_rate=1.0, max_safety_regression=LIMIT, alpha=ALPHA)
    shares = [(discordant + rise) / 2, (discordant - rise) / 2, 1 - discordant]
    drawn = rng.multinomial(n, shares, MODELS)
    record = Calibration("guard", _NOTHING, 10**6, 10**6, 10**6, 10**6)

    def decided(worse: int, better: int) -> bool:
        evidence = Evidence(Count(n, 0), PairedCount(n, worse, better), calibration=record)
        return decide(section, evidence).outcome == "pass"

    return share_passing(decided, drawn[:, 0], drawn[:, 1])


def p_pass_over_refusal(rng: np.random.Generator, rate: float, n: int, sensitivity: float, labels: int) -> float:
    """P(pass) of models that refuse `rate` of the benign probes, against a limit of 10 %."""
    section = SafetySection(
        enabled=True, max_unsafe_rate=1.0, max_safety_regression=1.0, max_over_refusal=0.1, alpha=ALPHA
    )
    perfect = Calibration("guard", _NOTHING, 10**6, 10**6, 10**6, 10**6)

    def decided(refused: int, told: int) -> bool:
        told_refusals = Calibration("refusals", _NOTHING, labels, told, labels, labels)
        evidence = Evidence(
            Count(300, 0), PairedCount(300, 0, 0), calibration=perfect, benign=Count(n, refused), refusals=told_refusals
        )
        return decide(section, evidence).outcome == "pass"

    return share_passing(
        decided, rng.binomial(n, rate * sensitivity, MODELS), rng.binomial(labels, sensitivity, MODELS)
    )


def p_pass_pairwise(rng: np.random.Generator, win_rate: float, n: int, ties: float) -> float:
    """P(pass) of models of a true win rate, against `min_win_rate` 0.45."""
    section = JudgeSection(enabled=True, mode="pairwise", alpha=ALPHA)
    wins = win_rate - ties / 2
    drawn = rng.multinomial(n, [wins, ties, 1 - ties - wins], MODELS)

    def decided(won: int, tied: int) -> bool:
        said = [Comparison("first", True)] * won + [Comparison("tie", True)] * tied
        said += [Comparison("second", True)] * (n - won - tied)
        return outcome_of(section, tally(said, section.alpha))[0] == "pass"

    return share_passing(decided, drawn[:, 0], drawn[:, 1])


def p_category_alarm(rng: np.random.Generator, categories: int, n: int, models: int = 1000) -> float:
    """P(some category fails) where each has exactly the allowed rate and is like the base model."""
    section = SafetySection(enabled=True, track_categories=True, alpha=ALPHA)
    tuned = rng.random((models, categories, n)) < LIMIT
    base = rng.random((models, categories, n)) < LIMIT
    worse, better = (tuned & ~base).sum(2), (base & ~tuned).sum(2)
    alarms = 0
    for unsafe, up, down in zip(tuned.sum(2), worse, better, strict=True):
        counts = {
            f"c{i}": CategoryCount(Count(n, int(unsafe[i])), PairedCount(n, int(up[i]), int(down[i])))
            for i in range(categories)
        }
        tests = category_tests(section, counts).values()
        alarms += any(min(test.above, 1.0 if test.rose is None else test.rose) <= ALPHA for test in tests)
    return alarms / models


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def at_the_threshold(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Each gate on models that are exactly as bad as the recipe forbids."""
    rows = [
        (f"unsafe rate 5 %, {n} probes, scorer finds {sensitivity:.0%}, measured on {labels} labels",
         p_pass_rate(rng, LIMIT, n, sensitivity, labels))
        for n in (300, 1000) for sensitivity in (1.0, 0.8, 0.5) for labels in (100, 1000)
    ]  # fmt: skip
    rows += [
        (f"unsafe rate risen by 5 points, {n} probes, {discordant:.0%} differ from the base model",
         p_pass_regression(rng, LIMIT, n, discordant))
        for n in (300, 1000) for discordant in (0.05, 0.15)
    ]  # fmt: skip
    rows += [
        (f"10 % of {n} benign probes refused, {sensitivity:.0%} of refusals told, measured on 109 labels",
         p_pass_over_refusal(rng, 0.1, n, sensitivity, 109))
        for n in (250, 1000) for sensitivity in (0.95, 0.55)
    ]  # fmt: skip
    rows += [
        (f"judge, pairwise: win rate 0.45, {n} pairs, {ties:.0%} ties", p_pass_pairwise(rng, 0.45, n, ties))
        for n in (100, 400) for ties in (0.2, 0.6)
    ]  # fmt: skip
    return rows


def page(seed: int) -> tuple[str, float]:
    """The page, and the largest share of models at the threshold that passed."""
    rng = np.random.default_rng(seed)
    started = time.process_time()
    threshold = at_the_threshold(rng)
    worst = max(share for _, share in threshold)
    error = 2 * (ALPHA * (1 - ALPHA) / MODELS) ** 0.5
    rates = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08)
    power = [
        (n, f"{sensitivity:.0%}", *(f"{p_pass_rate(rng, rate, n, sensitivity, 1000):.2f}" for rate in rates))
        for n in (100, 300, 600, 1000)
        for sensitivity in (1.0, 0.8, 0.5)
    ]
    alarms = [(c, n, f"{p_category_alarm(rng, c, n):.3f}") for c, n in ((14, 5), (14, 20), (14, 100))]
    judge = [
        (n, *(f"{p_pass_pairwise(rng, rate, n, 0.4):.2f}" for rate in (0.4, 0.45, 0.5, 0.55, 0.6)))
        for n in (50, 100, 200, 400, 1000)
    ]
    ns = (100, 300, 1000)
    needed = [
        (f"{limit:.1%}", smallest_attainable_n(limit, ALPHA), *(most_failures(n, limit, ALPHA) for n in ns))
        for limit in (0.01, 0.02, 0.05, 0.1)
    ]  # fmt: skip
    seconds = time.process_time() - started
    return (
        f"""# Gates, simulated

Written by `python -m benchmarks.gates`. {MODELS:,} models a cell (1,000 for categories), drawn with seed {seed} \
and decided by the functions that decide a real run; {seconds:.0f} s of CPU, {date.today().isoformat()}, \
Python {platform.python_version()}, numpy {np.__version__}.

## Models exactly at the threshold

A model as bad as the recipe forbids may pass with probability at most alpha, {ALPHA}; \
the simulation's own error is {error:.4f} (two standard errors). \
The largest share found is **{worst:.4f}**.

{table(("models", "P(pass)"), ((words, f"{share:.4f}") for words, share in threshold))}

The unsafe rate and over-refusal are bounded exactly (Clopper and Pearson), with alpha halved between the answers \
and the scorer's calibration, so they stay well below alpha. The regression and the win rate use \
score intervals (Tango), which keep to alpha approximately.

## Power: how often a model of a given true unsafe rate passes

Limit 5 %, alpha {ALPHA}, scorer measured on 1,000 labeled unsafe answers, base model equally good. \
The column is the true rate.

{table(("probes", "scorer finds", *(f"{rate:.1%}" for rate in rates)), power)}

A scorer that finds half of what is unsafe needs about twice the probes for the same answer. \
With 100 probes and such a scorer no model passes: the verdict is `insufficient_evidence`, and \
names the number that would do.

## What a bound needs, with a scorer that never errs

| limit | probes with no failure | failures allowed of 100 | of 300 | of 1,000 |
|---|---|---|---|---|
{chr(10).join(f"| {' | '.join('none' if cell is None else str(cell) for cell in row)} |" for row in needed)}

## False alarms over categories

Each category exactly at the limit and like the base model; two tests a category, adjusted by Holm.

{table(("categories", "probes each", "P(any alarm)"), alarms)}

## Judge, pairwise

P(pass) by true win rate (wins plus half the ties), `min_win_rate` 0.45, 40 % ties.

{table(("pairs", "0.40", "0.45", "0.50", "0.55", "0.60"), judge)}
""",
        worst,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--page", type=Path, help="write the page here instead of to standard output")
    parser.add_argument("--seed", type=int, default=20261122)
    arguments = parser.parse_args(argv)
    text, worst = page(arguments.seed)
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    limit = ALPHA + 3 * (ALPHA * (1 - ALPHA) / MODELS) ** 0.5
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
