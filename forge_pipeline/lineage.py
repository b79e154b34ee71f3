"""OpenLineage events of a stage, by the project's own client (the package ``openlineage-python``).

    job      <line>.<stage>                in the namespace
    run      a UUID made from the Dagster run's id and the stage: each job has runs of its own there
    parent   job <line>, run: the Dagster run
    dataset  <line>/<stage>, at the version that is the artefact's digest

A START and a COMPLETE are sent together when the artefact is stored; of a stage that failed a START and a FAIL with the
error's message, and an ABORT where it was stopped. What a server does not take is appended to
``$FORGE_HOME/lineage/unsent.jsonl``, an event a line as it would have been sent, and goes first the next time; what
it refuses for good (400, 422) lies in ``refused.jsonl`` and is not sent again.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline import __version__
from forge_pipeline._optional import require
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.observation import FailedStage, Observers, StageFacts

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.transport import Transport

PRODUCER = f"https://pypi.org/project/forge-pipeline/{__version__}"
_TIMEOUT = 5.0  # seconds a server may take for one event
_AT_ONCE = 100  # events that are sent with one stage: it does not wait for all of a long outage's


@dataclass(frozen=True)
class Told:
    """What became of events.

    Attributes:
        sent: Events that the server or the file took, those from before among them.
        kept: Events that lie in `unsent` now.
        refused: Events that the server read and did not want; they lie in ``refused.jsonl`` beside it.
        reason: Why one was not taken; None if all were.
    """

    sent: int
    kept: int
    refused: int
    unsent: Path
    reason: str | None = None


def tell(observers: Observers, facts: StageFacts | FailedStage, home: Path) -> Told:
    """Send a stage's events. A server's trouble is no error.

    Args:
        home: FORGE_HOME, where events are kept that were not taken.

    Raises:
        OptionalDependencyError: openlineage-python is not installed.
        OSError: Events could neither be sent nor kept.
    """
    serde = require("openlineage.client.serde", extra="lineage", purpose="OpenLineage")
    new = [json.loads(serde.Serde.to_json(event)) for event in stage_events(facts, observers.namespace)]
    file = home / "lineage" / "unsent.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    filelock = require("filelock", extra="train", purpose="OpenLineage")
    with filelock.FileLock(file.with_suffix(".lock")):
        before = _kept(file)
        waiting = [*before, *new]
        refused = file.with_name("refused.jsonl")
        done, refusals, reason = _send(observers, waiting[:_AT_ONCE], refused)
        left = waiting[done:]
        if left or before:
            write_file(file, "".join(f"{json.dumps(event)}\n" for event in left).encode())
    return Told(done - refusals, len(left), refusals, file, reason)


def stage_events(facts: StageFacts | FailedStage, namespace: str) -> "Sequence[RunEvent]":
    """START of a stage and how it ended, as the client's own classes check them."""
    from openlineage.client import event_v2 as events
    from openlineage.client import facet_v2 as facets

    events.set_producer(PRODUCER)
    run = facets.parent_run.Run(runId=facts.run_id)
    parent = facets.parent_run.ParentRunFacet(run, facets.parent_run.Job(namespace, facts.line))
    engine = facets.processing_engine_run.ProcessingEngineRunFacet(version=__version__, name="Forge Pipeline")
    kind = facets.job_type_job.JobTypeJobFacet("BATCH", "FORGE", "STAGE")
    owners = facets.ownership_job.OwnershipJobFacet([facets.ownership_job.Owner(name) for name in facts.owners])
    job = events.Job(namespace, f"{facts.line}.{facts.stage.replace('/', '.')}", {"jobType": kind, "ownership": owners})
    run_id = str(uuid.uuid5(uuid.UUID(facts.run_id), f"{facts.line}/{facts.stage}"))
    about: dict[str, Any] = {"parent": parent, "processing_engine": engine}
    begun = (events.RunState.START, facts.started_at or facts.ended_at, about)
    if isinstance(facts, FailedStage):
        words = facets.error_message_run.ErrorMessageRunFacet(f"{facts.error}: {facts.message}", "PYTHON")
        state = events.RunState.ABORT if facts.was_stopped else events.RunState.FAIL
        ended = (state, facts.ended_at, {**about, "errorMessage": words})
    else:
        ended = (events.RunState.COMPLETE, facts.ended_at, about)
    return [
        events.RunEvent(
            eventTime=moment,
            producer=PRODUCER,
            run=events.Run(run_id, run_facets),
            job=job,
            eventType=state,
            inputs=_inputs(facts, namespace),
            outputs=[_output(facts, namespace)]
            if state is events.RunState.COMPLETE and isinstance(facts, StageFacts)
            else [],
        )
        for state, moment, run_facets in (begun, ended)
    ]


def _inputs(facts: StageFacts | FailedStage, namespace: str) -> "list[InputDataset]":
    from openlineage.client import event_v2 as events

    return [
        events.InputDataset(namespace, key, facets=_identity(key, str(digest)))
        for key, digest in sorted(facts.inputs.items())
    ]


def _output(facts: StageFacts, namespace: str) -> "OutputDataset":
    from openlineage.client import event_v2 as events
    from openlineage.client import facet_v2 as facets

    key = f"{facts.line}/{facts.stage}"
    owner = facets.ownership_dataset
    about = _identity(key, str(facts.digest))
    about["ownership"] = owner.OwnershipDatasetFacet([owner.Owner(name) for name in facts.owners])
    if facts.columns:
        schema = facets.schema_dataset
        fields = [schema.SchemaDatasetFacetFields(name, kind) for name, kind in facts.columns]
        about["schema"] = schema.SchemaDatasetFacet(fields)
    if facts.rows is not None:
        about["dataQualityMetrics"] = facets.data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
            columnMetrics={}, rowCount=facts.rows, bytes=facts.size, fileCount=facts.files
        )
    statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=facts.rows, size=facts.size, fileCount=facts.files
    )
    return events.OutputDataset(namespace, key, facets=about, outputFacets={"outputStatistics": statistics})


def _identity(key: str, digest: str) -> dict[str, Any]:
    """Which artefact: by digest, never by a path of this machine."""
    from openlineage.client import facet_v2 as facets

    return {
        "version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(digest),
        "dataSource": facets.datasource_dataset.DatasourceDatasetFacet("forge artefact store", f"forge:{key}@{digest}"),
    }


def _send(observers: Observers, waiting: Sequence[dict[str, Any]], refused: Path) -> tuple[int, int, str | None]:
    """How many were dealt with, in order; how many of them were refused for good; and why it stopped."""
    transport, refusals, why = _transport(observers), 0, None
    for number, event in enumerate(waiting):
        try:
            transport.emit(event)  # type: ignore[arg-type]  # of its JSON values, as `Serde` takes them
        except Exception as error:  # of the server, the network and the file system below the client: each has its own
            why = f"{type(error).__name__}: {error}"
            if not _is_for_good(error):
                return number, refusals, why
            refusals += 1
            with refused.open("a", encoding="utf-8") as lines:
                lines.write(f"{json.dumps(event)}\n")
    return len(waiting), refusals, why


def _is_for_good(error: Exception) -> bool:
    """Whether the server read the event and wants none like it: sending it again would stop all the others."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (401, 403, 404, 408, 429)


def _transport(observers: Observers) -> "Transport":
    """One of the client's own. It takes events as JSON values too, which is what was kept."""
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

    place = observers.lineage or ""
    if place.startswith("file:"):
        file = Path(place.removeprefix("file:"))
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileTransport(FileConfig(str(file), append=True))
    config = HttpConfig(url=place, timeout=_TIMEOUT, retry={"total": 0})
    if observers.api_key:
        config.auth = ApiKeyTokenProvider({"apiKey": observers.api_key})
    return HttpTransport(config)


def _kept(file: Path) -> list[dict[str, Any]]:
    """Events from before; half a line that a crash left is none."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
