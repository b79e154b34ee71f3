"""Two orders, one verdict; and the gate over many of them."""

import random
from collections.abc import Sequence
from itertools import product

import pytest

from forge_pipeline.config.evaluation import JudgeSection
from forge_pipeline.evaluation.generation import Conversation
from forge_pipeline.evaluation.judge_endpoint import OnReply, Reply
from forge_pipeline.evaluation.pairwise import (
    Comparison,
    Preference,
    Tally,
    compare,
    outcome_of,
    pairs_needed,
    parse_choice,
    tally,
)

SECTION = JudgeSection(enabled=True, mode="pairwise")


class Judge:
    """Says what a rule says of the two answers' texts, in the order in which they are shown."""

    def __init__(self, rule: object) -> None:
        self._rule, self.asked = rule, 0

    def ask(self, requests: Sequence[Conversation], on_reply: OnReply = lambda done: None) -> list[Reply]:
        self.asked += len(requests)
        return [self._reply(request[-1]["content"]) for request in requests]

    def _reply(self, content: str) -> Reply:
        a, b = (content.split(f"<answer_{x}>\n")[1].split(f"\n</answer_{x}>")[0] for x in "ab")
        said = self._rule(a, b) if callable(self._rule) else self._rule
        return said if isinstance(said, Reply) else Reply(str(said))


JUDGES: dict[str, tuple[object, Comparison]] = {
    "prefers the longer": (lambda a, b: f'{{"winner": "{"A" if len(a) > len(b) else "B"}"}}', Comparison("first", True)),
    "prefers the shorter": (
        lambda a, b: f'{{"winner": "{"A" if len(a) < len(b) else "B"}"}}', Comparison("second", True)
    ),
    "prefers the first place": ('{"winner": "A"}', Comparison("tie", False)),
    "always a tie": ('{"winner": "tie"}', Comparison("tie", True)),
    "prose": ("I like A.", Comparison("invalid", None, "the judge's reply names no winner")),
    "nothing": (Reply(None, "HTTP 500"), Comparison("invalid", None, "HTTP 500")),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), JUDGES.values(), ids=JUDGES)
def test_a_preference_must_hold_in_both_orders(rule: object, expected: Comparison) -> None:
    assert compare(Judge(rule), [("q", "longer answer", "short")]) == [expected]


def test_equal_answers_are_a_tie_that_nobody_is_asked_about() -> None:
    judge = Judge('{"winner": "A"}')
    assert compare(judge, [("q", "same", " same\n")]) == [Comparison("tie")]
    assert judge.asked == 0


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"winner": "A"}', "A"),
        ('Sure: {"winner": "b", "reason": "x"}', "B"),
        ('{"winner": "tie"}', "tie"),
        ('{"winner": "both"}', None),
        ('{"winner": 1}', None),
        ("A", None),
        ("[" * 10000, None),
    ],
)
def test_a_choice_is_read_from_json_only(reply: str, choice: str | None) -> None:
    assert parse_choice(reply) == choice


def said(first: int = 0, tie: int = 0, second: int = 0, invalid: int = 0, disagreed: int = 0) -> Tally:
    counts: dict[Preference, int] = {"first": first, "tie": tie, "second": second, "invalid": invalid}
    found = [Comparison(p, None if p == "invalid" else True) for p, n in counts.items() for _ in range(n)]
    return tally(found + [Comparison("tie", False)] * disagreed, 0.05)


OUTCOMES: dict[str, tuple[Tally, str, str]] = {
    "nothing compared": (said(), "not_run", "nothing was compared"),
    "nothing readable": (said(invalid=5), "insufficient_evidence", "none of 5"),
    "clearly better": (said(first=40, tie=10, second=5), "pass", "40 wins"),
    "no difference on many": (said(tie=200), "pass", "200 ties"),
    "no difference on few": (said(tie=5), "insufficient_evidence", "25 pairs without any difference would do"),
    "clearly worse": (said(first=5, tie=10, second=40), "fail", "40 losses"),
    "perhaps worse": (said(first=9, tie=70, second=14), "insufficient_evidence", "lower bound is below"),
    "too many invalid": (said(first=60, invalid=10), "insufficient_evidence", "max_invalid"),
    "a judge of positions": (said(first=60, disagreed=60), "insufficient_evidence", "agrees with itself in 50%"),
}


@pytest.mark.parametrize(("found", "outcome", "words"), OUTCOMES.values(), ids=OUTCOMES)
def test_the_gate(found: Tally, outcome: str, words: str) -> None:
    ruling, reason = outcome_of(SECTION, found)
    assert (ruling, words in reason) == (outcome, True), reason


def test_the_pairs_needed_suffice_and_one_fewer_does_not() -> None:
    n = pairs_needed(SECTION)
    assert n == 25
    assert outcome_of(SECTION, said(tie=n))[0] == "pass"
    assert outcome_of(SECTION, said(tie=n - 1))[0] == "insufficient_evidence"
    assert pairs_needed(SECTION.model_copy(update={"min_win_rate": 0.5})) is None


def test_an_invalid_comparison_is_never_better_than_a_loss_turned_valid() -> None:
    """Replacing a win or a tie by an invalid one never turns a verdict into a pass."""
    for wins, ties, losses in product(range(0, 60, 12), repeat=3):
        before = outcome_of(SECTION, said(wins, ties, losses))[0]
        if before != "pass":
            assert outcome_of(SECTION, said(max(0, wins - 1), ties, losses, invalid=1))[0] != "pass"
            assert outcome_of(SECTION, said(wins, max(0, ties - 1), losses, invalid=1))[0] != "pass"


def test_a_model_at_the_margin_passes_with_probability_at_most_alpha() -> None:
    """True win rate exactly 0.45: 30 % wins, 30 % ties, 40 % losses, 200 pairs."""
    draw, passes, trials = random.Random(4), 0, 600
    for _ in range(trials):
        draws = [draw.random() for _ in range(200)]
        wins, losses = sum(u < 0.3 for u in draws), sum(u > 0.6 for u in draws)
        passes += outcome_of(SECTION, said(wins, 200 - wins - losses, losses))[0] == "pass"
    assert passes / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
