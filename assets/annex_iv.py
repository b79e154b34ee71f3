"""`annex_iv_bundle`: the technical documentation, made from what the run recorded."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import annex_iv, attestation
from forge_pipeline.annex_iv import AnnexIvBundle, BundleInputs, verify_annex_iv_artifact
from forge_pipeline.annex_iv.attested import attested_inputs
from forge_pipeline.attestation import SigningKeys
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.evaluation import BenchmarkResult, SafetyReport
from forge_pipeline.models import ModelDirectory
from resources.environment import environment, recorded_packages
from resources.evidence import AuditLogResource
from resources.history import (
    materialization_records,
    previous_bundle,
    run_events,
    training_environment,
    training_usage,
)
from resources.job_files import last_gguf
from resources.reconciliation import reconcile_line
from resources.settings import DeploymentResource

_KINDS = {"json", "markdown"}
_SECTIONS = ("compliance", "risk_assessment", "monitoring", "retention", "data", "evaluation")
_CODE = (annex_iv, attestation)


def build_annex_iv_bundle(line: Line) -> dg.AssetsDefinition:
    return _line_bundle(line) if line.config else _studio_bundle(line)


def _line_bundle(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="model_io", kinds=_KINDS, sections=_SECTIONS, code=_CODE)
    def annex_iv_bundle(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        dataset_audit_report: DatasetAudit,
        tokenized_dataset: TokenizedDataset,
        fine_tuned_model: ModelDirectory,
        benchmark_report: BenchmarkResult,
        safety_report: SafetyReport,
        deployment: DeploymentResource,
        audit_log: AuditLogResource,
        **optional: Any,
    ) -> AnnexIvBundle:
        """Annex IV point by point: automatic, declared, missing or not applicable, each with its evidence.

        Holds the reports, the audit log up to here with its checkpoint, and a verifier that needs
        nothing but Python. What is missing is named; nothing is filled in on the provider's behalf.
        """
        taken = partial(
            BundleInputs,
            config=recipe,
            dataset=dataset,
            dataset_audit=dataset_audit_report,
            tokenized=tokenized_dataset,
            model=fine_tuned_model,
            benchmark=benchmark_report,
            safety=safety_report,
            judge=optional.get("judge_report"),
            gguf=optional.get("gguf_model"),
        )
        return _bundle(line, context, taken, deployment, audit_log)

    return annex_iv_bundle


def _studio_bundle(line: Line) -> dg.AssetsDefinition:
    # A job may have trained a model of which there is no GGUF. An input would have to be there, so it is looked up.
    @line.stage(io_manager="model_io", kinds=_KINDS, sections=_SECTIONS, code=_CODE, deps=["gguf_model"])
    def annex_iv_bundle(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        dataset_audit_report: DatasetAudit,
        tokenized_dataset: TokenizedDataset,
        fine_tuned_model: ModelDirectory,
        benchmark_report: BenchmarkResult,
        safety_report: SafetyReport,
        deployment: DeploymentResource,
        audit_log: AuditLogResource,
    ) -> AnnexIvBundle:
        """Annex IV point by point: automatic, declared, missing or not applicable, each with its evidence.

        As of a declared line; with the GGUF files of exactly this job's model, where it has any.
        """
        taken = partial(
            BundleInputs,
            config=recipe,
            dataset=dataset,
            dataset_audit=dataset_audit_report,
            tokenized=tokenized_dataset,
            model=fine_tuned_model,
            benchmark=benchmark_report,
            safety=safety_report,
            gguf=last_gguf(context, deployment, line.key("gguf_model"), fine_tuned_model.digest),
        )
        return _bundle(line, context, taken, deployment, audit_log)

    return annex_iv_bundle


def _bundle(
    line: Line,
    context: dg.AssetExecutionContext,
    taken: Callable[..., BundleInputs],
    deployment: DeploymentResource,
    audit_log: AuditLogResource,
) -> AnnexIvBundle:
    """The bundle of what the stage took, completed by what Dagster and the audit log say about it."""
    logger = audit_log.logger(line.name, context.run_id)
    records = materialization_records(context, deployment.store, line.name)
    previous = previous_bundle(context, deployment.store)
    inputs = taken(
        audit_log_path=logger.log_path,
        anchor=logger.anchor(),
        materializations=records,
        environment=environment() | training_environment(context, line.key("fine_tuned_model")),
        generated_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        history=run_events(context, [str(record["run_id"]) for record in records]),
        usage=training_usage(context, line.key("fine_tuned_model")),
        parent=previous.as_parent() if previous else None,
    )
    packages = recorded_packages(records, "fine_tuned_model", deployment.store)
    inputs = attested_inputs(inputs, logger, keys=SigningKeys.from_environment(), packages=packages)
    return annex_iv.bundle(inputs, deployment.work_directory(context))


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

    @line.checks(
        "annex_iv_bundle", {"history_agrees": "Dagster's history and the audit log say the same, event by event."}
    )
    def history_checks(
        context: dg.AssetCheckExecutionContext, annex_iv_bundle: AnnexIvBundle, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        graph = context.job_def.asset_layer.asset_graph
        found = reconcile_line(context.instance, audit_log, line.name, graph, running=context.run.run_id)
        audit_log.log(
            line.name,
            context.run.run_id,
            "history.reconciled",
            passed=found.agrees,
            anchor=found.anchor,
            summary=found.summary,
        )
        facts = {"history_agrees": (found.agrees, found.summary)}
        yield from report_checks(context, audit_log, line, "annex_iv_bundle", facts, subject=annex_iv_bundle.digest)

    return [annex_iv_checks, annex_iv_completeness_checks, history_checks]
