"""Synthetic rows: a real HTTP endpoint on this machine, a real tiny model, and files."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.examples import conversation_of
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.synthetic import SyntheticDataGenerator
from forge_pipeline.synthetic.teachers import ApiTeacher


@dataclass
class Endpoint:
    """A chat-completions endpoint. `script` maps a prompt to the statuses that it meets before an answer."""

    url: str = ""
    script: dict[str, list[int]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answer: Callable[[str], Any] = "Answer to {}".format


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.keys.append(self.headers["Authorization"])
            prompt = request["messages"][-1]["content"]
            status = state.script[prompt].pop(0) if state.script.get(prompt) else 200
            message = {"role": "assistant", "content": state.answer(prompt)}
            body = json.dumps({"choices": [{"message": message}]}).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{state.url}/elsewhere")
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted, not slept."""
    waits: list[float] = []
    monkeypatch.setattr(ApiTeacher.__init__, "__defaults__", (waits.append,))
    return waits


def config_with(**synthetic: Any) -> ForgeConfig:
    return ForgeConfig(
        model={"name_or_path": "base"},
        lora={},
        training={},
        data={"dataset_name_or_path": "rows.jsonl"},
        synthetic={"enabled": True, "teacher_model": "teacher", "seed_prompts": ["One?", "Two?"]} | synthetic,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_endpoint_is_asked_once_for_each_prompt_and_rows_say_where_they_come_from(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "k-123")
    config = config_with(api_base=endpoint.url, api_key_env="TEACHER_KEY", system_prompt="Be brief.", temperature=0.5)
    output = tmp_path / "new" / "rows.jsonl"
    result = SyntheticDataGenerator(config).generate(str(output))
    assert (result.total_prompts, result.successful, result.failed, result.errors) == (2, 2, 0, ())
    assert result.success_rate == 1.0
    assert result.output_file == str(output)
    assert endpoint.keys == ["Bearer k-123"] * 2
    assert endpoint.requests[0] == {
        "model": "teacher",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
        "max_tokens": 1024,
        "temperature": 0.5,
    }
    first = rows_of(output)[0]
    assert first["messages"][-1] == {"role": "assistant", "content": "Answer to One?"}
    assert first["synthetic"]["teacher"] == "teacher"
    assert first["synthetic"]["backend"] == "api"
    assert "k-123" not in output.read_text()
    assert list(output.parent.iterdir()) == [output]


FORMATS = {
    "messages": {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Answer to One?"}]},
    "instruction": {"instruction": "One?", "input": "", "output": "Answer to One?"},
    "prompt_response": {"prompt": "One?", "response": "Answer to One?"},
    "chatml": {"text": "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nAnswer to One?<|im_end|>\n"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_output_format_is_one_that_ingestion_reads(name: str, endpoint: Endpoint, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    SyntheticDataGenerator(config_with(api_base=endpoint.url, output_format=name)).generate(str(output))
    row = rows_of(output)[0]
    row.pop("synthetic")
    assert row == FORMATS[name]
    turns = conversation_of(row)
    if name != "chatml":
        assert turns is not None
        assert [turn["content"] for turn in turns] == ["One?", "Answer to One?"]


def test_a_busy_endpoint_is_asked_again_and_a_broken_one_is_given_up_on(
    endpoint: Endpoint, tmp_path: Path, no_waiting: list[float]
) -> None:
    endpoint.script = {"One?": [429, 503], "Two?": [500] * 9}
    output = tmp_path / "rows.jsonl"
    result = SyntheticDataGenerator(config_with(api_base=endpoint.url, api_delay=0)).generate(str(output))
    assert (result.successful, result.failed) == (1, 1)
    assert result.errors == ("prompt 2: the endpoint answered 500 Internal Server Error, 4 times",)
    assert no_waiting == [7.0, 2.0, 1.0, 2.0, 4.0]
    assert [row["messages"][0]["content"] for row in rows_of(output)] == ["One?"]


@pytest.mark.parametrize(("status", "words"), [(401, "the key was refused"), (404, "no such model or path")])
def test_an_answer_that_no_prompt_would_change_ends_the_run(
    status: int, words: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.script = {"One?": [status]}
    with pytest.raises(ConfigError, match=words):
        SyntheticDataGenerator(config_with(api_base=endpoint.url)).generate(str(tmp_path / "rows.jsonl"))
    assert len(endpoint.requests) == 1


def test_a_redirect_is_not_followed_because_it_would_carry_the_key_away(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = {"One?": [302], "Two?": [302]}
    result = SyntheticDataGenerator(config_with(api_base=endpoint.url, api_key="k")).generate(str(tmp_path / "r.jsonl"))
    assert result.successful == 0
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("answer", ["", "  \n", None, {"a": 1}])
def test_an_empty_answer_is_a_failure(answer: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda prompt: answer
    result = SyntheticDataGenerator(config_with(api_base=endpoint.url)).generate(str(tmp_path / "rows.jsonl"))
    assert result.successful == 0
    assert result.errors[0] == "prompt 1: the answer is empty"


def test_an_unreachable_endpoint_is_a_failure_of_the_prompt(tmp_path: Path) -> None:
    result = SyntheticDataGenerator(config_with(api_base="http://127.0.0.1:9/v1")).generate(
        str(tmp_path / "rows.jsonl")
    )
    assert result.failed == 2
    assert "could not be reached" in result.errors[0]


def test_a_second_run_asks_only_what_is_not_answered_yet(endpoint: Endpoint, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    config = config_with(api_base=endpoint.url)
    SyntheticDataGenerator(config).generate(str(output))
    before = output.read_bytes()
    more = config_with(api_base=endpoint.url, seed_prompts=["Zero?", "One?", "Two?"])
    result = SyntheticDataGenerator(more).generate(str(output))
    assert [request["messages"][0]["content"] for request in endpoint.requests] == ["One?", "Two?", "Zero?"]
    assert result.successful == 3
    assert output.read_bytes().endswith(before)


def test_a_killed_run_goes_on_where_it_stopped_and_the_torn_line_is_asked_again(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    config = config_with(api_base=endpoint.url)
    SyntheticDataGenerator(config).generate(str(output))
    whole = output.read_bytes()
    output.rename(tmp_path / "rows.jsonl.partial")
    (tmp_path / "rows.jsonl.partial").write_bytes(whole[:-20])
    endpoint.requests.clear()
    SyntheticDataGenerator(config).generate(str(output))
    assert [request["messages"][0]["content"] for request in endpoint.requests] == ["Two?"]
    assert output.read_bytes() == whole


def test_a_file_with_other_rows_is_never_overwritten(endpoint: Endpoint, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    output.write_text('{"text": "mine"}\n')
    with pytest.raises(ConfigError, match="never overwritten"):
        SyntheticDataGenerator(config_with(api_base=endpoint.url)).generate(str(output))
    assert output.read_text() == '{"text": "mine"}\n'


def test_a_teacher_that_fails_too_often_is_not_asked_further(endpoint: Endpoint, tmp_path: Path) -> None:
    prompts = [f"Prompt {i}" for i in range(30)]
    endpoint.script = {prompt: [400] for prompt in prompts[:5]}
    config = config_with(api_base=endpoint.url, seed_prompts=prompts, sanity_failure_rate=0.2)
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert len(endpoint.requests) == 10
    assert (result.successful, result.failed) == (5, 25)
    assert "stopped after 10 of 30" in result.errors[-1]


def test_too_few_answers_raise_but_are_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = {"Two?": [400]}
    output = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match=r"1 of 2 prompts"):
        SyntheticDataGenerator(config_with(api_base=endpoint.url, min_success_rate=0.9)).generate(str(output))
    assert len(rows_of(output)) == 1


def test_prompts_come_from_text_and_row_files_each_once(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(
        "\n".join(json.dumps({"instruction": f"Q{i}?", "output": f"A{i}"}) for i in range(3))
    )
    (tmp_path / "seeds.txt").write_text("Q1?\n\n Q0? \nQ1?\nQ9?\n")
    config = config_with(
        teacher_backend="file",
        teacher_model=str(tmp_path / "answers.jsonl"),
        seed_prompts=["Q1?"],
        seed_file=str(tmp_path / "seeds.txt"),
        output_format="prompt_response",
    )
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert [row["response"] for row in rows_of(tmp_path / "rows.jsonl")] == ["A1", "A0"]
    assert result.errors == ("prompt 3: the file holds no response to this prompt",)


def test_a_local_teacher_is_loaded_once_and_answers_the_same_twice(
    recipe: Callable[..., ForgeConfig], tiny_model: Path, tmp_path: Path
) -> None:
    section = {
        "enabled": True,
        "teacher_backend": "local",
        "teacher_model": str(tiny_model),
        "seed_prompts": ["Name a color.", "Say hello."],
        "max_new_tokens": 8,
    }
    for name in ("a", "b"):
        result = SyntheticDataGenerator(recipe(synthetic=section)).generate(str(tmp_path / name))
        assert result.total_prompts == 2
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


WRONG = {
    "not enabled": ({"enabled": False}, "synthetic.enabled is false"),
    "no such seed file": ({"seed_file": "nowhere.txt"}, "there is no file 'nowhere.txt'"),
    "key not set": ({"api_key_env": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE is not set"),
    "not a URL": ({"api_base": "localhost:8000"}, "begins with https://"),
    "no answers": ({"teacher_backend": "file", "teacher_model": "nowhere.jsonl"}, "there is no file 'nowhere.jsonl'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_said_before_anything_is_asked(case: str, tmp_path: Path) -> None:
    section, words = WRONG[case]
    with pytest.raises(ConfigError, match=words):
        SyntheticDataGenerator(config_with(**section)).generate(str(tmp_path / "rows.jsonl"))
    assert list(tmp_path.iterdir()) == []
