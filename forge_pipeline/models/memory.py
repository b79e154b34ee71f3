"""Memory: what a device has, what of it is free, and how people write amounts of it."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forge_pipeline._optional import require
from forge_pipeline.errors import ConfigError
from forge_pipeline.models.devices import Device

_CGROUPS: Final = Path("/sys/fs/cgroup")
_AMOUNT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_UNITS: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of the device that computes.

    Attributes:
        total: Bytes that a process could ever have there: of the device, or of main memory within the limits
            of this process's control groups.
        free: Bytes of it that nobody uses now; page cache that can be dropped counts as free.
        source: Where the numbers come from, in words.
    """

    device: Device
    total: int
    free: int
    source: str


def device_memory(device: Device) -> DeviceMemory:
    """What this machine has.

    Raises:
        OptionalDependencyError: psutil is not installed, and main memory was asked for.
    """
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return DeviceMemory(device, int(total), int(free), f"free memory of {torch.cuda.get_device_name()}")
    memory = require("psutil", extra="train", purpose="Memory checks").virtual_memory()
    total, free, source = int(memory.total), int(memory.available), "available main memory"
    for limit, used in control_group_limits():
        if limit < total:
            total, source = limit, "main memory within the control group's limit"
        free = min(free, max(0, limit - used))
    return DeviceMemory(device, total, min(free, total), source)


def swap_bytes() -> int:
    """Swap space of this machine, used or not."""
    return int(require("psutil", extra="train", purpose="Memory checks").swap_memory().total)


def control_group_limits(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> list[tuple[int, int]]:
    """(limit, bytes used that cannot be dropped) of each control group above this process that has a limit.

    Reads version 2 and version 1; where a file is absent or says ``max``, there is no limit.
    """
    if sys.platform != "linux":
        return []
    found = []
    for directory, names in _group_directories(root, membership):
        limit, used = (_number(directory / name) for name in names)
        if limit is None or limit >= 2**60:  # version 1 writes "no limit" as a page count below 2**63
            continue
        found.append((limit, max(0, (used or 0) - _droppable(directory))))
    return found


def _group_directories(root: Path, membership: Path) -> list[tuple[Path, tuple[str, str]]]:
    version_2, version_1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, names = (root, version_2) if not controllers else (root / "memory", version_1)
        own = base / path.strip("/")
        found += [(group, names) for group in (own, *own.parents) if group == base or base in group.parents]
    return found


def _droppable(directory: Path) -> int:
    try:
        lines = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", "0")))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def parse_memory(text: str, *, name: str = "memory") -> int:
    """``24GB``, ``16 GiB``, ``512MiB`` in bytes. GB is 10^9 bytes, GiB 2^30.

    Raises:
        ConfigError: It is no amount, its unit is unknown or missing, or it is zero; `name` says of what.
    """
    match = _AMOUNT.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in _UNITS:
        raise ConfigError(f"{name}: found {text!r}; expected a positive number with a unit, for example 24GB or 16GiB")
    amount = int(float(match.group(1)) * _UNITS[unit])
    if amount <= 0:
        raise ConfigError(f"{name}: found {text!r}; expected more than nothing")
    return amount


def format_memory(amount: float) -> str:
    """Bytes for people, in the decimal units of `parse_memory`: ``18.53 GB``, ``812 MB``."""
    if abs(amount) >= 1e9:
        return f"{amount / 1e9:.2f} GB"
    return f"{amount / 1e6:.0f} MB" if abs(amount) >= 1e6 else f"{amount / 1e3:.0f} kB"
