"""What can run here, and why the rest cannot: asked by `/api/info` and, before a job is made, by start.

Nothing that cannot run is accepted and left to fail later.
"""

import platform
from importlib.util import find_spec
from pathlib import Path

from forge_pipeline.errors import OptionalDependencyError
from forge_pipeline.server.errors import RequestError
from forge_pipeline.server.schemas import Availability, Offer, StartTraining

PROVIDERS = ("huggingface", "unsloth")
STRATEGIES = ("sft", "qlora", "rlhf", "dpo", "kto", "orpo", "simpo", "grpo")
TASKS = ("text-generation", "summarization", "extractive-question-answering")

_UNSLOTH = (
    "provider 'unsloth' cannot run here: it needs an NVIDIA, AMD or Intel GPU and `pip install unsloth`, and this "
    "version trains with transformers only. Send provider 'huggingface'"
)
_NOT_YET = {
    "rlhf": "strategy 'rlhf' (a reward model, then online policy optimisation against it) is not runnable in this "
    "version; for preference pairs send 'dpo', 'orpo' or 'simpo'",
    "summarization": "task 'summarization' is not runnable in this version; send 'text-generation'",
    "extractive-question-answering": "task 'extractive-question-answering' is not runnable in this version; "
    "send 'text-generation'",
}
_BITSANDBYTES = "quantization to 4 bits needs bitsandbytes and a CUDA device: pip install bitsandbytes"
_TRAINERS = "training needs torch, transformers, trl and peft: pip install 'forge-pipeline[train]'"


def accelerator() -> str:
    """The device that ``device: auto`` takes on this host. Read from the operating system: torch stays unloaded."""
    if Path("/dev/nvidiactl").exists():
        return "cuda"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def installed(module: str) -> bool:
    return find_spec(module) is not None


def availability() -> Availability:
    """Every provider, strategy and task that the contract lists, each with its answer for this host."""
    trains = None if all(map(installed, ("torch", "transformers", "trl", "peft"))) else _TRAINERS
    strategies = {name: _NOT_YET.get(name) or trains for name in STRATEGIES}
    strategies["qlora"] = strategies["qlora"] or _no_4bit()
    return Availability(
        providers={"huggingface": _offer(trains), "unsloth": _offer(_UNSLOTH)},
        strategies={name: _offer(reason) for name, reason in strategies.items()},
        tasks={name: _offer(_NOT_YET.get(name) or trains) for name in TASKS},
    )


def check_runnable(start: StartTraining) -> None:
    """Refuse what this host or version cannot train.

    Raises:
        RequestError: Names the field, what is missing and what to send or install.
        OptionalDependencyError: An extra is not installed.
    """
    offers = availability()
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
    if start.optim in ("paged_adamw_32bit", "paged_adamw_8bit", "adamw_bnb_8bit") and not installed("bitsandbytes"):
        raise RequestError(
            f"optim: {start.optim!r} needs bitsandbytes: pip install bitsandbytes; or send 'adamw_torch'"
        )


def _no_4bit() -> str | None:
    return None if installed("bitsandbytes") and accelerator() == "cuda" else _BITSANDBYTES


def _offer(reason: str | None) -> Offer:
    return Offer(available=reason is None, reason=reason)
