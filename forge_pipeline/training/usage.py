"""What a stage used: time, memory, and money or energy where somebody or something can tell."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from forge_pipeline.models.devices import Device, device_name

_RAPL = Path("/sys/class/powercap")
_ENERGY_OF: Mapping[str, str] = {"cpu": "CPU packages", "cuda": "GPU boards"}


@dataclass(frozen=True)
class ResourceUsage:
    """Measured, never estimated; what was not measured is None.

    Attributes:
        duration_seconds: Wall clock of the whole stage, loading and saving included.
        peak_memory_bytes: Of the largest process. On a CPU the most resident memory while the stage ran;
            on CUDA the most that tensors took on the device during the stage.
        tokens_per_second: Tokens trained by this process since it started or resumed, over the wall
            clock of the training loop, evaluations and checkpoints included.
        cpu_seconds: User and system time of this process, all threads, and of the processes that it
            started and waited for.
        gpu_seconds: `duration_seconds` on CUDA devices, times their number; None elsewhere.
        energy_kwh: What `energy_of` used, everything else that ran on it included; None where it cannot be read.
        estimated_cost: `training.gpu_cost_per_hour` times the hours and the devices; None without that price.
        cost_currency: Of `estimated_cost`, where the recipe names it.
        energy_of: ``CPU packages`` (RAPL counters) or ``GPU boards`` (NVML counters).
        processes: Training processes that these figures are of.
    """

    duration_seconds: float
    peak_memory_bytes: int | None
    tokens_per_second: float | None
    cpu_seconds: float
    gpu_seconds: float | None
    energy_kwh: float | None
    device_name: str
    estimated_cost: float | None
    cost_currency: str | None = None
    energy_of: str | None = None
    processes: int | None = None


class UsageMeter:
    """Started at construction; `stop` returns what was used since."""

    def __init__(self, device: Device) -> None:
        self._device: Device = device
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()
        self._energy = _energy_counters(device)
        self._peak_before = 0 if _forget_peak_memory(device) else _peak_memory(device)

    def stop(
        self, *, tokens: int | None, training_seconds: float, cost_per_hour: float | None, currency: str | None = None
    ) -> ResourceUsage:
        """Measure this process.

        Args:
            tokens: Trained on since the process started or resumed, if they were counted.
            training_seconds: Wall clock of the training loop.
            cost_per_hour: Price of one device hour.
            currency: Of that price.
        """
        seconds = time.monotonic() - self._wall
        energy = _energy_since(self._energy, _energy_counters(self._device))
        return ResourceUsage(
            duration_seconds=seconds,
            peak_memory_bytes=self._peak(),
            tokens_per_second=tokens / training_seconds if tokens and training_seconds > 0 else None,
            cpu_seconds=_cpu_seconds() - self._cpu,
            gpu_seconds=seconds if self._device == "cuda" else None,
            energy_kwh=energy,
            device_name=device_name(self._device),
            estimated_cost=None if cost_per_hour is None else cost_per_hour * seconds / 3600,
            cost_currency=None if cost_per_hour is None else currency,
            energy_of=None if energy is None else _ENERGY_OF[self._device],
            processes=1,
        )

    def _peak(self) -> int | None:
        """The most memory since the start; None if the system kept only an older, higher mark."""
        peak = _peak_memory(self._device)
        if peak is None or self._peak_before is None or peak <= self._peak_before:
            return None
        return peak


def note_usage(error: BaseException, usage: ResourceUsage) -> None:
    """Keep with an error what was used until it came."""
    vars(error)["resource_usage"] = usage


def usage_until(error: BaseException) -> dict[str, float | str]:
    """What `note_usage` kept, without what was not measured; empty where nothing was."""
    kept = vars(error).get("resource_usage")
    return {} if kept is None else {name: value for name, value in vars(kept).items() if value is not None}


def over_processes(usages: Sequence[ResourceUsage]) -> ResourceUsage:
    """One figure for the processes of one run, each with a device of its own, the first process first.

    Seconds of CPUs and devices, cost, and the energy of the devices add up; memory and duration are those
    of the largest and the longest. CPU packages belong to the machine, and are counted once. Tokens a
    second are the first's, whose Trainer counts those of all.
    """
    first = usages[0]
    machine_wide = first.energy_of == _ENERGY_OF["cpu"]
    return replace(
        first,
        duration_seconds=max(each.duration_seconds for each in usages),
        peak_memory_bytes=_all_or_none(max, [each.peak_memory_bytes for each in usages]),
        cpu_seconds=sum(each.cpu_seconds for each in usages),
        gpu_seconds=_all_or_none(sum, [each.gpu_seconds for each in usages]),
        energy_kwh=first.energy_kwh if machine_wide else _all_or_none(sum, [each.energy_kwh for each in usages]),
        # Processes on one CPU share it; each GPU is an hour of its own.
        estimated_cost=_all_or_none(
            max if first.gpu_seconds is None else sum, [each.estimated_cost for each in usages]
        ),
        processes=len(usages),
    )


def memory_in_use(device: str) -> dict[str, float]:
    """memory_bytes now: allocated by tensors on CUDA, else resident; empty where it cannot be read."""
    if device == "cuda":
        import torch

        return {"memory_bytes": float(torch.cuda.memory_allocated())}
    try:
        import psutil
    except ImportError:
        return {}
    return {"memory_bytes": float(psutil.Process().memory_info().rss)}


def _all_or_none(combine: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    return None if any(value is None for value in values) else combine(values)


def _cpu_seconds() -> float:
    """Of this process and the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _forget_peak_memory(device: Device) -> bool:
    """Start the high-water mark anew; False where the system cannot (everywhere but on Linux)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def _peak_memory(device: Device) -> int | None:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if os.name != "posix":
        return None
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


@dataclass(frozen=True)
class _Counter:
    """One energy counter in microjoules, and the value after which it starts again, if it does."""

    microjoules: int
    wraps_at: int | None = None


def _energy_counters(device: Device) -> dict[str, _Counter]:
    """What each package or board of this process has used so far; empty where that may not be read."""
    if device == "cuda":
        return _board_energy()
    return _package_energy() if device == "cpu" else {}


def _package_energy() -> dict[str, _Counter]:
    try:
        return {
            zone.name: _Counter(int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text()))
            for zone in sorted(_RAPL.glob("intel-rapl:[0-9]*"))
            if zone.name.count(":") == 1
        }
    except (OSError, ValueError):
        return {}


def _board_energy() -> dict[str, _Counter]:
    """The current CUDA device's own counter (NVML, since Volta), through nvidia-ml-py where it is installed."""
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:
        return {}
    import torch

    identity = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    try:
        pynvml.nvmlInit()
        try:
            board = pynvml.nvmlDeviceGetHandleByUUID(identity)
            return {identity: _Counter(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(board)) * 1000)}  # mJ
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # an older board, a slice of one, or a driver that does not tell
        return {}


def _energy_since(start: dict[str, _Counter], now: dict[str, _Counter]) -> float | None:
    """Kilowatt hours from `start` to `now`. A counter that ran over its end once is put right."""
    if not start or now.keys() != start.keys():
        return None
    microjoules = 0
    for name, counter in now.items():
        used = counter.microjoules - start[name].microjoules
        if used < 0:
            if counter.wraps_at is None:
                return None
            used += counter.wraps_at
        microjoules += used
    return microjoules / 3.6e12
