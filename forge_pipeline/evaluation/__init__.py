"""Evaluation: benchmark, safety, judge, and the statistics their gates rest on."""

from forge_pipeline.evaluation.benchmark import BenchmarkResult, PairedComparison, benchmark, run_benchmark
from forge_pipeline.evaluation.generation import generate
from forge_pipeline.evaluation.items import benchmark_items
from forge_pipeline.evaluation.judge import JudgeReport, judge
from forge_pipeline.evaluation.safety import CategoryResult, SafetyReport, safety, score_probes
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
    "BenchmarkResult",
    "Calibration",
    "CategoryResult",
    "JudgeReport",
    "PairedComparison",
    "SafetyReport",
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
    "score_probes",
    "smallest_attainable_n",
    "wilson_interval",
]
