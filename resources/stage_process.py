"""Runs a heavy stage in its own process group, over Dagster Pipes: a fork of `StageServer`'s process, or a new one.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from forge_pipeline import errors
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import REPORT_FILE, DirectoryArtifact, read_report, write_report
from forge_pipeline.models.threads import free_cores
from forge_pipeline.training.child_process import end_group, follow, run_child
from forge_pipeline.training.distributed import count_gpus
from forge_pipeline.training.launcher import Launch, alone, build_launch, read_outcome
from resources.environment import CHECKOUT
from resources.home import Home
from resources.last_word import failure
from resources.spent import Spent
from resources.stage_server import StageServer, can_fork
from resources.store import ArtifactStore

Result = TypeVar("Result")

__all__ = ["ENVIRONMENT", "StageProcess", "end_group"]

_SERVER = StageServer()  # of this process; it ends with it

ENVIRONMENT = "training_environment"
"""Metadata of a trained model: what may make it come out different elsewhere."""


class StageProcess(dg.ConfigurableResource[Any]):
    """Starts `resources.stage_worker` for one stage and brings its result back.

    Attributes:
        home: FORGE_HOME.
        store_root: Where artefacts are stored.
        launcher: Command in front of ``-m resources.stage_worker`` for the stage that trains, for example
            ``accelerate launch --config_file cluster.yaml``; empty takes what the recipe's `distributed:` asks for.
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
        *,
        log_event: Callable[..., object] | None = None,
    ) -> Result:
        """Run one stage and return its typed result.

        Args:
            stage: A name in `resources.stage_worker.STAGES`.
            inputs: Artefacts (passed as paths), reports (passed as files) and plain JSON values.
            returns: The stage's result type: a `DirectoryArtifact`, which is published to the
                store, or a report.
            log_event: Called with the name and fields of each event that the stage had for the audit log, also of
                one that failed or was cancelled.

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
            "log": {"run_id": context.run_id, "line": recipe.name, "stage": stage},
        }
        (work / "spec.json").write_text(json.dumps(spec))
        spent = Spent()
        try:
            try:
                code = self._spawn(context, stage, work / "spec.json", self._launch(stage, recipe), spent)
            finally:
                _pass_on_events(work / "events.jsonl", log_event)
            outcome = read_outcome(work / "outcome.json")
            _raise_error(stage, code, outcome)
        finally:  # of a stage that is interrupted, too, and of one whose result cannot be stored afterwards
            spent.write(work, read_outcome(work / "outcome.json").get("usage", {}))
        context.add_output_metadata({f"usage/{name}": value for name, value in outcome["usage"].items()})
        if (facts := work / "environment.json").exists():
            context.add_output_metadata({ENVIRONMENT: json.loads(facts.read_text())})
        if issubclass(returns, DirectoryArtifact):
            store = ArtifactStore(self.store_root, home.store)
            return returns.open(store.path(store.publish(work / "output")))
        return read_report(work / "output" / REPORT_FILE, returns)

    def _launch(self, stage: str, recipe: ForgeConfig) -> Launch:
        """How the stage's processes are started: several only where it trains."""
        gpus = count_gpus(os.environ)
        if stage != "fine_tune":
            return alone(os.environ, gpus)
        return build_launch(recipe, environ=os.environ, gpus=gpus, command=self.launcher)

    def _spawn(self, context: dg.AssetExecutionContext, stage: str, spec: Path, launch: Launch, spent: Spent) -> int:
        """Start the child, wait for it, and return its exit code; on interruption end all its processes."""
        with (
            dg.open_pipes_session(
                context,
                dg.PipesTempFileContextInjector(),
                dg.PipesTempFileMessageReader(include_stdio_in_messages=False),
            ) as session,
            launch.lifeline(spec.parent) as held,
        ):
            environment = {
                **os.environ,
                **launch.environment,
                **session.get_bootstrap_env_vars(),
                **held,
                "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "FORGE_HOME": self.home,
            }
            environment.setdefault("OMP_NUM_THREADS", str(launch.threads(free_cores())))
            if not launch.starts_ranks and can_fork(count_gpus(os.environ)):
                spent.child = _SERVER.start(stage, str(spec), environment)
                return follow(spent.child)
            return run_child(launch.of_module("resources.stage_worker", str(spec)), environment=environment)


def _pass(value: Any, work: Path, name: str) -> Any:
    """A value as JSON: artefacts by path, reports by a file beside the spec."""
    if isinstance(value, DirectoryArtifact):
        return {"path": str(value.path)}
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    file = work / f"{name}.json"
    write_report(file, value)
    return {"report": str(file)}


def _pass_on_events(file: Path, log_event: Callable[..., object] | None) -> None:
    """What the stage had for the audit log; a line that a killed process did not finish is not an event."""
    if log_event is None or not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values = json.loads(line)
            log_event(values["event"], **values["fields"])


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
