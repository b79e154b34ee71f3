"""What starts a line without a person: its recipe's `automation:` section."""

import json

import dagster as dg

from assets.line import Line
from forge_pipeline.data.held_out import source_digest
from forge_pipeline.errors import ForgeError


def build_schedule(line: Line, job_name: str) -> dg.ScheduleDefinition | None:
    """The recipe's cron line as a schedule."""
    automation = line.config.automation if line.config else None
    if automation is None or automation.cron is None:
        return None
    return dg.ScheduleDefinition(
        name=f"{line.name}_schedule",
        job_name=job_name,
        cron_schedule=automation.cron,
        execution_timezone=automation.timezone,
    )


def build_new_data_sensor(line: Line, job_name: str) -> dg.SensorDefinition | None:
    """Retrains when the digest of the recipe's local data changes.

    The cursor holds that digest and a generation number, and moves only together with the run
    request, so each new digest starts exactly one run and a failed run can be asked for again.
    """
    config = line.config
    if config is None or not config.automation.on_new_data:
        return None

    @dg.sensor(
        name=f"{line.name}_new_data",
        job_name=job_name,
        minimum_interval_seconds=config.automation.check_interval_seconds,
    )
    def new_data(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Asks for a run when the data differs from what the last run was asked for."""
        try:
            digest = source_digest(config)
        except (ForgeError, OSError) as error:
            return dg.SkipReason(f"the data cannot be read: {error}")
        cursor = json.loads(context.cursor) if context.cursor else {}
        if digest == cursor.get("digest"):
            return dg.SkipReason(f"the data is still {digest}")
        generation = int(cursor.get("generation", 0)) + 1
        request = dg.RunRequest(
            run_key=f"{line.name}:{digest}:{generation}", tags={"forge/line": line.name, "forge/trigger": "new_data"}
        )
        return dg.SensorResult(run_requests=[request], cursor=json.dumps({"digest": digest, "generation": generation}))

    return new_data
