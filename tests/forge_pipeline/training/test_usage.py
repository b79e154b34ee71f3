"""What a stage used: measured on this machine, unknown where it cannot be."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forge_pipeline.integrity import Digest
from forge_pipeline.progress import Progress
from forge_pipeline.training import ResourceUsage, fine_tune
from forge_pipeline.training.usage import (
    UsageMeter,
    _Counter,
    _energy_since,
    memory_in_use,
    note_usage,
    over_processes,
    usage_until,
)

GPU = ResourceUsage(
    duration_seconds=10.0, peak_memory_bytes=5, tokens_per_second=7.0, cpu_seconds=3.0, gpu_seconds=10.0,
    energy_kwh=0.5, device_name="one", estimated_cost=2.0, cost_currency="EUR", energy_of="GPU boards", processes=1,
)  # fmt: skip
CPU = replace(GPU, gpu_seconds=None, energy_of="CPU packages")


def stop(meter: UsageMeter) -> ResourceUsage:
    return meter.stop(tokens=None, training_seconds=1.0, cost_per_hour=None, currency="EUR")


def test_an_error_takes_along_what_was_measured_until_it_came() -> None:
    error = ValueError("out of memory")
    assert usage_until(error) == {}
    note_usage(error, replace(CPU, tokens_per_second=None))
    assert usage_until(error)["energy_kwh"] == 0.5
    assert not {"tokens_per_second", "gpu_seconds"} & usage_until(error).keys()


def test_a_fine_tune_that_fails_says_what_it_used(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as caught:
        fine_tune(recipe(), tokenized(), Digest.of(b"raw"), tmp_path / "model", progress=stop)
    used = usage_until(caught.value)
    assert used["cpu_seconds"] > 0
    assert used["duration_seconds"] > 0
    assert used["device_name"]


def test_what_nobody_knows_is_none() -> None:
    usage = stop(UsageMeter("cpu"))
    assert (usage.tokens_per_second, usage.estimated_cost, usage.cost_currency, usage.gpu_seconds) == (None,) * 4
    assert (usage.energy_kwh is None) == (usage.energy_of is None)


def test_a_price_has_a_cost_in_its_currency() -> None:
    usage = UsageMeter("cpu").stop(tokens=100, training_seconds=2.0, cost_per_hour=3600.0, currency="EUR")
    assert usage.estimated_cost == pytest.approx(usage.duration_seconds)
    assert (usage.cost_currency, usage.tokens_per_second) == ("EUR", 50.0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process start its high-water mark anew")
def test_the_peak_is_the_stage_s_own_and_not_what_came_before() -> None:
    """In a process of its own: 300 MB before the meter starts, 100 MB while it runs."""
    words = textwrap.dedent("""
        from forge_pipeline.training.usage import UsageMeter
        import torch  # the device's name asks for it
        before = bytearray(300_000_000); del before
        meter = UsageMeter("cpu")
        while_it_runs = bytearray(100_000_000); del while_it_runs
        peak = meter.stop(tokens=None, training_seconds=1, cost_per_hour=None).peak_memory_bytes
        import psutil
        print(peak - psutil.Process().memory_info().rss)
    """)
    made = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert 60e6 < int(made.stdout) < 200e6


def test_cpu_seconds_include_processes_that_were_started_and_waited_for() -> None:
    meter = UsageMeter("cpu")
    words = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", words], check=True)
    assert stop(meter).cpu_seconds >= 0.2  # the system counts in hundredths, and not all of them to this process


def test_figures_of_several_gpus_add_up_where_they_are_of_each() -> None:
    other = replace(GPU, duration_seconds=12.0, peak_memory_bytes=9, gpu_seconds=12.0)
    both = over_processes([GPU, other])
    assert both == replace(
        GPU, duration_seconds=12.0, peak_memory_bytes=9, cpu_seconds=6.0, gpu_seconds=22.0, energy_kwh=1.0,
        estimated_cost=4.0, processes=2,
    )  # fmt: skip


def test_processes_of_one_cpu_share_its_energy_and_its_price() -> None:
    both = over_processes([CPU, CPU])
    assert both == replace(CPU, cpu_seconds=6.0, processes=2)


def test_what_one_process_does_not_know_the_sum_does_not_know() -> None:
    both = over_processes([GPU, replace(GPU, energy_kwh=None, peak_memory_bytes=None)])
    assert (both.energy_kwh, both.peak_memory_bytes) == (None, None)


COUNTERS = {
    "it counted": ({"a": _Counter(10, 100)}, {"a": _Counter(3610, 100)}, 1e-9),
    "it ran over its end": ({"a": _Counter(90, 100)}, {"a": _Counter(26, 100)}, 1e-11),
    "it went back, and has no end": ({"a": _Counter(90)}, {"a": _Counter(26)}, None),
    "two packages": ({"a": _Counter(0), "b": _Counter(0)}, {"a": _Counter(36), "b": _Counter(36)}, 2e-11),
    "a package is gone": ({"a": _Counter(0), "b": _Counter(0)}, {"a": _Counter(36)}, None),
    "nothing may be read": ({}, {}, None),
}


@pytest.mark.parametrize("case", COUNTERS)
def test_energy(case: str) -> None:
    start, now, expected = COUNTERS[case]
    assert _energy_since(start, now) == (None if expected is None else pytest.approx(expected))


def test_memory_in_use_is_that_of_this_process() -> None:
    assert 1e7 < memory_in_use("cpu")["memory_bytes"] < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.gpu
def test_a_gpu_tells_its_memory_and_energy() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    meter = UsageMeter("cuda")
    torch.ones(64, 2**20, device="cuda").sum().item()
    usage = stop(meter)
    assert usage.peak_memory_bytes is not None
    assert usage.peak_memory_bytes >= 2**28
    assert usage.gpu_seconds == usage.duration_seconds
