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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import parquet

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import DataError, TrainingError
from forge_pipeline.integrity import Digest, canonical_json, loads_strict, write_report
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.models.adapters import lora_config
from forge_pipeline.models.base import BaseModel, resolve_base_model
from forge_pipeline.models.devices import computes_bfloat16, pick_device
from forge_pipeline.models.directory import ModelDirectory, ModelRecord, write_record
from forge_pipeline.models.loading import load_for_training, load_tokenizer
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.models.writing import write_adapter, write_full_model, write_tokenizer
from forge_pipeline.progress import Progress, Report, silent
from forge_pipeline.training.arguments import build_arguments, check_training, groups_by_length
from forge_pipeline.training.callbacks import progress_callback
from forge_pipeline.training.checkpoints import find_checkpoints
from forge_pipeline.training.methods import METHODS, Method, load_classes
from forge_pipeline.training.report import (
    REPORT_NAME,
    TrainingReport,
    last_metrics,
    loss_history,
    mean_loss,
    plain_arguments,
    tokens_trained,
)
from forge_pipeline.training.rewards import build_rewards
from forge_pipeline.training.row_order import drawing_by_length
from forge_pipeline.training.usage import ResourceUsage, UsageMeter

if TYPE_CHECKING:
    from datasets import Dataset

    from forge_pipeline.data.artifacts import TokenizationSummary, TokenizedDataset

_log = logging.getLogger(__name__)
_STAGE = "fine_tune"
_MARK = "resumable.json"
_OPTIONAL_COLUMNS = ("length", "seq_lengths", "tools", "chat_template_kwargs")


@dataclass(frozen=True)
class FineTune:
    """A fine-tuned model, what its report says, and what it used."""

    model: ModelDirectory
    report: TrainingReport
    usage: ResourceUsage


def fine_tune(
    config: ForgeConfig,
    dataset: "TokenizedDataset",
    raw_digest: Digest,
    output_dir: Path,
    *,
    progress: Report = silent,
    work_dir: Path | None = None,
    resume_from_checkpoint: str | bool | None = None,
) -> FineTune:
    """Train the recipe's base model on a tokenized dataset and write the result.

    Args:
        dataset: Tokenized for the recipe's trainer type.
        raw_digest: Digest of the raw dataset that it came from, for the record.
        output_dir: Becomes the model directory; must not exist, or be empty.
        progress: Told every optimizer update: loss, learning_rate, epoch, tokens_per_second.
        work_dir: Keeps checkpoints to resume from; None trains in a temporary directory.
        resume_from_checkpoint: The path of a checkpoint, or True for the newest in `work_dir`.

    Raises:
        ConfigError, DataError, ModelError: Something does not fit; found before training starts.
        TrainingError: Training diverged, ran out of memory, or cannot be resumed.
        FileExistsError: `output_dir` holds something.
    """
    method = METHODS[config.training.trainer_type]
    summary = _check(config, dataset, method)
    require("torch", extra="train", purpose="Fine-tunes")
    load_classes(method)
    base = resolve_base_model(config)
    output_dir = Path(output_dir)
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        # Entered before training, so that an occupied output_dir is an error now and not in an hour.
        staging = stack.enter_context(publishing(output_dir))
        place = stack.enter_context(_working_directory(work_dir, output_dir))
        checkpoint = _checkpoint(resume_from_checkpoint, work_dir, dataset.digest)
        if work_dir is not None:
            write_file(place / _MARK, canonical_json({"tokenized_digest": dataset.digest}))
        run = _Run(config, method, base, place, keep=work_dir is not None)
        run.build(dataset, progress)
        run.train(checkpoint)
        report = run.report()
        run.write(staging)
        write_report(staging / REPORT_NAME, report)
        write_record(staging, _record(config, base, dataset, summary, raw_digest))
        usage = run.usage(report)
    progress(Progress(_STAGE, report.steps, report.steps, "saved"))
    return FineTune(ModelDirectory.open(output_dir), report, usage)


class _Run:
    """One fine-tune from seed to weights; `fine_tune` calls its methods in this order."""

    def __init__(self, config: ForgeConfig, method: Method, base: BaseModel, work_dir: Path, *, keep: bool) -> None:
        from transformers import set_seed

        self._config, self._method, self._base = config, method, base
        self._work_dir, self._keep = work_dir, keep
        self._device = pick_device()
        self._meter = UsageMeter(self._device)
        self._seconds = 0.0
        self._trainer: Any = None
        self._arguments: dict[str, Any] = {}
        self._initial_adapter: Path | None = None
        # Before the model is loaded: new weights (an adapter's) are drawn from this state.
        set_seed(config.training.seed)

    def build(self, dataset: "TokenizedDataset", progress: Report) -> None:
        """Load the base model and make the TRL trainer for it."""
        from transformers import EarlyStoppingCallback, PrinterCallback

        config = self._config
        progress(Progress(_STAGE, 0, None, f"loading {self._base.name_or_path}"))
        model = load_for_training(config, self._base)
        self._dtype = _dtype_name(config, model)
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
        )
        callbacks = [progress_callback(progress)]
        if self._arguments.get("load_best_model_at_end"):
            callbacks.append(EarlyStoppingCallback(config.training.early_stopping_patience))
        trainer_class, config_class = load_classes(self._method)
        if groups_by_length(config):
            trainer_class = drawing_by_length(
                trainer_class, batch=config.training.effective_batch_size, seed=config.training.seed
            )
        self._trainer = trainer_class(
            model=model,
            args=config_class(**self._arguments),
            train_dataset=rows,
            eval_dataset=validation,
            processing_class=load_tokenizer(config),
            peft_config=lora_config(config),
            callbacks=callbacks,
            **self._companions(rows.column_names),
        )
        self._trainer.remove_callback(PrinterCallback)
        self._remember_initial_adapter()

    def _companions(self, columns: list[str]) -> dict[str, Any]:
        """The further models and functions that some methods need."""
        config = self._config
        if self._method.needs_reference and config.lora.effective_method == "none":
            # With an adapter the reference is the same model with the adapter switched off.
            return {"ref_model": load_for_training(config, self._base)}
        if config.training.trainer_type == "grpo":
            rewards = build_rewards(config, columns)
            return {"reward_funcs": rewards.functions, "reward_processing_classes": rewards.tokenizers}
        return {}

    def _remember_initial_adapter(self) -> None:
        """PiSSA moves part of the base weights into the adapter; its start is needed to write the difference."""
        if self._config.lora.effective_method != "pissa":
            return
        self._initial_adapter = self._work_dir / "initial_adapter"
        self._trainer.model.peft_config["default"].init_lora_weights = True
        self._trainer.model.save_pretrained(str(self._initial_adapter))

    def train(self, checkpoint: str | None) -> None:
        """Run the training loop."""
        import torch

        started = time.monotonic()
        try:
            self._trainer.train(resume_from_checkpoint=checkpoint)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory(error) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # torch's CPU allocator has no class of its own for this
                raise self._out_of_memory(error) from error
            raise
        self._seconds = time.monotonic() - started
        for name, weight in self._trainer.model.named_parameters():
            if weight.requires_grad and not torch.isfinite(weight).all():
                raise TrainingError(
                    f"training diverged: {name} holds values that are not finite after the last step; lower "
                    "training.learning_rate. Nothing was saved"
                )

    def _out_of_memory(self, error: BaseException) -> TrainingError:
        training = self._config.training
        return TrainingError(
            f"out of memory on {self._device} with per_device_train_batch_size {training.per_device_train_batch_size} "
            f"and max_length {self._config.model.max_length}: {error}. Halve the batch size and double "
            "gradient_accumulation_steps, lower max_length, or set gradient_checkpointing: true"
        )

    def report(self) -> TrainingReport:
        """What happened, free of times."""
        trainer, training = self._trainer, self._config.training
        log = trainer.state.log_history
        metrics = last_metrics(log)
        best = trainer.state.best_metric if self._arguments.get("load_best_model_at_end") else None
        trainable, total = _count_parameters(trainer.model)
        return TrainingReport(
            trainer_type=training.trainer_type,
            trainer_class=f"{self._method.module}.{self._method.trainer}",
            steps=trainer.state.global_step,
            epochs=float(trainer.state.epoch or 0.0),
            train_loss=mean_loss(log),
            eval_loss=float(best) if best is not None else metrics.get("eval_loss"),
            metrics=metrics,
            loss_history=loss_history(log),
            tokens_trained=tokens_trained(log),
            trainable_parameters=trainable,
            total_parameters=total,
            seed=training.seed,
            effective_batch_size=training.effective_batch_size,
            dtype=self._dtype,
            device=self._device,
            stopped_early=trainer.state.global_step < trainer.state.max_steps,
            arguments=plain_arguments(self._arguments | {"group_by_length": groups_by_length(self._config)}),
        )

    def write(self, directory: Path) -> None:
        """Write weights and tokenizer."""
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        if self._config.lora.effective_method == "none":
            write_full_model(model, directory)
        else:
            write_adapter(model, directory, base=self._base.name_or_path, initial=self._initial_adapter)
        # A fresh one: batching leaves padding and truncation settings in the trainer's.
        write_tokenizer(load_tokenizer(self._config), directory)

    def usage(self, report: TrainingReport) -> ResourceUsage:
        return self._meter.stop(
            tokens=report.tokens_trained,
            training_seconds=self._seconds,
            cost_per_hour=self._config.training.gpu_cost_per_hour,
        )


def _check(config: ForgeConfig, dataset: "TokenizedDataset", method: Method) -> "TokenizationSummary":
    """(1): everything that can be refused from the recipe and the dataset's summary alone."""
    check_training(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("WORLD_SIZE is above 1, but this version trains in one process; start it without torchrun")
    summary = dataset.summary
    training = config.training
    if summary.trainer_type != training.trainer_type:
        raise DataError(
            f"{dataset.path} was tokenized for {summary.trainer_type}, but training.trainer_type is "
            f"{training.trainer_type}; tokenize again"
        )
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
    if config.training.trainer_type == "grpo":
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


def _checkpoint(asked: str | bool | None, work_dir: Path | None, tokenized: Digest) -> str | None:
    """The checkpoint to resume from; refused if it was made on other data."""
    if not asked:
        return None
    if asked is True:
        found = find_checkpoints(Path(work_dir)) if work_dir is not None else []
        if not found:
            raise TrainingError(f"there is no checkpoint to resume from in {work_dir}; start without resuming")
        path = found[-1]
    else:
        path = Path(asked)
        if not (path / "trainer_state.json").is_file():
            raise TrainingError(f"{path} is not a training checkpoint; expected a checkpoint-<step> directory")
    mark = path.parent / _MARK
    if mark.is_file():
        values: Mapping[str, Any] = loads_strict(mark.read_bytes())
        if values.get("tokenized_digest") != tokenized:
            raise TrainingError(
                f"{path} was made on the dataset {values.get('tokenized_digest')}, but this run uses {tokenized}; "
                "a resumed run must see the same rows. Start without resuming"
            )
    return str(path)


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
