"""Pushes to the Hub as jobs: asked for, done one after the other, called off, kept over a restart.

A push never has the training slot. Its token is named by an environment variable of the server and read by the
process that pushes; the job's row holds the name alone. A push that the server's end cuts off is failed and says so:
one commit holds everything, so the repository is as it was, and the job can be retried.
"""

import logging
import threading
from collections.abc import Mapping

from pydantic import ValidationError

from forge_pipeline.errors import CancelledError, ForgeError
from forge_pipeline.registry import ModelRow, Registry
from forge_pipeline.server.artifact_schemas import PushModel
from forge_pipeline.server.artifacts import Artifact, Artifacts
from forge_pipeline.server.children import Child, ChildFailedError
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError
from forge_pipeline.server.jobs import Job, JobTable, new_job_id
from forge_pipeline.server.leaving import check_audit
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)
_CHILD = "forge_pipeline.server.push_child"
_CUT_OFF = "The server was stopped during this push. The repository is as it was; retry the job"
_LONGEST = 6 * 3600.0  # seconds


class PushJobs:
    """The queue of pushes, and the thread that works on it.

    Args:
        environment: What the pushing process inherits: tokens, HF_ENDPOINT, HF_HUB_OFFLINE.
    """

    def __init__(
        self,
        settings: ServerSettings,
        jobs: JobTable,
        registry: Registry,
        artifacts: Artifacts,
        environment: Mapping[str, str],
    ) -> None:
        self._settings, self._jobs, self._registry, self._artifacts = settings, jobs, registry, artifacts
        self._environment = environment
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._closing = False
        self._child: tuple[str, Child] | None = None
        self._thread = threading.Thread(target=self._work, name="push-jobs", daemon=True)

    def start(self) -> None:
        """Put right what an earlier server left, and begin to work."""
        for job in self._jobs.beside("push", "running"):
            self._jobs.end_beside(job.id, "failed", _CUT_OFF)
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """End the push under way; what waits goes on waiting."""
        with self._lock:
            self._closing = True
            child = self._child
        self._wake.set()
        if child is not None:
            child[1].end()
        if self._thread.is_alive():
            self._thread.join(30)

    def enqueue(self, row: ModelRow, name: str, body: PushModel, *, retry_of: str | None = None) -> Job:
        """Make a job that pushes a model.

        Raises:
            RequestError: The server has no such token.
            ConflictError: The model is not released, or the audit of its data keeps it from leaving.
            NotFoundError: Its files are gone.
        """
        if not self._environment.get(body.token_env):
            raise RequestError(
                f"token_env: the server's environment has no variable {body.token_env}; start it with a token that may "
                "write to the Hub"
            )
        self._check_may_leave(row, body)
        self._card(row, name)
        request = {**body.model_dump(), "model_id": row.id, "model": str(row.uid), "name": name}
        job = self._jobs.enqueue(new_job_id("push"), request, retry_of=retry_of, kind="push")
        self._wake.set()
        return job

    def retry(self, job: Job) -> Job:
        """Queue a failed or stopped push once more, as a new job.

        Raises:
            ConflictError: It waits, runs, or has completed.
            NotFoundError, RequestError: The model is gone, or what it asks for can no longer be done.
        """
        if job.status not in ("failed", "stopped"):
            raise ConflictError(f"Job {job.id} is {job.status}; only one that failed or was stopped can be retried")
        try:
            body = PushModel.model_validate({key: job.request.get(key) for key in PushModel.model_fields})
        except ValidationError as error:
            raise RequestError(f"Job {job.id} was asked for by an earlier version; send a new push") from error
        return self.enqueue(self._row(job), str(job.request["name"]), body, retry_of=job.id)

    def cancel(self, job: Job) -> Job:
        """Take a push out of the queue, or end it; returns when its process is gone.

        Raises:
            ConflictError: It has ended.
        """
        if not self._jobs.end_beside(job.id, "stopped", "Called off; the repository is as it was"):
            ended = self._jobs.get(job.id)
            raise ConflictError(f"Job {job.id} is {ended.status} already, so there is nothing to cancel")
        with self._lock:
            child = self._child if self._child and self._child[0] == job.id else None
        if child is not None:
            child[1].end()
        return self._jobs.get(job.id)

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            while not self._closing:
                try:
                    job = next(iter(self._jobs.beside("push", "queued")), None)
                    if job is None:
                        break
                    if self._jobs.begin_beside(job.id, "The push began"):
                        self._do(job)
                except Exception:  # one push that cannot even be noted as failed must not end all pushes for good
                    _log.exception("the queue of pushes could not be worked on")
                    threading.Event().wait(1.0)

    def _do(self, job: Job) -> None:
        try:
            done = self._push(job)
        except CancelledError:  # `cancel` has ended the job; `stop` has not
            self._jobs.end_beside(job.id, "failed", _CUT_OFF)
        except ChildFailedError as error:
            _log.error("job %s: %s", job.id, error)
            self._jobs.end_beside(job.id, "failed", "The push failed; the server's log has the reason")
        except ForgeError as error:
            self._jobs.end_beside(job.id, "failed", without_paths(str(error)))
        else:
            self._jobs.end_beside(job.id, "completed", f"Pushed as commit {done['commit']}: {done['url']}")

    def _push(self, job: Job) -> dict[str, str]:
        row = self._row(job)
        card = self._card(row, str(job.request["name"]))
        assert card.text is not None
        request = {
            **{key: job.request[key] for key in ("repo_id", "private", "token_env", "unreleased")},
            "path": row.path,
            "digest": str(row.uid),
            "card": card.text.decode(),
            "registry": self._settings.registry,
        }
        with self._lock:
            if self._closing:
                raise CancelledError("the server is being stopped")
            child = Child(_CHILD, request, self._environment)
            self._child = (job.id, child)
        try:
            if self._jobs.get(job.id).status != "running":  # called off before there was a process to end
                child.end()
            done: dict[str, str] = child.result(_LONGEST)
            return done
        finally:
            with self._lock:
                self._child = None

    def _row(self, job: Job) -> ModelRow:
        row = self._registry.get_model(int(job.request["model_id"]))
        if row is None or str(row.uid) != job.request["model"]:
            raise NotFoundError(f"Model {job.request['model_id']} is not there any more")
        return row

    def _card(self, row: ModelRow, name: str) -> Artifact:
        card = next(each for each in self._artifacts.of(row, name) if each.kind == "card")
        if card.why is not None:
            raise NotFoundError(f"The model has no card: {card.why}")
        return card

    def _check_may_leave(self, row: ModelRow, body: PushModel) -> None:
        if row.stage == "released":
            return
        if not body.unreleased:
            raise ConflictError(
                f"Model {row.id} is {row.stage}, and only released models are pushed. Release its line, or send "
                "unreleased: true to push it all the same"
            )
        check_audit(self._artifacts, row, "release")
