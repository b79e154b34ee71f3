"""Fine-tuning by another tool in an environment of its own, since their pins exclude ours.

The tool's runner (``run_<tool>.py``) gets one JSON file: paths of the base model and of
*our* tokenized rows, with our loss mask, and the settings of the recipe that it takes.
So the rows that train are the rows that were audited, whatever template the tool would
have used. It gives progress lines, an adapter and a result file. Nothing that it writes
is believed: the adapter is looked at (see `verified_adapter`), and record and report are
written here. A setting of the recipe that a tool does not take is an error, never left out.
"""

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, OptionalDependencyError, TrainingError
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.loading import load_tokenizer
from forge_pipeline.models.writing import write_tokenizer
from forge_pipeline.progress import Progress, Report
from forge_pipeline.training.child_process import lifeline, run_child
from forge_pipeline.training.external.adapter import verified_adapter
from forge_pipeline.training.report import TrainingReport, last_metrics, loss_history, mean_loss
from forge_pipeline.training.usage import ResourceUsage, UsageMeter

if TYPE_CHECKING:
    from forge_pipeline.data.artifacts import TokenizedDataset

_STAGE = "fine_tune"
_PROTOCOL = 1
_SCRIPTS = Path(__file__).parent
_CHECK_SECONDS = 180.0

# What every runner takes. The rest of a section is done by us (marked so), or must be at its default.
_TAKEN = {
    "training": (
        "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "learning_rate",
        "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "optim", "seed", "logging_steps",
        "gradient_checkpointing", "neftune_noise_alpha",
    ),
    "lora": ("r", "alpha", "dropout", "bias", "target_modules", "modules_to_save", "rank_pattern"),
    "model": (
        "max_length", "dtype", "load_in_4bit", "trust_remote_code", "bnb_4bit_use_double_quant", "bnb_4bit_quant_type",
    ),
}  # fmt: skip
_DONE_BY_US = {
    "training": (
        "trainer_type", "output_dir", "final_model_dir", "merge_adapters", "assistant_only_loss",
        "completion_only_loss", "gpu_cost_per_hour", "run_name",
    ),
    "lora": ("method", "use_dora", "use_rslora", "task_type"),
    "model": ("name_or_path", "revision", "chat_template", "backend", "backend_python", "offline"),
}  # fmt: skip
# No checkpoints are kept, and nothing is evaluated on the way.
_WITHOUT_EFFECT = {
    "training": (
        "eval_steps",
        "save_steps",
        "save_total_limit",
        "early_stopping_patience",
        "per_device_eval_batch_size",
    ),
}
# Ours to the environment, not the tool's: secrets, and what would lead its interpreter to our packages.
_OWN_VARIABLES = ("FORGE_", "FORGELM_", "DAGSTER_", "PYTHON", "VIRTUAL_ENV", "__PYVENV")
_QUIET = {
    "AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1", "WANDB_DISABLED": "true",
}  # fmt: skip


@dataclass(frozen=True)
class BackEnd:
    """One tool.

    Attributes:
        name: For people.
        script: Its runner, beside this file.
        adapters: The values of `lora.method` that it does.
        not_taken: Settings in `_TAKEN` that this one does not take.
    """

    name: str
    script: str
    install: str
    adapters: tuple[str, ...] = ("lora", "rslora")
    not_taken: tuple[str, ...] = ("rank_pattern",)


BACK_ENDS: Mapping[str, BackEnd] = {
    "trl": BackEnd("TRL", "run_trl.py", "trl peft", ("lora", "dora", "rslora"), ()),
    "unsloth": BackEnd("Unsloth", "run_unsloth.py", "unsloth", not_taken=("rank_pattern", "bnb_4bit_quant_type",
                       "bnb_4bit_use_double_quant")),
    "axolotl": BackEnd("Axolotl", "run_axolotl.py", "axolotl", ("lora", "dora", "rslora"),
                       ("rank_pattern", "bias", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")),
    "llama_factory": BackEnd("LLaMA-Factory", "run_llama_factory.py", "llamafactory", ("lora", "dora", "rslora"),
                             ("rank_pattern", "bias")),
}  # fmt: skip


def check_back_end(config: ForgeConfig) -> None:
    """Refuse, from the recipe alone, what the tool that it names does not do. Nothing is started.

    Raises:
        ConfigError: With the key and the fix.
    """
    name = config.model.backend
    if name == "transformers":
        return
    tool = BACK_ENDS[name]
    if config.training.trainer_type != "sft":
        raise ConfigError(
            f"training.trainer_type: model.backend {name} does sft here; write backend: transformers for "
            f"{config.training.trainer_type}"
        )
    if config.lora.effective_method not in tool.adapters:
        raise ConfigError(
            f"lora.method: model.backend {name} does {', '.join(tool.adapters)} here, not "
            f"{config.lora.effective_method}"
        )
    if not config.data.shuffle:
        raise ConfigError(f"data.shuffle: model.backend {name} draws the rows in an order of its own; remove it")
    for section, key, value, default in _beyond_defaults(config):
        known = key in _TAKEN[section] and key not in tool.not_taken
        if not known and key not in (*_DONE_BY_US[section], *_WITHOUT_EFFECT.get(section, ())):
            raise ConfigError(
                f"{section}.{key}: found {value!r}, which model.backend {name} does not take here; remove it (that is "
                f"{default!r}), or write backend: transformers"
            )


def _beyond_defaults(config: ForgeConfig) -> Iterator[tuple[str, str, Any, Any]]:
    for section in _TAKEN:
        values = getattr(config, section)
        for key, field in type(values).model_fields.items():
            value, default = getattr(values, key), field.get_default(call_default_factory=True)
            if value != default:
                yield section, key, value, default


@dataclass(frozen=True)
class Environment:
    """A tool in an environment that has it: which interpreter, and the versions it told."""

    back_end: BackEnd
    python: Path
    versions: Mapping[str, str]


def find_environment(config: ForgeConfig, environ: Mapping[str, str]) -> Environment:
    """The environment of the recipe's tool, after asking its runner whether it could work.

    Raises:
        ConfigError: No interpreter is named, or what is named is none.
        OptionalDependencyError: The tool is not installed there, or has not the device that it needs.
    """
    check_back_end(config)
    name = config.model.backend
    back_end = BACK_ENDS[name]
    variable = f"FORGE_{name.upper()}_PYTHON"
    named = config.model.backend_python or environ.get(variable)
    if not named:
        raise ConfigError(
            f"model.backend: {name} runs in an environment of its own; make one (python -m venv DIR && DIR/bin/pip "
            f"install {back_end.install}) and name its interpreter, DIR/bin/python, in model.backend_python "
            f"or {variable}"
        )
    python = Path(named).expanduser()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"model.backend_python: {python} is not a program; expected the interpreter of an environment"
        )
    with tempfile.TemporaryDirectory(prefix="forge-check-") as place:
        answer = Path(place, "answer.json")
        code, output = _run(back_end, python, ["--check", str(answer)], Path(place), environ, seconds=_CHECK_SECONDS)
        result, said = _read(answer), _last_words(output)
    if "error" in result:
        raise OptionalDependencyError(f"model.backend: {name} cannot run: {result['error']['message']}")
    if "versions" not in result:
        raise ConfigError(f"model.backend_python: {python} did not answer (exit code {code}): {said}")
    return Environment(back_end, python, result["versions"])


def train_elsewhere(
    config: ForgeConfig,
    environment: Environment,
    base: BaseModel,
    dataset: "TokenizedDataset",
    work_dir: Path,
    output_dir: Path,
    *,
    progress: Report,
    environ: Mapping[str, str],
) -> tuple[TrainingReport, ResourceUsage]:
    """Have the tool train, verify its adapter, and put it with the tokenizer into `output_dir`.

    Args:
        work_dir: For the tool's own files; removed by the caller.
        output_dir: Exists and is empty.
        progress: Told what the tool tells.

    Raises:
        TrainingError: The tool failed or gave something that is not the adapter asked for; its last words are named.
        OptionalDependencyError: The tool cannot do it with the versions it has.
    """
    meter, cpu_before, started = UsageMeter("cpu"), _children_cpu(), time.monotonic()
    name = environment.back_end.name
    progress(Progress(_STAGE, 0, None, f"{name} trains, by {environment.python}"))
    raw = work_dir / "adapter"
    spec = _spec(config, base, dataset, work_dir, raw)
    (work_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    tail = _Tail(Path(spec["progress_file"]), progress)
    code, output = _run(
        environment.back_end, environment.python, [str(work_dir / "spec.json")], work_dir, environ,
        offline=base.source != "hub", on_poll=tail,
    )  # fmt: skip
    seconds = time.monotonic() - started
    result = _read(Path(spec["result_file"]))
    if "error" in result:
        kind = OptionalDependencyError if result["error"]["kind"] == "unfit" else TrainingError
        raise kind(f"{name}: {result['error']['message']}")
    if code != 0 or "trained" not in result:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise TrainingError(f"{name} {how} and left no result. Its last words: {_last_words(output)}")
    trained = result["trained"]
    verified_adapter(raw, config, base, output_dir, tool=name)
    write_tokenizer(load_tokenizer(config), output_dir)
    report = _report(config, spec, trained, environment)
    usage = replace(
        meter.stop(tokens=None, training_seconds=seconds, cost_per_hour=config.training.gpu_cost_per_hour),
        cpu_seconds=_children_cpu() - cpu_before,
        peak_memory_bytes=_children_peak(),
        gpu_seconds=seconds if report.device == "cuda" else None,
    )
    return report, usage


def _spec(
    config: ForgeConfig, base: BaseModel, dataset: "TokenizedDataset", work_dir: Path, adapter: Path
) -> dict[str, Any]:
    sections = {
        section: {key: getattr(getattr(config, section), key) for key in keys} for section, keys in _TAKEN.items()
    }
    sections["lora"]["method"] = config.lora.effective_method
    model, training = sections["model"], sections["training"]
    model["dtype"] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(model["dtype"], model["dtype"])
    model["load_in_4bit"] = model["load_in_4bit"] is True  # auto leaves other tools' bases unquantized, and says so
    training["optim"] = "adamw_torch" if training["optim"] == "auto" else training["optim"]
    training["gradient_checkpointing"] = training["gradient_checkpointing"] is True
    return {
        "protocol": _PROTOCOL,
        "base_model": base.path,
        "revision": base.revision if base.source == "hub" else None,
        "tokenizer": base.path,
        "rows": str(dataset.path / "train.parquet"),
        "work_dir": str(work_dir),
        "output_dir": str(adapter),
        "progress_file": str(work_dir / "progress.jsonl"),
        "result_file": str(work_dir / "result.json"),
        **sections,
    }


def _run(
    back_end: BackEnd,
    python: Path,
    arguments: list[str],
    place: Path,
    environ: Mapping[str, str],
    *,
    offline: bool = True,
    on_poll: Any = None,
    seconds: float | None = None,
) -> tuple[int, Path]:
    """Run a script to its end; returns its exit code and the file with what it said."""
    deadline = None if seconds is None else time.monotonic() + seconds

    def poll() -> None:
        if on_poll is not None:
            on_poll()
        if deadline is not None and time.monotonic() > deadline:
            raise ConfigError(f"model.backend_python: {python} did not answer within {seconds:.0f} seconds")

    environment = {name: value for name, value in environ.items() if not name.startswith(_OWN_VARIABLES)}
    environment |= _QUIET | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    output = place / "output.txt"
    with output.open("wb") as file, lifeline(place) as held:
        code = run_child(
            [str(python), "-u", str(_SCRIPTS / back_end.script), *arguments],
            environment=environment | held | {"PYTHONDONTWRITEBYTECODE": "1"},
            output=file.fileno(),
            directory=place,  # some tools leave caches where they run
            on_poll=poll,
        )
    return code, output


class _Tail:
    """Passes on the lines that a runner has added to its progress file since the last call."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report, self._offset = path, report, 0

    def __call__(self) -> None:
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._report(_moment(line))


def _moment(line: bytes) -> Progress:
    try:
        values = json.loads(line)
        metrics = {str(name): float(value) for name, value in values["metrics"].items()}
        return Progress(_STAGE, int(values["step"]), int(values["total"]), str(values["message"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"the tool's progress file holds {line[:200]!r}, which is no progress: {error}") from error


def _report(
    config: ForgeConfig, spec: Mapping[str, Any], trained: Mapping[str, Any], environment: Environment
) -> TrainingReport:
    training = config.training
    try:
        log = list(trained["log"])
        return TrainingReport(
            trainer_type=training.trainer_type,
            trainer_class=str(trained["trainer_class"]),
            steps=int(trained["steps"]),
            epochs=float(trained["epochs"] or 0.0),
            train_loss=mean_loss(log),
            eval_loss=None,
            metrics=last_metrics(log),
            loss_history=loss_history(log),
            tokens_trained=None,
            trainable_parameters=int(trained["trainable_parameters"]),
            total_parameters=int(trained["total_parameters"]),
            seed=training.seed,
            effective_batch_size=training.effective_batch_size,
            dtype=str(trained["dtype"]),
            device=str(trained["device"]),
            stopped_early=int(trained["steps"]) < int(trained["max_steps"]),
            arguments={**spec["training"], **{f"lora_{key}": value for key, value in spec["lora"].items()}},
            tool={"name": environment.back_end.name, **environment.versions},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{environment.back_end.name}: its result is not as agreed: {error!r}") from error


def _read(path: Path) -> dict[str, Any]:
    """A runner's answer; empty if it left none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_words(output: Path) -> str:
    text = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:] or "none"


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _children_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


@contextmanager
def scratch(output_dir: Path) -> Iterator[Path]:
    """A directory beside `output_dir` for a tool's own files; gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.tool.", dir=output_dir.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
