"""`raw_dataset`: the rows as they were found, with their provenance."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import data
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.synthetic import SyntheticDataset
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_raw_dataset(line: Line) -> dg.AssetsDefinition:
    return _build_with_teacher(line) if line.has_teacher else _build_without_teacher(line)


def _build_without_teacher(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="dataset_io", kinds={"parquet", "arrow"}, sections=("data",), code=[data])
    def raw_dataset(context: dg.AssetExecutionContext, recipe: ForgeConfig, stage_process: StageProcess) -> RawDataset:
        """Rows read from the recipe's sources, split once, near-duplicates together, with licence, origin and digest.

        Annex IV 2(d): provenance, scope and main characteristics of the data. A row that cannot be
        read is counted and named; none is lost silently.
        """
        return stage_process.run(context, "ingest", recipe, {}, RawDataset)

    return raw_dataset


def _build_with_teacher(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="dataset_io", kinds={"parquet", "arrow"}, sections=("data", "synthetic"), code=[data])
    def raw_dataset(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        synthetic_dataset: SyntheticDataset,
        stage_process: StageProcess,
    ) -> RawDataset:
        """Rows of the recipe's sources and its teacher's, split once, with licence, origin and digest of each source.

        Annex IV 2(d): provenance, scope and main characteristics of the data. A row that cannot be
        read is counted and named; none is lost silently.
        """
        return stage_process.run(context, "ingest", recipe, {"synthetic_dataset": synthetic_dataset}, RawDataset)

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
