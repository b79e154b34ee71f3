"""Arrays in pages of the usual size: zeros of their own, also after a fork."""

import os
import resource
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


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_what_will_all_be_used_is_there_at_once() -> None:
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    array = small_pages.zeros(16 << 20, np.uint8, all_used=True)
    assert not array.any()
    before = faults()
    array[:] = 1
    assert faults() - before < 1000  # of 4,096 pages


def test_where_the_system_cannot_make_pages_at_once_it_makes_them_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_pages, "_POPULATE_WRITE", 1 << 20)
    assert not small_pages.zeros(100, np.int64, all_used=True).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_begins_without_its_parents_room() -> None:
    room = small_pages.of_thread()
    room.array = small_pages.zeros(8, np.uint8)
    child = os.fork()
    if child == 0:
        os._exit(int(hasattr(room, "array")))
    assert os.waitpid(child, 0)[1] == 0
    assert room.array.shape == (8,)
