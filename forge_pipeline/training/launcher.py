"""How the processes of a fine-tune are started: a command and an environment, built from the recipe.

Three launchers: ``local`` (torchrun on this machine), ``slurm`` (srun starts torchrun on
each host of the allocation, which meet at its first host) and ``external`` (a command of
the deployment's own, for example ``accelerate launch``). Each command ends where
``-m <module> <arguments>`` is put behind it. A recipe says how many processes; which
command an ``external`` one is, the deployment says, because a recipe must not start
programs of its choice.
"""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_pipeline import errors
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import DistributedSection
from forge_pipeline.errors import ConfigError, TrainingError
from forge_pipeline.progress import Progress, Report
from forge_pipeline.training.child_process import lifeline
from forge_pipeline.training.distributed import Ranks, check_installed, use_one_gpu

LAUNCH_COMMAND = "FORGE_LAUNCH_COMMAND"
_PORT = 29400  # torchrun's own default for c10d


@dataclass(frozen=True)
class Launch:
    """How to start the processes.

    Attributes:
        command: What comes before ``-m <module>``.
        environment: What the processes get beside their parent's environment.
        processes: On this host.
        starts_ranks: Whether a launcher stands between us and the processes that train.
        on_this_host: Whether all of them can reach a FIFO of ours.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    starts_ranks: bool = False
    on_this_host: bool = True

    def of_module(self, module: str, *arguments: str) -> list[str]:
        """The whole command for ``python -m module arguments``."""
        return [*self.command, "-m", module, *arguments]

    def threads(self, cores: int) -> int:
        """OpenMP threads of each process where `cores` are free."""
        return max(1, cores // self.processes)

    @contextmanager
    def lifeline(self, directory: Path) -> Iterator[dict[str, str]]:
        """The environment by which workers on this host notice our end; empty for workers elsewhere."""
        if not self.on_this_host:
            yield {}
            return
        with lifeline(directory) as environment:
            yield environment


def alone(environ: Mapping[str, str], gpus: int = 0) -> Launch:
    """One process by this interpreter."""
    return Launch((sys.executable,), use_one_gpu(Ranks(), environ, gpus))


def build_launch(config: ForgeConfig, *, environ: Mapping[str, str], gpus: int, command: Sequence[str] = ()) -> Launch:
    """How to start the recipe's fine-tune.

    Args:
        environ: Read for Slurm's variables, CUDA_VISIBLE_DEVICES and FORGE_LAUNCH_COMMAND.
        gpus: Visible on this host; see `count_gpus`.
        command: A launcher of the deployment's own; stands in for FORGE_LAUNCH_COMMAND, and for the recipe's launcher.

    Raises:
        ConfigError: The launcher cannot be used here; the message says what it lacks.
        OptionalDependencyError: DeepSpeed is asked for and not installed.
    """
    section = config.distributed or DistributedSection()
    check_installed(section)
    if config.distributed is None and not command:
        return alone(environ, gpus)  # however many GPUs there are: more would change the effective batch size unasked
    if command:
        return Launch(tuple(command), {}, _processes(section, gpus), starts_ranks=True)
    if section.launcher == "external":
        own = shlex.split(environ.get(LAUNCH_COMMAND, ""))
        if not own:
            raise ConfigError(
                f"distributed.launcher: external needs the environment variable {LAUNCH_COMMAND}, for example "
                "'accelerate launch --config_file cluster.yaml'; set it where the stage is started"
            )
        return Launch(tuple(own), {}, _processes(section, gpus), starts_ranks=True, on_this_host=False)
    if section.launcher == "slurm":
        return _slurm(section, environ, gpus)
    processes = _processes(section, gpus)
    if processes == 1 and section.strategy not in ("deepspeed", "fsdp"):
        return alone(environ, gpus)
    if gpus and processes > gpus:
        raise ConfigError(
            f"distributed.processes: found {processes}, but {gpus} GPUs are visible; one process needs one"
        )
    return Launch((*_torchrun(), "--standalone", f"--nproc-per-node={processes}"), {}, processes, starts_ranks=True)


def _torchrun() -> tuple[str, ...]:
    # By this interpreter: a `torchrun` on PATH may belong to another environment.
    return (sys.executable, "-m", "torch.distributed.run")


def _slurm(section: DistributedSection, environ: Mapping[str, str], gpus: int) -> Launch:
    job, nodes = environ.get("SLURM_JOB_ID"), environ.get("SLURM_JOB_NODELIST")
    if not job or not nodes:
        raise ConfigError(
            "distributed.launcher: slurm needs an allocation, but SLURM_JOB_ID and SLURM_JOB_NODELIST are not set; "
            "start it inside sbatch or salloc"
        )
    there = int(environ.get("SLURM_JOB_NUM_NODES", "1"))
    if section.hosts > there:
        raise ConfigError(f"distributed.hosts: found {section.hosts}, but the Slurm allocation has {there}")
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    processes = _processes(section, int(on_node) if on_node.isdigit() else gpus)
    port = _PORT + int(re.sub(r"\D", "", job) or 0) % 1000  # two jobs on one host must not meet each other
    # --quit-on-interrupt: the first SIGINT ends the step, as it ends torchrun.
    srun = ("srun", f"--nodes={section.hosts}", f"--ntasks={section.hosts}", "--ntasks-per-node=1")
    return Launch(
        (
            *srun,
            "--kill-on-bad-exit=1",
            "--quit-on-interrupt",
            *_torchrun(),
            f"--nnodes={section.hosts}",
            f"--nproc-per-node={processes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={first_host(nodes)}:{port}",
            f"--rdzv-id=forge-{job}",
        ),
        {},
        processes,
        starts_ranks=True,
        on_this_host=section.hosts == 1,
    )


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: ``gpu[003-010,12],cpu1`` -> ``gpu003``."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes.strip())
    if not found:
        raise ConfigError(f"SLURM_JOB_NODELIST: found {nodes!r}; expected host names such as gpu[01-04]")
    return "".join(part for part in found.groups() if part)


def _processes(section: DistributedSection, gpus: int) -> int:
    return max(1, gpus) if section.processes == "auto" else section.processes


def write_outcome(path: Path, rank: int, outcome: Mapping[str, Any]) -> None:
    """Write how a rank ended: rank 0 always, the others only an error, each to a file of its own."""
    if rank == 0 or "error" in outcome:
        own = path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
        aside = own.with_name(f".{own.name}.{os.getpid()}")
        aside.write_text(json.dumps({**outcome, "ended_at": time.time()}), encoding="utf-8")
        aside.replace(own)


def read_outcome(path: Path) -> dict[str, Any]:
    """How the ranks ended: the first error where there is one, because the later ones follow from it; else rank 0's."""
    outcomes = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted([path, *path.parent.glob(f"{path.stem}.rank*{path.suffix}")])
        if file.is_file()
    ]
    failed = sorted((each for each in outcomes if "error" in each), key=lambda each: float(each["ended_at"]))
    if failed:
        return dict(failed[0])
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def raise_reported(outcome: Mapping[str, Any], what: str, code: int) -> None:
    """Raise the error that a worker reported, as its own type, or say how it ended without a word.

    Raises:
        ForgeError: As reported.
        TrainingError: Some other error, or none was reported and the worker failed.
    """
    error = outcome.get("error")
    if error:
        kind = getattr(errors, error["type"], None)
        if isinstance(kind, type) and issubclass(kind, errors.ForgeError):
            raise kind(error["message"])
        raise TrainingError(f"{what} failed: {error['type']}: {error['message']}")
    if code != 0 or not outcome:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        advice = "; the system may have run out of memory: lower the batch size or max_length" if code == -9 else ""
        raise TrainingError(f"{what} {how} and left no result{advice}")


class ProgressTail:
    """Reads the lines that a `ProgressFile` gained since the last call, and passes them on."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report, self._offset = path, report, 0

    def __call__(self) -> None:
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._offset += len(line)
                self._report(_progress(line))


def _progress(line: bytes) -> Progress:
    values = json.loads(line)
    metrics = {name: float(value) for name, value in values.get("metrics", {}).items()}
    return Progress(values["stage"], values["step"], values.get("total"), values.get("message", ""), metrics)
