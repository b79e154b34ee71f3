"""`fine_tune` in processes of its own: `launched_fine_tune` starts them, ``python -m`` this module is one of them.

For callers of the library; the Dagster assets start `resources.stage_worker` the same way.
"""

import json
import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ForgeError, TrainingError
from forge_pipeline.integrity import Digest, read_report, write_report
from forge_pipeline.models.chain import PreviousStage
from forge_pipeline.models.directory import ModelDirectory, StageRecord
from forge_pipeline.progress import ProgressFile, Report, silent
from forge_pipeline.training.child_process import follow_parent, run_child
from forge_pipeline.training.distributed import count_gpus, read_ranks
from forge_pipeline.training.fine_tune import FineTune, fine_tune
from forge_pipeline.training.launcher import (
    Launch,
    ProgressTail,
    build_launch,
    raise_reported,
    read_outcome,
    write_outcome,
)
from forge_pipeline.training.recovery import LogEvent
from forge_pipeline.training.report import read_training_report
from forge_pipeline.training.usage import ResourceUsage

if TYPE_CHECKING:
    from forge_pipeline.data.artifacts import TokenizedDataset

_log = logging.getLogger(__name__)


def launched_fine_tune(
    config: ForgeConfig,
    dataset: "TokenizedDataset",
    raw_digest: Digest,
    output_dir: Path,
    *,
    progress: Report = silent,
    work_dir: Path | None = None,
    resume_from_checkpoint: str | bool | None = None,
    previous: PreviousStage | None = None,
    log_event: LogEvent | None = None,
    run_id: str | None = None,
    logs_dir: Path | None = None,
) -> FineTune:
    """`fine_tune`, here or in as many processes as the recipe's `distributed:` section asks for.

    Arguments, result and errors are those of `fine_tune`; an error of one process ends the others.

    Raises:
        TrainingError: Also if this very process was started by a launcher: every copy would start its own.
    """
    if read_ranks(os.environ).world_size > 1:
        raise TrainingError(
            "a whole run was started under a launcher (WORLD_SIZE is above 1), and every copy would do it all; start "
            "it once: distributed.processes makes it start the others"
        )
    launch = build_launch(config, environ=os.environ, gpus=count_gpus(os.environ))
    if not launch.starts_ranks:
        return fine_tune(
            config,
            dataset,
            raw_digest,
            output_dir,
            progress=progress,
            work_dir=work_dir,
            resume_from_checkpoint=resume_from_checkpoint,
            previous=previous,
            log_event=log_event,
            run_id=run_id,
            logs_dir=logs_dir,
        )
    output_dir = Path(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.ranks.", dir=output_dir.parent) as place:
        spec = {
            "dataset": str(dataset.path),
            "raw_digest": str(raw_digest),
            "output_dir": str(output_dir),
            "work_dir": None if work_dir is None else str(work_dir),
            "resume_from_checkpoint": resume_from_checkpoint,
            "previous_model": None if previous is None else str(previous.model.path),
            "run_id": run_id,
            "logs_dir": None if logs_dir is None else str(logs_dir),
        }
        if previous is not None:
            write_report(Path(place, "previous_stage.json"), previous.stage)
        write_report(Path(place, "recipe.json"), config)
        Path(place, "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        done = _run(launch, Path(place), progress, log_event)
    model = ModelDirectory.open(output_dir)
    return FineTune(
        model,
        read_training_report(model),
        ResourceUsage(**done["usage"]),
        done["environment"],
        done["resumed_from"],
        tuple(done["tracked"]),
    )


def _run(launch: Launch, place: Path, progress: Report, log_event: LogEvent | None) -> dict[str, Any]:
    _log.info("starting %d processes: %s", launch.processes, " ".join(launch.command))
    tell, events = ProgressTail(place / "progress.jsonl", progress), _Events(place / "events.jsonl", log_event)

    def hear() -> None:
        tell()
        events()

    with launch.lifeline(place) as held:
        environment = {**os.environ, **launch.environment, **held}
        environment.setdefault("OMP_NUM_THREADS", str(launch.threads(os.cpu_count() or 1)))
        code = run_child(
            launch.of_module(__name__, str(place)),
            environment=environment,
            on_poll=hear,
        )
    outcome = read_outcome(place / "outcome.json")
    raise_reported(outcome, "fine_tune", code)
    return outcome


class _Events:
    """What rank 0 wants in the audit log, through a file: `main` writes, the caller's `log_event` hears."""

    def __init__(self, path: Path, log_event: LogEvent | None = None) -> None:
        self._path, self._log_event, self._heard = path, log_event, 0

    def write(self, event: str, **fields: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([event, fields]) + "\n")

    def __call__(self) -> None:
        if self._log_event is None or not self._path.is_file():
            return
        whole = self._path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        for line in whole[self._heard :]:
            self._heard += 1
            event, fields = json.loads(line)
            self._log_event(event, **fields)


def main(place: Path) -> int:
    """One rank: the spec in `place` in, the outcome beside it out."""
    follow_parent(os.environ)
    rank = read_ranks(os.environ).rank
    if rank:
        logging.disable(logging.WARNING)  # what all ranks would say, rank 0 says
    outcome: dict[str, Any]
    try:
        done = _fine_tune(place, rank)
        outcome = {
            "usage": asdict(done.usage),
            "environment": done.environment,
            "resumed_from": done.resumed_from,
            "tracked": done.tracked,
        }
    except ForgeError as error:
        outcome = {"error": {"type": type(error).__name__, "message": str(error)}}
    except Exception as error:  # the last line of defence: the parent must learn what happened
        logging.getLogger(__name__).exception("rank %d failed", rank)
        outcome = {"error": {"type": type(error).__name__, "message": str(error)}}
    write_outcome(place / "outcome.json", rank, outcome)
    return 1 if "error" in outcome else 0


def _fine_tune(place: Path, rank: int) -> FineTune:
    from forge_pipeline.data.artifacts import TokenizedDataset

    spec = json.loads((place / "spec.json").read_text(encoding="utf-8"))
    work_dir, previous = spec["work_dir"], None
    if spec["previous_model"] is not None:
        stage = read_report(place / "previous_stage.json", StageRecord)
        previous = PreviousStage(ModelDirectory.open(Path(spec["previous_model"])), stage)
    file = ProgressFile(place / "progress.jsonl") if rank == 0 else None
    return fine_tune(
        read_report(place / "recipe.json", ForgeConfig),
        TokenizedDataset.open(Path(spec["dataset"])),
        Digest(spec["raw_digest"]),
        Path(spec["output_dir"]),
        progress=file or silent,
        work_dir=None if work_dir is None else Path(work_dir),
        resume_from_checkpoint=spec["resume_from_checkpoint"],
        previous=previous,
        log_event=_Events(place / "events.jsonl").write,
        run_id=spec["run_id"],
        logs_dir=None if spec["logs_dir"] is None else Path(spec["logs_dir"]),
    )


if __name__ == "__main__":
    exit_code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # a rank that failed must not wait for the others in a library's own shutdown
