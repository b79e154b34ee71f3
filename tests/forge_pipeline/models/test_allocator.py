"""Memory that is freed and wanted again costs no page faults within the block, and is given back at its end."""

import resource
import sys
from pathlib import Path

import pytest

from forge_pipeline.models.allocator import keeping_freed_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
LARGE = 64 << 20  # bytes; above glibc's largest threshold for blocks of the heap


def faults_of_steps(steps: int = 5) -> int:
    import torch

    def step() -> None:
        torch.zeros(LARGE, dtype=torch.uint8).add_(1)

    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_a_large_block_that_was_freed_is_taken_again_without_new_pages() -> None:
    without = faults_of_steps()
    with keeping_freed_memory("cpu"):
        within = faults_of_steps()
    assert without >= 5 * LARGE // (2 << 20), "each block was new, if only in huge pages"
    assert within < without / 2


def test_what_was_kept_goes_back_to_the_system_at_the_end() -> None:
    import torch

    with keeping_freed_memory("cpu"):
        block = torch.ones(4 * LARGE, dtype=torch.uint8)
        held = resident()
        del block
    assert resident() < held - 3 * LARGE


def test_on_a_gpu_and_where_it_is_not_wanted_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    with keeping_freed_memory("cuda"):
        assert faults_of_steps() >= 5 * LARGE // (2 << 20)
    monkeypatch.setenv("FORGE_KEEP_FREED_MEMORY", "no")
    with keeping_freed_memory("cpu"):
        assert faults_of_steps() >= 5 * LARGE // (2 << 20)
