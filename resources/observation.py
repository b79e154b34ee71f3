"""Tells Prometheus and OpenLineage about a stage that ended, well or not, where the deployment asks for it.

After everything that is on record: nothing here can fail a stage, and nothing that fails here is silent.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from forge_pipeline import lineage, stage_metrics
from forge_pipeline.dataset_audit import mask_secrets
from forge_pipeline.observation import FailedStage, Observers, StageFacts
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
    said = f"{record.asset_key} is stored and on record"
    _tell(lambda: stage_facts(context, value, record, metadata), said, context.log, home, environ)


def observe_failure(
    failed: FailedStage, log: logging.Logger, home: Path, environ: Mapping[str, str] = os.environ
) -> None:
    """Tell whoever the environment names of a stage that stored nothing; a warning in `log` says what was not told."""
    _tell(lambda: failed, f"{failed.line}/{failed.stage} failed", log, home, environ)


def _tell(
    facts_of: Callable[[], StageFacts | FailedStage],
    said: str,
    log: logging.Logger,
    home: Path,
    environ: Mapping[str, str],
) -> None:
    """Each observer by itself: one that is away keeps the others from nothing."""
    try:
        observers = Observers.read(environ)
        if not observers.anybody:
            return
        facts = facts_of()
    except Exception as error:  # whatever went wrong here, the stage has ended as it did
        log.warning(f"{said}, but nobody was told of it: {error}")
        return
    for name, tell in (("Prometheus", _write), ("the Pushgateway", _push), ("OpenLineage", _send)):
        try:
            if words := tell(observers, facts, home):
                log.warning(words)
        except Exception as error:  # clients of other systems: whatever they raise, the stage has ended as it did
            log.warning(f"{said}, but {name} was not told of it: {type(error).__name__}: {mask_secrets(str(error))}")


def _write(observers: Observers, facts: StageFacts | FailedStage, home: Path) -> str | None:
    if observers.metrics_dir is not None:
        stage_metrics.write_metrics(observers.metrics_dir, facts)
    return None


def _push(observers: Observers, facts: StageFacts | FailedStage, home: Path) -> str | None:
    if observers.pushgateway is not None:
        stage_metrics.push_metrics(observers.pushgateway, facts)
    return None


def _send(observers: Observers, facts: StageFacts | FailedStage, home: Path) -> str | None:
    told = lineage.tell(observers, facts, home) if observers.lineage is not None else None
    if told is None or not told.reason:
        return None
    return (
        f"OpenLineage: {told.kept} events were not sent and lie in {told.unsent}, {told.refused} were "
        f"refused: {told.reason}"
    )


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
