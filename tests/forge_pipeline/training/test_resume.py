"""A run that was killed, however often, and resumed gives the same bytes as one that was not."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.progress import Progress
from forge_pipeline.training import fine_tune, resumable_work_dir
from forge_pipeline.training.checkpoints import SEAL, find_checkpoints, newest_checkpoint

RAW = Digest.of(b"raw")
STEPS = 13

RECIPES: dict[str, dict[str, Any]] = {
    "rows by length, noisy embeddings, logs and checkpoints out of step": {
        "training": {"neftune_noise_alpha": 5.0, "logging_steps": 5, "save_steps": 2, "lr_scheduler_type": "cosine"},
    },
    "rows at random, early stopping after several evaluations": {
        "training": {
            "group_by_length": False,
            "logging_steps": 2,
            "eval_steps": 1,
            "learning_rate": 1.0,
            "early_stopping_patience": 3,
            "warmup_ratio": 0,
        },
    },
    "preferences": {"training": {"trainer_type": "dpo", "save_steps": 3, "logging_steps": 2}},
}


def make(recipe: Callable, sections: dict[str, Any]) -> Any:
    training = {"max_steps": STEPS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    return recipe(training=training | sections["training"], lora={"dropout": 0.2})


@pytest.mark.parametrize("sections", RECIPES.values(), ids=RECIPES)
def test_a_run_killed_at_random_steps_ends_with_the_same_bytes(
    sections: dict[str, Any], recipe: Callable, tokenized: Callable, forked: Callable, tmp_path: Path
) -> None:
    config = make(recipe, sections)
    stops_early = "early_stopping_patience" in sections["training"]
    dataset = tokenized(config.training.trainer_type, validation=stops_early)
    straight = forked(config, dataset, work=tmp_path / "straight")
    assert straight["code"] == 0, straight
    last = straight["report"]["steps"]
    assert straight["report"]["stopped_early"] == stops_early

    chance = random.Random(repr(sections))
    work = tmp_path / "work"
    resumed_from = []
    for step in [*sorted(chance.sample(range(2, last - 1), 2)), last - 1]:
        killed = forked(config, dataset, work=work, resume="auto", kill_after=step, delay=chance.uniform(0, 0.03))
        assert killed["code"] == -9, killed
        assert not killed["output"].exists()
        found = newest_checkpoint(work)
        resumed_from.append(found.step if found else 0)
    assert resumed_from[-1] > 0, "the last one at least must have something to go on from"
    done = forked(config, dataset, work=work, resume="auto")
    assert done["code"] == 0, done
    assert done["resumed"] == resumed_from[-1]
    assert done["events"][0]["event"] == "training.resumed"
    assert done["report"] == straight["report"]
    assert done["digest"] == straight["digest"]


def test_runs_on_one_and_on_two_threads_give_the_same_bytes(
    recipe: Callable, tokenized: Callable, forked: Callable
) -> None:
    config, dataset = make(recipe, {"training": {"max_steps": 4}}), tokenized()
    runs = [forked(config, dataset, threads=threads) for threads in (1, 1, 2)]
    assert len({run["digest"] for run in runs}) == 1, runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it leaves a finished run and its checkpoints."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def interrupted(recipe: Callable, tokenized: Callable, finished: Path, tmp_path: Path) -> tuple[Any, Any, Path]:
    """A recipe of four steps with a checkpoint each, its rows, and the folder that a finished run of it left."""
    config = recipe(training={"max_steps": 4, "save_steps": 1, "save_total_limit": 3})
    dataset = tokenized(validation=False)
    if not (finished / "first").exists():
        fine_tune(config, dataset, RAW, finished / "first", work_dir=finished / "work")
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return config, dataset, tmp_path / "work"


def test_every_checkpoint_is_sealed_and_old_ones_are_rotated(interrupted: tuple[Any, Any, Path]) -> None:
    _, _, work = interrupted
    assert [path.name for path in find_checkpoints(work)] == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    assert all((path / SEAL).is_file() for path in find_checkpoints(work))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no seal": lambda checkpoint: (checkpoint / SEAL).unlink(),
    "a cut seal": lambda checkpoint: _truncate(checkpoint / SEAL),
    "a cut optimizer": lambda checkpoint: _truncate(checkpoint / "optimizer.pt"),
    "a file missing": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "other weights": lambda checkpoint: (checkpoint / "adapter_model.safetensors").write_bytes(b"x" * 100),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_that_is_not_whole_is_passed_over_with_a_word(
    damage: Callable[[Path], object], interrupted: tuple[Any, Any, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, _, work = interrupted
    damage(work / "checkpoint-4")
    found = newest_checkpoint(work)
    assert found is not None
    assert found.path.name == "checkpoint-3"
    assert "passed over" in caplog.text
    assert "checkpoint-4" in caplog.text


def test_a_resume_that_passes_over_a_broken_checkpoint_writes_it_anew(
    interrupted: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    config, dataset, work = interrupted
    (work / "checkpoint-4" / SEAL).unlink()
    (work / "checkpoint-4" / "leftover").write_text("of the run that was killed")
    resumed = fine_tune(config, dataset, RAW, tmp_path / "again", work_dir=work, resume_from_checkpoint=True)
    assert resumed.resumed_from == 3
    assert not (work / "checkpoint-4" / "leftover").exists()
    newest = newest_checkpoint(work)
    assert newest is not None
    assert newest.step == 4


def test_a_broken_checkpoint_that_is_named_is_refused(interrupted: tuple[Any, Any, Path], tmp_path: Path) -> None:
    config, dataset, work = interrupted
    (work / "checkpoint-3" / SEAL).unlink()
    for path, words in ((work / "checkpoint-3", "not written to its end"), (tmp_path, "not a training checkpoint")):
        with pytest.raises(TrainingError, match=words):
            fine_tune(config, dataset, RAW, tmp_path / "x", work_dir=work, resume_from_checkpoint=str(path))


OTHER_RECIPES: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "learning rate": (
        {"training": {"learning_rate": 5e-4}},
        r"training\.learning_rate \(it was 0\.001, this run has 0",
    ),
    "rank": ({"lora": {"r": 2}}, r"lora\.r \(it was 4, this run has 2\)"),
    "row order": ({"data": {"shuffle": False}}, r"data\.shuffle"),
    "batch": ({"training": {"gradient_accumulation_steps": 2}}, r"training\.gradient_accumulation_steps"),
    "length of the schedule": ({"training": {"max_steps": 6}}, r"training\.max_steps \(it was 4, this run has 6\)"),
}


@pytest.mark.parametrize(("sections", "words"), OTHER_RECIPES.values(), ids=OTHER_RECIPES)
def test_a_recipe_that_would_give_other_weights_is_refused_with_its_keys(
    sections: dict[str, dict[str, Any]],
    words: str,
    interrupted: tuple[Any, Any, Path],
    recipe: Callable,
    tmp_path: Path,
) -> None:
    _, dataset, work = interrupted
    kept = {"max_steps": 4, "save_steps": 1, "save_total_limit": 3}
    other = recipe(**sections | {"training": kept | sections.get("training", {})})
    with pytest.raises(TrainingError, match=words):
        fine_tune(other, dataset, RAW, tmp_path / "x", work_dir=work, resume_from_checkpoint=True)
    assert not (tmp_path / "x").exists()


def test_other_rows_are_refused(interrupted: tuple[Any, Any, Path], tokenized: Callable, tmp_path: Path) -> None:
    config, _, work = interrupted
    with pytest.raises(TrainingError, match=r"the dataset .* a resumed run must see the same rows"):
        fine_tune(config, tokenized(name="-other"), RAW, tmp_path / "x", work_dir=work, resume_from_checkpoint=True)


def test_what_is_shown_and_kept_may_change_between_a_crash_and_the_resume(
    interrupted: tuple[Any, Any, Path], recipe: Callable, tmp_path: Path
) -> None:
    _, dataset, work = interrupted
    first = (tmp_path / "first" / "adapter_model.safetensors").read_bytes()
    for path in find_checkpoints(work)[1:]:
        (path / SEAL).unlink()
    shown = {"logging_steps": 2, "save_total_limit": 1, "run_name": "again", "output_dir": "elsewhere", "save_steps": 3}
    other = recipe(training={"max_steps": 4, **shown})
    resumed = fine_tune(other, dataset, RAW, tmp_path / "again", work_dir=work, resume_from_checkpoint=True)
    assert resumed.resumed_from == 2
    assert [point.step for point in resumed.report.loss_history] == [1, 2, 4]
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == first


def test_auto_begins_at_the_beginning_where_nothing_fits(
    interrupted: tuple[Any, Any, Path], recipe: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, dataset, work = interrupted
    other = recipe(training={"max_steps": 2, "seed": 3})
    done = fine_tune(other, dataset, RAW, tmp_path / "x", work_dir=work, resume_from_checkpoint="auto")
    assert done.resumed_from is None
    assert "training.seed" in caplog.text
    empty = fine_tune(other, dataset, RAW, tmp_path / "y", work_dir=tmp_path / "new", resume_from_checkpoint="auto")
    assert empty.model.digest == done.model.digest


def test_a_stage_that_is_run_again_goes_on_and_tells_the_audit_log(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    from forge_pipeline.audit_log.events import check_event
    from resources.stage_process import _pass_on_events
    from resources.stage_worker import fine_tune as stage

    config, dataset = recipe(training={"max_steps": 6, "save_steps": 2}), tokenized(validation=False)
    inputs = {"tokenized_dataset": str(dataset.path), "raw_digest": RAW}
    events: list[tuple[str, dict[str, Any]]] = []

    def once(name: str, progress: Callable[[Progress], None]) -> Path:
        with resumable_work_dir(tmp_path / "home", config, dataset.digest) as checkpoints:
            (tmp_path / name).mkdir()
            stage(config, inputs | {"checkpoints": str(checkpoints)}, tmp_path / name / "output", progress)
        return tmp_path / name

    def interrupt(moment: Progress) -> None:
        if moment.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once("first", interrupt)
    done = once("second", lambda moment: None)
    assert json.loads((done / "environment.json").read_text())["training:device"] == "cpu"
    with (done / "events.jsonl").open("a") as file:
        file.write('{"event": "training.oom_rec')  # a process was killed while it wrote this
    _pass_on_events(done / "events.jsonl", lambda event, **fields: events.append((event, fields)))
    assert events == [("training.resumed", {"step": 4, "checkpoint": "checkpoint-4"})]
    check_event(*events[0])
    assert not list((tmp_path / "home" / "work").glob("fine_tune-*")), "nothing is kept of a run that ended well"
