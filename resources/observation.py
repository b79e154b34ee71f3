"""Tells Prometheus and OpenLineage about an artefact that was stored, where the deployment asks for it.

After everything that is on record: nothing here can fail a stage, and nothing that fails here is silent.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from forge_pipeline import lineage, stage_metrics
from forge_pipeline.observation import Observers, StageFacts
from resources.store import MaterializationRecord

_USAGE = "usage/"


def usage_of(metadata: Mapping[str, Any]) -> dict[str, float | str]:
    """What a stage used, from the metadata that its process left: name -> number or word."""
    plain = {name: getattr(value, "value", value) for name, value in metadata.items() if name.startswith(_USAGE)}
    return {
        name.removeprefix(_USAGE): value
        for name, value in plain.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool)
    }


def observe(
    context: dg.OutputContext,
    value: Any,
    record: MaterializationRecord,
    metadata: Mapping[str, Any],
    home: Path,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Tell whoever the environment names; a warning in the run's log says what could not be told."""
    try:
        observers = Observers.read(environ)
        if observers.metrics_dir is None and observers.lineage is None:
            return
        facts = stage_facts(context, value, record, metadata)
        if observers.metrics_dir is not None:
            stage_metrics.write_metrics(observers.metrics_dir, facts)
        if observers.lineage is not None:
            told = lineage.tell(observers, facts, home)
            if told.reason:
                context.log.warning(
                    f"OpenLineage: {told.kept} events were not sent and lie in {told.unsent}, {told.refused} were "
                    f"refused: {told.reason}"
                )
    except Exception as error:  # clients of other systems: whatever they raise, the artefact is stored and on record
        context.log.warning(f"{record.asset_key} is stored and on record, but nobody was told of it: {error}")


def stage_facts(
    context: dg.OutputContext, value: Any, record: MaterializationRecord, metadata: Mapping[str, Any]
) -> StageFacts:
    """What there is to tell, from the record and from what Dagster shows of the artefact."""
    spec = context.step_context.job_def.asset_layer.asset_graph.get(context.asset_key)
    line, stage = record.asset_key.split("/", 1)
    schema = metadata.get("dagster/column_schema")
    columns = getattr(getattr(schema, "schema", schema), "columns", ())
    return StageFacts(
        line=line,
        stage=stage,
        run_id=record.run_id,
        started_at=record.started_at,
        ended_at=record.recorded_at,
        digest=record.digest,
        inputs=record.inputs,
        kind=record.artifact_type,
        size=record.size,
        files=record.files,
        owners=tuple(spec.owners or ()),
        columns=tuple((column.name, column.type) for column in columns),
        rows=_count(metadata, "dagster/row_count"),
        tokens=_count(metadata, "tokens", "tokens_trained"),
        usage=record.usage,
        gates=tuple(getattr(value, "gates", ())),
    )


def _count(metadata: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        found = getattr(metadata.get(name), "value", metadata.get(name))
        if isinstance(found, int):
            return found
    return None
