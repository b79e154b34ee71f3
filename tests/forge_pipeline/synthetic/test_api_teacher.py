"""The endpoint teacher against a real server: many requests at a time, faults, waits, and a key that stays secret."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError
from forge_pipeline.synthetic import SyntheticDataGenerator
from forge_pipeline.synthetic.pace import Pace, asked_wait, backoff

Config = Callable[..., ForgeConfig]
KEY = "sk-very-secret-0123456789"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_requests_run_at_the_same_time_and_rows_stand_in_the_order_of_the_prompts(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    prompts = [f"Prompt {i}" for i in range(12)]
    endpoint.delays = {prompt: 0.25 - 0.02 * i for i, prompt in enumerate(prompts)}  # the first answers last
    outputs = []
    for concurrency in (4, 1):
        endpoint.most_at_once = 0
        output = tmp_path / f"{concurrency}.jsonl"
        SyntheticDataGenerator(config_with(seed_prompts=prompts, concurrency=concurrency)).generate(str(output))
        assert endpoint.most_at_once == concurrency
        outputs.append(output.read_bytes())
    assert [row["messages"][0]["content"] for row in rows_of(tmp_path / "4.jsonl")] == prompts
    assert outputs[0] == outputs[1]


def test_it_works_while_another_event_loop_runs_as_in_a_notebook(config_with: Config, tmp_path: Path) -> None:
    async def cell() -> int:
        return SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl")).successful

    assert asyncio.run(cell()) == 2


def test_no_thread_is_left_behind(config_with: Config, tmp_path: Path) -> None:
    SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert "teacher" not in [thread.name for thread in threading.enumerate()]


def test_starts_lie_apart_whatever_the_concurrency() -> None:
    async def starts() -> list[float]:
        pace, moments = Pace(0.02), list[float]()

        async def one() -> None:
            await pace.turn()
            moments.append(time.monotonic())

        await asyncio.gather(*(one() for _ in range(8)))
        return moments

    moments = asyncio.run(starts())
    assert moments[-1] - moments[0] >= 7 * 0.02 - 0.001


def test_the_delay_holds_for_the_whole_run(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    prompts = [f"Prompt {i}" for i in range(6)]
    SyntheticDataGenerator(config_with(seed_prompts=prompts, api_delay=0.05)).generate(str(tmp_path / "r.jsonl"))
    assert max(endpoint.arrivals) - min(endpoint.arrivals) >= 5 * 0.05 - 0.03


def test_an_endpoint_that_asks_for_a_pause_gets_it_from_every_request(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    prompts = ["Busy?", "Slow?", "Next?"]
    endpoint.script, endpoint.headers = {"Busy?": [429]}, {"Retry-After": "1"}
    endpoint.delays = {"Slow?": 0.5}  # it ends within the pause, and makes room for the next one
    result = SyntheticDataGenerator(config_with(seed_prompts=prompts, concurrency=2)).generate(
        str(tmp_path / "r.jsonl")
    )
    assert result.successful == 3
    moments = list(zip(endpoint.asked, endpoint.arrivals, strict=True))
    refused = next(moment for prompt, moment in moments if prompt == "Busy?")
    assert all(moment - refused > 0.99 for prompt, moment in moments if prompt == "Next?")
    assert moments[-1][1] - refused > 0.99


def test_a_pause_that_is_too_long_is_left_to_a_later_run(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.script, endpoint.headers = {"One?": [429]}, {"Retry-After": "7200"}
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert result.errors == (
        "prompt 1: the endpoint answered 429 Too Many Requests and asks to wait 7200 s; run again after that",
    )


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
ASKED = {
    "seconds": ("120", 120.0),
    "a date": ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
    "a date that is past": ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
    "a date without a zone": ("Thu, 01 Jan 2026 12:00:10 -0000", 10.0),
    "nothing": ("", None),
    "nonsense": ("soon", None),
    "a fraction": ("1.5", None),
    "other digits": ("٣", None),
}


@pytest.mark.parametrize("case", ASKED)
def test_retry_after_is_read_as_rfc_9110_says(case: str) -> None:
    value, seconds = ASKED[case]
    assert asked_wait({"Retry-After": value}, NOW) == seconds


def test_waits_double_and_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge_pipeline.synthetic.pace.FIRST_WAIT", 1.0)
    assert [backoff(n, lambda: 1.0) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [backoff(n, lambda: 0.0) for n in range(3)] == [0.5, 1, 2]


PASSING: dict[str, list[int | str]] = {
    "busy": [429, 503],
    "a server error": [500, 502, 504],
    "overloaded": [529],
    "a timeout of the server": [408],
    "a connection that is cut in the answer": ["cut"],
    "a connection that is closed without an answer": ["slam", "slam"],
    "everything": ["cut", 429, "slam"],
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_tried_again(case: str, endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.script = {"One?": list(PASSING[case])}
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert (result.successful, result.errors) == (2, ())
    assert endpoint.asked.count("One?") == len(PASSING[case]) + 1


LASTING: dict[str, tuple[list[int | str], int, str]] = {
    "a server error": ([500] * 9, 4, "the endpoint answered 500 Internal Server Error, 4 times; see to the endpoint"),
    "cut off": (["cut"] * 9, 4, "cut the connection"),
    "slammed": (["slam"] * 9, 4, "cut the connection"),
    "refused": ([400], 1, "answered 400 Bad Request: it refuses this request; check teacher_model, max_new_tokens"),
    "a redirect": ([302], 1, "it redirects, which is not followed; set synthetic.api_base"),
    "no JSON": (["html"], 1, "is not a chat completion"),
    "no choices": (["shape"], 1, "is not a chat completion"),
}


@pytest.mark.parametrize("case", LASTING)
def test_what_lasts_is_a_failure_of_its_prompt_alone(
    case: str, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    faults, requests, words = LASTING[case]
    endpoint.script = {"Two?": list(faults)}
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert (result.successful, result.failed) == (1, 1)
    assert result.errors[0].startswith("prompt 2: ")
    assert words in result.errors[0]
    assert endpoint.asked.count("Two?") == requests


def test_an_error_is_named_by_its_code_and_never_by_words_that_may_quote_the_prompt(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    endpoint.script = {"Two?": [400]}
    endpoint.error_body = {"error": {"message": "Two? is too long", "code": "context_length_exceeded"}}
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert "400 Bad Request (context_length_exceeded)" in result.errors[0]
    assert "Two?" not in result.errors[0]


def test_a_peer_that_trickles_is_cut_off_at_the_deadline(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.script = {"One?": ["trickle"] * 9}
    started = time.monotonic()
    result = SyntheticDataGenerator(config_with(api_timeout=0.4)).generate(str(tmp_path / "rows.jsonl"))
    assert result.errors == (
        "prompt 1: the endpoint did not answer in 0.4 s, 4 times; see to the endpoint, and run again to ask once more",
    )
    assert time.monotonic() - started < 5


def test_a_slow_answer_holds_up_nobody_else(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    prompts = ["One?", *(f"Prompt {i}" for i in range(20))]
    all_asked = []

    def answer(request: dict[str, Any]) -> str:
        deadline = time.monotonic() + 20
        while request["messages"][0]["content"] == "One?" and len(endpoint.requests) < 21:
            if time.monotonic() > deadline:
                return "the others were held up"
            time.sleep(0.005)
        all_asked.append(request)
        return "in time"

    endpoint.answer = answer
    result = SyntheticDataGenerator(config_with(seed_prompts=prompts, concurrency=2)).generate(
        str(tmp_path / "r.jsonl")
    )
    assert (result.successful, len(all_asked)) == (21, 21)
    assert "held up" not in (tmp_path / "r.jsonl").read_text()


HOPELESS: dict[str, tuple[int, Any, str]] = {
    "401": (401, None, "answered 401 Unauthorized: the key was refused"),
    "402": (402, None, "no credit"),
    "403": (403, None, "may not use this model"),
    "404": (404, None, "no such model or path"),
    "quota": (429, {"error": {"code": "insufficient_quota"}}, "quota is used up"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_an_answer_that_no_prompt_would_change_ends_the_run(
    case: str, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    status, endpoint.error_body, words = HOPELESS[case]
    endpoint.script = {"Two?": [status]}
    config = config_with(concurrency=1, seed_prompts=["One?", "Two?", "Three?"])
    with pytest.raises(ConfigError, match=words) as raised:
        SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert len(endpoint.requests) == 2
    assert "1 of 3 answers are kept" in raised.value.__notes__[0]
    endpoint.script = {}
    assert SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl")).successful == 3
    assert endpoint.asked == ["One?", "Two?", "Two?", "Three?"]


@pytest.mark.parametrize("answer", ["", "  \n", None, {"a": 1}])
def test_an_empty_answer_is_a_failure(answer: Any, endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.answer = lambda request: answer
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert result.successful == 0
    assert result.errors[0] == (
        "prompt 1: the answer is empty (finish_reason 'stop'); reword the prompt or take it out"
    )


def test_a_withheld_answer_is_a_failure(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.finish_reason = "content_filter"
    result = SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert "content filter withheld" in result.errors[1]


def test_a_lone_surrogate_in_an_answer_becomes_a_question_mark(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    endpoint.answer = lambda request: "half a \ud83d smile"
    SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl"))
    assert rows_of(tmp_path / "rows.jsonl")[0]["messages"][-1]["content"] == "half a ? smile"


def test_an_unreachable_endpoint_is_a_failure_of_the_prompt(config_with: Config, tmp_path: Path) -> None:
    result = SyntheticDataGenerator(config_with(api_base="http://127.0.0.1:9/v1")).generate(str(tmp_path / "r.jsonl"))
    assert result.failed == 2
    assert "could not be reached" in result.errors[0]


SPILLING: dict[str, dict[str, Any]] = {
    "a good answer": {},
    "an answer that repeats it": {"answer": lambda request: f"Your key is {KEY}."},
    "a refusal that quotes it": {"script": {"One?": [400]}, "error_body": {"error": {"message": KEY, "code": KEY}}},
    "a refused key": {"script": {"One?": [401]}, "error_body": {"error": {"message": KEY, "code": KEY}}},
    "a cut connection": {"script": {"One?": ["cut"] * 9}},
    "a redirect": {"script": {"One?": [302]}},
    "a header that quotes it": {"script": {"One?": [429, 500] * 5}, "headers": {"Retry-After": KEY}},
}


@pytest.mark.parametrize("case", SPILLING)
def test_the_key_stands_in_no_row_report_error_or_log(
    case: str, endpoint: Any, config_with: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in SPILLING[case].items():
        setattr(endpoint, name, value)
    said = ""
    try:
        config = config_with(api_key=KEY, concurrency=1)
        said = repr(SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl")))
    except ConfigError as error:
        said = f"{error!r} {error} {error.__notes__}"
    assert endpoint.keys[0] == f"Bearer {KEY}"
    assert KEY not in said + caplog.text + repr(config)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("key", [f"{KEY}\nX: 1", f"{KEY}\x00", f"{KEY}é"])
def test_a_key_that_fits_in_no_header_is_refused_without_being_quoted(
    key: str, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="characters that no key has") as raised:
        SyntheticDataGenerator(config_with(api_key=key)).generate(str(tmp_path / "rows.jsonl"))
    assert KEY not in str(raised.value)
    assert endpoint.requests == []


def test_a_key_read_from_a_file_may_end_with_a_line_break(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    SyntheticDataGenerator(config_with(api_key=f"{KEY}\n")).generate(str(tmp_path / "rows.jsonl"))
    assert endpoint.keys == [f"Bearer {KEY}"] * 2


def test_a_real_model_behind_the_endpoint_teaches(
    endpoint: Any, config_with: Config, tiny_model: Path, tmp_path: Path
) -> None:
    """The tiny llama, sampled with the seed of each request."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    one_at_a_time = threading.Lock()

    def answer(request: dict[str, Any]) -> str:
        text = tokenizer.apply_chat_template(request["messages"], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
        with one_at_a_time, torch.no_grad():
            torch.manual_seed(request["seed"])
            output = model.generate(
                **inputs, max_new_tokens=request["max_tokens"], do_sample=True, temperature=request["temperature"],
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :]))

    endpoint.answer = answer
    prompts = ["Name a color.", "Say hello.", "Count to three."]
    files = []
    for concurrency in (3, 1):
        config = config_with(
            seed_prompts=prompts,
            samples_per_prompt=2,
            seed=5,
            max_new_tokens=8,
            temperature=1.0,
            concurrency=concurrency,
        )
        output = tmp_path / f"{concurrency}.jsonl"
        result = SyntheticDataGenerator(config).generate(str(output))
        assert (result.successful, result.rows, result.duplicates) == (3, 6, 0)
        files.append(output.read_bytes())
    assert files[0] == files[1]
