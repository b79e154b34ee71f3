"""How a stage says how far it is.

A stage takes a `Report` callable and calls it as often as it likes; whoever
started it decides what becomes of that: a bar in the terminal, a line in a JSONL
progress file, a throttled log line in the Dagster UI.
"""

import json
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
        metrics: Numbers of this moment: loss, learning_rate, tokens_per_second, epoch.
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
    """One moment in one line: ``fine_tune  12/40  training  loss 2.31  learning_rate 0.0019``."""
    count = f"{progress.step}/{progress.total}" if progress.total is not None else f"{progress.step}"
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    return "  ".join(part for part in (progress.stage, count, progress.message, numbers) if part)


class ProgressFile:
    """Appends each `Progress` as one JSON line, with `seq` (from 0) and `ts` (Unix seconds).

    A line is written with a single `write(2)`, so a reader that tails the file sees
    whole lines only.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._seq = 0

    def __call__(self, progress: Progress) -> None:
        line = json.dumps({"seq": self._seq, "ts": time.time(), **asdict(progress)}, allow_nan=True)
        os.write(self._fd, line.encode() + b"\n")
        self._seq += 1

    def close(self) -> None:
        os.close(self._fd)
