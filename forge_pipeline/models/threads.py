"""How many threads torch computes with on a CPU: as many as there are idle cores, unless somebody decided otherwise.

OpenMP threads spin while they wait for each other. On a core that somebody else uses, a second thread makes a
training step slower than one thread alone (measured: 27 tokens/s with two threads on two busy cores, 54 with one;
287 against 167 where both were free). The weights are the same bits whatever the number.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from forge_pipeline.models.devices import Device

_log = logging.getLogger(__name__)
_DECIDED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # Linux, control groups version 2: microseconds of CPU per microseconds
_WATCHED = 0.3  # seconds


def usable_cores() -> int:
    """Cores that this process may use: its affinity mask, and its container's share of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores


def free_cores() -> int:
    """Usable cores that are idle now, at least one."""
    import psutil

    busy = psutil.cpu_percent(interval=_WATCHED) / 100
    return max(1, min(usable_cores(), round((os.cpu_count() or 1) * (1 - busy))))


def count_threads(environ: Mapping[str, str]) -> None:
    """Give torch, where it is imported, the number of threads that it would have read from OMP_NUM_THREADS."""
    torch = sys.modules.get("torch")
    number = environ.get("OMP_NUM_THREADS", "")
    if torch is not None and number.isdigit() and int(number) > 0:
        torch.set_num_threads(int(number))


@contextmanager
def on_free_cores(device: Device) -> Iterator[None]:
    """Within the block torch computes with as many threads as cores are idle at its start.

    Nothing changes on an accelerator, where OMP_NUM_THREADS or MKL_NUM_THREADS is set (the stages of a Dagster run,
    processes of torchrun), or where the caller chose a number with `torch.set_num_threads`.
    """
    import torch

    before = torch.get_num_threads()
    decided = any(os.environ.get(name) for name in _DECIDED_BY) or before not in _defaults()
    if device != "cpu" or decided or before == 1:
        yield
        return
    chosen = min(before, free_cores())
    _log.info("computing with %d of %d threads: the cores that are idle", chosen, before)
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _defaults() -> set[int]:
    """Numbers of threads that torch starts with when nobody says otherwise."""
    import psutil

    return {count for count in (usable_cores(), os.cpu_count(), psutil.cpu_count(logical=False)) if count}
