"""The retraining sensor: exactly one run for each cause, whatever crashes.

What a tick knows comes from three places, of which any may be lost without a run being lost or doubled:

- the world: the data's digest, the register of erasures, the newest model and its benchmarks (`retraining_causes`,
  `retraining_metric`);
- Dagster's runs, whose tags say what was asked and whose status says what became of it (`retraining_runs`);
- the cursor: what was acted on last, and since when the files have stayed as they are. Dagster stores it together with
  the run request. If it is lost, it is made again from the runs' tags.

Rules: (1) one run of a line at a time. (2) Files that still change start nothing. (3) A cause that was acted on is
acted on no more; causes that come together share one run. (4) A run that was lost (its process was killed) is asked for
again, after a wait that doubles, `max_attempts` times in all. (5) A run whose stage failed, and one that a person
canceled, is not: ``forge retrain`` asks again. The run key names causes, generation and attempt, so that a tick that
is evaluated twice asks for the same run, which Dagster starts once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import dagster as dg

from assets import retraining_causes as causes
from assets.line import Line
from assets.retraining_causes import Surroundings
from assets.retraining_metric import fallen_metric
from assets.retraining_runs import Asked, last_asked, run_in_progress, run_request
from forge_pipeline.config.automation import AutomationSection
from forge_pipeline.data.changes import files_state
from forge_pipeline.errors import ForgeError
from resources.evidence import AuditLogResource
from resources.settings import DeploymentResource


@dataclass(frozen=True)
class Memory:
    """The sensor's cursor.

    Attributes:
        generation: How often the line was asked for.
        acted_on: Trigger -> identity of its cause when the line was asked for last.
        state, since: Of the files that are watched, and since when they are so (seconds since 1970).
        looked_at: Trigger -> what it said about files in state `digested`, so that they are not read again.
    """

    generation: int = 0
    acted_on: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None
    since: float = 0.0
    digested: str | None = None
    looked_at: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None, asked: Asked | None) -> "Memory":
        """From a cursor; from the newest run's tags where there is none that can be read."""
        try:
            return cls(**json.loads(cursor or ""))
        except (ValueError, TypeError):
            return cls(asked.generation, asked.causes) if asked else cls()

    def to_cursor(self) -> str:
        return json.dumps(asdict(self))


def build_retraining_sensor(line: Line, job_name: str) -> dg.SensorDefinition | None:
    """The sensor of a line whose recipe says when to retrain; None for any other."""
    config = line.config
    if config is None or not config.automation.retrains:
        return None

    @dg.sensor(
        name=f"{line.name}_retraining",
        job_name=job_name,
        minimum_interval_seconds=config.automation.check_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Trains {line.name} again when its recipe's automation: says so.",
    )
    def retraining(
        context: dg.SensorEvaluationContext, audit_log: AuditLogResource, deployment: DeploymentResource
    ) -> dg.SensorResult | dg.SkipReason:
        """Asks for at most one run."""
        around = Surroundings(line, config, context.instance, deployment, audit_log, _code_versions(context, line))
        try:
            return look(around, context.cursor, datetime.now(UTC))
        except (ForgeError, OSError) as error:  # the cursor stays; the next tick looks again
            return dg.SkipReason(f"{line.name}: {error}")

    return retraining


def look(around: Surroundings, cursor: str | None, now: datetime) -> dg.SensorResult:
    """One tick: what is asked for at `now`, and what is remembered.

    Raises:
        ForgeError: Something that must be looked at cannot be read.
    """
    line, settings = around.line, around.config.automation
    if (run := run_in_progress(around.instance, line)) is not None:
        return dg.SensorResult(skip_reason=f"run {run.run_id} of {line.name} goes on", cursor=cursor)
    asked = last_asked(around.instance, line)
    memory = Memory.of(cursor, asked)
    if asked is not None and asked.status is dg.DagsterRunStatus.NOT_STARTED:
        # Made, and never handed to the queue: the same key again, and Dagster hands over that very run.
        memory = replace(memory, generation=asked.generation, acted_on={**memory.acted_on, **asked.causes})
        return _ask(around, memory, asked.causes, asked.attempt)
    memory = _note_files(around, memory, now)
    if memory.state and now.timestamp() - memory.since < settings.settle_seconds:
        return dg.SensorResult(skip_reason="files changed just now; looking again", cursor=memory.to_cursor())
    memory, found = _causes(around, memory)
    fresh = {trigger: cause for trigger, cause in found.items() if memory.acted_on.get(trigger) != cause}
    if fresh:
        # What a run for another cause trains on is the data as it is now.
        memory = replace(memory, generation=memory.generation + 1, acted_on={**memory.acted_on, **found})
        return _ask(around, memory, fresh, attempt=1)
    return _again(around, memory, asked, settings, now)


def _again(
    around: Surroundings, memory: Memory, asked: Asked | None, settings: AutomationSection, now: datetime
) -> dg.SensorResult:
    """One more attempt at what was lost, or why not."""
    kept = memory.to_cursor()
    if asked is None or asked.status is dg.DagsterRunStatus.SUCCESS:
        return dg.SensorResult(skip_reason="nothing has changed", cursor=kept)
    if not asked.was_lost:
        words = f"run {asked.run_id} ended as {asked.status.value}; forge retrain {around.line.name} asks again"
        return dg.SensorResult(skip_reason=words, cursor=kept)
    if asked.attempt >= settings.max_attempts:
        words = f"run {asked.run_id} was lost, the last of {asked.attempt} attempts; forge retrain asks again"
        return dg.SensorResult(skip_reason=words, cursor=kept)
    due = asked.again_at(settings.retry_wait_seconds)
    if due is not None and now < due:
        return dg.SensorResult(skip_reason=f"run {asked.run_id} was lost; again at {due.isoformat()}", cursor=kept)
    return _ask(around, memory, asked.causes, asked.attempt + 1)


def _ask(around: Surroundings, memory: Memory, about: Mapping[str, str], attempt: int) -> dg.SensorResult:
    request = run_request(around.line, around.config.automation, about, memory.generation, attempt)
    return dg.SensorResult(run_requests=[request], cursor=memory.to_cursor())


def _note_files(around: Surroundings, memory: Memory, now: datetime) -> Memory:
    """Since when the files are as they are: by their own times, or by when they were first seen so.

    The second is for file systems whose clock is ahead of ours.
    """
    found = files_state(_watched(around))
    if found is None:
        return replace(memory, state=None)
    state, seen = str(found.digest), now.timestamp()
    if state == memory.state:
        seen = memory.since
    return replace(memory, state=state, since=min(seen, found.changed_at))


def _watched(around: Surroundings) -> list[str]:
    settings = around.config.automation
    names = [entry.name_or_path for entry in around.config.data.datasets] if settings.on_new_data else []
    return [*names, *([settings.drift.data] if settings.drift else [])]


def _causes(around: Surroundings, memory: Memory) -> tuple[Memory, dict[str, str]]:
    """What there is to act on, by trigger; what reads files is asked only if these or the newest model are others."""
    settings = around.config.automation
    wanted: list[tuple[str, bool, Callable[[Surroundings], str | None], bool]] = [
        ("new_data", settings.on_new_data, causes.new_data, True),
        ("drift", settings.drift is not None, causes.drifted_data, True),
        ("erasure", settings.on_erasure, causes.erased_data, False),
        ("code", settings.on_code_change, causes.changed_code, False),
        ("metric", settings.falling_metric is not None, fallen_metric, False),
        ("stale", settings.on_stale, causes.stale_model, False),
        ("request", True, causes.requested, False),
    ]
    model = around.newest("fine_tuned_model")
    digested = f"{memory.state} {model.timestamp if model else ''}" if memory.state else None
    known = memory.looked_at if digested is not None and digested == memory.digested else {}
    found: dict[str, str | None] = {}
    for trigger, is_on, cause, reads_files in wanted:
        if is_on:
            found[trigger] = known[trigger] if reads_files and trigger in known else cause(around)
    looked_at = {trigger: found[trigger] for trigger, is_on, _, reads_files in wanted if is_on and reads_files}
    memory = replace(memory, digested=digested, looked_at=looked_at)
    return memory, {trigger: cause for trigger, cause in found.items() if cause is not None}


def _code_versions(context: dg.SensorEvaluationContext, line: Line) -> dict[dg.AssetKey, str | None]:
    repository = context.repository_def
    if repository is None:
        return {}
    graph = repository.asset_graph
    return {key: graph.get(key).code_version for key in graph.get_all_asset_keys() if key.path[0] == line.name}
