"""`benchmark_report`: base and tuned model on the same items."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import evaluation
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.evaluation import BenchmarkResult
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess
from resources.training_run import tracked_as


def build_benchmark_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"json"}, sections=("evaluation", "model"), code=[evaluation], pool="accelerator"
    )
    def benchmark_report(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        fine_tuned_model: ModelDirectory,
        stage_process: StageProcess,
    ) -> BenchmarkResult:
        """lm-eval tasks on the base and the tuned model, paired item by item, with intervals.

        Annex IV 2(g) and 3: validation and testing, metrics and their accuracy.
        """
        inputs = {
            "dataset": dataset,
            "fine_tuned_model": fine_tuned_model,
            **tracked_as(context, recipe, line.key("fine_tuned_model"), fine_tuned_model.digest),
        }
        return stage_process.run(context, "benchmark", recipe, inputs, BenchmarkResult)

    return benchmark_report


def build_benchmark_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("benchmark_report", {"benchmark_gate": "Score and regression are within the recipe's limits."})
    def benchmark_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        benchmark_report: BenchmarkResult,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        gates = {"benchmark_gate": "benchmark"}
        yield from gate_checks(context, audit_log, line, "benchmark_report", benchmark_report.gates, gates, recipe)

    return benchmark_checks
