"""What became of the runs that a line was asked for: which goes on, which was lost, which may be tried again.

Dagster's runs are asked, not a memory of our own, because they are there whatever crashed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG, RUN_FAILURE_REASON_TAG

from assets.line import Line
from assets.notifications import is_run_of
from forge_pipeline._optional import require
from forge_pipeline.config.automation import AutomationSection

ASKED_BY = "forge/asked_by"
CAUSES = "forge/causes"
GENERATION = "forge/generation"
ATTEMPT = "forge/attempt"

_IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_STARTS_WITHIN = 2.0  # seconds: a process is older than what it logs; clocks of processes have a grain


@dataclass(frozen=True)
class Asked:
    """The newest run that a line's retraining sensor asked for.

    Attributes:
        causes: Trigger -> what it was about: a digest, or the id of a request.
        generation: Counts what the line was asked for, from 1.
        attempt: Counts the runs for it, from 1.
        ended_at: None while it goes on.
    """

    run_id: str
    status: dg.DagsterRunStatus
    causes: Mapping[str, str]
    generation: int
    attempt: int
    ended_at: datetime | None
    stage_failed: bool

    @property
    def was_lost(self) -> bool:
        """Whether it ended without a stage having said no: its process was killed, or never came up."""
        return self.status is dg.DagsterRunStatus.FAILURE and not self.stage_failed

    def again_at(self, wait_seconds: int) -> datetime | None:
        """When the next attempt may start: `wait_seconds` after the first, and twice as long after each further one."""
        return self.ended_at and self.ended_at + timedelta(seconds=wait_seconds * 2.0 ** (self.attempt - 1))


def last_asked(instance: dg.DagsterInstance, line: Line) -> Asked | None:
    """The newest run with our tags; None where there was none."""
    tags = {"forge/line": line.name, ASKED_BY: "retraining"}
    records = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
    if not records:
        return None
    run, end = records[0].dagster_run, records[0].end_time
    return Asked(
        run.run_id,
        run.status,
        json.loads(run.tags[CAUSES]),
        int(run.tags[GENERATION]),
        int(run.tags[ATTEMPT]),
        datetime.fromtimestamp(end).astimezone() if end else None,
        stage_failed=run.tags.get(RUN_FAILURE_REASON_TAG) == "STEP_FAILURE",
    )


def run_request(
    line: Line, automation: AutomationSection, causes: Mapping[str, str], generation: int, attempt: int
) -> dg.RunRequest:
    """The same arguments give the same run key, so that asking twice starts one run."""
    about = "+".join(f"{trigger}={cause}" for trigger, cause in sorted(causes.items()))
    tags = {
        "forge/line": line.name,
        "forge/trigger": "+".join(sorted(causes)),
        ASKED_BY: "retraining",
        CAUSES: json.dumps(dict(sorted(causes.items()))),
        GENERATION: str(generation),
        ATTEMPT: str(attempt),
        "dagster/max_retries": "0",  # lost runs are asked for again by the sensor; both would be a run too many
    }
    if automation.max_runtime_hours:
        tags["dagster/max_runtime"] = str(round(automation.max_runtime_hours * 3600))
    return dg.RunRequest(run_key=f"{line.name}:{about}:{generation}:{attempt}", tags=tags)


def run_in_progress(instance: dg.DagsterInstance, line: Line) -> dg.DagsterRun | None:
    """A run of the line that goes on, whoever started it.

    A run whose process is gone would go on for ever, with Dagster's default launcher, if the code server died with it
    (a power failure). Such a run is reported as failed here, which frees its slots, too.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=_IN_PROGRESS)):
        if is_run_of(line, run) and not _end_if_dead(instance, run):
            return run
    return None


def _end_if_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the run's process is known to be gone; the run has ended then, or is reported as failed.

    Known only of runs that the default launcher started: their processes live where sensors are evaluated.
    """
    if run.status is not dg.DagsterRunStatus.STARTED or GRPC_INFO_TAG not in run.tags:
        return False
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return False
    worker = _worker(instance, run.run_id)
    if worker is None or _is_alive(*worker):
        return False
    # Only now that the process is gone, nothing that it says can come later: it may have finished in between.
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.status is not dg.DagsterRunStatus.STARTED:
        return True
    instance.report_run_failed(run, f"The run's process {worker[0]} is gone.")
    return True


def _worker(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Process id of the run's worker and when it was logged, in seconds since 1970."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    found = None
    for record in records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            found = int(str(pid.value)), record.event_log_entry.timestamp
    return found


def _is_alive(pid: int, logged_at: float) -> bool:
    psutil = require("psutil", extra="train", purpose="Knowing whether a run's process lives")
    try:
        process = psutil.Process(pid)
        is_older = process.create_time() <= logged_at + _STARTS_WITHIN
        return bool(is_older and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
