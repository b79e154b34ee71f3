"""Jobs as the REST contract shows them: status and figures, place in the queue, the model, what happened, the log."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from forge_pipeline.errors import ForgeError
from forge_pipeline.registry import Registry
from forge_pipeline.server.errors import NotFoundError, RequestError
from forge_pipeline.server.jobs import Job, JobTable
from forge_pipeline.server.launchers import RunLauncher
from forge_pipeline.server.progress import TRAINING_STAGE, Figures, ProgressTail, training_status
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.schemas import JobDetails, JobEventBody, JobEvents, JobList, JobLogLine, JobLogs, JobStatus
from forge_pipeline.server.settings import ServerSettings, is_loopback

_TAIL = 4 * 2**20  # bytes of a progress file that a log is made of


class JobReader:
    """Reads the job table, the registry, progress files and, for logs alone, the launcher."""

    def __init__(self, settings: ServerSettings, jobs: JobTable, registry: Registry, launcher: RunLauncher) -> None:
        self._settings, self._jobs, self._registry, self._launcher = settings, jobs, registry, launcher

    def details(self, job: Job) -> JobDetails:
        (details,) = self._all([job])
        return details

    def page(self, *, limit: int, after: str | None, status: JobStatus | None) -> JobList:
        """Jobs, newest first.

        Raises:
            RequestError: There is no job `after`.
        """
        try:
            found = self._jobs.page(limit=limit + 1, after=after, status=status)
        except LookupError as error:
            raise RequestError("after: there is no such job; give the job_id of the last job of a page") from error
        return JobList(jobs=self._all(found[:limit]), has_more=len(found) > limit)

    def events(self, job_id: str, after: int) -> JobEvents:
        """What happened to a job, oldest first.

        Raises:
            NotFoundError: There is no such job.
        """
        self._job(job_id)
        happened = self._jobs.events(job_id, after)
        return JobEvents(
            events=[JobEventBody(**vars(event) | {"message": without_paths(event.message)}) for event in happened]
        )

    def logs(self, job_id: str, limit: int) -> JobLogs:
        """The last `limit` lines of what the job's stages and Dagster said; what cannot be read is a warning.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._job(job_id)
        if not job.run_id:
            return JobLogs(lines=[])
        lines = [(time, line) for time, line in _progress_lines(self._progress_file(job.run_id))]
        warnings = []
        try:
            for said in self._launcher.log(job.run_id):
                shown = JobLogLine(
                    at=_moment(said.time),
                    source="run",
                    level=said.level,
                    stage=said.stage,
                    message=without_paths(said.message),
                )
                lines.append((said.time, shown))
        except ForgeError as error:
            warnings.append(without_paths(f"Dagster's log of the run is not here: {error}"))
        lines.sort(key=lambda entry: entry[0])
        return JobLogs(lines=[line for _, line in lines[-limit:]], warnings=warnings)

    def _job(self, job_id: str) -> Job:
        job = self._jobs.find(job_id)
        if job is None:
            raise NotFoundError("There is no such job; GET /api/jobs lists them")
        return job

    def _all(self, jobs: Iterable[Job]) -> list[JobDetails]:
        waiting = (self._jobs.waiting(), *(self._jobs.beside(kind, "queued") for kind in ("push", "export")))
        places = {job.id: place for queue in waiting for place, job in enumerate(queue, 1)}
        shown = []
        for job in jobs:
            if job.kind != "train":
                shown.append(self._beside(job, places.get(job.id)))
                continue
            holds_slot = job.slot is not None and job.run_id is not None
            figures = ProgressTail(self._progress_file(str(job.run_id))).read() if holds_slot else None
            shown.append(
                JobDetails(
                    **training_status(job, figures).model_dump(),
                    position=places.get(job.id),
                    priority=job.priority or 0,
                    created_at=job.created_at,
                    started_at=job.started_at,
                    ended_at=job.ended_at,
                    run_id=job.run_id,
                    dagster_url=self._dagster_url(job),
                    retry_of=job.retry_of,
                    model_id=self._model_id(job),
                    request=dict(job.request),
                )
            )
        return shown

    def _beside(self, job: Job, position: int | None) -> JobDetails:
        """A push or an export has no epochs, steps or loss: it is done or it is not."""
        runs = job.run_id is not None and job.status == "running"
        figures = ProgressTail(self._progress_file(str(job.run_id))).read() if runs else Figures()
        trains = self._trains_now() if runs and job.kind == "export" and figures.stage is None else None
        message = figures.message
        if trains:
            message = f"Its run waits for the accelerator, which one stage at a time uses: job {trains} trains"
        return JobDetails(
            **training_status(None).model_dump(exclude={"status", "progress", "job_id", "stage", "message", "error"}),
            status="queued" if trains else job.status,
            progress=100.0 if job.status == "completed" else 0.0,
            job_id=job.id,
            kind=job.kind,
            stage=figures.stage,
            message=without_paths(message),
            error=job.error,
            position=position,
            priority=job.priority or 0,
            created_at=job.created_at,
            started_at=job.started_at,
            ended_at=job.ended_at,
            run_id=job.run_id,
            dagster_url=self._dagster_url(job),
            retry_of=job.retry_of,
            model_id=job.request.get("model_id"),
            request=dict(job.request),
        )

    def _trains_now(self) -> str | None:
        """The job whose fine-tune has the accelerator now."""
        job = self._jobs.active()
        if job is None or job.run_id is None:
            return None
        figures = ProgressTail(self._progress_file(job.run_id)).read()
        return job.id if figures.stage == TRAINING_STAGE else None

    def _model_id(self, job: Job) -> int | None:
        """The model of a completed job; others show none."""
        if job.status != "completed":
            return None
        return next((row.id for row in self._registry.list_models(job_id=job.id, limit=1)), None)

    def _dagster_url(self, job: Job) -> str | None:
        """The run's page, unless whoever asks may sit elsewhere while Dagster's UI is for this machine alone."""
        url = self._launcher.run_url(job.run_id) if job.run_id else None
        return url if url and (self._settings.is_loopback or not is_loopback(urlsplit(url).hostname)) else None

    def _progress_file(self, run_id: str) -> Path:
        return self._settings.progress_dir / f"{run_id}.jsonl"


def _progress_lines(path: Path) -> list[tuple[float, JobLogLine]]:
    """The end of a progress file, with the time of each line in Unix seconds; lines of another kind are skipped."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    return [made for line in lines if (made := _progress_line(line)) is not None]


def _progress_line(line: bytes) -> tuple[float, JobLogLine] | None:
    try:
        value: dict[str, Any] = json.loads(line)
        time, step, total = float(value["ts"]), int(value["step"]), value.get("total")
        message = f"{step}{'' if total is None else f' of {total}'} {value.get('message') or ''}".strip()
        metrics = {str(name): number for name, number in (value.get("metrics") or {}).items()}
        stage = str(value["stage"])
        return time, JobLogLine(
            at=_moment(time), source="stage", level="info", stage=stage, message=without_paths(message), metrics=metrics
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
