"""Loss curves in the tracking libraries themselves: read back with their own readers, on the pinned versions."""

import getpass
import json
import math
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import ConfigError, OptionalDependencyError, TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.training import FineTune, fine_tune, trackers
from forge_pipeline.training.arguments import check_training
from forge_pipeline.training.trackers import check_trackers, log_evaluation, tracked_numbers, tracked_run, tracking

RAW = Digest.of(b"raw")
EVERYWHERE = ["tensorboard", "mlflow", "wandb"]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody's keys and addresses: what is not set is kept on this machine."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    yield
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def tuned(recipe: Callable, tokenized: Callable, tmp_path: Path) -> tuple[FineTune, ForgeConfig, Path]:
    """Four steps with two evaluations, told to all three."""
    training = {"report_to": EVERYWHERE, "run_name": "a try", "max_steps": 4, "eval_steps": 2}
    config = recipe(training=training | {"logging_dir": str(tmp_path / "logs")})
    return fine_tune(config, tokenized(), RAW, tmp_path / "model", run_id="run-7"), config, tmp_path / "logs"


def curve(done: FineTune, name: str) -> list[tuple[int, float]]:
    """What the training report says."""
    points = [(point.step, getattr(point, name)) for point in done.report.loss_history]
    return [(step, value) for step, value in points if value is not None]


def test_the_logged_curves_are_those_of_the_report_and_nothing_tells_of_account_or_machine(
    tuned: tuple[FineTune, ForgeConfig, Path],
) -> None:
    done, config, logs = tuned
    expected = {name: curve(done, of) for name, of in (
        ("train/loss", "loss"), ("train/learning_rate", "learning_rate"), ("eval/loss", "eval_loss"))}  # fmt: skip
    assert len(expected["train/loss"]) == 4
    assert len(expected["eval/loss"]) == 2
    assert len(done.tracked) == 3
    for read in (from_tensorboard, from_mlflow, from_wandb):
        curves, facts = read(logs)
        for name, points in expected.items():
            assert [step for step, _ in curves[name]] == [step for step, _ in points], (read.__name__, name)
            for (_, logged), (_, reported) in zip(curves[name], points, strict=True):
                assert math.isclose(logged, reported, rel_tol=1e-6), (read.__name__, name)
        assert facts == {
            "forge.line": "tiny", "forge.run_id": "run-7", "forge.config_digest": config_digest(config),
        }, read.__name__  # fmt: skip
    words = {getpass.getuser(), socket.gethostname(), sys.executable, str(done.model.path)}
    assert sent_files_that_say(logs, words - {"root", "runner"}) == []  # names so common that they are other words


def from_tensorboard(logs: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs / "tensorboard" / "a_try"), size_guidance={"scalars": 0})
    events.Reload()
    curves = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    texts = [tag for tag in events.Tags()["tensors"] if tag.endswith("/text_summary")]
    facts = {tag.rpartition("/")[0]: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in texts}
    return curves, facts


def from_mlflow(logs: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{logs / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert (run.info.run_name, run.info.status) == ("a try", "FINISHED")
    curves = {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert run.data.params == {}
    own = {"mlflow.runName"}
    return curves, {name: value for name, value in run.data.tags.items() if name not in own}


def from_wandb(logs: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    from wandb.proto import wandb_internal_pb2

    [file] = (logs / "wandb").rglob("*.wandb")
    curves: dict[str, list[tuple[int, float]]] = {}
    facts: dict[str, str] = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in row.keys() - {"train/global_step"}:
                curves.setdefault(name, []).append((row["train/global_step"], row[name]))
        if record.HasField("run"):
            facts |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return curves, {name: value for name, value in facts.items() if name.startswith("forge.")}


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its end
            yield whole
            whole = b""


def sent_files_that_say(logs: Path, words: set[str]) -> list[tuple[str, str]]:
    """TensorBoard's files, which stay here, carry the host in their names; of the logs of wandb's own, nothing is sent."""
    sent = [path for path in logs.rglob("*") if path.is_file() and path.suffix in (".wandb", ".json", ".db", "")]
    sent += list(logs.rglob("*tfevents*"))
    assert {path.suffix for path in sent} >= {".wandb", ".db"}
    return [(path.name, word) for path in sent for word in words if word.encode() in path.read_bytes()]


def test_what_is_measured_later_lies_in_the_run_that_has_the_curve(recipe: Callable, tmp_path: Path) -> None:
    config = recipe(training={"report_to": ["mlflow", "wandb"], "run_name": "a try"})
    only_mlflow = recipe(training={"report_to": "mlflow", "run_name": "a try"})
    with tracking(only_mlflow, "run-7", tmp_path) as [tracker]:
        tracker.log(4, {"train/loss": 2.5})
    numbers = {"benchmark/held_out": 0.25, "benchmark/odd": math.nan, "gate/benchmark": 1.0}
    places = log_evaluation(config, "run-7", tmp_path, "benchmark", 4, numbers)
    assert places[0] == tracker.place
    curves, _ = from_mlflow(tmp_path)
    expected = {"benchmark/held_out": [(4, 0.25)], "gate/benchmark": [(4, 1.0)]}
    assert curves == {"train/loss": [(4, 2.5)]} | expected
    curves, facts = from_wandb(tmp_path)
    assert expected.items() <= curves.items()
    assert "benchmark/odd" not in curves
    assert facts["forge.run_id"] == "run-7"
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith("-run-7-benchmark")  # a run of its own: a second one of that id would replace the first


def test_an_evaluation_is_not_lost_to_a_tracker_that_is_away(recipe: Callable, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "logs").write_text("a file where a directory should be")
    config = recipe(training={"report_to": "mlflow"})
    assert log_evaluation(config, "run-7", tmp_path / "logs", "safety", 4, {"safety/n": 1.0}) == ()
    assert "mlflow was not told of the safety" in caplog.text


def test_a_run_that_ends_early_is_marked_so(recipe: Callable, tmp_path: Path) -> None:
    config = recipe(training={"report_to": ["mlflow"]})
    with pytest.raises(KeyboardInterrupt), tracking(config, "run-1", tmp_path):
        raise KeyboardInterrupt
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FAILED"


def test_a_resumed_run_goes_on_in_the_same_place(recipe: Callable, tmp_path: Path) -> None:
    config = recipe(training={"report_to": ["tensorboard", "mlflow"]})
    with tracking(config, "run-1", tmp_path) as first:
        for tracker in first:
            for step in (1, 2, 3):
                tracker.log(step, {"train/loss": float(step)})
    with tracking(config, "run-1", tmp_path) as second:
        for tracker in second:
            tracker.resumed(2)
            tracker.log(3, {"train/loss": 30.0})
    assert [each.place for each in first] == [each.place for each in second]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(first[0].place)
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_tracker_that_fails_while_training_goes_on_does_not_end_it(
    recipe: Callable, tokenized: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(trackers._TensorBoard, "log", away)
    config = recipe(training={"report_to": ["tensorboard", "mlflow"], "logging_dir": str(tmp_path / "logs")})
    done = fine_tune(config, tokenized(validation=False), RAW, tmp_path / "model")
    assert done.report.steps == 2
    assert caplog.text.count("no longer told: ConnectionError: the server is away") == 1
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2


def test_a_tracker_that_cannot_be_opened_stops_the_run_before_anything_is_loaded(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("a file where a directory should be")
    config = recipe(training={"report_to": "mlflow", "logging_dir": str(tmp_path / "logs")})
    with pytest.raises(TrainingError, match=r"mlflow could not be opened.*Nothing was trained"):
        fine_tune(config, tokenized(), RAW, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_curve_lies_where_the_caller_says_or_beside_the_model(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"report_to": "tensorboard"})
    kept = fine_tune(config, tokenized(), RAW, tmp_path / "model", run_id="r", logs_dir=tmp_path / "logs")
    assert kept.tracked == (str(tmp_path / "logs" / "tensorboard" / "r"),)
    beside = fine_tune(config, tokenized(name="2"), RAW, tmp_path / "other")
    assert beside.tracked == (str(tmp_path / "other-logs" / "tensorboard" / "other"),)
    assert kept.model.digest == beside.model.digest


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_missing_library_is_said_before_the_run_with_the_extra_that_brings_it(
    name: str, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda module: None)
    config = recipe(training={"report_to": ["tensorboard", name]})
    with pytest.raises(OptionalDependencyError, match=r"pip install 'forge-pipeline\[tracking\]'"):
        check_training(config)


OFFLINE = {
    "an MLflow server": (
        "mlflow",
        {"MLFLOW_TRACKING_URI": "https://user:word@mlflow.example"},
        "https://mlflow.example",
    ),
    "W&B online": ("wandb", {"WANDB_MODE": "online"}, "WANDB_MODE is online"),
}


@pytest.mark.parametrize("case", OFFLINE)
def test_an_offline_recipe_sends_nothing(case: str, recipe: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    name, variables, words = OFFLINE[case]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    config = recipe(model={"offline": True}, training={"report_to": name})
    with pytest.raises(ConfigError, match=words) as caught:
        check_trackers(config)
    assert "word" not in str(caught.value).replace(words, "")


MODES = {
    "no key": ({}, False, "offline"),
    "a key": ({"WANDB_API_KEY": "k" * 40}, False, "online"),
    "a key, but an offline recipe": ({"WANDB_API_KEY": "k" * 40}, True, "offline"),
    "asked for": ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, False, "offline"),
}


@pytest.mark.parametrize("case", MODES)
def test_weights_and_biases_is_online_only_with_a_key(
    case: str, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, offline, expected = MODES[case]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert trackers._wandb_mode(recipe(model={"offline": offline}, training={"report_to": "wandb"})) == expected


REPORT_TO = {
    "none": ("none", ()),
    "one": ("mlflow", ("mlflow",)),
    "several": (["wandb", "tensorboard", "wandb"], ("wandb", "tensorboard")),
    "an empty list": ([], ()),
}


@pytest.mark.parametrize("case", REPORT_TO)
def test_report_to_takes_one_name_or_several(case: str, recipe: Callable) -> None:
    written, expected = REPORT_TO[case]
    assert recipe(training={"report_to": written}).training.trackers == expected


def test_numbers_are_named_as_by_transformers_and_what_is_no_number_is_left_out() -> None:
    logs = {"loss": 2, "eval_loss": 1.5, "grad_norm": math.nan, "note": "x", "flag": True, "train_runtime": 3.0}
    assert tracked_numbers(logs) == {"train/loss": 2.0, "eval/loss": 1.5}


def test_a_run_is_named_by_the_recipe_or_by_its_id(recipe: Callable) -> None:
    assert tracked_run(recipe(), "run-3").name == "run-3"
    assert tracked_run(recipe(training={"run_name": "warmer"}), "run-3").name == "warmer"


def test_without_trackers_none_of_their_libraries_is_imported() -> None:
    words = (
        "import sys, forge_pipeline.training.trackers as t;"
        "print([m for m in ('tensorboard', 'mlflow', 'wandb', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout == "[]\n"
