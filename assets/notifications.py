"""Who is told what a line's runs did: its recipe's ``webhook:`` section, acted on.

Run-status sensors tell of runs that the daemon knows (the UI's, schedules', sensors'), and a plain
sensor of releases that wait for people. `dagster asset materialize` runs without a daemon; there
`notify_from_run` tells, called by whoever sees the run fail. What was told stands in the line's
audit log as ``webhook.delivered`` or ``webhook.failed``, and nothing delivered is told again. A
notification that cannot be sent never fails a run.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import dagster as dg

from assets.line import Line
from forge_pipeline.audit_log import Entry, iter_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.dataset_audit import mask_secrets
from forge_pipeline.webhook import Delivery, WebhookNotifier
from resources.evidence import AuditLogResource

Status = Literal["started", "success", "failure", "awaiting_approval"]

_MEASURED = ("fine_tuned_model", "benchmark_report", "safety_report")
_EVENTS: dict[Status, str] = {
    "started": "training.start",
    "success": "training.success",
    "failure": "training.failure",
    "awaiting_approval": "approval.required",
}
_SETTLED = ("human_approval.granted", "human_approval.rejected", "human_approval.expired", "model.released")
_SECONDS = 30  # between two looks


def build_notifications(line: Line) -> list[dg.SensorDefinition]:
    """The sensors of a line whose recipe names a webhook; none for any other, and none for the studio line."""
    config = line.config
    section = config.webhook if config else None
    if config is None or section is None or not (section.url or section.url_env):
        return []
    wanted: list[tuple[str, dg.DagsterRunStatus, Status, bool]] = [
        ("started", dg.DagsterRunStatus.STARTED, "started", section.notify_on_start),
        ("success", dg.DagsterRunStatus.SUCCESS, "success", section.notify_on_success),
        ("failure", dg.DagsterRunStatus.FAILURE, "failure", section.notify_on_failure),
        ("canceled", dg.DagsterRunStatus.CANCELED, "failure", section.notify_on_failure),
    ]
    sensors = [_run_sensor(line, config, name, run, status) for name, run, status, asked in wanted if asked]
    return [*sensors, _approval_sensor(line, config)]


def notify_from_run(
    context: dg.AssetExecutionContext,
    line: Line,
    recipe: ForgeConfig,
    status: Status,
    reason: str = "",
    *,
    audit_log: AuditLogResource,
) -> Delivery:
    """Tell of the run that `context` belongs to, from within it; never raises.

    Args:
        recipe: The recipe of this run, whose ``webhook:`` section is acted on.
        reason: Why it failed.
    """
    try:
        if status == "awaiting_approval":
            told = [*_tell_of_open_requests(line, recipe, audit_log, after=-1)]
            return told[-1][1] if told else Delivery(False, reason="no release waits for people")
        return _tell_of_run(line, recipe, audit_log, context.run.run_id, status, reason)
    except Exception as error:  # what went wrong with the run must be what its reader sees
        context.log.warning(f"nobody was told that the run is {status}: {type(error).__name__}: {error}")
        return Delivery(False, reason=str(error), event=_EVENTS[status])


def tell_of_expired(line: Line, config: ForgeConfig, request: str, *, audit_log: AuditLogResource) -> Delivery:
    """Tell that nobody decided about a request in time, once."""
    words = f"request {request} expired undecided; materialize released_model to ask anew"
    return _tell(
        line,
        audit_log,
        f"{request}/expired",
        _EVENTS["awaiting_approval"],
        lambda: WebhookNotifier(config).notify_awaiting_approval(line.name, words),
    )


def tell_of_reverted(
    line: Line, config: ForgeConfig, subject: str, reason: str, *, audit_log: AuditLogResource
) -> Delivery:
    """Tell that a model failed a gate and is quarantined, once."""
    return _tell(
        line,
        audit_log,
        f"{subject}/reverted",
        "training.reverted",
        lambda: WebhookNotifier(config).notify_reverted(line.name, mask_secrets(f"{subject}: {reason}")),
    )


def _run_sensor(
    line: Line, config: ForgeConfig, name: str, run_status: dg.DagsterRunStatus, status: Status
) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name=f"{line.name}_notify_{name}",
        run_status=run_status,
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells the recipe's webhook that a run of {line.name} is {run_status.value.lower()}.",
    )
    def notify(context: dg.RunStatusSensorContext, audit_log: AuditLogResource) -> dg.SkipReason | None:
        run = context.dagster_run
        if not is_run_of(line, run):
            return dg.SkipReason(f"run {run.run_id} is of another line")
        reason = "the run was canceled" if name == "canceled" else ""
        if status == "failure" and not reason:
            reason = _why_it_failed(context)
        metrics = _measured(context, line) if status == "success" else {}
        delivery = _tell_of_run(line, config, audit_log, run.run_id, status, reason, metrics)
        return None if delivery.delivered else dg.SkipReason(delivery.reason or "not delivered")

    return notify


def _approval_sensor(line: Line, config: ForgeConfig) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{line.name}_notify_approval",
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells the recipe's webhook that a release of {line.name} waits for people.",
    )
    def notify_approval(context: dg.SensorEvaluationContext, audit_log: AuditLogResource) -> dg.SkipReason:
        """Looks for requests in the audit log; the cursor is the log's id and the last entry seen."""
        path = audit_log.path(line.name)
        if not path.exists():
            return dg.SkipReason(f"{line.name} has no audit log yet")
        cursor = json.loads(context.cursor) if context.cursor else {}
        log_id, last = _end_of(path)
        after = int(cursor["seq"]) if cursor.get("log_id") == log_id else -1
        told = list(_tell_of_open_requests(line, config, audit_log, after=after))
        context.update_cursor(json.dumps({"log_id": log_id, "seq": last}))
        words = [f"{request}: {'told' if each.delivered else each.reason}" for request, each in told]
        return dg.SkipReason("; ".join(words) or "no release waits for people")

    return notify_approval


def is_run_of(line: Line, run: dg.DagsterRun) -> bool:
    """Whether a run materializes or checks assets of `line`."""
    if run.job_name == f"{line.name}_job":
        return True
    keys = [*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())]
    return any(key.path[0] == line.name for key in keys)


def _tell_of_run(
    line: Line,
    config: ForgeConfig,
    audit_log: AuditLogResource,
    run_id: str,
    status: Status,
    reason: str,
    metrics: dict[str, float] | None = None,
) -> Delivery:
    notifier, name = WebhookNotifier(config), f"{line.name}/{run_id}"
    reason = mask_secrets(reason) if reason else ""  # it leaves the house, and an error quotes what it met
    send: dict[Status, Callable[[], Delivery]] = {
        "started": lambda: notifier.notify_start(name),
        "success": lambda: notifier.notify_success(name, metrics or {}),
        "failure": lambda: notifier.notify_failure(name, reason),
    }
    return _tell(line, audit_log, run_id, _EVENTS[status], send[status])


def _tell_of_open_requests(
    line: Line, config: ForgeConfig, audit_log: AuditLogResource, *, after: int
) -> Iterator[tuple[str, Delivery]]:
    """Tell of each request after entry `after` that is not decided yet: its id, and what came of it."""
    path = audit_log.path(line.name)
    if not path.exists():
        return
    notifier = WebhookNotifier(config)
    for entry in _open_requests(iter_entries(path), after):
        request = str(entry.data.get("request_id", entry.seq))
        words = f'{entry.data["subject"]}: forge approve {request} --reason "..."'

        def send(words: str = words) -> Delivery:
            return notifier.notify_awaiting_approval(line.name, words)

        yield request, _tell(line, audit_log, request, _EVENTS["awaiting_approval"], send)


def _open_requests(entries: Iterable[Entry], after: int) -> list[Entry]:
    """The newest request about each model that still lacks approvals, and that nobody rejected."""
    waiting: dict[str, tuple[Entry, int]] = {}  # subject -> its request, approvals that it lacks
    for entry in entries:
        subject = str(entry.data.get("subject"))
        if entry.event == "human_approval.required":
            waiting[subject] = (entry, int(entry.data.get("needed", 1)))
        elif subject not in waiting:
            continue
        elif entry.event == "human_approval.granted" and waiting[subject][1] > 1:
            waiting[subject] = (waiting[subject][0], waiting[subject][1] - 1)
        elif entry.event in _SETTLED:
            del waiting[subject]
    return [entry for entry, _ in waiting.values() if entry.seq > after]


def _tell(line: Line, audit_log: AuditLogResource, about: str, event: str, send: Callable[[], Delivery]) -> Delivery:
    """Send and log, unless the log says that this was delivered.

    Args:
        about: Id of the run or of the request.

    Raises:
        OSError: The audit log could not be read or written.
    """
    if _is_told(audit_log.path(line.name), about, event):
        return Delivery(False, reason=f"{event} of {about} was told before", event=event)
    delivery = send()
    if delivery.was_wanted:
        outcome = {} if delivery.delivered else {"reason": delivery.reason or "not delivered"}
        audit_log.log(
            line.name,
            f"notification-{about}",  # a run's own id may be closed by now
            "webhook.delivered" if delivery.delivered else "webhook.failed",
            notified_event=event,
            about=about,
            payload_digest=delivery.payload_digest,
            attempts=delivery.attempts,
            status=delivery.status,
            **outcome,
        )
    return delivery


def _is_told(log: Path, about: str, event: str) -> bool:
    return log.exists() and any(
        entry.event == "webhook.delivered"
        and entry.data.get("about") == about
        and entry.data.get("notified_event") == event
        for entry in iter_entries(log)
    )


def _end_of(log: Path) -> tuple[str, int]:
    """The log's id and the number of its last entry."""
    log_id, last = "", -1
    for entry in iter_entries(log):
        log_id, last = entry.log_id, entry.seq
    return log_id, last


def _why_it_failed(context: dg.RunStatusSensorContext) -> str:
    """The message of each step that failed, else of the run."""
    words = []
    for event in context.for_run_failure().get_step_failure_events():
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        error = data.error
        while error is not None and error.cause is not None:  # Dagster wraps what the stage raised
            error = error.cause
        words.append(said or (error.message.strip() if error else "") or f"{event.step_key} failed")
    return "; ".join(words) or context.dagster_event.message or "the run failed"


def _measured(context: dg.RunStatusSensorContext, line: Line) -> dict[str, float]:
    """What the run's events say was measured: their plain numbers, by name."""
    found: dict[str, float] = {}
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    ).records
    for record in records:
        made = record.asset_materialization
        if made is None or made.asset_key.path[0] != line.name or made.asset_key.path[-1] not in _MEASURED:
            continue
        for name, value in made.metadata.items():
            if isinstance(value, dg.FloatMetadataValue) and value.value is not None and "/" not in name:
                found[name] = value.value
    return found
