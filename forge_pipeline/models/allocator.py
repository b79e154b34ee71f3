"""Freed memory, kept for the next step: on a CPU, glibc's defaults have the kernel clear gigabytes of pages a step.

A block of 32 MiB and more is mapped anew for each tensor and unmapped when it is freed, and what is freed at the top
of the heap goes back to the system at once; see mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD. Measured on a training
step of SmolLM2-135M: 0.6 to 1.2 million page faults and 1.3 to 2.4 of 4.4 to 6.8 CPU seconds; none of either when
freed memory is kept. `docs/benchmarks/training.md` has the figures of whole runs. Nothing that is computed changes.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from forge_pipeline.models.devices import Device

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_DEFAULTS = ((_M_TRIM_THRESHOLD, 128 * 1024), (_M_MMAP_MAX, 65_536))
_LARGEST = 2**31 - 1  # mallopt takes an int


@contextmanager
def keeping_freed_memory(device: Device) -> Iterator[None]:
    """Within the block this process keeps what tensors leave behind; at its end that goes back to the system.

    Nothing changes on a GPU, whose allocator does so by itself, nor where the C library is not glibc, nor with
    ``FORGE_KEEP_FREED_MEMORY=no``, for a machine whose memory others wait for.
    """
    wanted = device == "cpu" and sys.platform == "linux" and os.environ.get("FORGE_KEEP_FREED_MEMORY") != "no"
    libc = ctypes.CDLL(None) if wanted else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    try:
        yield
    finally:
        for name, value in _DEFAULTS:
            libc.mallopt(name, value)
        libc.malloc_trim(0)
