"""The jobs: POST and GET /api/jobs, and of one its details, events, logs, cancel and retry; pushes and exports too."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from forge_pipeline.server.export_jobs import ExportJobs
from forge_pipeline.server.jobs import Job
from forge_pipeline.server.push_jobs import PushJobs
from forge_pipeline.server.schemas import (
    JobDetails,
    JobEvents,
    JobList,
    JobLogs,
    JobStatus,
    QueuedJob,
    QueueJob,
    StartTraining,
)

router = APIRouter(tags=["Jobs"])


@router.post("/api/jobs")
def queue_job(request: Request, body: QueueJob) -> QueuedJob:
    """Add a training job to the queue. It starts when those before it have ended."""
    state = request.app.state
    start = StartTraining.model_validate(body.model_dump(exclude={"priority"}))
    job, warnings = state.control.enqueue(start, priority=body.priority)
    return QueuedJob(**state.job_reader.details(job).model_dump(), warnings=warnings)


@router.get("/api/jobs")
def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
    status: JobStatus | None = None,
) -> JobList:
    """Every job, queued or started, newest first."""
    found: JobList = request.app.state.job_reader.page(limit=limit, after=after, status=status)
    return found


@router.get("/api/jobs/{job_id}")
def get_job(request: Request, job_id: str) -> JobDetails:
    """One job: how far it is, or how it ended."""
    state = request.app.state
    details: JobDetails = state.job_reader.details(state.control.job(job_id))
    return details


@router.get("/api/jobs/{job_id}/events")
def get_job_events(request: Request, job_id: str, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0) -> JobEvents:
    """What happened to a job: queued, started, stopped, ended."""
    events: JobEvents = request.app.state.job_reader.events(job_id, after)
    return events


@router.get("/api/jobs/{job_id}/logs")
def get_job_logs(request: Request, job_id: str, limit: Annotated[int, Query(ge=1, le=20_000)] = 1000) -> JobLogs:
    """The end of a job's log: its stages' progress and Dagster's words."""
    logs: JobLogs = request.app.state.job_reader.logs(job_id, limit)
    return logs


@router.post("/api/jobs/{job_id}/cancel")
def cancel_job(request: Request, job_id: str) -> JobDetails:
    """Take a job out of the queue, or stop it; returns when its process is gone."""
    state = request.app.state
    job = state.control.job(job_id)
    beside = _beside(request, job)
    ended = beside.cancel(job) if beside else state.control.cancel(job_id)
    details: JobDetails = state.job_reader.details(ended)
    return details


@router.post("/api/jobs/{job_id}/retry")
def retry_job(request: Request, job_id: str) -> QueuedJob:
    """Queue a failed or stopped job once more, as a new job."""
    state = request.app.state
    job = state.control.job(job_id)
    beside = _beside(request, job)
    job, warnings = (beside.retry(job), []) if beside else state.control.retry(job_id)
    return QueuedJob(**state.job_reader.details(job).model_dump(), warnings=warnings)


def _beside(request: Request, job: Job) -> PushJobs | ExportJobs | None:
    """Who does jobs of this kind; None: they take turns in the training slot."""
    kinds: dict[str, PushJobs | ExportJobs] = {
        "push": request.app.state.push_jobs,
        "export": request.app.state.export_jobs,
    }
    return kinds.get(job.kind)
