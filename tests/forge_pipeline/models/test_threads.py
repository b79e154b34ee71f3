"""How many threads training computes with on a CPU."""

import os
from pathlib import Path

import pytest

from forge_pipeline.models import threads
from forge_pipeline.models.threads import free_cores, on_free_cores, usable_cores


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> int:
    """Nobody said how many threads: torch has its own default, here two."""
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_defaults", lambda: {2})
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_a_busy_core_is_left_to_who_uses_it(undecided: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(threads, "free_cores", lambda: 1)
    with on_free_cores("cpu"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == undecided


def test_never_more_than_torch_would_take(undecided: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(threads, "free_cores", lambda: 64)
    with on_free_cores("cpu"):
        assert torch.get_num_threads() == 2


DECIDED = {
    "by the environment": ({"OMP_NUM_THREADS": "2"}, "cpu", 2),
    "by the caller": ({}, "cpu", 3),
    "on a GPU": ({}, "cuda", 2),
}


@pytest.mark.parametrize("case", DECIDED)
def test_what_was_decided_elsewhere_stays(case: str, undecided: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    environment, device, number = DECIDED[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "free_cores", lambda: 1)
    torch.set_num_threads(number)
    with on_free_cores(device):
        assert torch.get_num_threads() == number


QUOTAS = {"none": ("max 100000\n", None), "one and a half": ("150000 100000\n", 1), "a tenth": ("10000 100000\n", 1)}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_container_s_share_limits_the_cores(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = QUOTAS[case]
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    everything = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores() == (expected or everything)
    assert 1 <= free_cores() <= usable_cores()
