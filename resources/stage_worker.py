"""The child side of `StageProcess`: ``python -m resources.stage_worker spec.json``.

Opens its inputs, calls one library function, writes the result and an outcome file
(usage, or the error's type and message). Only rank 0 speaks Pipes. If the parent dies,
the pipe it held closes and this process ends its own group.
"""

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.errors import ForgeError
from forge_pipeline.integrity import REPORT_FILE, Digest, DirectoryArtifact, read_report, write_report
from forge_pipeline.logs import setup_logging
from forge_pipeline.models import ModelDirectory
from forge_pipeline.progress import Progress, ProgressFile, Report, describe, silent
from forge_pipeline.synthetic import SyntheticDataset
from forge_pipeline.training.child_process import follow_parent
from forge_pipeline.training.distributed import first_rank, read_ranks
from forge_pipeline.training.launcher import write_outcome
from forge_pipeline.training.usage import usage_until
from resources.training_run import TRACKED_AS

_WORTH_A_SECOND_PROCESS = 50_000  # rows
_LOG_EVERY = 2.0  # seconds between log lines in the Dagster UI: one row in the event log each


def synthesize(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import models, synthetic

    # Not in this run's own folder: the answers of a run that ends early are for the next one.
    answers_dir = models.forge_home() / "answers" / config.name
    return synthetic.synthesize(config, output_dir, progress=progress, answers_dir=answers_dir)


def ingest(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import data, dataset_audit, erasure, models

    group_rows, count_tokens = dataset_audit.row_grouping(config), models.token_counter(config)
    taught = inputs.get("synthetic_dataset")
    denied = erasure.DenyList.of_home(models.forge_home()).reader()
    return data.ingest(
        config,
        output_dir,
        progress=progress,
        group_rows=group_rows,
        count_tokens=count_tokens,
        synthetic=SyntheticDataset.open(taught).rows_file if taught else None,
        refused=(lambda row: bool(denied.matches(row))) if denied else None,
    )


def clean(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import dataset_audit, evaluation

    dataset = RawDataset.open(inputs["raw_dataset"])
    items = evaluation.benchmark_items(config, dataset)
    return dataset_audit.clean(config, dataset, output_dir, benchmark_items=items, progress=progress)


def audit(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import dataset_audit, evaluation, models

    dataset = RawDataset.open(inputs["dataset"])
    return dataset_audit.audit_raw_dataset(
        config,
        dataset,
        output_dir,
        benchmark_items=evaluation.benchmark_items(config, dataset),
        tokenizer=models.load_tokenizer(config) if config.data.audit.token_counts else None,
        progress=progress,
    )


def tokenize(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import data, models

    dataset = RawDataset.open(inputs["dataset"])
    many = sum(dataset.provenance.rows.values()) >= _WORTH_A_SECOND_PROCESS
    return data.tokenize(
        config,
        dataset,
        models.load_tokenizer(config),
        output_dir,
        workers=(os.cpu_count() or 1) if many else 1,
        cache_dir=models.forge_home() / "cache" / "tokenized",
        progress=progress,
    )


def fine_tune(
    config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report
) -> tuple[DirectoryArtifact, Any]:
    from forge_pipeline import models, training

    previous = None
    if "previous_model" in inputs:
        stage = read_report(Path(inputs["previous_stage"]["report"]), models.StageRecord)
        previous = models.PreviousStage(ModelDirectory.open(inputs["previous_model"]), stage)
    work = output_dir.parent
    done = training.fine_tune(
        config,
        TokenizedDataset.open(inputs["tokenized_dataset"]),
        Digest(inputs["raw_digest"]),
        output_dir.with_name("adapter") if config.delivers_merged else output_dir,
        work_dir=Path(inputs.get("checkpoints") or work / "checkpoints"),
        progress=progress,
        previous=previous,
        run_id=inputs.get("run_id"),
        logs_dir=models.forge_home() / "logs" / config.name,
        resume_from_checkpoint="auto",
        log_event=_event_writer(work / "events.jsonl"),
    )
    if first_rank(os.environ):
        (work / "environment.json").write_text(json.dumps(done.environment))
    if not config.delivers_merged or not first_rank(os.environ):
        return done.model, done.usage
    base = previous.base if previous else None
    return models.deliver(config, done.model, output_dir, base=base, find_line=models.find_released()), done.usage


def _event_writer(file: Path) -> Callable[..., None]:
    """Appends events for the audit log, which the parent writes: so that they are known of a stage that is killed."""

    def log_event(event: str, **fields: Any) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"event": event, "fields": fields}) + "\n")

    return log_event


def benchmark(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> Any:
    from forge_pipeline import dataset_audit, evaluation

    model, dataset = ModelDirectory.open(inputs["fine_tuned_model"]), RawDataset.open(inputs["dataset"])
    find_seen = dataset_audit.seen_items(config, dataset)
    result = evaluation.benchmark(config, model, dataset, find_seen=find_seen, progress=progress)
    return _tracked(config, inputs, model, result)


def safety(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> Any:
    from forge_pipeline import evaluation

    known, model = inputs.get("scorer_calibration"), ModelDirectory.open(inputs["fine_tuned_model"])
    result = evaluation.safety(
        config,
        model,
        calibration=read_report(Path(known["report"]), evaluation.ScorerCalibration) if known else None,
        fixed_policy=inputs["fixed_policy"],
        progress=progress,
    )
    return _tracked(config, inputs, model, result)


def calibrate(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> Any:
    from forge_pipeline import evaluation

    return evaluation.scorer_calibration(config, progress=progress)


def judge(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> Any:
    from forge_pipeline import evaluation

    model = ModelDirectory.open(inputs["fine_tuned_model"])
    return _tracked(config, inputs, model, evaluation.judge(config, model, progress=progress))


def _tracked(config: ForgeConfig, inputs: dict[str, Any], model: ModelDirectory, result: Any) -> Any:
    """The result; its numbers are told to the trackers that have the model's loss curve."""
    from forge_pipeline import models, tracked_evaluation

    if run_id := inputs.get(TRACKED_AS):
        tracked_evaluation.track_evaluation(config, run_id, model, result, models.forge_home() / "logs" / config.name)
    return result


def gguf(config: ForgeConfig, inputs: dict[str, Any], output_dir: Path, progress: Report) -> DirectoryArtifact:
    from forge_pipeline import export, models
    from forge_pipeline.data import held_out

    rows = held_out.held_out_rows(RawDataset.open(inputs["dataset"]), config.export.fidelity.prompts)
    tokenizer = models.load_tokenizer(config)
    return export.gguf(
        config,
        ModelDirectory.open(inputs["fine_tuned_model"]),
        [held_out.rendered_text(row, tokenizer) for row in rows],
        output_dir,
        provenance=inputs["provenance"],
        progress=progress,
    )


STAGES: dict[str, Callable[..., Any]] = {
    "synthesize": synthesize,
    "ingest": ingest,
    "clean": clean,
    "audit": audit,
    "tokenize": tokenize,
    "fine_tune": fine_tune,
    "benchmark": benchmark,
    "calibrate": calibrate,
    "safety": safety,
    "judge": judge,
    "gguf": gguf,
}


def main(spec_file: str) -> int:
    _follow_parent()
    rank = read_ranks(os.environ).rank
    rank_zero = rank == 0
    if not rank_zero:
        logging.disable(logging.WARNING)  # what all ranks would say, rank 0 says
    spec = json.loads(Path(spec_file).read_text())
    started, cpu_started = time.monotonic(), time.process_time()
    try:
        setup_logging(os.environ, fields=spec.get("log"))
        with _reporting(Path(spec["progress_file"]), rank_zero) as report:
            config = read_report(Path(spec["recipe"]["report"]), ForgeConfig)
            inputs = {name: _open(value) for name, value in spec["inputs"].items()}
            result = STAGES[spec["stage"]](config, inputs, Path(spec["output_dir"]), report)
        outcome: dict[str, dict[str, Any]] = {"usage": _usage(started, cpu_started)}
        if isinstance(result, tuple):
            result, usage = result
            outcome["usage"] |= {key: value for key, value in vars(usage).items() if value is not None}
        if rank_zero and not isinstance(result, DirectoryArtifact):
            Path(spec["output_dir"]).mkdir()
            write_report(Path(spec["output_dir"], REPORT_FILE), result)
    except Exception as error:  # the child's last line of defence: the parent must learn what happened
        usage = _usage(started, cpu_started) | usage_until(error)
        outcome = {"error": {"type": type(error).__name__, "message": str(error)}, "usage": usage}
        if not isinstance(error, ForgeError):
            _print_traceback()
    write_outcome(Path(spec["outcome_file"]), rank, outcome)
    return 1 if "error" in outcome else 0


@contextmanager
def _reporting(path: Path, rank_zero: bool) -> Iterator[Report]:
    """Progress to the JSONL file, from which `make demo` and the REST API show a bar, and throttled to Dagster's log.

    No bar is drawn here: Dagster captures this process's stderr, so it would end in a file.
    """
    if not rank_zero:
        yield silent
        return
    file, pipes = ProgressFile(path), _open_pipes()
    last_logged = float("-inf")

    def report(progress: Progress) -> None:
        nonlocal last_logged
        file(progress)
        now = time.monotonic()
        if pipes and (now - last_logged >= _LOG_EVERY or progress.step == progress.total):
            last_logged = now
            pipes.log.info(describe(progress))

    try:
        yield report
    finally:
        file.close()
        if pipes:
            pipes.close()


def _open_pipes() -> Any:
    from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes

    loader = PipesEnvVarParamsLoader()  # type: ignore[no-untyped-call]
    if not loader.is_dagster_pipes_process():
        return None
    open_dagster_pipes()
    return PipesContext.get()


def _open(value: Any) -> Any:
    return value["path"] if isinstance(value, dict) and set(value) == {"path"} else value


def _usage(started: float, cpu_started: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    return {
        "duration_seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "peak_memory_bytes": peak,
    }


def _follow_parent() -> None:
    """End this process group as soon as the parent is gone."""
    follow_parent(os.environ)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of native libraries must not hold back a stage whose result is written
