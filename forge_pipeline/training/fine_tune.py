"""`fine_tune`: a tokenized dataset and a base model in, a model directory out.

(1) refuse what cannot work before anything heavy is loaded; (2) seed; (3) load;
(4) build the TRL trainer; (5) train; (6) measure; (7) write the directory, all at once.

On one machine equal recipes and data give equal directories, byte for byte (tested on
CPU): the report holds no times, the record no paths, the tokenizer is written as it was
before training, and TRL's own leftovers (a pickle of the arguments, a card with the
hour in it, optimizer states) stay in the working directory.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import parquet

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import DataError, ForgeError, TrainingError
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.models.adapters import lora_config, settle_adapter
from forge_pipeline.models.allocator import keeping_freed_memory
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.base_line import start_from_line
from forge_pipeline.models.chain import PreviousStage
from forge_pipeline.models.compatibility import check_compatibility
from forge_pipeline.models.devices import choose_dtype, computes_bfloat16, pick_device
from forge_pipeline.models.directory import ModelDirectory, ModelRecord, write_record
from forge_pipeline.models.heads import adapted_to_head, head_for
from forge_pipeline.models.loading import changes_for_training, load_for_training, load_tokenizer
from forge_pipeline.models.logit_tiles import logit_tiles_for
from forge_pipeline.models.quantization import record_of
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.threads import on_free_cores
from forge_pipeline.models.writing import write_adapter, write_full_model, write_tokenizer
from forge_pipeline.progress import Progress, Report, silent
from forge_pipeline.training.arguments import build_arguments, check_training, groups_by_length
from forge_pipeline.training.callbacks import progress_callback
from forge_pipeline.training.checkpoints import Checkpoint, newest_checkpoint
from forge_pipeline.training.distributed import (
    Ranks,
    check_distributed,
    check_took_effect,
    joined,
    leave_one_gpu,
    read_ranks,
    whole_model,
)
from forge_pipeline.training.external.back_ends import find_environment, scratch, train_elsewhere
from forge_pipeline.training.identity import run_identity
from forge_pipeline.training.memory_floor import check_memory
from forge_pipeline.training.methods import Method, load_classes, method_for
from forge_pipeline.training.optimizers import prepare_optimizer
from forge_pipeline.training.recovery import (
    LogEvent,
    choose_checkpoint,
    divergence_watch,
    free_memory,
    is_disk_trouble,
    is_out_of_memory,
    smaller_batch,
)
from forge_pipeline.training.report import (
    REPORT_NAME,
    OomRecovery,
    TrainingReport,
    WeightsAfter,
    last_metrics,
    loss_history,
    mean_loss,
    perplexity,
    plain_arguments,
    tokens_since_start,
    tokens_trained,
)
from forge_pipeline.training.reproducibility import seeded, training_environment
from forge_pipeline.training.reward_models import load_reward_model, scoring
from forge_pipeline.training.rewards import build_rewards
from forge_pipeline.training.rlhf import TrainedReward, has_begun, train_reward_model
from forge_pipeline.training.row_order import drawing_by_length
from forge_pipeline.training.saving import (
    TrainingMemory,
    check_weights,
    memory_callback,
    saving_whole,
    what_is_left,
)
from forge_pipeline.training.task_trainers import own_keywords, prepare_head, rouge_of
from forge_pipeline.training.trackers import Tracker, tracking, tracking_callback
from forge_pipeline.training.usage import ResourceUsage, UsageMeter, note_usage, over_processes

if TYPE_CHECKING:
    from datasets import Dataset

    from forge_pipeline.data.artifacts import TokenizationSummary, TokenizedDataset

_log = logging.getLogger(__name__)
_STAGE = "fine_tune"
_OPTIONAL_COLUMNS = ("length", "seq_lengths", "token_type_ids", "tools", "chat_template_kwargs")


@dataclass(frozen=True)
class FineTune:
    """A fine-tuned model, what its report says, what it used, and where it was made.

    Attributes:
        environment: What may make equal recipes differ elsewhere, as `training_environment` gives it.
        resumed_from: The step of the checkpoint that training went on from; None if it began at the beginning.
        tracked: Where trackers keep the curve: directories and addresses.
    """

    model: ModelDirectory
    report: TrainingReport
    usage: ResourceUsage
    environment: dict[str, str] = field(default_factory=dict)
    resumed_from: int | None = None
    tracked: tuple[str, ...] = ()


def fine_tune(
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
    stop_after: int | None = None,
    run_id: str | None = None,
    logs_dir: Path | None = None,
) -> FineTune:
    """Train the recipe's base model on a tokenized dataset and write the result.

    Args:
        dataset: Tokenized for the recipe's trainer type.
        raw_digest: Digest of the raw dataset that it came from, for the record.
        output_dir: Becomes the model directory; must not exist, or be empty.
        progress: Told every optimizer update; see `Progress.metrics`.
        work_dir: Keeps checkpoints to resume from; None trains in a temporary directory.
        resume_from_checkpoint: The path of a checkpoint, True for the newest whole one in `work_dir`, or ``auto``
            for the same where there is one, and the beginning where there is none.
        previous: The stage of a pipeline to go on from; None starts from the recipe's base model, another line's too.
        log_event: Told what the audit log should know: ``training.resumed``, ``training.oom_recovery``.
        stop_after: Updates to make at most, on the schedule of the whole run; for `reproduce`. Trackers hear nothing.
        run_id: Under which trackers (`training.report_to`) keep the curve; None takes the name of `output_dir`.
        logs_dir: Where they write it, if `training.logging_dir` names no place; None: ``<output_dir>-logs``.

    Raises:
        ConfigError, DataError, ModelError: Something does not fit; found before training starts.
        TrainingError: Training diverged, ran out of memory or disk, or cannot be resumed. It names the last good
            checkpoint where there is one.
        FileExistsError: `output_dir` holds something.
    """
    method = method_for(config, encoder_decoder=dataset.summary.encoder_decoder)
    ranks = read_ranks(os.environ)
    previous = previous or start_from_line(config)
    summary = _check(config, dataset, method, ranks)
    if config.model.backend != "transformers":
        return _by_another_tool(
            config, dataset, summary, raw_digest, Path(output_dir), previous,
            progress=progress, resume=resume_from_checkpoint, ranks=ranks,
        )  # fmt: skip
    leave_one_gpu(ranks)
    require("torch", extra="train", purpose="Fine-tunes")
    check_distributed(config, ranks, pick_device())
    load_classes(method)
    output_dir = Path(output_dir)
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        stack.enter_context(joined(config, ranks, pick_device()))
        stack.enter_context(on_free_cores(pick_device()))
        stack.enter_context(keeping_freed_memory(pick_device()))
        stack.enter_context(logit_tiles_for(pick_device()))
        with ranks.first_alone():
            base = previous.base if previous else resolve_base_model(config)
            check_compatibility(config, base, pick_device())
            check_memory(config, base, pick_device(), world_size=ranks.world_size)
        # Entered before training, so that an occupied output_dir is an error now and not in an hour.
        staging = stack.enter_context(publishing(output_dir)) if ranks.is_first else None
        own_place = stack.enter_context(_working_directory(work_dir, output_dir)) if ranks.is_first else None
        place = ranks.first_one(own_place)
        start = str(previous.model.digest) if previous else base.digest or base.revision
        identity = run_identity(config, tokenized=dataset.digest, base=start, world_size=ranks.world_size)
        reward_model = None
        if config.training.trainer_type == "rlhf":
            begun = resume_from_checkpoint is True and has_begun(place)
            reward_model = train_reward_model(
                config, dataset, raw_digest, place,
                train=fine_tune, progress=progress, resume=bool(resume_from_checkpoint), previous=previous,
            )  # fmt: skip
            resume_from_checkpoint = "auto" if begun else resume_from_checkpoint
        checkpoint = choose_checkpoint(resume_from_checkpoint, work_dir, identity)
        run = _Run(config, method, base, place, ranks, keep=work_dir is not None)
        stack.push(run.at_the_end)
        run.identity, run.stop_after = identity, stop_after
        run.reward_model, run.reward_base = reward_model, previous.base if previous else None
        run.log_event = log_event if log_event and ranks.is_first else _unheard
        stack.enter_context(seeded(config))
        if ranks.is_first and stop_after is None:
            logs = logs_dir or output_dir.with_name(f"{output_dir.name}-logs")
            run.trackers = stack.enter_context(tracking(config, run_id or output_dir.name, logs))
            if run.trackers:
                places = "; ".join(tracker.place for tracker in run.trackers)
                progress(Progress(_STAGE, 0, None, f"the curve is also kept at {places}"))
        if checkpoint:
            run.log_event("training.resumed", step=checkpoint.step, checkpoint=checkpoint.path.name)
        run.train(dataset, progress if ranks.is_first else silent, checkpoint)
        report = run.report()
        record = replace(_record(config, base, dataset, summary, raw_digest), **run.base_as_trained)
        with _saying_what_is_left(place, kept=work_dir is not None):
            run.write(staging)
            if staging is not None:
                write_report(staging / REPORT_NAME, report)
                write_record(staging, previous.continued(record) if previous else record)
        usage = run.usage(report)
        environment = training_environment(config, record, device=report.device, dtype=report.dtype)
    if ranks.is_first:
        progress(Progress(_STAGE, report.steps, report.steps, "saved"))
    step = checkpoint.step if checkpoint else None
    tracked = tuple(tracker.place for tracker in run.trackers)
    return FineTune(ModelDirectory.open(output_dir), report, usage, environment, step, tracked)


def _by_another_tool(
    config: ForgeConfig,
    dataset: "TokenizedDataset",
    summary: "TokenizationSummary",
    raw_digest: Digest,
    output_dir: Path,
    previous: PreviousStage | None,
    *,
    progress: Report,
    resume: str | bool | None,
    ranks: Ranks,
) -> FineTune:
    """`model.backend` names a tool that trains in an environment of its own; what it wrote is verified and recorded."""
    if ranks.world_size > 1:
        raise TrainingError(f"model.backend: {config.model.backend} starts a process of its own; leave torchrun out")
    if resume and resume != "auto":
        raise TrainingError(f"model.backend: {config.model.backend} leaves no checkpoint to resume from; start anew")
    environment = find_environment(config, os.environ)
    base = previous.base if previous else resolve_base_model(config)
    with publishing(output_dir) as staging, scratch(output_dir) as place:
        report, usage = train_elsewhere(
            config, environment, base, dataset, place, staging, progress=progress, environ=os.environ
        )
        record = _record(config, base, dataset, summary, raw_digest)
        write_report(staging / REPORT_NAME, report)
        write_record(staging, previous.continued(record) if previous else record)
        facts = {f"training:tool:{fact}": value for fact, value in report.tool.items()}
    progress(Progress(_STAGE, report.steps, report.steps, "saved"))
    return FineTune(ModelDirectory.open(output_dir), report, usage, facts)


def _unheard(event: str, **fields: Any) -> None:
    """For callers without an audit log."""


class _Run:
    """One fine-tune from seed to weights; `fine_tune` calls its methods in this order."""

    def __init__(
        self, config: ForgeConfig, method: Method, base: BaseModel, work_dir: Path, ranks: Ranks, *, keep: bool
    ) -> None:
        self._config, self._method, self._base, self._ranks = config, method, base, ranks
        self._work_dir, self._keep = work_dir, keep
        self._device = pick_device()
        self._meter = UsageMeter(self._device)
        self._seconds = 0.0
        self._trainer: Any = None
        self._arguments: dict[str, Any] = {}
        self._initial_adapter: Path | None = None
        # What the record says of the base model's weights and configuration, as the adapter met them.
        self.base_as_trained: dict[str, Any] = {}
        self._memory = TrainingMemory()
        training = config.training
        self._batch = (training.per_device_train_batch_size, training.gradient_accumulation_steps)
        self.identity: Mapping[str, Any] = {}
        self.stop_after: int | None = None
        self.log_event: LogEvent = _unheard
        self.trackers: list[Tracker] = []
        # Of rlhf: what the policy is optimized against, and what it belongs on where that is no published model.
        self.reward_model: TrainedReward | None = None
        self.reward_base: BaseModel | None = None
        self._rouge: dict[str, float] = {}
        self._validation: Any = None

    def build(self, dataset: "TokenizedDataset", progress: Report) -> None:
        """Load the base model and make the TRL trainer for it."""
        from transformers import EarlyStoppingCallback, PrinterCallback, set_seed

        config = self._config
        # Before the model is loaded: new weights (an adapter's) are drawn from this state.
        set_seed(config.training.seed, deterministic=config.training.full_determinism)
        progress(Progress(_STAGE, 0, None, f"loading {self._base.name_or_path}"))
        model = load_for_training(config, self._base)
        self._dtype = _dtype_name(config, model)
        self.base_as_trained = {
            "quantization": record_of(config, model, choose_dtype(config, self._device, training=True)),
            "architecture": changes_for_training(config, self._base),
        }
        rows = _rows(dataset, "train", self._method, config)
        assert rows is not None, "_check saw rows in it"
        validation = _rows(dataset, "validation", self._method, config) if self._method.evaluates else None
        self._arguments = build_arguments(
            config,
            device=self._device,
            dtype=self._dtype,
            bfloat16=computes_bfloat16(self._device),
            rows=len(rows),
            validation_rows=len(validation) if validation else 0,
            work_dir=self._work_dir,
            keep=self._keep,
            ranks=self._ranks,
            method=self._method,
        )
        self._arguments |= self._batch_arguments()
        callbacks = [progress_callback(progress), divergence_watch(config)]
        callbacks.append(memory_callback(self._memory, lambda: self._trainer, stop_after=self.stop_after))
        callbacks.extend(prepare_optimizer(config))
        if self.trackers:
            callbacks.append(tracking_callback(self.trackers))
        if self._arguments.get("load_best_model_at_end"):
            callbacks.append(EarlyStoppingCallback(config.training.early_stopping_patience))
        trainer_class, config_class = load_classes(self._method)
        if groups_by_length(config):
            trainer_class = drawing_by_length(
                trainer_class,
                batch=config.training.effective_batch_size * self._ranks.world_size,
                seed=config.training.seed,
            )
        trainer_class = saving_whole(trainer_class, self._memory, self.identity)
        head, adapter = head_for(config, self._base), lora_config(config, model)
        keywords = {
            "model": model,
            "args": config_class(**self._arguments),
            "train_dataset": rows,
            "eval_dataset": validation,
            "processing_class": load_tokenizer(config),
            "peft_config": adapted_to_head(adapter, head) if adapter is not None else None,
            "callbacks": callbacks,
            **self._companions(rows.column_names),
        }
        self._validation = dataset.table("validation") if validation is not None else None
        self._trainer = trainer_class(**own_keywords(config, self._method, keywords, self._validation))
        prepare_head(self._trainer.model, head)
        check_took_effect(config, self._ranks, self._trainer.accelerator)
        settle_adapter(config, self._trainer.model)
        self._trainer.remove_callback(PrinterCallback)
        self._remember_initial_adapter()

    def _companions(self, columns: list[str]) -> dict[str, Any]:
        """The further models and functions that some methods need."""
        config = self._config
        if self._method.needs_reference and config.lora.effective_method == "none":
            # With an adapter the reference is the same model with the adapter switched off.
            return {"ref_model": load_for_training(config, self._base)}
        if config.training.trainer_type == "grpo":
            return {"reward_funcs": list(build_rewards(config, columns).functions)}
        if self.reward_model is not None:
            return {"reward_funcs": [scoring(*load_reward_model(config, self.reward_model.model, self.reward_base))]}
        return {}

    def _remember_initial_adapter(self) -> None:
        """PiSSA moves part of the base weights into the adapter; its start is needed to write the difference."""
        if self._config.lora.effective_method != "pissa":
            return
        self._initial_adapter = self._work_dir / "initial_adapter"
        self._trainer.model.peft_config["default"].init_lora_weights = True
        if self._ranks.is_first:
            self._trainer.model.save_pretrained(str(self._initial_adapter))

    def _batch_arguments(self) -> dict[str, int]:
        """The batch as it is after memory ran out; nothing where it is the recipe's."""
        training = self._config.training
        batch, accumulation = self._batch
        if batch == training.per_device_train_batch_size:
            return {}
        return {
            "per_device_train_batch_size": batch,
            "per_device_eval_batch_size": min(batch, training.per_device_eval_batch_size),
            "gradient_accumulation_steps": accumulation,
        }

    def train(self, dataset: "TokenizedDataset", progress: Report, checkpoint: Checkpoint | None) -> None:
        """Build and run the training loop, as often as memory runs out and the recipe allows a smaller batch."""
        while True:
            if checkpoint:
                self._batch = checkpoint.batch
            self._memory.load(checkpoint.path if checkpoint else None)
            no_memory = self._attempt(dataset, progress, checkpoint)
            if no_memory is None:
                return
            checkpoint = (newest_checkpoint(self._work_dir) if self._keep else None) or checkpoint
            self._shrink(no_memory, checkpoint.step if checkpoint else 0)
            if checkpoint:
                checkpoint = replace(checkpoint, batch=self._batch)

    def _attempt(self, dataset: "TokenizedDataset", progress: Report, checkpoint: Checkpoint | None) -> str | None:
        """Build and train once; returns the allocator's words if memory ran out.

        Words and not the error, whose frames would hold on to everything that is in memory.
        """
        self._trainer = None
        started = time.monotonic()
        try:
            with _saying_what_is_left(self._work_dir, kept=self._keep):
                self.build(dataset, progress)
                self._trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
                check_weights(self._trainer.model, self._trainer.state.global_step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error) or type(error).__name__
        finally:
            self._seconds += time.monotonic() - started
        return None

    def _shrink(self, no_memory: str, step: int) -> None:
        """Go on with a smaller batch from `step`.

        Raises:
            TrainingError: The recipe does not want that, or the batch is as small as it may be.
        """
        training, (batch, accumulation) = self._config.training, self._batch
        minimum = max(training.oom_recovery_min_batch_size, 2 if training.trainer_type == "kto" else 1)
        found = smaller_batch(batch, accumulation, minimum=minimum)
        # With several ranks the others wait in a collective call for the one whose memory ran out.
        if not training.oom_recovery or found is None or self._ranks.world_size > 1:
            raise self._out_of_memory(no_memory, smallest=training.oom_recovery and found is None)
        self._trainer, self._batch = None, found
        free_memory()
        self._memory.oom_recoveries.append(
            {"step": step, "old_batch_size": batch, "new_batch_size": found[0], "new_grad_accum": found[1]}
        )
        _log.warning(
            "out of memory with %d rows at a time (%s): going on from step %d with %d, and gradients summed over %d "
            "batches instead of %d",
            batch, no_memory, step, found[0], found[1], accumulation,
        )  # fmt: skip
        self.log_event(
            "training.oom_recovery",
            old_batch_size=batch, new_batch_size=found[0], new_grad_accum=found[1], resumed_from_step=step,
        )  # fmt: skip

    def _out_of_memory(self, words: str, *, smallest: bool) -> TrainingError:
        training, (batch, _) = self._config.training, self._batch
        advice = (
            f"training.oom_recovery went as low as it may (oom_recovery_min_batch_size "
            f"{training.oom_recovery_min_batch_size})"
            if smallest
            else "Halve the batch size and double gradient_accumulation_steps (training.oom_recovery: true does it)"
        )
        return TrainingError(
            f"out of memory on {self._device} with per_device_train_batch_size {batch} and max_length "
            f"{self._config.model.max_length}: {words}. {advice}, lower max_length, or set gradient_checkpointing: "
            f"true. {what_is_left(self._work_dir, kept=self._keep)}"
        )

    def report(self) -> TrainingReport:
        """What happened, free of times."""
        trainer, training = self._trainer, self._config.training
        log = trainer.state.log_history
        metrics = last_metrics(log)
        if self._ranks.world_size == 1 and not self._rouge:
            self._rouge = rouge_of(self._config, trainer.model, load_tokenizer(self._config), self._validation)
        best = trainer.state.best_metric if self._arguments.get("load_best_model_at_end") else None
        trainable, total = _count_parameters(trainer.model)
        eval_loss = float(best) if best is not None else metrics.get("eval_loss")
        return TrainingReport(
            trainer_type=training.trainer_type,
            trainer_class=f"{self._method.module}.{self._method.trainer}",
            steps=trainer.state.global_step,
            epochs=float(trainer.state.epoch or 0.0),
            train_loss=mean_loss(log),
            eval_loss=eval_loss,
            metrics=dict(sorted((metrics | self._rouge | perplexity(self._method.metrics, eval_loss)).items())),
            loss_history=loss_history(log),
            tokens_trained=tokens_trained(log),
            trainable_parameters=trainable,
            total_parameters=total,
            seed=training.seed,
            effective_batch_size=training.effective_batch_size * self._ranks.world_size,
            world_size=self._ranks.world_size,
            dtype=self._dtype,
            device=self._device,
            stopped_early=trainer.state.global_step < trainer.state.max_steps,
            reward_model=self.reward_model.report if self.reward_model else None,
            oom_recoveries=tuple(OomRecovery(**each) for each in self._memory.oom_recoveries),
            weights=tuple(WeightsAfter(step, digest) for step, digest in sorted(self._memory.weights.items())),
            arguments=plain_arguments(self._arguments | {"group_by_length": groups_by_length(self._config)}),
        )

    def write(self, directory: Path | None) -> None:
        """Write weights and tokenizer; the ranks without a directory only help to gather the weights."""
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = whole_model(trainer.accelerator, trainer.model_wrapped, model, self._ranks)
        if directory is None:
            return
        if self._config.lora.effective_method == "none":
            write_full_model(model, directory)
        else:
            write_adapter(model, directory, base=self._base.name_or_path, initial=self._initial_adapter)
        # A fresh one: batching leaves padding and truncation settings in the trainer's.
        write_tokenizer(load_tokenizer(self._config), directory)

    def at_the_end(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """An error takes along what was used until it came."""
        if error is not None:
            training = self._config.training
            with suppress(RuntimeError):  # of a device that can no longer be asked; the error is what must be told
                used = self._meter.stop(
                    tokens=None,
                    training_seconds=self._seconds,
                    cost_per_hour=training.gpu_cost_per_hour,
                    currency=training.gpu_cost_currency,
                )
                note_usage(error, used)

    def usage(self, report: TrainingReport) -> ResourceUsage:
        training = self._config.training
        mine = self._meter.stop(
            tokens=tokens_since_start(self._trainer.state.log_history),
            training_seconds=self._seconds,
            cost_per_hour=training.gpu_cost_per_hour,
            currency=training.gpu_cost_currency,
        )
        return over_processes(self._ranks.of_all(mine))


def _check(config: ForgeConfig, dataset: "TokenizedDataset", method: Method, ranks: Ranks) -> "TokenizationSummary":
    """(1): everything that can be refused from the recipe and the dataset's summary alone."""
    check_training(config, world_size=ranks.world_size)
    summary = dataset.summary
    training = config.training
    if summary.trainer_type != training.trainer_type:
        raise DataError(
            f"{dataset.path} was tokenized for {summary.trainer_type}, but training.trainer_type is "
            f"{training.trainer_type}; tokenize again"
        )
    if summary.task != config.model.task:
        raise DataError(
            f"{dataset.path} was tokenized for {summary.task}, but model.task is {config.model.task}; tokenize again"
        )
    if training.trainer_type == "rlhf" and ranks.world_size > 1:
        raise TrainingError("trainer_type rlhf trains in one process; start it without torchrun")
    if summary.packed != training.uses_packing:
        raise DataError(
            f"{dataset.path} is {'packed' if summary.packed else 'not packed'}, but training.packing is "
            f"{training.uses_packing}; tokenize again"
        )
    columns = parquet.read_schema(dataset.path / "train.parquet").names
    lacking = [name for name in (*method.columns, "length") if name not in columns]
    if lacking:
        raise DataError(
            f"{dataset.path}/train.parquet lacks {', '.join(lacking)}; {training.trainer_type} needs rows of type "
            f"{method.dataset_type} with {', '.join(method.columns)}"
        )
    if not summary.splits["train"].rows:
        raise DataError(f"{dataset.path}/train.parquet has no rows, so there is nothing to train on")
    return summary


def _rows(dataset: "TokenizedDataset", split: str, method: Method, config: ForgeConfig) -> "Dataset | None":
    """One split as TRL wants it; None if it is not there or empty."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if split not in dataset.splits:
        return None
    table = dataset.table(split)
    if not table.num_rows:
        return None
    if config.training.trainer_type == "rlhf":
        wanted = ["prompt"]
    elif config.training.trainer_type == "grpo":
        wanted = [name for name in table.column_names if name != "length"]
    else:
        kept = (*method.columns, *_OPTIONAL_COLUMNS)
        wanted = [name for name in table.column_names if name in kept]
    rows = Dataset(InMemoryTable(table.select(wanted)))
    if split == "train" and config.training.trainer_type == "kto" and config.data.shuffle:
        # KTO pairs each row with its neighbours once, before training, and then keeps the order.
        rows = rows.shuffle(seed=config.training.seed)
    return rows


@contextmanager
def _working_directory(work_dir: Path | None, output_dir: Path) -> Iterator[Path]:
    """Where checkpoints go: the caller's directory, which stays, or one of our own, which does not."""
    if work_dir is not None:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        yield Path(work_dir)
        return
    own = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.work.", dir=output_dir.parent))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def _saying_what_is_left(work_dir: Path, *, kept: bool) -> Iterator[None]:
    """Whatever stops a run, its error says what there is to go on from; running out of memory is handled elsewhere."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error}. {what_is_left(work_dir, kept=kept)}") from error
    except ForgeError:
        raise
    # Writers of weights and tokenizers have errors of their own for a full disk.
    except Exception as error:
        if not is_disk_trouble(error):
            raise
        raise TrainingError(
            f"the disk does not take what training writes: {error}. {what_is_left(work_dir, kept=kept)}"
        ) from error


def _record(
    config: ForgeConfig,
    base: BaseModel,
    dataset: "TokenizedDataset",
    summary: "TokenizationSummary",
    raw_digest: Digest,
) -> ModelRecord:
    return ModelRecord(
        kind="full" if config.lora.effective_method == "none" else "adapter",
        base_model=base.record,
        trainer_type=config.training.trainer_type,
        config_digest=config_digest(config),
        dataset_digest=raw_digest,
        tokenized_digest=dataset.digest,
        chat_template_digest=summary.chat_template_digest,
        seed=config.training.seed,
        head=head_for(config, base),
        task=config.model.task,
    )


def _dtype_name(config: ForgeConfig, model: Any) -> str:
    if getattr(model, "is_loaded_in_4bit", False):
        return config.model.bnb_4bit_quant_type
    return str(model.dtype).removeprefix("torch.")


def _count_parameters(model: Any) -> tuple[int, int]:
    """Trainable parameters and all parameters; PEFT knows how many a packed 4-bit weight stands for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())
