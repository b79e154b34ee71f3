"""Cron lines of a recipe as Dagster schedules, and what they do about times that passed while nobody kept watch."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator

from assets.line import Line
from assets.retraining_runs import run_in_progress
from forge_pipeline.config.automation import CatchUp

_ON_TIME = 300  # seconds: a tick later than this was missed


def build_schedules(line: Line, job_name: str) -> list[dg.ScheduleDefinition]:
    """One schedule for all lines of `automation.cron`, and one for each of `automation.schedules`."""
    if line.config is None:
        return []
    settings = line.config.automation
    built = []
    if settings.cron is not None:
        cron = [settings.cron] if isinstance(settings.cron, str) else settings.cron
        built.append(_schedule(line, job_name, "schedule", cron, settings.timezone, settings.catch_up, ()))
    for each in settings.schedules:
        zone, catch_up = each.timezone or settings.timezone, each.catch_up or settings.catch_up
        built.append(_schedule(line, job_name, each.name, [each.cron], zone, catch_up, each.stages))
    return built


def _schedule(
    line: Line, job_name: str, name: str, cron: Sequence[str], zone: str, catch_up: CatchUp, stages: Sequence[str]
) -> dg.ScheduleDefinition:
    what = ", ".join(stages) or "the whole line"

    @dg.schedule(
        name=f"{line.name}_{name}",
        job_name=job_name,
        cron_schedule=list(cron) if len(cron) > 1 else cron[0],
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Materializes {what} of {line.name} at {' and at '.join(cron)} ({zone}).",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """One run for each time; none while a run of the line goes on, whose results it would mix with its own."""
        due = context.scheduled_execution_time
        if absent := [stage for stage in stages if stage not in line.stages]:
            return dg.SkipReason(f"{line.name} has no {', '.join(absent)}; change automation.schedules in its recipe")
        if reason := _missed(due, datetime.now(UTC), cron, zone, catch_up):
            return dg.SkipReason(reason)
        if (run := run_in_progress(context.instance, line)) is not None:
            return dg.SkipReason(f"run {run.run_id} of {line.name} goes on")
        return dg.RunRequest(
            run_key=f"{line.name}:{name}:{due.isoformat()}",
            asset_selection=[line.key(stage) for stage in stages] or None,
            tags={"forge/line": line.name, "forge/trigger": "schedule"},
        )

    return schedule


def _missed(due: datetime, now: datetime, cron: Sequence[str], zone: str, catch_up: CatchUp) -> str | None:
    """Why a time that has passed is let go; None where it is not."""
    if catch_up == "all":
        return None
    if catch_up == "none" and (now - due).total_seconds() > _ON_TIME:
        return f"{due.isoformat()} was missed, and the recipe says catch_up: none"
    times = schedule_execution_time_iterator(due.timestamp(), list(cron), zone)
    following = next(time for time in times if time > due)
    if catch_up == "latest" and following <= now:
        return f"{due.isoformat()} was missed, and {following.isoformat()} as well; only the latest is caught up"
    return None
