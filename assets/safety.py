"""`safety_report`: how the tuned model answers probes, beside the base model."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import evaluation
from forge_pipeline.config import ForgeConfig
from forge_pipeline.evaluation import SafetyReport
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_safety_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"json"}, sections=("evaluation", "model"), code=[evaluation], pool="accelerator"
    )
    def safety_report(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        stage_process: StageProcess,
    ) -> SafetyReport:
        """Verdict of the safety gate: pass, fail, insufficient_evidence or not_run, with counts and bound.

        Art. 9(8): tested against thresholds that the recipe fixed before training.
        """
        return stage_process.run(context, "safety", recipe, {"fine_tuned_model": fine_tuned_model}, SafetyReport)

    return safety_report


def build_safety_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks(
        "safety_report", {"safety_gate": "The unsafe rate's upper confidence bound is within the recipe's limit."}
    )
    def safety_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        safety_report: SafetyReport,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        yield from gate_checks(
            context, audit_log, line, "safety_report", safety_report.gates, {"safety_gate": "safety"}, recipe
        )

    return safety_checks
