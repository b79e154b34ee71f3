"""Iterations of Dagster's own daemons, each in a process of its own that can be killed at a named point.

    world = World(tmp_path, empty_home(tmp_path / "empty"))
    world.tick()                            # one look of every sensor
    world.tick(crash_at="RUN_CREATED")      # the same, ended by SIGKILL where Dagster's daemon names that point
    world.work(kill=True)                   # the queue's first run, executed, and its process killed while it trains

The instance has SQLite storage and a queue, as `deploy/dagster.yaml` makes it. The code location is the stand-in line of
`benchmarks.retraining_line`: product but for the stages between rows and weights, which take milliseconds. It is
loaded in the daemon's process, so that a look costs a fork and not a server.
"""

import logging
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import dagster._grpc.server
from dagster._cli.api import _execute_run_command_body
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

from benchmarks import retraining_line

SENSOR = f"{retraining_line.LINE}_retraining"
# In the order in which a tick that asks for a run comes past them.
POINTS = ("TICK_CREATED", "TICK_HELD", "AUTOMATION_EVALUATIONS_ADDED", "RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED",
          "RUN_IDS_ADDED_TO_EVALUATIONS")  # fmt: skip
_QUIET = logging.getLogger("tests.daemon_ticks")
_FAILED = 70


def empty_home(directory: Path) -> Path:
    """A Dagster home with a queue, whose databases are made."""
    directory.mkdir()
    text = "telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 1}}\n"
    (directory / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        assert not instance.get_runs()
        assert not instance.all_instigator_state()
        assert not instance.get_asset_keys()
    return directory


class World:
    """One deployment: a Dagster home, a FORGE_HOME and the watched file.

    Args:
        home: An empty Dagster home to start with, as `empty_home` makes one.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.data = root / "rows.jsonl"
        self.home = root / "dagster"
        shutil.copytree(home, self.home)

    def write(self, *texts: str) -> None:
        """New contents of the watched file, atomically."""
        aside = self.root / "rows.tmp"
        aside.write_text("".join(f'{{"text": "{text} {number}"}}\n' for number in range(12) for text in texts))
        aside.rename(self.data)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def runs(self) -> list[dg.DagsterRun]:
        """Every run, oldest first."""
        with self.instance() as instance:
            return [record.dagster_run for record in instance.get_run_records(ascending=True)]

    def statuses(self) -> list[str]:
        return [run.status.value for run in self.runs()]

    def tick(self, crash_at: str | None = None) -> None:
        """One iteration of the sensor daemon, as soon as the sensor is due again."""
        self._make_due()
        flags = {SENSOR: {crash_at: signal.SIGKILL}} if crash_at else None

        def iterate() -> None:
            with self._workspace() as context:
                errors = list(execute_sensor_iteration(context, _QUIET, None, None, debug_crash_flags=flags))
                assert not any(errors), errors

        self._in_a_process(iterate, dies=crash_at is not None)

    def work(self, *, kill: bool = False) -> str:
        """Execute the oldest queued run as its worker would, and return its id."""
        run = next(run for run in self.runs() if run.status is dg.DagsterRunStatus.QUEUED)
        if kill:
            Path(f"{self.data}.kill").touch()

        def execute() -> None:
            with self.instance() as instance:
                # What the queue's daemon and the default launcher do before they start the worker's process.
                starting = dg.DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, job_name=run.job_name)
                instance.report_dagster_event(starting, run_id=run.run_id)
                instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: "{}"})
                _execute_run_command_body(run.run_id, instance, lambda _: None, set_exit_code_on_failure=False)

        self._in_a_process(execute, dies=kill)
        return run.run_id

    def cancel(self, run_id: str) -> None:
        """Report a run as canceled."""
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_canceled(run)

    def forget_cursor(self) -> None:
        """As a person does who resets the cursor in Dagster's web interface."""
        with self.instance() as instance:
            for state in instance.all_instigator_state():
                instance.update_instigator_state(state.with_data(state.instigator_data._replace(cursor=None)))

    def _make_due(self) -> None:
        """The sensor's interval is over: what a test would otherwise sleep for."""
        with self.instance() as instance:
            for state in instance.all_instigator_state():
                data = state.instigator_data
                old = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
                instance.update_instigator_state(state.with_data(old))

    @contextmanager
    def _workspace(self) -> Iterator[WorkspaceProcessContext]:
        file = LoadableTargetOrigin(python_file=retraining_line.__file__, attribute="defs")
        target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(file, location_name="soak"))
        with self.instance() as instance, WorkspaceProcessContext(instance, target) as context:
            yield context

    def _in_a_process(self, do: Callable[[], None], *, dies: bool) -> None:
        child = os.fork()
        if child == 0:
            os.environ.update(FORGE_HOME=str(self.root / "forge"), SOAK_DATA=str(self.data))
            os.environ["DAGSTER_HOME"] = str(self.home)
            os.environ["FORGE_OPERATOR"] = "tests"
            code = _FAILED
            try:
                do()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == (-signal.SIGKILL if dies else 0), f"the process ended with {code}"
