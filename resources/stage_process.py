"""Runs a heavy stage in its own process group, over Dagster Pipes.

Guarantees, each with a test: cancelling the run ends the whole group within five
seconds (SIGINT, then SIGTERM, then SIGKILL); killing the run worker leaves no orphan
(the child holds the read end of a pipe and kills its own group at end of file); memory
comes back when the stage ends; an error in the child arrives as the library's own
exception type with its own message.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from forge_pipeline import errors
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import REPORT_FILE, DirectoryArtifact, read_report, write_report
from resources.environment import CHECKOUT
from resources.home import Home
from resources.last_word import failure
from resources.store import ArtifactStore

Result = TypeVar("Result")

_GRACE = ((signal.SIGINT, 2.0), (signal.SIGTERM, 1.5), (signal.SIGKILL, 1.0))  # seconds after each signal
_POLL = 0.1  # seconds


class StageProcess(dg.ConfigurableResource[Any]):
    """Starts `resources.stage_worker` for one stage and brings its result back.

    Attributes:
        home: FORGE_HOME.
        store_root: Where artefacts are stored.
        launcher: Command in front of ``-m resources.stage_worker``; empty takes this interpreter.
            ``torchrun --standalone --nproc-per-node=2`` runs the same worker on two ranks.
    """

    home: str
    store_root: str
    launcher: list[str] = []

    def run(
        self,
        context: dg.AssetExecutionContext,
        stage: str,
        recipe: ForgeConfig,
        inputs: Mapping[str, Any],
        returns: type[Result],
    ) -> Result:
        """Run one stage and return its typed result.

        Args:
            stage: A name in `resources.stage_worker.STAGES`.
            inputs: Artefacts (passed as paths), reports (passed as files) and plain JSON values.
            returns: The stage's result type: a `DirectoryArtifact`, which is published to the
                store, or a report.

        Raises:
            ForgeError: What the stage raised.
            dagster.Failure: The process ended without a result and without saying why.
        """
        home = Home(Path(self.home))
        work = home.work / context.run_id / str(context.op_execution_context.op_handle)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        home.progress.mkdir(parents=True, exist_ok=True)
        spec = {
            "stage": stage,
            "recipe": _pass(recipe, work, "recipe"),
            "inputs": {name: _pass(value, work, name) for name, value in inputs.items()},
            "output_dir": str(work / "output"),
            "outcome_file": str(work / "outcome.json"),
            "work_dir": str(work),
            "progress_file": str(home.progress_file(context.run_id)),
        }
        (work / "spec.json").write_text(json.dumps(spec))
        code = self._spawn(context, work / "spec.json")
        outcome = _read_outcome(work / "outcome.json")
        _raise_error(stage, code, outcome)
        context.add_output_metadata({f"usage/{name}": value for name, value in outcome["usage"].items()})
        if issubclass(returns, DirectoryArtifact):
            store = ArtifactStore(self.store_root, home.store)
            return returns.open(store.path(store.publish(work / "output")))
        return read_report(work / "output" / REPORT_FILE, returns)

    def _spawn(self, context: dg.AssetExecutionContext, spec: Path) -> int:
        """Start the child, wait for it, and return its exit code; on interruption end its group."""
        command = [*(self.launcher or [sys.executable]), "-m", "resources.stage_worker", str(spec)]
        with dg.open_pipes_session(
            context, dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader(include_stdio_in_messages=False)
        ) as session:
            lifeline, parent_end = os.pipe()
            environment = {
                **os.environ,
                **session.get_bootstrap_env_vars(),
                "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "FORGE_HOME": self.home,
                "FORGE_LIFELINE_FD": str(lifeline),
            }
            environment.setdefault("OMP_NUM_THREADS", str(free_cores()))
            try:
                process = subprocess.Popen(
                    command, env=environment, start_new_session=True, pass_fds=[lifeline], stdin=subprocess.DEVNULL
                )
                try:
                    while process.poll() is None:
                        time.sleep(_POLL)
                except BaseException:
                    end_group(process)
                    raise
                return process.returncode
            finally:
                os.close(lifeline)
                os.close(parent_end)


def free_cores() -> int:
    """Cores that are idle now, at least one.

    OpenMP threads spin while they wait for each other: on a core that somebody else uses, a second thread makes
    a training step slower than one thread alone. The weights are the same bits whatever the number of threads.
    """
    import psutil

    busy = psutil.cpu_percent(interval=0.3) / 100
    return max(1, round((os.cpu_count() or 1) * (1 - busy)))


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a child's whole process group within five seconds."""
    for number, seconds in _GRACE:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and _group_alive(process):
            time.sleep(0.05)
        if not _group_alive(process):
            break
    process.poll()


def _group_alive(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()  # reaps the leader, which would otherwise count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _pass(value: Any, work: Path, name: str) -> Any:
    """A value as JSON: artefacts by path, reports by a file beside the spec."""
    if isinstance(value, DirectoryArtifact):
        return {"path": str(value.path)}
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    file = work / f"{name}.json"
    write_report(file, value)
    return {"report": str(file)}


def _read_outcome(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _raise_error(stage: str, code: int, outcome: Mapping[str, Any]) -> None:
    """Raise what the child reported, or say how it died."""
    error = outcome.get("error")
    if error:
        kind = getattr(errors, error["type"], None)
        if isinstance(kind, type) and issubclass(kind, errors.ForgeError):
            raise kind(error["message"])
        raise failure(f"{stage} failed: {error['type']}: {error['message']}")
    if code == 0 and "usage" in outcome:
        return
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    advice = "; the system may have run out of memory: reduce batch size or max_length" if code == -9 else ""
    words = f"{stage}: its process ended with {how} and left no result{advice}. Its output is in the run's logs."
    raise failure(words)
