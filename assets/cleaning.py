"""`clean_dataset`: the rows without what the recipe masks or removes. Only in lines whose recipe switches it on."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.dataset_audit import audit_settings
from assets.line import Line
from forge_pipeline import dataset_audit
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.dataset_audit import cleaning_report
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_clean_dataset(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="dataset_io",
        kinds={"parquet"},
        sections=("data", "evaluation"),
        settings=audit_settings,
        code=[dataset_audit],
    )
    def clean_dataset(
        context: dg.AssetExecutionContext, recipe: ForgeConfig, raw_dataset: RawDataset, stage_process: StageProcess
    ) -> RawDataset:
        """Rows with credentials and personal data masked, and without repeats, overlap and whatever else is unwanted.

        Art. 10(2)(c): data preparation such as cleaning. ``changes.parquet`` names each removed or masked row with its
        reason; everything after this stage uses these rows.
        """
        return stage_process.run(context, "clean", recipe, {"raw_dataset": raw_dataset}, RawDataset)

    return clean_dataset


def build_clean_dataset_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("clean_dataset", {"every_row_accounted_for": "Rows in are rows kept plus rows removed, each named."})
    def clean_dataset_checks(
        context: dg.AssetCheckExecutionContext,
        raw_dataset: RawDataset,
        clean_dataset: RawDataset,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        report = cleaning_report(clean_dataset)
        rows_in, rows_out = sum(raw_dataset.provenance.rows.values()), sum(clean_dataset.provenance.rows.values())
        removed = sum(report.removed.values())
        same = report.dataset_digest == raw_dataset.digest
        words = (
            f"{rows_in} rows in, {removed} removed ({report.removed}), {rows_out} out, {report.masked_rows} masked"
            if same
            else f"made from {report.dataset_digest}, but raw_dataset is {raw_dataset.digest}; materialize it again"
        )
        facts = {"every_row_accounted_for": (same and rows_in - removed == rows_out, words)}
        yield from report_checks(context, audit_log, line, "clean_dataset", facts, subject=clean_dataset.digest)

    return clean_dataset_checks
