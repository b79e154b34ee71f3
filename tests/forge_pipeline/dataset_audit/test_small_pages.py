"""Arrays in pages of the usual size: zeros of their own, also after a fork."""

import os
import sys

import numpy as np
import pytest

from forge_pipeline.dataset_audit import small_pages


@pytest.mark.parametrize("count", [0, 1, 1 << 20])
def test_an_array_holds_zeros_and_can_be_written(count: int) -> None:
    array = small_pages.zeros(count, np.uint32)
    assert array.shape == (count,)
    assert not array.any()
    array[:] = 7
    assert (array == 7).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_what_a_forked_process_writes_is_its_own() -> None:
    array = small_pages.zeros(1024, np.uint8)
    child = os.fork()
    if child == 0:
        array[:] = 1
        os._exit(int(array.sum() != 1024))
    assert os.waitpid(child, 0)[1] == 0
    assert not array.any()


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_what_is_not_touched_takes_no_memory_and_nothing_stays() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    array = small_pages.zeros(256 << 20, np.uint8)
    array[:: 1 << 20] = 1
    assert resident() - before < 32 << 20  # 256 pages, where huge ones would be all of it
    del array
    assert resident() - before < 16 << 20
