"""Training in several processes: who they are, what they agree on, and whether the strategy took effect.

A launcher starts every process with RANK, LOCAL_RANK and WORLD_SIZE in its environment.
Rank 0 alone writes: logs, progress, the output directory, the record. The others meet
it where they need what it made. Weights that are shared out (FSDP2, ZeRO-3) are gathered
by all ranks before rank 0 writes them.
"""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import DistributedSection
from forge_pipeline.errors import ConfigError, OptionalDependencyError, TrainingError
from forge_pipeline.models.devices import Device

Value = TypeVar("Value")

_log = logging.getLogger(__name__)

_PRESETS = Path(__file__).with_name("deepspeed")
_TYPES = {"deepspeed": ("DEEPSPEED",), "fsdp": ("FSDP",), "ddp": ("MULTI_CPU", "MULTI_GPU")}


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together.

    Attributes:
        rank: From 0 over all hosts.
        local_rank: From 0 on this host; the number of its GPU.
        world_size: Processes in all.
        launched: Whether a launcher started this process, be it alone.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    launched: bool = False

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Go on when every rank has come this far."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.barrier()

    def first_one(self, value: Value | None) -> Value:
        """What rank 0 passed, on every rank; what the others pass is not looked at."""
        if self.world_size > 1:
            import torch.distributed

            box = [value]
            torch.distributed.broadcast_object_list(box, src=0)
            value = box[0]
        assert value is not None, "rank 0 passes a value"
        return value

    def of_all(self, value: Value) -> list[Value]:
        """What each rank passed, by rank. Every rank has to call it."""
        if self.world_size == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The block runs on rank 0, and then on the others: for what is made once and found afterwards."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def read_ranks(environ: Mapping[str, str]) -> Ranks:
    """This process's place, from what a launcher sets.

    Raises:
        TrainingError: The variables are not whole numbers, or do not fit each other.
    """
    if "WORLD_SIZE" not in environ:
        return Ranks()
    try:
        size, rank = int(environ["WORLD_SIZE"]), int(environ.get("RANK", "0"))
        local = int(environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID", "0")))
    except ValueError as error:
        raise TrainingError(f"WORLD_SIZE, RANK and LOCAL_RANK must be whole numbers: {error}") from error
    if not 0 <= rank < size or local < 0:
        raise TrainingError(f"found RANK {rank}, LOCAL_RANK {local}, WORLD_SIZE {size}; expected ranks below the size")
    lacking = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 and name not in environ
    ]
    if lacking:
        raise TrainingError(
            f"WORLD_SIZE is {size}, but {', '.join(lacking)} is not set; start the processes with torchrun, or unset "
            "WORLD_SIZE"
        )
    return Ranks(rank, local, size, launched="LOCAL_RANK" in environ)


def use_one_gpu(ranks: Ranks, environ: Mapping[str, str], gpus: int) -> dict[str, str]:
    """What to set so that a process without a launcher sees one GPU; empty where there is nothing to do.

    With several, the Trainer would split each batch over them in one process (DataParallel), which TRL refuses.
    """
    if ranks.launched or gpus < 2:
        return {}
    first = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return {"CUDA_VISIBLE_DEVICES": first or "0"}


def leave_one_gpu(ranks: Ranks) -> None:
    """Hide all GPUs but the first from this process, if no launcher started it. CUDA reads the variable when it starts.

    Launched stages come with the variable set; this is for `fine_tune` called by itself.
    """
    gpus = count_gpus(os.environ)
    for name, value in use_one_gpu(ranks, os.environ, gpus).items():
        _log.warning(
            "%d GPUs are visible, and one process trains on one: %s is set to %s. distributed.processes takes more",
            gpus, name, value,
        )  # fmt: skip
        os.environ[name] = value


def count_gpus(environ: Mapping[str, str]) -> int:
    """NVIDIA GPUs that a process would see, found without importing torch."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        # CUDA stops at the first name that is no device.
        return next((i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def asked_processes(config: ForgeConfig) -> int:
    """Processes that the recipe asks for over all hosts; 1 where it leaves the number to the machine."""
    section = config.distributed or DistributedSection()
    return section.hosts if section.processes == "auto" else section.hosts * section.processes


@contextmanager
def joined(config: ForgeConfig, ranks: Ranks, device: Device) -> Iterator[None]:
    """The ranks connected to each other within the block. One process alone connects to nobody."""
    if ranks.world_size == 1:
        yield
        return
    import torch
    import torch.distributed

    section = config.distributed or DistributedSection()
    if device == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    ours = not torch.distributed.is_initialized()
    if ours:
        torch.distributed.init_process_group(_backend(section, device), timeout=timedelta(seconds=section.timeout))
    yield
    # Not where the block raised: the other ranks may never answer again, and this one must say why at once.
    torch.distributed.barrier()  # what rank 0 published is there for all
    if ours:
        torch.distributed.destroy_process_group()


def check_distributed(config: ForgeConfig, ranks: Ranks, device: Device) -> None:
    """Refuse, before a model is loaded, what would fail or be silently ignored later.

    Raises:
        ConfigError: The strategy does not fit the device or the rest of the recipe.
        OptionalDependencyError: DeepSpeed is asked for and not installed.
        TrainingError: The strategy needs a launcher, and this process has none.
    """
    section = config.distributed or DistributedSection()
    if ranks.launched and section.backend == "nccl" and device != "cuda":
        raise ConfigError(f"distributed.backend: nccl needs GPUs, and this machine trains on {device}; write auto")
    if section.strategy not in ("deepspeed", "fsdp"):
        return
    check_installed(section)
    if device != "cuda":
        raise ConfigError(
            f"distributed.strategy: {section.strategy} needs GPUs, and this machine trains on {device}, where it would "
            "be silently ignored; write ddp"
        )
    if not ranks.launched:
        raise TrainingError(
            f"distributed.strategy: {section.strategy} needs a launcher; `forge train`, ForgeTrainer and the assets "
            "start one, and fine_tune by itself is started with torchrun"
        )
    if config.lora.effective_method == "pissa":
        raise ConfigError(
            f"lora.method: pissa cannot be written from weights that {section.strategy} shares out; write ddp"
        )
    if config.model.load_in_4bit is True and _shares_weights(section):
        raise ConfigError(
            f"model.load_in_4bit: 4-bit weights are not shared out by {section.strategy}; write load_in_4bit: false or "
            "distributed.strategy: ddp"
        )


def check_installed(section: DistributedSection) -> None:
    """Raise OptionalDependencyError where DeepSpeed is asked for and not installed; ConfigError for its settings."""
    if section.strategy != "deepspeed":
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise OptionalDependencyError(
            "distributed.strategy: deepspeed needs the module 'deepspeed', which is not installed. Install it with: "
            "pip install deepspeed, or write strategy: fsdp"
        )
    deepspeed_settings(section)


def deepspeed_settings(section: DistributedSection) -> dict[str, Any]:
    """The DeepSpeed configuration that the recipe names: a preset of ours or a JSON file.

    Raises:
        ConfigError: There is no such preset or file, or it holds no JSON object.
    """
    name = section.deepspeed_config or "zero2"
    preset = _PRESETS / f"{name}.json"
    path = preset if name.isidentifier() and preset.is_file() else Path(name).expanduser()
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        presets = ", ".join(sorted(file.stem for file in _PRESETS.glob("*.json")))
        raise ConfigError(
            f"distributed.deepspeed_config: {name!r} cannot be read ({error.strerror}); give a JSON file or "
            f"one of {presets}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"distributed.deepspeed_config: {path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"distributed.deepspeed_config: {path} holds {type(settings).__name__}; expected an object")
    return settings


def distributed_arguments(config: ForgeConfig, ranks: Ranks, device: Device) -> dict[str, Any]:
    """What the TRL configuration takes for several processes; nothing for one alone."""
    section = config.distributed or DistributedSection()
    values: dict[str, Any] = {}
    if ranks.world_size > 1:
        values |= {
            "ddp_backend": _backend(section, device),
            "ddp_timeout": section.timeout,
            # Every trainable parameter takes part in every step, and the search for those that do not costs time.
            "ddp_find_unused_parameters": False,
        }
    if section.strategy == "deepspeed":
        values["deepspeed"] = deepspeed_settings(section)
    if section.strategy == "fsdp":
        values |= {"fsdp": True, "fsdp_config": _fsdp_settings(section)}
    return values


def _fsdp_settings(section: DistributedSection) -> dict[str, Any]:
    return {
        "version": 2,
        "reshard_after_forward": section.fsdp_strategy == "full_shard",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP" if section.fsdp_auto_wrap else "NO_WRAP",
        "cpu_offload": section.fsdp_offload,
        "state_dict_type": section.fsdp_state_dict_type,
    }


def check_took_effect(config: ForgeConfig, ranks: Ranks, accelerator: Any) -> None:
    """Refuse to train on where accelerate ignored the strategy: it stays with DDP without a word.

    Raises:
        TrainingError: accelerate's distributed type is another than asked for.
    """
    section = config.distributed or DistributedSection()
    strategy = section.strategy or "ddp"
    if strategy == "ddp" and ranks.world_size == 1:
        return
    found = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if found not in _TYPES[strategy] or accelerator.num_processes != ranks.world_size:
        raise TrainingError(
            f"distributed.strategy: {strategy} over {ranks.world_size} processes was asked for, but accelerate set up "
            f"{found} over {accelerator.num_processes}; look for ACCELERATE_* variables in the environment"
        )


def whole_model(accelerator: Any, wrapped: Any, model: Any, ranks: Ranks) -> Any:
    """`model` as something whose `save_pretrained` writes all weights. Every rank calls it; rank 0 saves.

    Args:
        wrapped: The model as the strategy wrapped it.
        model: The same without the wrapping.
    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if ranks.world_size == 1 or kind in _TYPES["ddp"]:
        return model
    return _Gathered(model, accelerator.get_state_dict(wrapped))


class _Gathered:
    """A model whose weights lie on other ranks too, saved from the gathered ones."""

    def __init__(self, model: Any, weights: Mapping[str, Any]) -> None:
        self._model, self._weights = model, weights

    def save_pretrained(self, directory: str, **options: Any) -> None:
        self._model.save_pretrained(directory, state_dict=self._weights, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _backend(section: DistributedSection, device: Device) -> str:
    if section.backend != "auto":
        return section.backend
    return "nccl" if device == "cuda" else "gloo"


def _shares_weights(section: DistributedSection) -> bool:
    if section.strategy == "fsdp":
        return True
    stage = deepspeed_settings(section).get("zero_optimization", {}).get("stage")
    return section.strategy == "deepspeed" and stage == 3


def first_rank(environ: Mapping[str, str]) -> bool:
    """Whether this process is the one that writes and speaks."""
    return read_ranks(environ).is_first
