"""What Dagster's event log and our records say about the artefacts that a stage uses."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import dagster as dg
from dagster import AssetRecordsFilter, serialize_value

from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.annex_iv.evidence import DOCUMENT_VERSION
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest
from forge_pipeline.training import ResourceUsage
from resources.stage_process import ENVIRONMENT
from resources.store import ArtifactStore

_PAGE = 1000  # events


def materialization_records(
    context: dg.AssetExecutionContext, store: ArtifactStore, line: str
) -> tuple[dict[str, Any], ...]:
    """The materialization records of everything upstream in `line`, oldest first, each beside its Dagster event.

    Raises:
        EvidenceError: An upstream event carries no record, or disagrees with it.
    """
    graph = context.job_def.asset_layer.asset_graph
    records = []
    for key in sorted(graph.get_ancestor_asset_keys(context.asset_key)):
        if key.path[0] != line:
            continue
        partitions = [context.partition_key] if context.has_partition_key else None
        found = context.instance.fetch_materializations(
            AssetRecordsFilter(key, asset_partitions=partitions), limit=1
        ).records
        if not found or found[0].asset_materialization is None:
            continue
        metadata = found[0].asset_materialization.metadata
        if "forge/record" not in metadata:
            raise EvidenceError(
                f"the latest event of {key.to_user_string()} carries no record: it was not made by this pipeline"
            )
        record = store.record(line, Digest(str(metadata["forge/record"].value)))
        if record["digest"] != metadata["forge/digest"].value or record["run_id"] != found[0].run_id:
            raise EvidenceError(
                f"event and record of {key.to_user_string()} disagree: {metadata['forge/digest'].value}, {record}"
            )
        records.append({**record, "dagster_timestamp": found[0].timestamp})
    return tuple(sorted(records, key=lambda record: record["recorded_at"]))


def previous_bundle(context: dg.AssetExecutionContext, store: ArtifactStore) -> AnnexIvBundle | None:
    """What this asset was materialized as last, in the same partition; None the first time.

    A bundle derived by other rules than this version's is no parent: the two cannot be compared point by point.
    """
    partitions = [context.partition_key] if context.has_partition_key else None
    found = context.instance.fetch_materializations(
        AssetRecordsFilter(context.asset_key, asset_partitions=partitions), limit=1
    ).records
    event = found[0].asset_materialization if found else None
    if event is None or "forge/digest" not in event.metadata:
        return None
    made = AnnexIvBundle.open(store.get(Digest(str(event.metadata["forge/digest"].value))))
    return made if made.manifest["document_version"] == DOCUMENT_VERSION else None


def training_usage(context: dg.AssetExecutionContext, model: dg.AssetKey) -> ResourceUsage | None:
    """What the latest materialization of `model` used, from its event; None if it carries no such facts."""
    partitions = [context.partition_key] if context.has_partition_key else None
    found = context.instance.fetch_materializations(AssetRecordsFilter(model, asset_partitions=partitions), limit=1)
    event = found.records[0].asset_materialization if found.records else None
    if event is None or "usage/device_name" not in event.metadata:
        return None
    names = [field.name for field in fields(ResourceUsage)]
    values: dict[str, Any] = dict.fromkeys(names)
    values |= {name: event.metadata[f"usage/{name}"].value for name in names if f"usage/{name}" in event.metadata}
    return ResourceUsage(**values)


def training_environment(context: dg.AssetExecutionContext, model: dg.AssetKey) -> dict[str, str]:
    """Where the latest materialization of `model` was trained, from its event; empty if it carries no such facts."""
    partitions = [context.partition_key] if context.has_partition_key else None
    found = context.instance.fetch_materializations(AssetRecordsFilter(model, asset_partitions=partitions), limit=1)
    event = found.records[0].asset_materialization if found.records else None
    facts = event.metadata[ENVIRONMENT].value if event is not None and ENVIRONMENT in event.metadata else {}
    return {str(name): str(value) for name, value in facts.items()}


def run_events(context: dg.AssetExecutionContext, run_ids: Iterable[str]) -> bytes:
    """Dagster's own events of the runs that made a bundle's artefacts, as JSON lines, runs in the order they started.

    They are a copy: what a person later wipes or deletes in Dagster still stands in the bundle.
    """
    lines: list[str] = []
    for run_id in dict.fromkeys([*run_ids, context.run_id]):
        cursor: str | None = None
        while True:
            page = context.instance.get_records_for_run(run_id, cursor=cursor, limit=_PAGE)
            lines += [serialize_value(record.event_log_entry) for record in page.records]
            cursor = page.cursor
            if not page.has_more:
                break
    return "".join(f"{line}\n" for line in lines).encode()
