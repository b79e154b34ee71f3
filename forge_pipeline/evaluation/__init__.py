"""Evaluation: benchmark, safety, judge, and the statistics their gates rest on."""

from forge_pipeline.evaluation.answer_cache import AnswerCache
from forge_pipeline.evaluation.benchmark import BenchmarkResult, SeenItems, benchmark, run_benchmark
from forge_pipeline.evaluation.calibration import ScorerCalibration, scorer_calibration
from forge_pipeline.evaluation.comparison import PairedComparison
from forge_pipeline.evaluation.generation import generate
from forge_pipeline.evaluation.items import benchmark_items
from forge_pipeline.evaluation.judge import JudgeReport, judge
from forge_pipeline.evaluation.safety import CategoryResult, SafetyReport, safety, score_probes
from forge_pipeline.evaluation.safety_policy import SafetyPolicy, safety_policy
from forge_pipeline.evaluation.scorers import Calibration, calibrate
from forge_pipeline.evaluation.statistics import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact,
    paired_interval,
    paired_proportion_interval,
    smallest_attainable_n,
    wilson_interval,
)

__all__ = [
    "AnswerCache",
    "BenchmarkResult",
    "Calibration",
    "CategoryResult",
    "JudgeReport",
    "PairedComparison",
    "SafetyPolicy",
    "SafetyReport",
    "ScorerCalibration",
    "SeenItems",
    "benchmark",
    "benchmark_items",
    "calibrate",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "generate",
    "judge",
    "mcnemar_exact",
    "paired_interval",
    "paired_proportion_interval",
    "run_benchmark",
    "safety",
    "safety_policy",
    "score_probes",
    "scorer_calibration",
    "smallest_attainable_n",
    "wilson_interval",
]
