"""`safety_report`: how the tuned model answers probes, beside the base model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import evaluation
from forge_pipeline.audit_log import read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.evaluation import SafetyReport, ScorerCalibration
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess
from resources.training_run import tracked_as


def build_safety_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"json"}, sections=("evaluation", "model"), code=[evaluation], pool="accelerator"
    )
    def safety_report(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        stage_process: StageProcess,
        **calibrated: ScorerCalibration,
    ) -> SafetyReport:
        """Verdict of the safety gate: pass, fail, insufficient_evidence or not_run, with counts and bound.

        Art. 9(8): tested against thresholds that the recipe fixed before training. The terms on record in the audit
        log when the model was made are handed in; a gate whose probes, labels or bounds differ by now does not pass.
        """
        log = AuditLogResource(directory=stage_process.home).path(line.name)
        inputs = {
            "fine_tuned_model": fine_tuned_model,
            "fixed_policy": policy_on_record(log, recipe, fine_tuned_model),
            **calibrated,
            **tracked_as(context, recipe, line.key("fine_tuned_model"), fine_tuned_model.digest),
        }
        return stage_process.run(context, "safety", recipe, inputs, SafetyReport)

    return safety_report


def policy_on_record(log: Path, recipe: ForgeConfig, model: ModelDirectory) -> dict[str, Any]:
    """The last `SafetyPolicy` of this recipe that was logged before `model` was; empty where there is none."""
    wanted, found = config_digest(recipe), {}
    for entry in read_entries(log) if log.exists() else ():
        if entry.event == "safety.policy_fixed" and entry.data.get("config_digest") == wanted:
            found = dict(entry.data["policy"])
        if entry.event == "artifact.materialized" and entry.data.get("digest") == model.digest:
            break
    return found


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
