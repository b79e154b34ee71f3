"""`ForgeClient`: one method an operation of the REST API, and a few that wait."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from forge_pipeline.client import catalog_replies as catalog
from forge_pipeline.client import replies, streams, transfers
from forge_pipeline.client.asking import Asking, at
from forge_pipeline.client.connection import Connection, given, once
from forge_pipeline.client.errors import ForgeApiError
from forge_pipeline.client.start_body import StartBody

StrPath = str | os.PathLike[str]
ArtifactKind = Literal["model", "gguf", "card", "bundle", "audit_report"]


class ForgeClient(Asking):
    """A client of one server; close it, or use it as a context manager.

    Args:
        url: Where the server is.
        api_key: The key, where the server needs one; default: `FORGE_API_KEY` of the environment.
        timeout: Seconds without a byte after which a call is given up; generation may take long.
        retries: Repetitions of a call whose connection broke, where that is safe.

    Raises:
        OptionalDependencyError: httpx is not installed.
        ForgeApiError: From every method: the server refused or failed, or did not answer (`ForgeUnreachableError`).
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 2,
    ) -> None:
        self._url, self._key = url.rstrip("/"), api_key or os.environ.get("FORGE_API_KEY") or None
        self._server = Connection(self._url, self._key, timeout=timeout, retries=retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.close()

    # --- the server

    def info(self) -> replies.Info:
        return self._server.ask(replies.Info, "GET", "/api/info")

    def health(self) -> replies.Health:
        return self._server.ask(replies.Health, "GET", "/api/health")

    def is_alive(self) -> bool:
        """Whether it answers; False where nobody does."""
        return self._says_yes("/api/live")

    def is_ready(self) -> bool:
        """Whether it can take work; False where nobody answers. `ready` says why not."""
        return self._says_yes("/api/ready")

    def ready(self) -> None:
        """Raises ForgeApiError (503) with the reasons if the server cannot take work."""
        self._server.send("GET", "/api/ready")

    def metrics(self) -> str:
        """Prometheus' text format."""
        return self._server.send("GET", "/metrics").text

    def openapi(self) -> dict[str, Any]:
        return self._server.ask(dict[str, Any], "GET", "/openapi.json")

    # --- training

    def start_training(self, *, idempotency_key: str | None = None, **body: Unpack[StartBody]) -> replies.Started:
        return self._server.ask(
            replies.Started, "POST", "/api/start_training", json=body, headers=once(idempotency_key)
        )

    def training_status(self) -> replies.TrainingStatus:
        return self._server.ask(replies.TrainingStatus, "GET", "/api/training_status")

    def stop_training(self) -> replies.Done:
        return self._server.ask(replies.Done, "POST", "/api/stop_training")

    def validate(self, body: Mapping[str, Any]) -> replies.Validated:
        """What stands against a start body, also an unfinished one, and what it would take; starts nothing."""
        return self._server.ask(replies.Validated, "POST", "/api/validate", json=dict(body))

    def watch(self, *, timeout: float | None = None) -> Iterator[replies.TrainingStatus]:
        """The status on connecting and at every change; `timeout` seconds without one end it with an error."""
        return streams.statuses(self._url, self._key, timeout)

    # --- jobs

    def queue_job(
        self, *, priority: int = 0, idempotency_key: str | None = None, **body: Unpack[StartBody]
    ) -> replies.Job:
        sent = {**body, "priority": priority}
        return self._server.ask(replies.Job, "POST", "/api/jobs", json=sent, headers=once(idempotency_key))

    def jobs(self, *, limit: int = 100, after: str | None = None, status: str | None = None) -> replies.JobPage:
        """Newest first."""
        query = given({"limit": limit, "after": after, "status": status})
        return self._server.ask(replies.JobPage, "GET", "/api/jobs", params=query)

    def every_job(self, *, status: str | None = None, page: int = 100) -> Iterator[replies.Job]:
        """All jobs, newest first, page by page."""
        after = None
        while True:
            found = self.jobs(limit=page, after=after, status=status)
            yield from found.jobs
            if not found.has_more:
                return
            after = found.jobs[-1].job_id

    def job(self, job_id: str) -> replies.Job:
        return self._server.ask(replies.Job, "GET", at("/api/jobs", job_id))

    def job_events(self, job_id: str, *, after: int = 0) -> list[replies.JobEvent]:
        path = at("/api/jobs", job_id, "events")
        return self._server.ask(replies.JobEvents, "GET", path, params={"after": after}).events

    def job_logs(self, job_id: str, *, limit: int = 1000) -> replies.JobLogs:
        return self._server.ask(replies.JobLogs, "GET", at("/api/jobs", job_id, "logs"), params={"limit": limit})

    def cancel_job(self, job_id: str) -> replies.Job:
        return self._server.ask(replies.Job, "POST", at("/api/jobs", job_id, "cancel"))

    def retry_job(self, job_id: str) -> replies.Job:
        return self._server.ask(replies.Job, "POST", at("/api/jobs", job_id, "retry"))

    def wait(
        self,
        job_id: str,
        *,
        on_progress: Callable[[replies.Job], None] | None = None,
        timeout: float | None = None,
        every: float = 1.0,
    ) -> replies.Job:
        """Wait until a job has ended, however it ended; `on_progress` is called at every change.

        Args:
            timeout: Seconds after which to give up.
            every: Seconds between two looks.

        Raises:
            TimeoutError: It has not ended in time. The job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        told: replies.Job | None = None
        while True:
            job = self.job(job_id)
            if on_progress is not None and job != told:
                on_progress(told := job)
            if job.has_ended:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {job_id} is {job.status} at {job.progress} % after {timeout} s")
            time.sleep(every)

    # --- models

    def models(
        self,
        *,
        limit: int | None = None,
        after: int | None = None,
        task: str | None = None,
        base_model: str | None = None,
        sort: str | None = None,
    ) -> catalog.ModelPage:
        """All models, or a page of them with `limit`."""
        query = given({"limit": limit, "after": after, "task": task, "base_model": base_model, "sort": sort})
        return self._server.ask(catalog.ModelPage, "GET", "/api/models", params=query)

    def model(self, model_id: int) -> catalog.ModelDetails:
        return self._server.ask(catalog.ModelDetails, "GET", at("/api/models", model_id))

    def delete_model(self, model_id: int) -> replies.Done:
        return self._server.ask(replies.Done, "DELETE", at("/api/models", model_id))

    def artifacts(self, model_id: int) -> list[catalog.Artifact]:
        return self._server.ask(catalog.Artifacts, "GET", at("/api/models", model_id, "artifacts")).artifacts

    def download(self, model_id: int, kind: ArtifactKind, to: StrPath, *, name: str | None = None) -> Path:
        """Write one artefact to the file `to`, or into the directory `to`; returns where it lies.

        Raises:
            IntegrityError: The bytes are not what the server's digest says; nothing was kept.
        """
        path = at("/api/models", model_id, "download", kind)
        with self._server.stream("GET", path, params=given({"name": name})) as reply:
            return transfers.keep(reply, Path(to))

    def export_model(
        self, model_id: int, *, quantizations: Sequence[str] | None = None, idempotency_key: str | None = None
    ) -> replies.Started:
        """Queue the making of a model's GGUF files and bundle; `quantizations` are those that must be among them."""
        body = {} if quantizations is None else {"quantizations": list(quantizations)}
        path = at("/api/models", model_id, "export")
        return self._server.ask(replies.Started, "POST", path, json=body, headers=once(idempotency_key))

    def push_model(
        self,
        model_id: int,
        repo_id: str,
        *,
        private: bool = True,
        token_env: str = "HF_TOKEN",
        unreleased: bool = False,
        idempotency_key: str | None = None,
    ) -> replies.Started:
        """Queue a push to the Hub; `token_env` names the server's variable that holds the token."""
        body: dict[str, Any] = {"repo_id": repo_id, "private": private, "token_env": token_env}
        body |= {"unreleased": True} if unreleased else {}
        path = at("/api/models", model_id, "push")
        return self._server.ask(replies.Started, "POST", path, json=body, headers=once(idempotency_key))

    def roll_back(
        self, model_id: int, *, reason: str, alias: str = "released", quarantine: bool = False
    ) -> replies.RolledBack:
        body = {"reason": reason, "alias": alias, "quarantine": quarantine}
        return self._server.ask(replies.RolledBack, "POST", at("/api/models", model_id, "rollback"), json=body)

    # --- datasets

    def upload_dataset(
        self, path: StrPath, *, filename: str | None = None, idempotency_key: str | None = None
    ) -> catalog.Uploaded:
        """Upload a JSONL file as it is read: memory holds a piece of it, however long it is."""
        with open(path, "rb") as file:
            form = {"file": (filename or Path(path).name, file, "application/jsonl")}
            headers = once(idempotency_key)
            return self._server.ask(catalog.Uploaded, "POST", "/api/upload_dataset", files=form, headers=headers)

    def datasets(self) -> list[catalog.Dataset]:
        return self._server.ask(catalog.Datasets, "GET", "/api/datasets").datasets

    def dataset(self, filename: str) -> catalog.DatasetDetails:
        return self._server.ask(catalog.DatasetDetails, "GET", at("/api/datasets", filename))

    def delete_dataset(self, filename: str) -> replies.Done:
        return self._server.ask(replies.Done, "DELETE", at("/api/datasets", filename))

    def dataset_audit(self, filename: str) -> catalog.AuditState:
        """The first call starts the audit; later ones say how far it is."""
        return self._server.ask(catalog.AuditState, "GET", at("/api/datasets", filename, "audit"))

    def wait_for_audit(self, filename: str, *, timeout: float = 600.0, every: float = 1.0) -> catalog.AuditState:
        """The audit's outcome.

        Raises:
            TimeoutError: It is not there in time, and goes on.
        """
        deadline = time.monotonic() + timeout
        while (found := self.dataset_audit(filename)).state == "running":
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the audit of {filename} still runs after {timeout:g} s")
            time.sleep(every)
        return found

    def dataset_audit_page(self, filename: str) -> str:
        """The audit's report as an HTML page."""
        return self._server.send("GET", at("/api/datasets", filename, "audit.html")).text

    def _says_yes(self, path: str) -> bool:
        try:
            self._server.send("GET", path)
        except ForgeApiError:
            return False
        return True
