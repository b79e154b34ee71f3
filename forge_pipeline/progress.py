"""How a stage says how far it is.

A stage takes a `Report` callable and calls it as often as it likes; whoever
started it decides what becomes of that: a bar in the terminal, a line in a JSONL
progress file, a throttled log line in the Dagster UI.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """One moment of one stage.

    Attributes:
        stage: The stage's name, for example ``fine_tune``.
        step: Units done so far, from 0 to `total`. For training, optimizer updates.
        total: Units in all; None while unknown.
        message: What is happening, for a person.
        metrics: Numbers of this moment. Training gives loss, learning_rate, epoch, grad_norm, eval_loss;
            tokens (real ones, so far) and tokens_per_second (since the last logged step, evaluations left
            out); memory_bytes (resident on a CPU, allocated by tensors on an accelerator); eta_seconds.
            What is not known yet is absent.
    """

    stage: str
    step: int
    total: int | None = None
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The reporter that reports to nobody."""


def describe(progress: Progress) -> str:
    """One moment in one line: ``fine_tune  12/40  training  loss 2.31  learning_rate 0.0019  183 tokens/s``."""
    count = f"{progress.step}/{progress.total}" if progress.total is not None else f"{progress.step}"
    return "  ".join(part for part in (progress.stage, count, progress.message, figures(progress.metrics)) if part)


def figures(metrics: Mapping[str, float], *, brief: bool = False) -> str:
    """Numbers of a moment for a person, in the order given; bytes, rates and durations in their own units.

    Args:
        brief: Without those that a person watching can do without: epoch, grad_norm, tokens.
    """
    shown = {name: value for name, value in metrics.items() if not (brief and name in _LEFT_OUT_IN_BRIEF)}
    return "  ".join(_WRITTEN.get(name, f"{name} {{:.4g}}".format)(value) for name, value in shown.items())


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_LEFT_OUT_IN_BRIEF = ("epoch", "grad_norm", "tokens")
_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "tokens": lambda value: f"{value:,.0f} tokens",
    "tokens_per_second": lambda value: f"{value:.4g} tokens/s",
    "memory_bytes": lambda value: f"{value / 2**30:.2f} GiB",
    "eta_seconds": lambda value: f"ETA {_duration(value)}",
}


class ProgressFile:
    """Appends each `Progress` as one JSON line, with `seq` (from 0) and `ts` (Unix seconds).

    A number that is not finite is written as null: the line stays JSON.

    A line is written with a single `write(2)`, so a reader that tails the file sees
    whole lines only.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._seq = 0

    def __call__(self, progress: Progress) -> None:
        metrics = {name: value if math.isfinite(value) else None for name, value in progress.metrics.items()}
        moment = {**asdict(progress), "metrics": metrics}
        line = json.dumps({"seq": self._seq, "ts": time.time(), **moment}, allow_nan=False)
        os.write(self._fd, line.encode() + b"\n")
        self._seq += 1

    def close(self) -> None:
        os.close(self._fd)
