"""What a stage used: time, memory, and money or energy where somebody or something can tell."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.models.devices import Device, device_name

_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class ResourceUsage:
    """Measured, never estimated; what was not measured is None.

    Attributes:
        duration_seconds: Wall clock of the whole stage, loading and saving included.
        peak_memory_bytes: On a CPU the process's high-water mark of resident memory; on CUDA the most
            that tensors took on the device during the stage.
        tokens_per_second: Tokens trained over the wall clock of the training loop.
        cpu_seconds: User and system time of this process, all threads.
        gpu_seconds: `duration_seconds` on a CUDA device; None elsewhere.
        energy_kwh: CPU packages, from the RAPL counters, everything else on the machine included; None
            where they cannot be read, and on CUDA, of which they see nothing.
        estimated_cost: `training.gpu_cost_per_hour` times the hours; None without that price.
    """

    duration_seconds: float
    peak_memory_bytes: int | None
    tokens_per_second: float | None
    cpu_seconds: float
    gpu_seconds: float | None
    energy_kwh: float | None
    device_name: str
    estimated_cost: float | None


class UsageMeter:
    """Started at construction; `stop` returns what was used since."""

    def __init__(self, device: Device) -> None:
        self._device: Device = device
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._energy = _package_energy() if device == "cpu" else {}
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def stop(self, *, tokens: int | None, training_seconds: float, cost_per_hour: float | None) -> ResourceUsage:
        """Measure.

        Args:
            tokens: Trained on, if they were counted.
            training_seconds: Wall clock of the training loop.
            cost_per_hour: Price of one device hour.
        """
        seconds = time.monotonic() - self._wall
        return ResourceUsage(
            duration_seconds=seconds,
            peak_memory_bytes=_peak_memory(self._device),
            tokens_per_second=tokens / training_seconds if tokens and training_seconds > 0 else None,
            cpu_seconds=time.process_time() - self._cpu,
            gpu_seconds=seconds if self._device == "cuda" else None,
            energy_kwh=_energy_since(self._energy),
            device_name=device_name(self._device),
            estimated_cost=None if cost_per_hour is None else cost_per_hour * seconds / 3600,
        )


def _peak_memory(device: Device) -> int | None:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _package_energy() -> dict[Path, int]:
    """Microjoules counted so far by each CPU package; empty where that may not be read."""
    try:
        return {
            zone: int((zone / "energy_uj").read_text())
            for zone in sorted(_RAPL.glob("intel-rapl:[0-9]*"))
            if zone.name.count(":") == 1
        }
    except (OSError, ValueError):
        return {}


def _energy_since(start: dict[Path, int]) -> float | None:
    """Kilowatt hours since `start`. A counter that ran over its end once is put right."""
    now = _package_energy()
    if not start or now.keys() != start.keys():
        return None
    microjoules = 0
    for zone, value in now.items():
        used = value - start[zone]
        if used < 0:
            try:
                used += int((zone / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                return None
        microjoules += used
    return microjoules / 3.6e12
