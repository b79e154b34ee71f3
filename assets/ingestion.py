"""`raw_dataset`: the rows as they were found, with their provenance."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import data
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from resources.evidence import AuditLogResource
from resources.settings import DeploymentResource


def build_raw_dataset(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="dataset_io", kinds={"parquet", "arrow"}, sections=("data",), code=[data])
    def raw_dataset(
        context: dg.AssetExecutionContext, recipe: ForgeConfig, deployment: DeploymentResource
    ) -> RawDataset:
        """Rows read from the recipe's sources, split once, with licence, origin and digest of each source.

        Annex IV 2(d): provenance, scope and main characteristics of the data. A row that cannot be
        read is counted and named; none is lost silently.
        """
        return data.ingest(recipe, deployment.work_directory(context))

    return raw_dataset


def build_raw_dataset_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("raw_dataset", {"schema_known": "The rows are of a dataset type and format that a trainer takes."})
    def raw_dataset_checks(
        context: dg.AssetCheckExecutionContext, raw_dataset: RawDataset, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        found = raw_dataset.provenance
        words = f"{found.dataset_type}, {found.dataset_format}: {found.reason}"
        known = bool(found.dataset_type) and sum(found.rows.values()) > 0
        facts = {"schema_known": (known, words)}
        yield from report_checks(context, audit_log, line, "raw_dataset", facts, subject=raw_dataset.digest)

    return raw_dataset_checks
