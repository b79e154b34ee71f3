"""`dataset_audit_report`: personal data, secrets, repeats, overlap and contamination, before anything is trained."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import dataset_audit
from forge_pipeline.config import ForgeConfig, resolved
from forge_pipeline.data import RawDataset
from forge_pipeline.dataset_audit import DatasetAudit
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess

_CHECKS = {
    "no_secrets": "No credential stands in any column of any row.",
    "no_critical_pii": "No identifier of the critical tier stands in any row.",
    "no_split_overlap": "Validation and test rows do not stand in the training split.",
    "minimum_rows": "There are at least as many training rows as the recipe asks for.",
}
_CONTAMINATION = {"not_contaminated": "No item of the benchmarks that measure the model stands in the training rows."}


def build_dataset_audit_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="dataset_io",
        kinds={"json", "parquet"},
        sections=("model", "data", "evaluation"),
        settings=audit_settings,
        code=[dataset_audit],
    )
    def dataset_audit_report(
        context: dg.AssetExecutionContext, recipe: ForgeConfig, dataset: RawDataset, stage_process: StageProcess
    ) -> DatasetAudit:
        """What stands in the rows: personal data, secrets, near-duplicates, overlap, benchmark items, lengths.

        Art. 10(2): examination of the data. Findings name split, row, column and category,
        never the value found. Its gates stop training for exactly these rows.
        """
        return stage_process.run(context, "audit", recipe, {"dataset": dataset}, DatasetAudit)

    return dataset_audit_report


def build_dataset_audit_checks(line: Line) -> dg.AssetChecksDefinition:
    checks = _CHECKS | (_CONTAMINATION if looks_for_contamination(line.config) else {})

    @line.checks("dataset_audit_report", checks)
    def dataset_audit_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        dataset_audit_report: DatasetAudit,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        names = {name: name for name in checks}
        gates = dataset_audit_report.gates
        yield from gate_checks(context, audit_log, line, "dataset_audit_report", gates, names, recipe)

    return dataset_audit_checks


def audit_settings(config: ForgeConfig) -> dict[str, Any]:
    """What the report follows from, beside the rows: how to look, the tokenizer, and the benchmark's items."""
    values = resolved(config)
    benchmark = values["evaluation"]["benchmark"] or {}
    return {
        "data": values["data"],
        "model": {name: values["model"][name] for name in ("name_or_path", "revision", "max_length")},
        "benchmark": {name: benchmark.get(name) for name in ("enabled", "tasks", "limit")},
    }


def looks_for_contamination(config: ForgeConfig | None) -> bool:
    """Whether the recipe measures the model with benchmarks, and has their items looked for."""
    if config is None or config.evaluation.benchmark is None:
        return False
    return config.evaluation.benchmark.enabled and config.data.audit.contamination.enabled
