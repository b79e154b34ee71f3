"""One fine-tune in a process of its own, with clocks: ``python -m benchmarks.training_job SPEC.json``.

Three ways to run the same job:

- ``trl``: a script as a person writes it: `SFTTrainer` with the model's name, the rows, a LoRA, and TRL's defaults.
- ``ours``: `forge_pipeline.training.fine_tune` with a recipe.
- ``same``: a bare `SFTTrainer` with the arguments, weights and row order that the recipe gives, and nothing of ours
  around it. Beside ``ours`` it shows what our wrapping costs.

A clock that stands between the Trainer and its callbacks (added to every way alike) notes each step; what
callbacks of ours take is noted by itself. The result is one JSON file.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

_EVENTS = ("on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_substep_end", "on_log",
           "on_epoch_end", "on_train_end", "on_pre_optimizer_step", "on_optimizer_step")  # fmt: skip


Trained = Callable[[], tuple[Any, Any]]
"""Gives the trained model and its tokenizer; called after memory was measured."""


class Clock:
    """What happened when, in wall seconds and CPU seconds of this process."""

    def __init__(self) -> None:
        self.marks: dict[str, tuple[float, float]] = {}
        self.steps: list[tuple[float, float]] = []
        self.tokens: list[float] = []
        self.losses: list[float] = []
        self.inside: dict[str, float] = {}  # CPU seconds
        self.inside_start: dict[str, float] = {}  # the same, up to the first step

    def mark(self, name: str) -> None:
        if name == "first_step" and name not in self.marks:
            self.inside_start = dict(self.inside)
        self.marks.setdefault(name, _now())

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.inside[name] = self.inside.get(name, 0.0) + time.process_time() - began

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.timing(name):
                return function(*args, **kwargs)

        return call


def main(spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text())
    clock = Clock()
    clock.mark("started")
    import torch
    import transformers
    from datasets import load_dataset  # noqa: F401
    from peft import LoraConfig, PeftModel  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    ours = import_module("forge_pipeline.training.fine_tune")  # the package's attribute of this name is the function
    transformers.AutoModelForCausalLM  # noqa: B018  # lazy modules: the classes are imported here, not in the run
    transformers.AutoTokenizer  # noqa: B018
    transformers.utils.logging.set_verbosity_error()
    _put_clock_in(clock)
    _time_parts(clock, transformers, ours)
    clock.mark("imported")
    trainer_of = {"trl": _bare, "ours": _ours, "same": _same}[spec["way"]]
    with clock.timing("run"):
        trained = trainer_of(spec, clock)
    clock.mark("finished")
    peak = _peak_memory()
    result = {
        "marks": clock.marks,
        "steps": clock.steps,
        "tokens": clock.tokens,
        "losses": clock.losses,
        "inside": clock.inside,
        "inside_start": clock.inside_start,
        "peak_memory_bytes": peak,
        "held_out_loss": _held_out_loss(*trained(), Path(spec["held_out"])) if spec["held_out"] else None,
        "threads": torch.get_num_threads(),
    }
    Path(spec["result"]).write_text(json.dumps(result))


def _bare(spec: dict[str, Any], clock: Clock) -> Trained:
    """TRL's defaults. Beside model, rows and LoRA only what fixes the job: steps, batch, length, rate, no saving."""
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=spec["work"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["batch"],
        learning_rate=spec["learning_rate"],
        max_length=spec["max_length"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=spec["seed"],
        use_cpu=spec["device"] == "cpu",
    )
    trainer = SFTTrainer(
        model=spec["model"],
        args=arguments,
        train_dataset=load_dataset("json", data_files=spec["rows"], split="train"),
        peft_config=LoraConfig(r=spec["rank"], lora_alpha=2 * spec["rank"], target_modules=spec["targets"]),
    )
    trainer.train()
    return lambda: (trainer.model, trainer.processing_class)


def _ours(spec: dict[str, Any], clock: Clock) -> Trained:
    from forge_pipeline.data import TokenizedDataset
    from forge_pipeline.integrity import Digest
    from forge_pipeline.models import load_tuned
    from forge_pipeline.progress import ProgressFile
    from forge_pipeline.training import fine_tune

    config = _recipe(spec)
    report = ProgressFile(Path(spec["work"], "progress.jsonl"))
    tokenized = TokenizedDataset.open(spec["tokenized"])
    done = fine_tune(config, tokenized, Digest.of(b"rows"), Path(spec["work"], "model"), progress=report)
    return lambda: load_tuned(config, done.model)


def _same(spec: dict[str, Any], clock: Clock) -> Trained:
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from pyarrow import parquet
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from forge_pipeline.models.adapters import lora_config
    from forge_pipeline.models.base import resolve_base_model
    from forge_pipeline.models.devices import computes_bfloat16, pick_device
    from forge_pipeline.models.loading import load_for_training, load_tokenizer
    from forge_pipeline.models.quiet import quiet_libraries
    from forge_pipeline.training.arguments import build_arguments, groups_by_length
    from forge_pipeline.training.row_order import drawing_by_length

    config = _recipe(spec)
    with quiet_libraries():
        set_seed(config.training.seed)
        model = load_for_training(config, resolve_base_model(config))
        table = parquet.read_table(Path(spec["tokenized"], "train.parquet"))
        kept = [name for name in ("input_ids", "labels", "length", "seq_lengths") if name in table.column_names]
        rows = Dataset(InMemoryTable(table.select(kept)))
        device = pick_device()
        arguments = build_arguments(
            config,
            device=device,
            dtype=str(model.dtype).removeprefix("torch."),
            bfloat16=computes_bfloat16(device),
            rows=len(rows),
            validation_rows=0,
            work_dir=Path(spec["work"]),
            keep=False,
        )
        trainer_class: Any = SFTTrainer
        if groups_by_length(config):
            trainer_class = drawing_by_length(
                SFTTrainer, batch=config.training.effective_batch_size, seed=config.training.seed
            )
        trainer = trainer_class(
            model=model,
            args=SFTConfig(**arguments),
            train_dataset=rows,
            processing_class=load_tokenizer(config),
            peft_config=lora_config(config),
        )
        trainer.train()
    return lambda: (trainer.model, trainer.processing_class)


def _recipe(spec: dict[str, Any]) -> Any:
    from forge_pipeline.config import ForgeConfig

    return ForgeConfig(**spec["recipe"])


def _put_clock_in(clock: Clock) -> None:
    """Add a callback that notes steps to every Trainer, and time each callback of ours."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import CallbackHandler

    class Noting(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.mark("train_begin")

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.mark("first_step")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.steps.append(_now())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in (logs or {}):
                clock.losses.append(float(logs["loss"]))
                clock.tokens.append(float(logs.get("num_tokens", 0.0)))

    make, add = CallbackHandler.__init__, CallbackHandler.add_callback

    def make_with_clock(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:
        make(self, [*callbacks, Noting()], *args, **kwargs)

    def add_timed(self: Any, callback: Any) -> None:
        add(self, callback)
        added = self.callbacks[-1]
        if type(added).__module__.startswith("forge_pipeline."):
            for event in _EVENTS:
                setattr(added, event, clock.timed("our callbacks", getattr(added, event)))

    CallbackHandler.__init__, CallbackHandler.add_callback = make_with_clock, add_timed


def _time_parts(clock: Clock, transformers: Any, ours: Any) -> None:
    """Time the parts of a start, wherever they are called from."""
    auto = transformers.AutoModelForCausalLM
    auto.from_pretrained = clock.timed("model load", auto.from_pretrained)
    tokenizers = transformers.AutoTokenizer
    tokenizers.from_pretrained = clock.timed("tokenizer load", tokenizers.from_pretrained)
    for module, name, what in (
        (ours, "resolve_base_model", "base model: found and digested"),
        (ours, "build_arguments", "arguments"),
    ):
        setattr(module, name, clock.timed(what, getattr(module, name)))
    from transformers import Trainer

    Trainer.__init__ = clock.timed("transformers' Trainer made", Trainer.__init__)


def _held_out_loss(model: Any, tokenizer: Any, rows: Path) -> float:
    """Mean negative log-likelihood of the rows' tokens, row by row in float32: one yardstick for every way."""
    import torch

    model = model.eval().float()
    total, count = 0.0, 0
    with torch.inference_mode():
        for line in rows.read_text(encoding="utf-8").splitlines():
            text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    return total / count


def _peak_memory() -> int:
    """On CUDA the most that tensors took on the device, else the most resident memory since the start.

    `ours` starts the system's high-water mark anew when it begins, so that imports do not count; they take less
    than training does.
    """
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


if __name__ == "__main__":
    main(sys.argv[1])
