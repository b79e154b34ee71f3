"""What `rest.py` measured, and the page about it."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rate: int  # requests a second
    seconds: float  # of load
    watchers: int
    steps: int  # of the watched job
    upload: int  # bytes
    restarts: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the requests to one route; `failed` were answered otherwise than with 200."""

    route: str
    count: int
    failed: int
    p50: float
    p99: float
    worst: float


@dataclass(frozen=True)
class Watched:
    """`lag` in seconds, over all clients and steps."""

    clients: int
    told_the_end: int
    messages: int
    lag_p50: float
    lag_p99: float


@dataclass(frozen=True)
class Upload:
    """Bytes, and seconds."""

    size: int
    before: int
    peak: int
    after: int
    seconds: float


@dataclass(frozen=True)
class Restarts:
    count: int
    asked: int
    lost: int
    invented: int
    without_reason: int
    models: int
    completed: int
    ready_after: Sequence[float]


def quantile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of a hundred are at or below."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def render(
    command: str, sizes: Sizes, asked: list[Latency], watched: Watched, taken: Upload, ended: Restarts, load: str
) -> str:
    """The page, from the results and nothing else."""
    rows = "\n".join(
        f"| `{each.route}` | {each.count} | {each.failed} | {each.p50:.1f} | {each.p99:.1f} | {each.worst:.1f} |"
        for each in asked
    )
    mib = 2**20
    ready = sorted(ended.ready_after)
    return f"""# REST API: measured

Written by `{command}` on {date.today()}; every figure is of that run. Machine: {os.cpu_count()} cores, \
{platform.system()} {platform.machine()}, Python {platform.python_version()}. Load averages at the start: {load}.
The server, its Dagster and the job that trains share those cores.

## While a job trains: {sizes.rate} requests a second for {sizes.seconds:g} s

Milliseconds from when a request was due.

| route | requests | failed | p50 | p99 | worst |
|---|---|---|---|---|---|
{rows}

## {watched.clients} WebSocket clients

{watched.told_the_end} of {watched.clients} got the terminal message; {watched.messages} messages in all. From a \
step's line in the progress file to the client: p50 {watched.lag_p50:.2f} s, p99 {watched.lag_p99:.2f} s. The server \
looks twice a second.

## An upload of {taken.size / mib:.0f} MiB

Resident memory of the server: {taken.before / mib:.0f} MiB before, {taken.peak / mib:.0f} MiB at the peak \
({(taken.peak - taken.before) / mib:+.0f} MiB), {taken.after / mib:.0f} MiB after. {taken.seconds:.1f} s with the \
check of every row, {taken.size / mib / taken.seconds:.0f} MiB/s.

## {ended.count} restarts in the middle of training

SIGKILL and SIGTERM in turn. Jobs asked for: {ended.asked}; lost: {ended.lost}; invented: {ended.invented}; without \
an end or a reason: {ended.without_reason}. Completed: {ended.completed}; models: {ended.models}. Seconds from the \
start of a server until training could begin again: median {statistics.median(ready):.1f}, worst {ready[-1]:.1f}.
"""
