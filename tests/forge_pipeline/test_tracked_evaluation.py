"""Which numbers of an evaluation the trackers get."""

from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest
from forge_pipeline.tracked_evaluation import evaluation_numbers

MODEL = Digest.of(b"model")


def gates(outcome: str) -> tuple[GateDecision, ...]:
    return (GateDecision("g", outcome, "", MODEL),)


def test_a_benchmark_has_both_models_scores_and_its_verdict() -> None:
    report = BenchmarkResult(
        scores={"held_out": 0.5}, average_score=0.5, passed=False, failure_reason="low", raw_results={},
        base_scores={"held_out": 0.75}, items=6, gates=gates("fail"),
    )  # fmt: skip
    assert evaluation_numbers(report) == (
        "benchmark",
        {
            "benchmark/held_out": 0.5, "benchmark/base/held_out": 0.75, "benchmark/average_score": 0.5,
            "benchmark/items": 6.0, "gate/g": 0.0,
        },
    )  # fmt: skip


def test_what_was_not_measured_or_not_decided_has_no_number() -> None:
    kind, numbers = evaluation_numbers(
        SafetyReport("insufficient_evidence", "", MODEL, MODEL, None, "rules", False, n=6, upper_bound=0.4,
                     gates=gates("insufficient_evidence"))
    )  # fmt: skip
    assert kind == "safety"
    assert (numbers["safety/n"], numbers["safety/upper_bound"]) == (6.0, 0.4)
    assert not {"safety/unsafe_rate", "safety/corrected_rate", "gate/g"} & numbers.keys()
    kind, numbers = evaluation_numbers(JudgeReport("pass", "", MODEL, "judge", mean_score=7.5, gates=gates("pass")))
    assert (kind, numbers["judge/mean_score"], numbers["gate/g"]) == ("judge", 7.5, 1.0)
    assert "judge/win_rate" not in numbers
