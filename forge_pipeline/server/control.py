"""One training at a time: start it or queue it, watch its run, end it.

`start` and `enqueue` refuse everything they can know to be wrong before a job exists.
`refresh` is called by one watcher about twice a second; it is the only place that maps a
run's state to a job's. `dispatch` is called as often by another; it gives the slot to the
job that waits first, once the end of the one before has been seen and Dagster is ready.
`status` reads the job table and the progress file only, so it answers while Dagster is
down.
"""

import logging
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from forge_pipeline.errors import DataError, ForgeError
from forge_pipeline.integrity import atomic
from forge_pipeline.server import availability, places, recipes, row_schemas
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from forge_pipeline.server.jobs import Job, JobTable, new_job_id
from forge_pipeline.server.launchers import LaunchError, RunLauncher, RunState
from forge_pipeline.server.progress import Figures, ProgressTail, epoch_of, training_status
from forge_pipeline.server.schemas import JobStatus, StartTraining, TrainingStatus
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_STOP_WITHIN = 30.0  # seconds until a run that was asked to stop must be gone
_ASK_TO_END_EVERY = 3.0  # seconds
_ASK_EVERY = 1.0  # seconds between questions about a run's state
_SERVER_STOPPED = "The server was stopped while this job was training"
_STATUS_OF: dict[RunState, JobStatus] = {
    RunState.WAITING: "queued",
    RunState.STARTING: "starting",
    RunState.RUNNING: "training",
}


class TrainingControl:
    """Starts, watches and stops jobs.

    Args:
        settings: Where recipes, uploads and progress files lie.
        jobs: The job table; it decides who gets the slot.
        launcher: Runs the jobs.
        runs_end_with_server: Whether a run cannot outlive this server, so that one which
            an earlier server left unfinished is dead.
    """

    def __init__(
        self, settings: ServerSettings, jobs: JobTable, launcher: RunLauncher, *, runs_end_with_server: bool = False
    ) -> None:
        self._settings, self._jobs, self._launcher = settings, jobs, launcher
        leftover = jobs.active()
        self._leftover = leftover.id if leftover else None
        self._runs_end_with_server = runs_end_with_server
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._dispatching = threading.Lock()
        self._settled = False  # whether the last look found no active job, so that everybody was told how it ended
        self._closing = False
        self._tail: tuple[str, ProgressTail] | None = None
        self._asked_at = 0.0

    def start(self, start: StartTraining) -> tuple[Job, list[str]]:
        """Make a job and launch its run. Returns the job, and what the person who started it should know.

        Raises:
            RequestError, DataError, NotFoundError, OptionalDependencyError: The body asks for what cannot be done.
            ConflictError: A job holds the slot.
            UnavailableError, LaunchError: The run could not be started; the job is failed.
        """
        job_id, recipe = self._recipe(start)
        self._jobs.claim(job_id, start.model_dump(mode="json"))
        try:
            atomic.write_file(self._settings.recipes_dir / f"{job_id}.yaml", recipe)
            run_id = self._launcher.launch(job_id)
        except (ForgeError, OSError) as error:
            self._jobs.end(job_id, "failed", f"The run could not be started. {error}")
            raise
        job = self._jobs.launched(job_id, run_id)
        if job.stop_asked_at:  # somebody pressed stop while Dagster was being asked
            self._ask_to_end(run_id)
        return job, _warnings(start)

    def enqueue(self, start: StartTraining, *, priority: int = 0, retry_of: str | None = None) -> tuple[Job, list[str]]:
        """Make a job that waits for its turn. Returns the job, and what the person who asked for it should know.

        Raises:
            RequestError, DataError, NotFoundError, OptionalDependencyError: As `start`.
        """
        job_id, recipe = self._recipe(start)
        # Before the job: whatever waits has its recipe, also after a power cut.
        atomic.write_file(self._settings.recipes_dir / f"{job_id}.yaml", recipe)
        job = self._jobs.enqueue(job_id, start.model_dump(mode="json"), priority=priority, retry_of=retry_of)
        return job, _warnings(start)

    def retry(self, job_id: str) -> tuple[Job, list[str]]:
        """Queue what a failed or stopped job was asked to do once more, as a new job.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It waits, runs, or has completed.
            RequestError, DataError, NotFoundError, OptionalDependencyError: What it asks for can no longer be done.
        """
        job = self.job(job_id)
        if job.status not in ("failed", "stopped"):
            raise ConflictError(f"Job {job.id} is {job.status}; only one that failed or was stopped can be retried")
        try:
            start = StartTraining.model_validate(job.request)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise RequestError(
                f"Job {job.id} was asked for by an earlier version, and this one refuses its {field or 'body'}: "
                f"{first['msg']}. Send a new one"
            ) from error
        return self.enqueue(start, priority=job.priority or 0, retry_of=job.id)

    def cancel(self, job_id: str) -> Job:
        """Take a job out of the queue; end its run where it has one, and wait until that is gone.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It has ended.
            UnavailableError: Its run was still there after 30 seconds.
        """
        self.job(job_id)
        if self._jobs.withdraw(job_id):
            return self._jobs.get(job_id)
        job = self._jobs.get(job_id)
        if not job.active:
            raise ConflictError(f"Job {job.id} is {job.status} already, so there is nothing to cancel")
        return self._stop(job)

    def job(self, job_id: str) -> Job:
        """The job.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._jobs.find(job_id)
        if job is None:
            raise NotFoundError("There is no such job; GET /api/jobs lists them")
        return job

    def dispatch(self) -> Job | None:
        """Launch the job that waits first, if the slot is free and Dagster is ready; returns the job it launched."""
        with self._dispatching:
            waiting = self._jobs.next_waiting() if self._settled and not self._closing else None
            if waiting is None or self._launcher.state() != "ready" or not self._jobs.promote(waiting.id):
                return None
            job_id = waiting.id
            self._settled = False
            try:
                # An earlier attempt may have got through although no answer came back.
                run_id = self._launcher.find(job_id) or self._launcher.launch(job_id)
            except UnavailableError as error:
                if not self._jobs.requeue(job_id, str(error)):
                    self._jobs.end(job_id, "stopped")
                return None
            except (ForgeError, OSError) as error:
                _log.warning("job %s could not be started: %s", job_id, error)
                self._jobs.end(job_id, "failed", f"The run could not be started. {error}")
                return None
            job = self._jobs.launched(job_id, run_id)
            if job.stop_asked_at:
                self._ask_to_end(run_id)
            return job

    def stop(self) -> Job:
        """End the active job's run and wait until it is gone.

        Raises:
            ConflictError: No job is active, or it ended by itself first.
            UnavailableError: The run was still there after 30 seconds.
        """
        job = self._jobs.active()
        if job is None:
            raise ConflictError("No training is running, so there is nothing to stop")
        return self._stop(job)

    def _stop(self, job: Job) -> Job:
        job = self._jobs.ask_to_stop(job.id)
        deadline, asked_at = time.monotonic() + _STOP_WITHIN, float("-inf")
        while (now := time.monotonic()) < deadline:
            if job.run_id and now - asked_at >= _ASK_TO_END_EVERY:
                # More than once: a run whose process is only just being started does not hear it.
                self._ask_to_end(job.run_id)
                asked_at = now
            self.refresh(at_once=True)
            job = self._jobs.get(job.id)
            if job.status == "stopped":
                return job
            if not job.active:
                raise ConflictError(f"Job {job.id} had {job.status} before it could be stopped")
            time.sleep(0.25)
        raise UnavailableError(
            f"Job {job.id} was asked to stop and is still there after {_STOP_WITHIN:.0f} s; ask again"
        )

    def status(self) -> TrainingStatus:
        """The present job's status, or the last one's; between two jobs of the queue, the next one's."""
        job = self._jobs.active() or (self._jobs.next_waiting() if self._settled else None) or self._jobs.latest()
        if job is None or not job.run_id:
            return training_status(job)
        return training_status(job, self._figures(job.run_id))

    def refresh(self, *, at_once: bool = False) -> TrainingStatus:
        """Bring the active job up to date with its run, and return the present status.

        Args:
            at_once: Ask the launcher now, also if it was asked a moment ago.
        """
        with self._refreshing:
            job = self._jobs.active()
            self._settled = job is None
            if job and (at_once or time.monotonic() - self._asked_at >= _ASK_EVERY):
                try:
                    self._follow(job)
                except UnavailableError as error:
                    _log.warning("job %s: its run cannot be asked about now: %s", job.id, error)
                self._asked_at = time.monotonic()
        return self.status()

    def shut_down(self) -> None:
        """End the active job's run, because it cannot outlive this server. What waits goes on waiting."""
        with self._dispatching:
            self._closing = True
        job = self._jobs.active()
        if job is None or not self._runs_end_with_server:
            return
        try:
            if job.run_id:
                self._launcher.terminate(job.run_id)
                self._wait_for_end(job.run_id)
        except ForgeError as error:
            _log.warning("job %s: its run could not be ended in order: %s", job.id, error)
        self._jobs.end(job.id, "failed", _SERVER_STOPPED)

    def _follow(self, job: Job) -> None:
        if not job.run_id:
            self._adopt(job)
            return
        run = self._launcher.status(job.run_id)
        figures = self._figures(job.run_id)
        noted: dict[str, object] = {
            "step": max(job.step, figures.step),
            "total_steps": figures.total or job.total_steps,
            "epoch": epoch_of(figures, int(job.request["num_train_epochs"])),
            "loss": figures.loss,
            "learning_rate": figures.learning_rate,
        }
        if run.state in _STATUS_OF:
            if self._died_with_server(job):
                self._bury(job)
                return
            noted["status"] = _STATUS_OF[run.state]
        if any(getattr(job, name) != value for name, value in noted.items()):
            self._jobs.advance(job.id, **noted)
        if run.state is RunState.SUCCEEDED:
            self._jobs.end(job.id, "completed")
        elif self._died_with_server(job) and run.state is not RunState.STOPPING:
            words = f"; its run ended with {run.reason}" if run.reason else ""
            self._jobs.end(job.id, "failed", f"{_SERVER_STOPPED}{words}")
        elif run.state is RunState.STOPPED or (run.state is RunState.FAILED and job.stop_asked_at):
            self._jobs.end(job.id, "stopped")
        elif run.state is RunState.FAILED:
            self._jobs.end(job.id, "failed", run.reason or "The run failed; its log in the Dagster UI has the reason")
        elif run.state is RunState.GONE:
            self._jobs.end(job.id, "failed", "Dagster no longer knows this job's run")

    def _ask_to_end(self, run_id: str) -> None:
        try:
            self._launcher.terminate(run_id)
        except LaunchError as error:  # most often it has just ended by itself, which the next look will show
            _log.warning("run %s could not be asked to end: %s", run_id, error)

    def _adopt(self, job: Job) -> None:
        """An active job without a run: it is being launched now, or a server died while launching it."""
        if job.id != self._leftover:
            return
        run_id = self._launcher.find(job.id)
        if run_id:
            self._jobs.launched(job.id, run_id)
        elif job.queued_at and self._jobs.requeue(job.id, "the server was stopped before its run had started"):
            self._leftover = None
        elif job.queued_at:
            self._jobs.end(job.id, "stopped")
        else:
            self._jobs.end(job.id, "failed", "The server was stopped before this job's run had started")

    def _died_with_server(self, job: Job) -> bool:
        return job.id == self._leftover and self._runs_end_with_server

    def _bury(self, job: Job) -> None:
        """A run that an earlier server left unfinished: its processes ended with that server."""
        assert job.run_id
        self._launcher.terminate(job.run_id, at_once=True)
        self._jobs.end(job.id, "failed", _SERVER_STOPPED)

    def _wait_for_end(self, run_id: str) -> None:
        deadline = time.monotonic() + _STOP_WITHIN
        while self._launcher.status(run_id).state in (*_STATUS_OF, RunState.STOPPING) and time.monotonic() < deadline:
            time.sleep(0.25)

    def _recipe(self, start: StartTraining) -> tuple[str, bytes]:
        """The id and the recipe of a new job, after everything that can be refused without a run has been looked at."""
        availability.check_runnable(start, self._settings.unsloth_python)
        base_model = places.base_model(self._settings, start.model_name)
        dataset = places.dataset_file(self._settings, start.dataset)
        recipes.check_placeable(start, _check_rows(dataset, start))
        job_id = new_job_id()
        recipe = recipes.build_recipe(start, job_id=job_id, base_model=base_model, dataset=dataset)
        return job_id, recipes.to_yaml(recipe)

    def _figures(self, run_id: str) -> Figures:
        with self._lock:
            if self._tail is None or self._tail[0] != run_id:
                self._tail = (run_id, ProgressTail(self._settings.progress_dir / f"{run_id}.jsonl"))
            return self._tail[1].read()


def _warnings(start: StartTraining) -> list[str]:
    return [] if start.compute_specs is None else ["compute_specs is a label only; it changes nothing"]


def _check_rows(dataset: Path, start: StartTraining) -> str | None:
    """The rows' schema; raises DataError, naming line and field, if the strategy cannot learn from them."""
    wanted = row_schemas.accepted(start.task, start.strategy)
    try:
        report = row_schemas.inspect_file(dataset, wanted)
    except UnicodeDecodeError as error:
        raise DataError(f"dataset: {dataset.name} is not UTF-8: {error.reason}. Save it as UTF-8") from error
    if report.errors:
        more = f" (and {report.error_count - 3} more lines)" if report.error_count > 3 else ""
        raise DataError(f"dataset: {dataset.name}: {'; '.join(report.errors[:3])}{more}")
    if report.rows < row_schemas.MIN_ROWS:
        raise DataError(
            f"dataset: {dataset.name} has {report.rows} rows; training needs at least {row_schemas.MIN_ROWS}"
        )
    return report.schema
