"""Gates: three answers, and nothing missing ever passes."""

import itertools

import pytest

from forge_pipeline.errors import GateFailedError
from forge_pipeline.gates import GateDecision, Verdict, check_gates, overall_verdict
from forge_pipeline.integrity import Digest

MODEL = Digest.of(b"model")
OTHER = Digest.of(b"other model")


def decision(outcome="pass", guards=("export", "release"), subject=MODEL, gate="safety"):
    return GateDecision(gate, outcome, "because", subject, guards)


def test_only_pass_is_passed():
    verdicts = {outcome: decision(outcome).verdict for outcome in ("pass", "fail", "insufficient_evidence", "not_run")}
    assert verdicts == {
        "pass": Verdict.PASSED,
        "fail": Verdict.FAILED,
        "insufficient_evidence": Verdict.NOT_EVALUATED,
        "not_run": Verdict.NOT_EVALUATED,
    }


# (outcome, guards, stage): stopped?
STOPS = {
    ("pass", ("export", "release"), "export"): False,
    ("fail", ("export", "release"), "export"): True,
    ("fail", ("release",), "export"): True,
    ("fail", ("release",), "training"): False,
    ("fail", ("training",), "training"): True,
    ("not_run", ("export", "release"), "export"): True,
    ("not_run", ("release",), "export"): False,
    ("not_run", ("release",), "release"): True,
    ("insufficient_evidence", ("release",), "release"): True,
    ("insufficient_evidence", ("export", "release"), "release"): True,
}


@pytest.mark.parametrize(("case", "stopped"), STOPS.items(), ids=lambda value: str(value))
def test_what_a_verdict_stops_is_the_recipes_policy(case, stopped):
    outcome, guards, stage = case
    if stopped:
        with pytest.raises(GateFailedError, match="safety"):
            check_gates(stage, [decision(outcome, guards)], subject=MODEL)
    else:
        check_gates(stage, [decision(outcome, guards)], subject=MODEL)


def test_a_pass_for_other_bytes_is_no_pass():
    with pytest.raises(GateFailedError, match="judged"):
        check_gates("export", [decision(subject=OTHER)], subject=MODEL)


def test_a_required_gate_that_is_not_there_stops():
    with pytest.raises(GateFailedError, match="'benchmark' was never evaluated"):
        check_gates("export", [decision()], subject=MODEL, required=["benchmark"])


def test_nothing_at_all_is_not_a_pass():
    assert overall_verdict([]) is Verdict.NOT_EVALUATED


def test_overall_is_passed_only_when_all_passed():
    outcomes = ("pass", "fail", "insufficient_evidence", "not_run")
    for combination in itertools.product(outcomes, repeat=3):
        verdict = overall_verdict(decision(outcome) for outcome in combination)
        assert (verdict is Verdict.PASSED) == (set(combination) == {"pass"})
        assert (verdict is Verdict.FAILED) == ("fail" in combination)
