"""Exports as jobs: a run that makes a model's GGUF files and Annex IV bundle; asked for, followed, called off, kept.

An export never has the training slot. It is a run of the training job's own partition of the line `studio`, over what
lies between the model and its bundle, so every gate of the recipe stands in its way as it would in Dagster's own UI.
One at a time; of those that wait, the first goes on once Dagster is ready. Where runs end with the server, one that was
cut off is failed and can be retried; elsewhere it is followed again.
"""

import logging
import threading
import time

from pydantic import ValidationError

from forge_pipeline.errors import ForgeError
from forge_pipeline.registry import ModelRow, Registry
from forge_pipeline.server.artifact_schemas import ExportModel
from forge_pipeline.server.artifacts import Artifacts
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from forge_pipeline.server.exportable import assets_of, check_exportable
from forge_pipeline.server.jobs import Job, JobTable, new_job_id, now
from forge_pipeline.server.launchers import LaunchError, RunLauncher, RunState
from forge_pipeline.server.redaction import without_paths
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)
_CUT_OFF = "The server was stopped during this export. What was made before is kept; retry the job"
_ASK_EVERY = 1.0  # seconds between two looks at a run, or at a Dagster that is not ready
_STOP_WITHIN = 30.0  # seconds until a run that was asked to stop must be gone
_ACTIVE = (RunState.WAITING, RunState.STARTING, RunState.RUNNING, RunState.STOPPING)


class ExportJobs:
    """The queue of exports, and the thread that follows the one under way.

    Args:
        launcher: Runs them.
        runs_end_with_server: Whether a run cannot outlive this server.
    """

    def __init__(
        self,
        settings: ServerSettings,
        jobs: JobTable,
        registry: Registry,
        artifacts: Artifacts,
        launcher: RunLauncher,
        *,
        runs_end_with_server: bool = False,
    ) -> None:
        self._settings, self._jobs, self._registry, self._artifacts = settings, jobs, registry, artifacts
        self._launcher, self._runs_end_with_server = launcher, runs_end_with_server
        self._leftover = {job.id for job in jobs.beside("export", "running")} if runs_end_with_server else set()
        self._wake, self._following = threading.Event(), threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="export-jobs", daemon=True)

    def start(self) -> None:
        """Begin to work, with what an earlier server left."""
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """End the export under way where it cannot outlive the server; what waits goes on waiting."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN)
        for job in self._jobs.beside("export", "running") if self._runs_end_with_server else ():
            try:
                if job.run_id:
                    self._end_run(job.run_id)
            except ForgeError as error:
                _log.warning("job %s: its run could not be ended in order: %s", job.id, error)
            self._jobs.end_beside(job.id, "failed", _CUT_OFF)

    def enqueue(self, row: ModelRow, name: str, body: ExportModel, *, retry_of: str | None = None) -> Job:
        """Make a job that makes what can be made of a model.

        Raises:
            RequestError: The recipe makes no such file.
            ConflictError: It is no model of a job, its gates let nothing be made, or it is being exported already.
            NotFoundError: Its files are gone.
        """
        check_exportable(self._settings, self._artifacts, row, body)
        for job in (*self._jobs.beside("export", "running"), *self._jobs.beside("export", "queued")):
            if job.request.get("model_id") == row.id:
                raise ConflictError(f"Job {job.id} exports model {row.id} already; it is {job.status}")
        request = {
            **body.model_dump(exclude_none=True),
            "model_id": row.id,
            "model": str(row.uid),
            "name": name,
            "partition": row.job_id,
        }
        job = self._jobs.enqueue(new_job_id("export"), request, retry_of=retry_of, kind="export")
        self._wake.set()
        return job

    def retry(self, job: Job) -> Job:
        """Queue a failed or stopped export once more, as a new job.

        Raises:
            ConflictError: It waits, runs, or has completed.
            NotFoundError, RequestError: The model is gone, or what it asks for can no longer be done.
        """
        if job.status not in ("failed", "stopped"):
            raise ConflictError(f"Job {job.id} is {job.status}; only one that failed or was stopped can be retried")
        try:
            body = ExportModel.model_validate({"quantizations": job.request.get("quantizations")})
        except ValidationError as error:
            raise RequestError(f"Job {job.id} was asked for by an earlier version; send a new export") from error
        return self.enqueue(self._row(job), str(job.request["name"]), body, retry_of=job.id)

    def cancel(self, job: Job) -> Job:
        """Take an export out of the queue, or end its run; returns when that is gone.

        Raises:
            ConflictError: It has ended.
            UnavailableError: Its run was still there after 30 seconds.
        """
        if self._jobs.withdraw_beside(job.id, "Taken out of the queue"):
            return self._jobs.get(job.id)
        if not self._jobs.note_beside(job.id, "Asked to stop", stop_asked_at=now()):
            ended = self._jobs.get(job.id)
            raise ConflictError(f"Job {job.id} is {ended.status} already, so there is nothing to cancel")
        deadline, asked = time.monotonic() + _STOP_WITHIN, False
        while time.monotonic() < deadline:
            job = self._jobs.get(job.id)
            if job.run_id and not asked:
                self._ask_to_end(job.run_id)
                asked = True
            self._follow(job.id)
            job = self._jobs.get(job.id)
            if job.status == "stopped":
                return job
            if job.ended_at:
                raise ConflictError(f"Job {job.id} had {job.status} before it could be stopped")
            time.sleep(0.25)
        raise UnavailableError(
            f"Job {job.id} was asked to stop and is still there after {_STOP_WITHIN:.0f} s; ask again"
        )

    def _work(self) -> None:
        while not self._closing:
            try:
                busy = self._step()
            except UnavailableError as error:
                _log.warning("an export cannot go on now: %s", error)
                busy = True
            except Exception:  # one export that cannot even be noted as failed must not end all exports for good
                _log.exception("the queue of exports could not be worked on")
                busy = True
            self._wake.wait(_ASK_EVERY if busy else None)
            self._wake.clear()

    def _step(self) -> bool:
        """Follow the export under way, or begin the next; whether there is more to do."""
        under_way = next(iter(self._jobs.beside("export", "running")), None)
        if under_way is None:
            waiting = next(iter(self._jobs.beside("export", "queued")), None)
            if waiting is None:
                return False
            if self._launcher.state() != "ready" or not self._jobs.begin_beside(waiting.id, "Its turn has come"):
                return True
            under_way = waiting
        self._follow(under_way.id)
        return True

    def _follow(self, job_id: str) -> None:
        """Bring one export that has begun up to date with its run; launch that where there is none."""
        with self._following:
            job = self._jobs.get(job_id)
            if job.status != "running":
                return
            try:
                if job.run_id:
                    self._look(job, job.run_id)
                else:
                    self._launch(job)
            except UnavailableError:
                raise
            except ForgeError as error:
                self._jobs.end_beside(job_id, "failed", without_paths(str(error)))

    def _launch(self, job: Job) -> None:
        # An earlier attempt may have got through although no answer came back.
        run_id = self._launcher.find(job.id)
        if run_id is None and (job.stop_asked_at or self._closing):
            if job.stop_asked_at:
                self._jobs.end_beside(job.id, "stopped", "Stopped before its run had started")
            return
        if run_id is None:
            row = self._row(job)
            check_exportable(self._settings, self._artifacts, row, ExportModel())
            run_id = self._launcher.launch(job.id, partition=row.job_id, assets=assets_of(row))
        self._jobs.note_beside(job.id, f"Dagster run {run_id} does it", run_id=run_id)
        if self._jobs.get(job.id).stop_asked_at:  # somebody pressed cancel while Dagster was being asked
            self._ask_to_end(run_id)

    def _look(self, job: Job, run_id: str) -> None:
        run = self._launcher.status(run_id)
        if run.state in _ACTIVE:
            if job.id in self._leftover:  # its processes ended with the server that started them
                self._launcher.terminate(run_id, at_once=True)
                self._jobs.end_beside(job.id, "failed", _CUT_OFF)
        elif run.state is RunState.SUCCEEDED:
            missing = self._missing(job)
            if missing:
                self._jobs.end_beside(job.id, "failed", f"The run succeeded, and yet {missing}")
            else:
                self._jobs.end_beside(job.id, "completed", "What was asked for is made; the model's artefacts list it")
        elif job.id in self._leftover:
            self._jobs.end_beside(job.id, "failed", _CUT_OFF)
        elif run.state is RunState.STOPPED or (run.state is RunState.FAILED and job.stop_asked_at):
            self._jobs.end_beside(job.id, "stopped", "Its run was ended; what was made before is kept")
        elif run.state is RunState.FAILED:
            reason = run.reason or "The run failed; its log in the Dagster UI has the reason"
            self._jobs.end_beside(job.id, "failed", without_paths(reason))
        else:
            self._jobs.end_beside(job.id, "failed", "Dagster no longer knows this job's run")

    def _missing(self, job: Job) -> str | None:
        """What a run that succeeded should have made of exactly this model, and is not there."""
        row = self._row(job)
        kinds = {"gguf", "bundle"} if "gguf_model" in assets_of(row) else {"bundle"}
        found = self._artifacts.of(row, str(job.request["name"]))
        faults = [f"the {each.kind} is not there: {each.why}" for each in found if each.kind in kinds and each.why]
        return "; ".join(faults) or None

    def _ask_to_end(self, run_id: str) -> None:
        try:
            self._launcher.terminate(run_id)
        except LaunchError as error:  # most often it has just ended by itself, which the next look will show
            _log.warning("run %s could not be asked to end: %s", run_id, error)

    def _end_run(self, run_id: str) -> None:
        self._ask_to_end(run_id)
        deadline = time.monotonic() + _STOP_WITHIN
        while self._launcher.status(run_id).state in _ACTIVE and time.monotonic() < deadline:
            time.sleep(0.25)

    def _row(self, job: Job) -> ModelRow:
        row = self._registry.get_model(int(job.request["model_id"]))
        if row is None or str(row.uid) != job.request["model"]:
            raise NotFoundError(f"Model {job.request['model_id']} is not there any more")
        return row
