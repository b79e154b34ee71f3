"""`dataset_audit_report`: personal data, secrets, repeats and overlap, before anything is trained."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import dataset_audit
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.dataset_audit import AuditReport
from resources.evidence import AuditLogResource

_CHECKS = {
    "no_secrets": "No credential stands in any column of any row.",
    "no_critical_pii": "No identifier of the critical tier stands in any row.",
    "no_split_overlap": "Validation and test rows do not stand in the training split.",
    "minimum_rows": "There are at least as many training rows as the recipe asks for.",
}


def build_dataset_audit_report(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="report_io", kinds={"json"}, sections=("data",), code=[dataset_audit])
    def dataset_audit_report(recipe: ForgeConfig, raw_dataset: RawDataset) -> AuditReport:
        """What stands in the rows: personal data, secrets, near-duplicates, cross-split overlap, lengths.

        Art. 10(2): examination of the data. Findings name split, row, column and category,
        never the value found. Its gates stop training for exactly these rows.
        """
        return dataset_audit.audit_raw_dataset(recipe, raw_dataset)

    return dataset_audit_report


def build_dataset_audit_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("dataset_audit_report", _CHECKS)
    def dataset_audit_checks(
        context: dg.AssetCheckExecutionContext, dataset_audit_report: AuditReport, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        names = {name: name for name in _CHECKS}
        yield from gate_checks(context, audit_log, line, "dataset_audit_report", dataset_audit_report.gates, names)

    return dataset_audit_checks
