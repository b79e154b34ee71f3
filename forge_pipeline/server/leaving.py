"""Whether what the audit of a model's data found lets the model leave this server."""

from pathlib import Path

from forge_pipeline.errors import GateFailedError, IntegrityError
from forge_pipeline.gates import GuardedStage, check_gates
from forge_pipeline.models.directory import ModelDirectory
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.artifacts import Artifacts
from forge_pipeline.server.errors import ConflictError


def check_audit(artifacts: Artifacts, row: ModelRow, stage: GuardedStage) -> None:
    """Refuse to go on unless the audit of exactly the model's rows lets `stage` go on.

    Args:
        artifacts: Finds the audit and reads it, once its bytes are known to be what they were.
        row: The model.
        stage: ``export`` for files to be made here, ``release`` for what leaves to others.

    Raises:
        ConflictError: It does not, it is not on record, or it was changed.
    """
    try:
        gates = artifacts.audit_gates(row)
        subject = ModelDirectory(Path(row.path), row.uid).record.dataset_digest
    except IntegrityError as error:
        raise ConflictError("The audit of this model's data was changed after it was stored") from error
    if gates is None:
        raise ConflictError("No audit of this model's data is on record, so nobody can say that it may leave")
    try:
        check_gates(stage, gates, subject=subject)
    except GateFailedError as error:
        raise ConflictError(f"The audit of this model's data keeps it from leaving: {error}") from error
