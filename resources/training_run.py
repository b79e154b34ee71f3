"""Under which run id the trackers know the training of a model: for the stages that measure it, maybe much later."""

from typing import Any

import dagster as dg
from dagster import AssetRecordsFilter

from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import Digest

_LOOK_AT = 50  # newest materializations
TRACKED_AS = "tracked_as"


def tracked_as(
    context: dg.AssetExecutionContext, recipe: ForgeConfig, key: dg.AssetKey, model: Digest
) -> dict[str, Any]:
    """The input of a measuring stage that names the training's run; none where the recipe names no tracker.

    Args:
        key: Asset of the model: ``<line>/fine_tuned_model``, or ``<line>/<part>/fine_tuned_model``.
        model: Its digest; of several runs that made the same bytes the newest is meant.
    """
    if not recipe.training.trackers:
        return {}
    partitions = [context.partition_key] if context.has_partition_key else None
    wanted = AssetRecordsFilter(key, asset_partitions=partitions)
    for record in context.instance.fetch_materializations(wanted, limit=_LOOK_AT).records:
        made = record.asset_materialization
        if made is not None and "forge/digest" in made.metadata and made.metadata["forge/digest"].value == model:
            return {TRACKED_AS: tracker_run_id(record.run_id, "/".join(key.path[1:-1]))}
    return {}


def tracker_run_id(run_id: str, part: str | None) -> str:
    """The trackers' id of what one run trains; each part of a chain has a curve of its own."""
    return "-".join(filter(None, [run_id, part]))
