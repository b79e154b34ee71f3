"""Memory that runs out, losses that leave the ground, a disk that is full."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.training import fine_tune, resumable_work_dir
from forge_pipeline.training.checkpoints import newest_checkpoint
from forge_pipeline.training.recovery import check_divergence, smaller_batch

RAW = Digest.of(b"raw")


@given(batch=st.integers(1, 64), accumulation=st.integers(1, 16), minimum=st.integers(1, 8))
def test_a_smaller_batch_is_at_most_half_and_an_update_sees_as_many_rows(
    batch: int, accumulation: int, minimum: int
) -> None:
    found = smaller_batch(batch, accumulation, minimum=minimum)
    if found is None:
        assert all(batch * accumulation % size for size in range(minimum, batch // 2 + 1))
    else:
        assert found[0] * found[1] == batch * accumulation
        assert minimum <= found[0] <= batch // 2


@pytest.fixture
def wide(recipe: Callable, tokenized: Callable) -> tuple[Callable[..., Any], Any]:
    """A recipe of six updates of 64 rows each, and rows long enough that this takes tens of megabytes."""
    training = {"per_device_train_batch_size": 64, "max_steps": 6, "save_steps": 1, "group_by_length": False}

    def build(**more: Any) -> Any:
        return recipe(training=training | more, model={"max_length": 256})

    return build, tokenized(validation=False, repeat=40)


def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on_from_its_checkpoint(
    wide: tuple[Callable[..., Any], Any], forked: Callable, tmp_path: Path
) -> None:
    build, dataset = wide
    run = forked(build(oom_recovery=True), dataset, work=tmp_path / "work", limit_after=2, more_memory=130_000_000)
    assert run["code"] == 0, run
    recoveries = run["report"]["oom_recoveries"]
    assert recoveries
    assert recoveries[0] | {"new_batch_size": 0, "new_grad_accum": 0} == {
        "step": 2, "old_batch_size": 64, "new_batch_size": 0, "new_grad_accum": 0,
    }  # fmt: skip
    assert all(each["new_batch_size"] * each["new_grad_accum"] == 64 for each in recoveries)
    assert run["report"]["steps"] == 6
    assert run["report"]["effective_batch_size"] == 64
    assert run["report"]["arguments"]["per_device_train_batch_size"] == recoveries[-1]["new_batch_size"]
    assert [point["step"] for point in run["report"]["loss_history"]] == [1, 2, 3, 4, 5, 6]
    assert [event["event"] for event in run["events"]] == ["training.oom_recovery"] * len(recoveries)
    assert run["events"][0]["old_batch_size"] == 64

    again = forked(build(), dataset)
    losses = [[point["loss"] for point in each["report"]["loss_history"]] for each in (run, again)]
    assert losses[0][:2] == losses[1][:2], "what the checkpoint holds is the run's own"
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "an update sees the same rows"


def test_without_recovery_or_at_the_minimum_the_error_says_what_to_do(
    wide: tuple[Callable[..., Any], Any], forked: Callable, tmp_path: Path
) -> None:
    build, dataset = wide
    cases = {
        "plain": ({}, r"Halve the batch size and double gradient_accumulation_steps \(training.oom_recovery: true"),
        "least": ({"oom_recovery": True, "oom_recovery_min_batch_size": 64}, "as low as it may"),
    }
    for name, (more, words) in cases.items():
        run = forked(build(**more), dataset, work=tmp_path / name, limit_after=2, more_memory=10_000_000)
        assert run["error"] == "TrainingError", run
        assert "out of memory on cpu with per_device_train_batch_size 64" in run["message"]
        assert words.replace("\\", "") in run["message"]
        assert str(tmp_path / name / "checkpoint-2") in run["message"]


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(
    recipe: Callable, tokenized: Callable, forked: Callable, tmp_path: Path
) -> None:
    config, dataset = recipe(training={"max_steps": 5, "save_steps": 1}), tokenized(validation=False)
    full = forked(config, dataset, work=tmp_path / "work", limit_after=3, file_size=2_000)
    assert full["error"] == "TrainingError", full
    assert "checkpoint-3 could not be written" in full["message"]
    assert f"The last good checkpoint is {tmp_path / 'work' / 'checkpoint-2'}, after step 2" in full["message"]
    assert not (tmp_path / "work" / "checkpoint-3").exists(), "half a checkpoint takes room that is not there"
    assert not full["output"].exists()
    resumed = forked(config, dataset, work=tmp_path / "work", resume=True)
    assert resumed["resumed"] == 2
    assert resumed["digest"] == forked(config, dataset)["digest"]


def test_weights_that_are_no_numbers_are_not_kept(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    config = recipe(
        lora={"method": "none"},
        training={
            "learning_rate": 1e30, "max_steps": 6, "warmup_ratio": 0, "max_grad_norm": 1e30, "logging_steps": 6,
            "save_steps": 1, "lr_scheduler_type": "constant",
        },
    )  # fmt: skip
    work = tmp_path / "work"
    with pytest.raises(TrainingError, match=r"training diverged: .*(The last good checkpoint is|Nothing was saved)"):
        fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model", work_dir=work)
    assert not (tmp_path / "model").exists()
    found = newest_checkpoint(work)
    assert found is None or found.step < 6


def test_a_gradient_that_is_no_number_stops_training(recipe: Callable) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from forge_pipeline.training.recovery import divergence_watch

    watch = divergence_watch(recipe())
    state, control = TrainerState(global_step=7), TrainerControl()
    for norm, fp16 in product((math.nan, math.inf, 1.0), (False, True)):
        args = TrainingArguments(output_dir="x", use_cpu=True, report_to="none")
        args.fp16 = fp16
        if fp16 or math.isfinite(norm):
            watch.on_log(args, state, control, logs={"grad_norm": norm, "loss": 1.0})
        else:
            with pytest.raises(TrainingError, match=f"grad_norm is {norm} at step 7"):
                watch.on_log(args, state, control, logs={"grad_norm": norm})


CURVES: dict[str, tuple[list[float], bool]] = {
    "falls": ([4.0, 3.0, 2.0, 1.0], False),
    "rises a little": ([1.0, 1.0, 2.0, 2.9], False),
    "one outlier": ([1.0, 1.0, 1.0, 4.0], False),
    "leaves the ground": ([1.0, 1.0, 4.0, 5.0], True),
    "too short to say": ([1.0, 100.0, 100.0], False),
    "starts below zero": ([-1.0, 0.0, 5.0, 5.0], False),
}


@pytest.mark.parametrize(("losses", "stops"), CURVES.values(), ids=CURVES)
def test_a_loss_far_above_its_start_is_divergence(losses: list[float], stops: bool) -> None:
    if not stops:
        check_divergence(losses, factor=3.0, window=2, step=4)
        return
    with pytest.raises(TrainingError, match=r"loss is 4.5 over the last 2 logs at step 4.*3 times the 1 that"):
        check_divergence(losses, factor=3.0, window=2, step=4)


def test_a_run_that_diverges_stops_and_names_its_checkpoint(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    training = {
        "learning_rate": 0.5, "warmup_ratio": 0, "max_steps": 60, "save_steps": 1, "divergence_factor": 1.01,
        "divergence_window": 2, "lr_scheduler_type": "constant",
    }  # fmt: skip
    config = recipe(lora={"method": "none"}, training=training)
    with pytest.raises(TrainingError, match=r"training diverged: the loss is .* The last good checkpoint is .*after"):
        fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model", work_dir=tmp_path / "work")


def test_a_repeated_run_finds_its_folder_until_it_ended_well(recipe: Callable, tmp_path: Path) -> None:
    config, rows = recipe(), Digest.of(b"rows")
    with pytest.raises(KeyboardInterrupt), resumable_work_dir(tmp_path, config, rows) as first:
        assert first is not None
        (first / "checkpoint-1").mkdir()
        with resumable_work_dir(tmp_path, config, rows) as meanwhile:
            assert meanwhile is None, "two processes never write into one folder"
        raise KeyboardInterrupt
    with resumable_work_dir(tmp_path, recipe(training={"logging_steps": 7}), rows) as second:
        assert second == first
        assert (second / "checkpoint-1").is_dir()
    assert not first.exists()
    others = [(recipe(training={"seed": 1}), rows, None), (config, Digest.of(b"other"), None), (config, rows, rows)]
    for other, data, previous in others:
        with resumable_work_dir(tmp_path, other, data, previous=previous) as folder:
            assert folder != first
