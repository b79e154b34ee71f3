"""`judge_report`: what a judge says of the tuned model's answers. Only in lines whose recipe asks for a judge."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import evaluation
from forge_pipeline.config import ForgeConfig
from forge_pipeline.evaluation import JudgeReport
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess
from resources.training_run import tracked_as


def build_judge_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"json"}, sections=("evaluation", "model"), code=[evaluation], pool="accelerator"
    )
    def judge_report(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        stage_process: StageProcess,
    ) -> JudgeReport:
        """Grades of the tuned model's answers, or how often they were preferred to the base model's, in both orders.

        An answer that the judge gave no readable verdict on is counted and limited; an empty set never passes.
        """
        tracked = tracked_as(context, recipe, line.key("fine_tuned_model"), fine_tuned_model.digest)
        inputs = {"fine_tuned_model": fine_tuned_model, **tracked}
        return stage_process.run(context, "judge", recipe, inputs, JudgeReport)

    return judge_report


def build_judge_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("judge_report", {"judge_gate": "The judge's verdict reaches the recipe's minimum."})
    def judge_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        judge_report: JudgeReport,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        yield from gate_checks(
            context, audit_log, line, "judge_report", judge_report.gates, {"judge_gate": "judge"}, recipe
        )

    return judge_checks
