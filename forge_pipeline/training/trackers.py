"""Loss curves and evaluations in TensorBoard, MLflow and Weights & Biases, through those projects' own libraries.

transformers has callbacks for them, which send every training argument (with the paths and the
account name in them), the model's configuration and what each library finds out about the machine.
A tracker here is given four facts, the line's name, the run's id, the recipe's digest and its name
for the run, and numbers by step; usage pings, source code, host and account are switched off.

Names are those of transformers' callbacks (``train/loss``, ``eval/loss``), so curves of other
projects lie beside ours. Where things go::

    <logs>/tensorboard/<run>/events.out.tfevents...    TensorBoard
    MLFLOW_TRACKING_URI, else <logs>/mlflow.db         MLflow; the experiment is the line
    the server of WANDB_API_KEY, else <logs>/wandb     W&B; the project is the line

What is measured later lies in the same run; in W&B offline, where a run cannot be opened again, in a run
``<run>-<evaluation>`` beside it, in the group of that name.

`<logs>` is `training.logging_dir`, else a folder that the runs of a line share: ``<forge home>/logs/<line>`` for
Dagster's, ``<training.output_dir>/logs`` for the library's.
"""

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import ConfigError, OptionalDependencyError, TrainingError
from forge_pipeline.models.hub import is_offline

if TYPE_CHECKING:
    from transformers import TrainerCallback

_log = logging.getLogger(__name__)

# Name in `training.report_to` -> the modules it needs. TensorBoard's writer is torch's, its file format TensorBoard's.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
_SUMMARY_ONLY = ("train_runtime", "train_loss", "total_flos")  # one number a run, no curve


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run, once.

    Attributes:
        line: The recipe's name.
        run_id: Of the Dagster run or of the library's; a resumed run goes on under the same.
        config_digest: Of the recipe.
        name: For a person; `training.run_name`, else the run id.
        evaluation: What is measured of the model that this run trained; None for the training itself.
    """

    line: str
    run_id: str
    config_digest: str
    name: str
    evaluation: str | None = None


class Tracker(Protocol):
    """One open run in one tracking library."""

    place: str
    """Where to look: a directory or an address, without credentials."""

    def resumed(self, step: int) -> None:
        """Training goes on after optimizer update `step`: what an earlier process logged beyond it is void."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record finite numbers of optimizer update `step`."""

    def close(self, *, failed: bool) -> None:
        """Write out what is held back, and say how the run ended."""


def check_trackers(config: ForgeConfig) -> None:
    """Refuse, before anything is loaded, what could not be tracked.

    Raises:
        OptionalDependencyError: The library of a tracker is not installed.
        ConfigError: The recipe is offline, and a tracker is told to use a server.
    """
    for name in config.training.trackers:
        for module in _MODULES[name]:
            if find_spec(module) is None:
                raise OptionalDependencyError(
                    f"training.report_to: {name} needs the module {module!r}, which is not installed. Install it with: "
                    f"pip install 'forge-pipeline[tracking]', or take {name} out of report_to"
                )
        if name == "mlflow":
            _mlflow_address(config, Path())
        if name == "wandb":
            _wandb_mode(config)


def tracked_run(config: ForgeConfig, run_id: str, evaluation: str | None = None) -> TrackedRun:
    return TrackedRun(config.name, run_id, config_digest(config), config.training.run_name or run_id, evaluation)


@contextmanager
def tracking(config: ForgeConfig, run_id: str, logs: Path, *, first: bool = True) -> Iterator[list[Tracker]]:
    """The recipe's trackers, open within the block; none on a rank that is not the first.

    Args:
        logs: Directory for what is written here, where `training.logging_dir` names none.

    Raises:
        TrainingError: As `open_trackers`.
    """
    trackers = open_trackers(config, tracked_run(config, run_id), _logs(config, logs)) if first else []
    try:
        yield trackers
    except BaseException:  # an interrupt as well: the curve of a run that ended early says so
        close_all(trackers, failed=True)
        raise
    close_all(trackers, failed=False)


def log_evaluation(
    config: ForgeConfig, run_id: str, logs: Path, evaluation: str, step: int, numbers: Mapping[str, float]
) -> tuple[str, ...]:
    """Add what was measured of a model to the run that trained it, in each of the recipe's trackers.

    A tracker that cannot be opened or fails is named in the log and left out: the measurement is in its report.

    Args:
        logs: As in `tracking`.
        evaluation: ``benchmark``, ``safety`` or ``judge``.
        step: The last optimizer update of the training.
        numbers: By name; what is not finite is left out.

    Returns:
        Where they lie.
    """
    run, places = tracked_run(config, run_id, evaluation), []
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    for name in config.training.trackers:
        tracker = None
        try:
            tracker = _OPEN[name](config, run, _logs(config, logs))
            tracker.log(step, finite)
            places.append(tracker.place)
        except Exception as error:  # see open_trackers
            _log.warning("%s was not told of the %s: %s: %s", name, evaluation, type(error).__name__, error)
        if tracker is not None:
            close_all([tracker], failed=False)
    return tuple(places)


def _logs(config: ForgeConfig, logs: Path) -> Path:
    return Path(config.training.logging_dir).expanduser() if config.training.logging_dir else logs


def open_trackers(config: ForgeConfig, run: TrackedRun, logs: Path) -> list[Tracker]:
    """Open the recipe's trackers. Those opened before one that fails are closed again.

    Args:
        logs: Directory for what is written here; made if need be.

    Raises:
        TrainingError: A tracker could not be opened; the message is its library's.
    """
    opened: list[Tracker] = []
    for name in config.training.trackers:
        try:
            opened.append(_OPEN[name](config, run, logs))
        except Exception as error:  # a tracker's client raises its own, its HTTP library's and its database's classes
            close_all(opened, failed=True)
            raise TrainingError(
                f"training.report_to: {name} could not be opened: {type(error).__name__}: {error}. "
                f"Nothing was trained; take {name} out of report_to to train without it"
            ) from error
    return opened


def close_all(trackers: Sequence[Tracker], *, failed: bool) -> None:
    """Close each; a tracker that fails to is said in the log, and the model is not lost for it."""
    for tracker in trackers:
        try:
            tracker.close(failed=failed)
        except Exception as error:  # see open_trackers
            _log.warning("%s: the tracker was not closed: %s: %s", tracker.place, type(error).__name__, error)


def tracking_callback(trackers: Sequence[Tracker]) -> "TrainerCallback":
    """A callback that hands what the Trainer logs to every tracker, on the first rank only.

    A tracker that fails while training goes on (a server that is away, a full disk) is named in the log
    once and left out from then on: hours of training are worth more than the rest of a curve.
    """
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Tracking(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def __init__(self) -> None:
            self._working = list(trackers)

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if state.is_world_process_zero and state.global_step:
                self._tell("resumed", state.global_step)

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> None:
            if state.is_world_process_zero and (numbers := tracked_numbers(logs or {})):
                self._tell("log", state.global_step, numbers)

        def _tell(self, what: str, *facts: Any) -> None:
            for tracker in list(self._working):
                try:
                    getattr(tracker, what)(*facts)
                except Exception as error:  # see open_trackers
                    self._working.remove(tracker)
                    _log.warning("%s: no longer told: %s: %s", tracker.place, type(error).__name__, error)

    return Tracking()


def tracked_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of one log entry, under the names that transformers' own callbacks give them."""
    numbers = {}
    for name, value in logs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if not name.startswith(_SUMMARY_ONLY):
            numbers[f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"] = float(value)
    return numbers


class _TensorBoard:
    def __init__(self, config: ForgeConfig, run: TrackedRun, logs: Path) -> None:
        require("tensorboard", extra="tracking", purpose="TensorBoard logs")
        from torch.utils.tensorboard import SummaryWriter

        self._open = SummaryWriter
        self.place = str(logs / "tensorboard" / re.sub(r"[^\w.-]", "_", run.name))
        self._writer = SummaryWriter(log_dir=self.place)
        for name, value in _facts(run).items() if run.evaluation is None else ():
            self._writer.add_text(name, value)

    def resumed(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(log_dir=self.place, purge_step=step + 1)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, config: ForgeConfig, run: TrackedRun, logs: Path) -> None:
        # Read when the module is imported first.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = require("mlflow", extra="tracking", purpose="MLflow runs")
        for name in ("mlflow", "alembic"):  # they tell of each table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        address = _mlflow_address(config, logs)
        logs.mkdir(parents=True, exist_ok=True)
        # The client, not the module's functions: those add the account's name and the command line to a run.
        self._client = mlflow.MlflowClient(tracking_uri=address)
        experiment = self._client.get_experiment_by_name(run.line)
        if experiment is None:
            files = None if urlsplit(address).scheme.startswith("http") else (logs / "mlflow").absolute().as_uri()
            number = self._client.create_experiment(run.line, artifact_location=files)
        else:
            number = experiment.experiment_id
        self._run = (
            self._earlier(number, run)
            or self._client.create_run(number, run_name=run.name, tags=_facts(run)).info.run_id
        )
        self.place = f"{_without_credentials(address)} run {self._run}"

    def _earlier(self, experiment: str, run: TrackedRun) -> str | None:
        """The run of this id that an interrupted process left."""
        found = self._client.search_runs([experiment], f"tags.`forge.run_id` = '{run.run_id.replace(chr(39), '')}'")
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)

    def resumed(self, step: int) -> None:
        """A point is never taken back here; one that is logged again lies on the first."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class _Wandb:
    def __init__(self, config: ForgeConfig, run: TrackedRun, logs: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports of its own errors, to a third party
        wandb = require("wandb", extra="tracking", purpose="Weights & Biases runs")
        logs.mkdir(parents=True, exist_ok=True)  # wandb writes to the temporary directory if it is missing
        mode = _wandb_mode(config)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            host="",
            username="",
            email="",
            program="",
            program_relpath="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=re.sub(r"[/\\#?%:]", "-", run.line)[:128],
            id=_wandb_id(run.run_id, None if mode == "online" else run.evaluation),
            group=_wandb_id(run.run_id),
            job_type="training" if run.evaluation is None or mode == "online" else run.evaluation,
            name=run.name,
            config=_facts(run),
            dir=str(logs),  # it makes a folder "wandb" there
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=settings,
        )
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)
        self.place = str((self._run.url if mode in ("online", "shared") else None) or self._run.settings.sync_dir)

    def resumed(self, step: int) -> None:
        """A point is never taken back here; one that is logged again lies on the first."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "train/global_step": step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


_OPEN: Mapping[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}


def _facts(run: TrackedRun) -> dict[str, str]:
    return {"forge.line": run.line, "forge.run_id": run.run_id, "forge.config_digest": run.config_digest}


def _mlflow_address(config: ForgeConfig, logs: Path) -> str:
    """MLFLOW_TRACKING_URI, else a database of our own."""
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(logs / 'mlflow.db').absolute()}"
    if is_offline(config) and urlsplit(address).scheme not in ("sqlite", "file", ""):
        raise ConfigError(
            f"training.report_to: mlflow would send to {_without_credentials(address)} (MLFLOW_TRACKING_URI), but this "
            "run is offline; unset the variable to keep the curve in training.logging_dir"
        )
    return address


def _wandb_id(run_id: str, evaluation: str | None = None) -> str:
    """At most 64 characters, without those that W&B refuses. Its end is kept, because there it says which part."""
    end = f"-{evaluation}" if evaluation else ""
    return re.sub(r"[/\\#?%:]", "-", run_id)[: 64 - len(end)] + end


def _wandb_mode(config: ForgeConfig) -> str:
    """WANDB_MODE; without it online where there is a key and the recipe is not offline, else offline."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked == "online" and is_offline(config):
        raise ConfigError(
            "training.report_to: WANDB_MODE is online, but this run is offline; set WANDB_MODE=offline, and send the "
            "run later with `wandb sync`"
        )
    if asked in ("online", "offline", "disabled", "shared"):
        return asked
    if is_offline(config) or not _has_wandb_key():
        return "offline"
    return "online"


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, NetrcParseError):
        return False


def _without_credentials(address: str) -> str:
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
