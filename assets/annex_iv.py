"""`annex_iv_bundle`: the technical documentation, made from what the run recorded."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import annex_iv
from forge_pipeline.annex_iv import AnnexIvBundle, BundleInputs, verify_annex_iv_artifact
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.dataset_audit import AuditReport
from forge_pipeline.evaluation import BenchmarkResult, SafetyReport
from forge_pipeline.export import GgufModel
from forge_pipeline.models import ModelDirectory
from resources.environment import environment
from resources.evidence import AuditLogResource
from resources.history import materialization_records, training_usage
from resources.settings import DeploymentResource


def build_annex_iv_bundle(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="model_io",
        kinds={"json", "markdown"},
        sections=("compliance", "risk_assessment", "monitoring", "retention", "data", "evaluation"),
        code=[annex_iv],
    )
    def annex_iv_bundle(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        raw_dataset: RawDataset,
        dataset_audit_report: AuditReport,
        tokenized_dataset: TokenizedDataset,
        fine_tuned_model: ModelDirectory,
        benchmark_report: BenchmarkResult,
        safety_report: SafetyReport,
        gguf_model: GgufModel,
        deployment: DeploymentResource,
        audit_log: AuditLogResource,
    ) -> AnnexIvBundle:
        """Annex IV point by point: automatic, declared, missing or not applicable, each with its evidence.

        Holds the reports, the audit log up to here with its checkpoint, and a verifier that needs
        nothing but Python. What is missing is named; nothing is filled in on the provider's behalf.
        """
        logger = audit_log.logger(line.name, context.run_id)
        return annex_iv.bundle(
            BundleInputs(
                config=recipe,
                raw_dataset=raw_dataset,
                audit_report=dataset_audit_report,
                tokenized=tokenized_dataset,
                model=fine_tuned_model,
                benchmark=benchmark_report,
                safety=safety_report,
                gguf=gguf_model,
                audit_log_path=logger.log_path,
                anchor=logger.anchor(),
                materializations=materialization_records(context, deployment.store, line.name),
                environment=environment(),
                generated_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                usage=training_usage(context, line.key("fine_tuned_model")),
            ),
            deployment.work_directory(context),
        )

    return annex_iv_bundle


def build_annex_iv_checks(line: Line) -> list[dg.AssetChecksDefinition]:
    @line.checks("annex_iv_bundle", {"bundle_verifies": "Every file, the manifest and the log in it verify."})
    def annex_iv_checks(
        context: dg.AssetCheckExecutionContext, annex_iv_bundle: AnnexIvBundle, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        result = verify_annex_iv_artifact(str(annex_iv_bundle.path / "annex_iv.json"))
        facts = {"bundle_verifies": (result.valid, result.reason or "manifest, files and log agree")}
        yield from report_checks(context, audit_log, line, "annex_iv_bundle", facts, subject=annex_iv_bundle.digest)

    @line.checks("annex_iv_bundle", {"bundle_complete": "No Annex IV point is missing."}, blocking=False)
    def annex_iv_completeness_checks(
        context: dg.AssetCheckExecutionContext, annex_iv_bundle: AnnexIvBundle, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        result = verify_annex_iv_artifact(str(annex_iv_bundle.path / "annex_iv.json"))
        words = f"missing: {', '.join(result.missing_fields)}" if result.missing_fields else "every point is filled"
        facts = {"bundle_complete": (result.complete, words)}
        digest = annex_iv_bundle.digest
        yield from report_checks(context, audit_log, line, "annex_iv_bundle", facts, subject=digest, warn_only=True)

    return [annex_iv_checks, annex_iv_completeness_checks]
