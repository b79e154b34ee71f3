"""`released_model`: the registry entry that people and gates agreed to."""

from typing import Any

import dagster as dg

from assets.line import Line
from assets.notifications import notify_from_run
from forge_pipeline import release, training
from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.config import ForgeConfig
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.erasure import check_not_trained_on_erased
from forge_pipeline.errors import AwaitingApprovalError, EvidenceError, GateFailedError
from forge_pipeline.evaluation import BenchmarkResult, SafetyReport
from forge_pipeline.gates import GateDecision, Verdict, check_gates
from forge_pipeline.models import ModelDirectory, check_earlier_stages
from forge_pipeline.release import ReleaseRecord
from resources.evidence import AuditLogResource, RegistryResource
from resources.reconciliation import reconcile_line
from resources.settings import DeploymentResource


def build_released_model(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"json"}, sections=("release", "evaluation"), code=[release], optional=True
    )
    def released_model(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        benchmark_report: BenchmarkResult,
        safety_report: SafetyReport,
        dataset_audit_report: DatasetAudit,
        annex_iv_bundle: AnnexIvBundle,
        registry: RegistryResource,
        audit_log: AuditLogResource,
        deployment: DeploymentResource,
        **optional: Any,
    ) -> ReleaseRecord:
        """Verifies gates, digests, history and approvals itself, then moves the line's `released` alias.

        Fails closed. In a run that builds the candidate too, a release that only waits for evidence or
        people is left undone with a warning; asked for alone, it fails.
        """
        decisions = [*training.loss_gate(recipe, fine_tuned_model), *benchmark_report.gates, *safety_report.gates]
        decisions += optional["judge_report"].gates if "judge_report" in optional else ()
        audited = dataset_audit_report.gates
        check_history(context, audit_log, line)
        log = audit_log.logger(line.name, context.run_id)
        release.revert_failed(registry.registry, line.name, log, auto_revert=recipe.evaluation.auto_revert)
        try:
            check_gates("release", audited, subject=fine_tuned_model.record.dataset_digest)
            check_earlier_stages(fine_tuned_model.record)
            for rows in fine_tuned_model.record.dataset_digests:
                check_not_trained_on_erased(deployment.home.root, rows, fine_tuned_model.digest)
            return release.promote(
                recipe,
                model=fine_tuned_model,
                decisions=decisions,
                bundle=annex_iv_bundle,
                registry=registry.registry,
                log=log,
                gguf=optional.get("gguf_model"),
            )
        except (GateFailedError, AwaitingApprovalError) as error:
            if asked_for_alone(context) or failed([*audited, *decisions]):
                raise
            context.log.warning(f"not released: {error}")
            notify_from_run(context, line, recipe, "awaiting_approval", audit_log=audit_log)
            return None  # type: ignore[return-value]  # the asset is optional: no result, no materialization

    return released_model


def check_history(context: dg.AssetExecutionContext, audit_log: AuditLogResource, line: Line) -> None:
    """Refuse a release that rests on a history which disagrees with the audit log.

    Raises:
        EvidenceError: Naming what disagrees.
    """
    graph = context.job_def.asset_layer.asset_graph
    found = reconcile_line(context.instance, audit_log, line.name, graph, running=context.run_id)
    if not found.agrees:
        raise EvidenceError(f"release refused: {found.summary}")


def asked_for_alone(context: dg.AssetExecutionContext) -> bool:
    """Whether this run was started for the release and nothing else."""
    return len(context.run.asset_selection or ()) == 1


def failed(decisions: list[GateDecision]) -> bool:
    return any(decision.verdict is Verdict.FAILED for decision in decisions)
