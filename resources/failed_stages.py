"""A stage that stored nothing: told to whoever is told of stages, and noted in the line's audit log with what it used.

A hook of Dagster's is called after a step failed, whatever failed: the stage, reading its inputs or storing its
result. It is not called where the run was stopped; that is noted by whoever sees the interrupt. A run whose own process
is killed notes nothing.
"""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from forge_pipeline.dataset_audit import mask_secrets
from forge_pipeline.errors import ForgeError
from forge_pipeline.observation import FailedStage
from forge_pipeline.usage import STAGE_FAILED
from resources.evidence import AuditLogResource
from resources.home import Home
from resources.noted_inputs import noted_inputs
from resources.observation import observe_failure
from resources.spent import read_spent

_LONGEST = 2000  # characters of a message


def failure_hook(key: dg.AssetKey, owners: tuple[str, ...]) -> dg.HookDefinition:
    """The hook of one asset."""

    @dg.failure_hook(name="note_failed_stage", required_resource_keys={"audit_log"})
    def note_failed_stage(context: dg.HookContext) -> None:
        error = context.op_exception
        if error is not None:
            failed = failed_stage(key, owners, context.run_id, error)
            note(failed, context.resources.audit_log, context.instance, context.step_key, context.log)

    return note_failed_stage


def note_stopped(
    context: dg.AssetExecutionContext, owners: tuple[str, ...], error: BaseException, audit_log: AuditLogResource
) -> None:
    """The same for a stage that was interrupted; never raises, so that the interrupt goes on."""
    step = str(context.op_execution_context.op_handle)
    try:
        failed = failed_stage(context.asset_key, owners, context.run.run_id, error, was_stopped=True)
        note(failed, audit_log, context.instance, step, context.log)
    except Exception as trouble:  # the run is being stopped, which must not wait for a full disk or a locked log
        context.log.warning(f"{step} was stopped, which could not be noted: {type(trouble).__name__}: {trouble}")


def failed_stage(
    key: dg.AssetKey, owners: tuple[str, ...], run_id: str, error: BaseException, *, was_stopped: bool = False
) -> FailedStage:
    """What is known of it from the error alone."""
    cause = error.__cause__ if isinstance(error.__cause__, ForgeError) else error
    message = (error.description or "") if isinstance(error, dg.Failure) else str(error)
    return FailedStage(
        line=key.path[0],
        stage="/".join(key.path[1:]),
        run_id=run_id,
        started_at=None,
        ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        error=type(cause).__name__,
        message=mask_secrets(message)[:_LONGEST] or "stopped",
        was_stopped=was_stopped,
        owners=owners,
    )


def note(
    failed: FailedStage,
    audit_log: AuditLogResource,
    instance: dg.DagsterInstance,
    step_key: str,
    log: logging.Logger,
) -> None:
    """Tell of it and log it. A line whose audit log has not begun has no run to account for.

    Raises:
        OSError: The audit log could not be written.
    """
    home = Path(audit_log.directory)
    stats = instance.get_run_step_stats(failed.run_id, [step_key])
    begun = stats[0].start_time if stats else None
    failed = replace(
        failed,
        started_at=datetime.fromtimestamp(begun, UTC).isoformat(timespec="milliseconds") if begun else None,
        inputs=noted_inputs(home, failed.run_id, step_key),
        usage=read_spent(Home(home).work / failed.run_id / step_key),
    )
    observe_failure(failed, log, home)
    if audit_log.path(failed.line).exists():
        # Without the message: it may quote a row, and the log cannot be made to forget (GDPR Art. 17).
        audit_log.log(
            failed.line,
            failed.run_id,
            STAGE_FAILED,
            asset_key=f"{failed.line}/{failed.stage}",
            error=failed.error,
            stopped=failed.was_stopped,
            inputs=dict(failed.inputs),
            usage=dict(failed.usage),
        )
