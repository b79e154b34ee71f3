"""What can run here, and why the rest cannot: asked by `/api/info` and, before a job is made, by start.

Nothing that cannot run is accepted and left to fail later.
"""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

from forge_pipeline.errors import OptionalDependencyError
from forge_pipeline.server.errors import RequestError
from forge_pipeline.server.schemas import Availability, Offer, StartTraining

PROVIDERS = ("huggingface", "unsloth")
STRATEGIES = ("sft", "qlora", "rlhf", "dpo", "kto", "orpo", "simpo", "grpo", "reward", "pretraining")
TASKS = ("text-generation", "summarization", "extractive-question-answering")

_UNSLOTH = "provider 'unsloth' cannot run here: {}. Send provider 'huggingface'"
_UNSLOTH_DEVICE = "it needs an NVIDIA GPU, and an environment of its own with `pip install unsloth`"
_UNSLOTH_PYTHON = (
    "it runs in an environment of its own; make one (python -m venv DIR && DIR/bin/pip install unsloth) and start the "
    "server with FORGE_UNSLOTH_PYTHON=DIR/bin/python"
)
_BITSANDBYTES = "quantization to 4 bits needs bitsandbytes: pip install 'forge-pipeline[qlora]'"
_NOT_ON_MPS = "quantization to 4 bits is not done on Apple GPUs by this version"
_TRAINERS = "training needs torch, transformers, trl and peft: pip install 'forge-pipeline[train]'"
_ROUGE = "task 'summarization' is measured with rouge-score: pip install 'forge-pipeline[train]'"


def accelerator() -> str:
    """The device that ``device: auto`` takes on this host. Read from the operating system: torch stays unloaded."""
    if Path("/dev/nvidiactl").exists():
        return "cuda"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def installed(module: str) -> bool:
    return find_spec(module) is not None


def availability(unsloth_python: Path | None = None) -> Availability:
    """Every provider, strategy and task that is offered, each with its answer for this host.

    Args:
        unsloth_python: The interpreter of Unsloth's own environment, as the server's settings name it.
    """
    trains = None if all(map(installed, ("torch", "transformers", "trl", "peft"))) else _TRAINERS
    strategies: dict[str, str | None] = dict.fromkeys(STRATEGIES, trains)
    strategies["qlora"] = trains or _no_4bit()
    tasks: dict[str, str | None] = dict.fromkeys(TASKS, trains)
    tasks["summarization"] = trains or (None if installed("rouge_score") else _ROUGE)
    return Availability(
        providers={"huggingface": _offer(trains), "unsloth": _offer(_no_unsloth(unsloth_python))},
        strategies={name: _offer(reason) for name, reason in strategies.items()},
        tasks={name: _offer(reason) for name, reason in tasks.items()},
    )


def check_runnable(start: StartTraining, unsloth_python: Path | None = None) -> None:
    """Refuse what this host or version cannot train.

    Raises:
        RequestError: Names the field, what is missing and what to send or install.
        OptionalDependencyError: An extra is not installed.
    """
    offers = availability(unsloth_python)
    for table, choice in (
        (offers.providers, start.provider),
        (offers.strategies, start.strategy),
        (offers.tasks, start.task),
    ):
        offer = table[choice]
        if not offer.available:
            raise OptionalDependencyError(offer.reason) if offer.reason == _TRAINERS else RequestError(offer.reason)
    if start.use_4bit and (reason := _no_4bit()):
        raise RequestError(f"use_4bit: {reason}; or leave use_4bit out")
    if start.use_8bit:
        raise RequestError("use_8bit: 8-bit base models are not supported by this version; send use_4bit or neither")
    if start.device not in ("auto", accelerator()):
        raise RequestError(
            f"device: found {start.device!r}; this host trains on {accelerator()!r}; send that or 'auto'"
        )
    if start.fp16 and accelerator() == "cpu":
        raise RequestError("fp16: a CPU cannot train in float16, whose gradients vanish; send bf16, or leave fp16 out")
    if start.optim in ("paged_adamw_32bit", "paged_adamw_8bit", "adamw_bnb_8bit") and not installed("bitsandbytes"):
        raise RequestError(
            f"optim: {start.optim!r} needs bitsandbytes: pip install bitsandbytes; or send 'adamw_torch'"
        )


def _no_4bit() -> str | None:
    if accelerator() == "mps":
        return _NOT_ON_MPS
    return None if installed("bitsandbytes") else _BITSANDBYTES


def _no_unsloth(python: Path | None) -> str | None:
    if accelerator() != "cuda":
        return _UNSLOTH.format(_UNSLOTH_DEVICE)
    if python is None or not os.access(python.expanduser(), os.X_OK) or not python.expanduser().is_file():
        return _UNSLOTH.format(_UNSLOTH_PYTHON)
    return None


def _offer(reason: str | None) -> Offer:
    return Offer(available=reason is None, reason=reason)
