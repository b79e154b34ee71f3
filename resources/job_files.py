"""The GGUF files of a studio job's model, for a stage that goes on without them where there are none."""

from pathlib import Path

import dagster as dg
from dagster import AssetRecordsFilter

from forge_pipeline.errors import EvidenceError
from forge_pipeline.export import GgufModel
from forge_pipeline.integrity import Digest
from resources.noted_inputs import note_input
from resources.settings import DeploymentResource


def last_gguf(
    context: dg.AssetExecutionContext, deployment: DeploymentResource, key: dg.AssetKey, model: Digest
) -> GgufModel | None:
    """The latest materialization of `key` in the step's partition, noted among what the step took.

    Returns:
        None where there is none, or where the latest was made of another model than `model`.

    Raises:
        EvidenceError: Its event carries no digest: it was not made by this pipeline.
        StoreError, IntegrityError: Its files are gone, or are not what the digest says.
    """
    partitions = [context.partition_key] if context.has_partition_key else None
    found = context.instance.fetch_materializations(AssetRecordsFilter(key, asset_partitions=partitions), limit=1)
    event = found.records[0].asset_materialization if found.records else None
    if event is None:
        return None
    if "forge/digest" not in event.metadata:
        raise EvidenceError(f"the latest event of {key.to_user_string()} carries no digest; materialize it again")
    digest = Digest(str(event.metadata["forge/digest"].value))
    gguf = GgufModel.open(deployment.store.get(digest))
    if gguf.report.model_digest != model:
        return None
    step = str(context.op_execution_context.op_handle)
    note_input(Path(deployment.home_directory), context.run.run_id, step, key.to_user_string(), digest)
    return gguf
