"""Runs that are killed, cancelled, or find another run at their output: real processes, a real endpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import load_config
from forge_pipeline.errors import ConfigError
from forge_pipeline.synthetic import SyntheticDataGenerator
from forge_pipeline.synthetic.journal import only_writer

PROMPTS = [f"Prompt {number}" for number in range(16)]
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def recipe(endpoint: Any, tmp_path: Path) -> Path:
    """A recipe whose endpoint takes its time."""
    endpoint.delays = {prompt: 0.05 + 0.01 * (number % 5) for number, prompt in enumerate(PROMPTS)}
    endpoint.answer = lambda request: f"A long answer to {request['messages'][-1]['content']}. " + "word " * 2000
    file = tmp_path / "taught.yaml"
    section = {
        "enabled": True,
        "teacher_model": "teacher",
        "api_base": endpoint.url,
        "api_delay": 0,
        "concurrency": 3,
        "seed_prompts": PROMPTS,
    }
    sections: dict[str, Any] = {"model": {"name_or_path": "base"}, "lora": {}, "training": {}}
    file.write_text(yaml.safe_dump({**sections, "data": {"dataset_name_or_path": "x"}, "synthetic": section}))
    return file


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts ``forge synthesize`` as a process of its own."""
    started = []

    def run() -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "forge_pipeline.cli.main",
            "synthesize",
            recipe,
            "--output",
            tmp_path / "r.jsonl",
        ]
        process = subprocess.Popen(
            [str(part) for part in command],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def whole(recipe: Path, tmp_path: Path) -> bytes:
    """What a run writes that nobody disturbs."""
    SyntheticDataGenerator(load_config(str(recipe))).generate(str(tmp_path / "undisturbed.jsonl"))
    return (tmp_path / "undisturbed.jsonl").read_bytes()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.002)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("after", [0, 1, 5, 13])
def test_a_run_killed_at_any_moment_goes_on_exactly_where_it_was(
    after: int, endpoint: Any, start: Start, recipe: Path, tmp_path: Path
) -> None:
    expected = whole(recipe, tmp_path)
    endpoint.requests.clear()
    process, partial = start(), tmp_path / "r.jsonl.partial"
    wait_until(lambda: len(endpoint.requests) > after and lines_in(partial) >= after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {json.loads(line)["messages"][0]["content"] for line in partial.read_bytes().split(b"\n")[:-1]}
    assert len(kept) >= after
    assert not (tmp_path / "r.jsonl").exists()
    wait_until(lambda: endpoint.at_once == 0)
    endpoint.requests.clear()
    result = SyntheticDataGenerator(load_config(str(recipe))).generate(str(tmp_path / "r.jsonl"))
    assert result.successful == len(PROMPTS)
    assert sorted(endpoint.asked) == sorted(set(PROMPTS) - kept)
    assert (tmp_path / "r.jsonl").read_bytes() == expected
    assert not partial.exists()


def test_cancelling_is_quick_says_what_is_kept_and_leaves_it(
    endpoint: Any, start: Start, recipe: Path, tmp_path: Path
) -> None:
    expected = whole(recipe, tmp_path)
    endpoint.delays["Prompt 15"] = 30.0
    process, partial = start(), tmp_path / "r.jsonl.partial"
    wait_until(lambda: lines_in(partial) == 15)
    moment = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - moment < 5
    assert process.returncode == 5
    assert f"15 of 16 answers are kept in {partial}; run again to go on" in said
    endpoint.delays.clear()
    SyntheticDataGenerator(load_config(str(recipe))).generate(str(tmp_path / "r.jsonl"))
    assert (tmp_path / "r.jsonl").read_bytes() == expected


def test_a_second_run_into_one_output_is_refused_while_the_first_one_lives(
    endpoint: Any, start: Start, recipe: Path, tmp_path: Path
) -> None:
    endpoint.delays = dict.fromkeys(PROMPTS, 0.4)
    process = start()
    wait_until(lambda: bool(endpoint.requests))
    with pytest.raises(ConfigError, match=r"another run is writing .*r\.jsonl"):
        SyntheticDataGenerator(load_config(str(recipe))).generate(str(tmp_path / "r.jsonl"))
    assert process.wait(timeout=60) == 0
    assert len(endpoint.requests) == len(PROMPTS)
    assert lines_in(tmp_path / "r.jsonl") == len(PROMPTS)


def test_the_lock_is_free_again_after_a_kill_and_leaves_no_file(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from forge_pipeline.synthetic.journal import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "r.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another run"), only_writer(tmp_path / "r.jsonl"):
            pass
        process.kill()
    with only_writer(tmp_path / "r.jsonl"):
        assert [path.name for path in tmp_path.iterdir()] == [".r.jsonl.lock"]
    assert list(tmp_path.iterdir()) == []
