"""Memory that is freed and wanted again costs no page faults within the block, and is given back at its end."""

import os
import resource
import subprocess
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


def in_a_new_process(device: str, **environment: str) -> tuple[int, int]:
    """Faults without and within the block, where no other test has left room in the heap."""
    program = (
        "import sys; from tests.forge_pipeline.models.test_allocator import *\n"
        "without = faults_of_steps()\n"
        "with keeping_freed_memory(sys.argv[1]): print(without, faults_of_steps())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, device], env=os.environ | environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    without, within = map(int, done.stdout.split())
    return without, within


def test_a_large_block_that_was_freed_is_taken_again_without_new_pages() -> None:
    without, within = in_a_new_process("cpu")
    assert without >= 5 * LARGE // (2 << 20), "each block was new, if only in huge pages"
    assert within < without / 2


def test_what_was_kept_goes_back_to_the_system_at_the_end() -> None:
    import torch

    with keeping_freed_memory("cpu"):
        block = torch.ones(4 * LARGE, dtype=torch.uint8)
        held = resident()
        del block
    assert resident() < held - 3 * LARGE


@pytest.mark.parametrize(("device", "setting"), [("cuda", ""), ("cpu", "no")])
def test_on_a_gpu_and_where_it_is_not_wanted_nothing_changes(device: str, setting: str) -> None:
    _, within = in_a_new_process(device, FORGE_KEEP_FREED_MEMORY=setting)
    assert within >= 5 * LARGE // (2 << 20)
