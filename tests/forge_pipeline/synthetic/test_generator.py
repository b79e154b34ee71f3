"""What the generator writes, keeps and counts, whoever the teacher is."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.data.examples import conversation_of
from forge_pipeline.errors import ConfigError, DataError
from forge_pipeline.integrity import Digest, read_report
from forge_pipeline.progress import Progress
from forge_pipeline.synthetic import SyntheticDataGenerator, SyntheticReport
from forge_pipeline.synthetic.generator import report_file
from forge_pipeline.synthetic.requests import build_requests
from forge_pipeline.synthetic.rows import as_lines, build_row, merge_equal, row_in, rows_by_request
from forge_pipeline.synthetic.teachers import Outcome, TeacherIdentity

Config = Callable[..., ForgeConfig]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_endpoint_is_asked_once_for_each_prompt_and_rows_say_where_they_come_from(
    endpoint: Any, config_with: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "k-123")
    config = config_with(api_key_env="TEACHER_KEY", system_prompt="Be brief.", temperature=0.5, concurrency=1, seed=7)
    output = tmp_path / "new" / "rows.jsonl"
    result = SyntheticDataGenerator(config).generate(str(output))
    assert (result.total_prompts, result.successful, result.failed, result.errors) == (2, 2, 0, ())
    assert (result.success_rate, result.output_file, result.rows) == (1.0, str(output), 2)
    assert endpoint.keys == ["Bearer k-123"] * 2
    assert endpoint.requests[0] == {
        "model": "teacher",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
        "max_tokens": 1024,
        "temperature": 0.5,
        "seed": 7,
    }
    first = rows_of(output)[0]
    assert first["messages"][-1] == {"role": "assistant", "content": "Answer to One?"}
    facts = first["synthetic"]
    assert facts.pop("request_digest").startswith("sha256:")
    assert facts.pop("generator").startswith("forge-pipeline ")
    assert facts == {
        "teacher": "teacher",
        "backend": "api",
        "endpoint": endpoint.url.split("/")[2],
        "answered_by": "teacher-2026-01",
        "finish_reason": "stop",
        "prompt_digest": str(Digest.of(b"One?")),
        "temperature": 0.5,
        "max_new_tokens": 1024,
        "seed": 7,
        "sample": 0,
    }
    assert sorted(output.parent.iterdir()) == [output, report_file(output)]


def test_the_report_beside_the_rows_vouches_for_them_and_holds_no_time(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    endpoint.script = {"Two?": [400]}
    reports = []
    for name in ("a.jsonl", "b.jsonl"):
        SyntheticDataGenerator(config_with()).generate(str(tmp_path / name))
        endpoint.script = {"Two?": [400]}
        reports.append(report_file(tmp_path / name).read_bytes())
    assert reports[0] == reports[1]
    report = read_report(tmp_path / "a.jsonl.report.json", SyntheticReport)
    assert report.rows_digest == Digest.of_file(tmp_path / "a.jsonl")
    assert (report.total_prompts, report.successful, report.failed, report.rows) == (2, 1, 1, 1)
    assert report.teacher is not None
    assert report.teacher.endpoint in endpoint.url
    assert "400" in report.errors[0]


def test_how_rows_are_got_leaves_the_settings_digest_alone_and_what_they_are_changes_it(
    config_with: Config, tmp_path: Path
) -> None:
    def digest(**keys: Any) -> Any:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        SyntheticDataGenerator(config_with(**keys)).generate(str(output))
        return read_report(report_file(output), SyntheticReport).settings_digest

    assert digest() == digest(concurrency=1, api_key="k", seed_prompts=["Three?"])
    assert len({digest(), digest(seed=1), digest(temperature=0.1), digest(output_format="chatml")}) == 4


FORMATS = {
    "messages": {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Answer to One?"}]},
    "instruction": {"instruction": "One?", "input": "", "output": "Answer to One?"},
    "prompt_response": {"prompt": "One?", "response": "Answer to One?"},
    "chatml": {"text": "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nAnswer to One?<|im_end|>\n"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_output_format_is_one_that_ingestion_reads(name: str, config_with: Config, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    SyntheticDataGenerator(config_with(output_format=name)).generate(str(output))
    row = rows_of(output)[0]
    row.pop("synthetic")
    assert row == FORMATS[name]
    turns = conversation_of(row)
    if name != "chatml":
        assert turns is not None
        assert [turn["content"] for turn in turns] == ["One?", "Answer to One?"]


def test_a_second_run_asks_only_what_is_not_answered_yet(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    SyntheticDataGenerator(config_with(concurrency=1)).generate(str(output))
    before = output.read_bytes()
    result = SyntheticDataGenerator(config_with(seed_prompts=["Zero?", "One?", "Two?"])).generate(str(output))
    assert endpoint.asked == ["One?", "Two?", "Zero?"]
    assert result.successful == 3
    assert output.read_bytes().endswith(before)


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_the_torn_line_of_a_killed_run_is_asked_again(
    cut: int, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    SyntheticDataGenerator(config_with()).generate(str(output))
    whole = output.read_bytes()
    output.rename(tmp_path / "rows.jsonl.partial")
    (tmp_path / "rows.jsonl.partial").write_bytes(whole[:-cut])
    endpoint.requests.clear()
    SyntheticDataGenerator(config_with()).generate(str(output))
    assert endpoint.asked == ["Two?"]
    assert output.read_bytes() == whole


STRANGE = {
    "other rows": b'{"text": "mine"}\n',
    "no JSON": b"hello\n",
    "a list": b"[1]\n",
    "deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_file_with_other_rows_is_never_overwritten(
    case: str, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    output.write_bytes(STRANGE[case])
    with pytest.raises(ConfigError, match="never overwritten"):
        SyntheticDataGenerator(config_with()).generate(str(output))
    assert output.read_bytes() == STRANGE[case]
    assert endpoint.requests == []


def test_a_teacher_that_fails_too_often_is_not_asked_further(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    prompts = [f"Prompt {i}" for i in range(30)]
    endpoint.script = {prompt: [400] for prompt in prompts[:5]}
    config = config_with(seed_prompts=prompts, sanity_failure_rate=0.2, concurrency=1)
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert len(endpoint.requests) == 10
    assert (result.successful, result.failed) == (5, 25)
    assert "stopped after 10 of 30" in result.errors[-1]
    assert read_report(tmp_path / "rows.jsonl.report.json", SyntheticReport).not_asked == 20


def test_requests_under_way_when_a_run_stops_early_are_waited_for(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    prompts = [f"Prompt {i}" for i in range(60)]
    endpoint.script = {prompt: [400] for prompt in prompts[:10]}
    endpoint.delays = dict.fromkeys(prompts[10:], 0.1)
    result = SyntheticDataGenerator(config_with(seed_prompts=prompts, concurrency=8)).generate(
        str(tmp_path / "r.jsonl")
    )
    assert len(endpoint.requests) < 30
    assert result.successful == len(endpoint.requests) - 10  # whatever was asked was kept


def test_too_few_answers_raise_but_are_kept(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.script = {"Two?": [400]}
    output = tmp_path / "rows.jsonl"
    with pytest.raises(DataError, match=r"1 of 2 prompts"):
        SyntheticDataGenerator(config_with(min_success_rate=0.9)).generate(str(output))
    assert len(rows_of(output)) == 1
    assert SyntheticDataGenerator(config_with(min_success_rate=0.9)).generate(str(output)).successful == 2


def test_each_sample_is_a_request_with_its_own_seed(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.answer = lambda request: f"{request['messages'][0]['content']} {request['seed']}"
    config = config_with(samples_per_prompt=3, seed=40)
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    rows = rows_of(tmp_path / "rows.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == [
        f"{p}? {s}" for p in ("One", "Two") for s in (40, 41, 42)
    ]
    assert [row["synthetic"]["seed"] for row in rows] == [40, 41, 42] * 2
    assert (result.total_prompts, result.successful, result.rows, result.duplicates) == (2, 2, 6, 0)


def test_equal_answers_to_one_prompt_are_one_row_and_are_not_asked_again(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    endpoint.answer = lambda request: f"Blue {request['seed'] // 2}"
    config, output = config_with(samples_per_prompt=4, seed=0), tmp_path / "rows.jsonl"
    result = SyntheticDataGenerator(config).generate(str(output))
    # The same words to another prompt are another row.
    assert (result.successful, result.rows, result.duplicates) == (2, 4, 4)
    assert [row["synthetic"]["sample"] for row in rows_of(output)] == [0, 2, 0, 2]
    before, asked = output.read_bytes(), len(endpoint.requests)
    again = SyntheticDataGenerator(config).generate(str(output))
    assert (again.rows, again.duplicates, len(endpoint.requests)) == (4, 4, asked)
    assert output.read_bytes() == before


def test_a_sample_that_failed_is_named_and_its_prompt_counts_as_not_answered(
    endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    endpoint.script = {"Two?": [400]}
    config = config_with(samples_per_prompt=2, concurrency=1)
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert (result.successful, result.failed) == (1, 1)
    assert result.errors[0].startswith("prompt 2, sample 1: the endpoint answered 400 Bad Request")


def test_cut_off_answers_are_counted(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.finish_reason = "length"
    assert SyntheticDataGenerator(config_with()).generate(str(tmp_path / "rows.jsonl")).truncated == 2


@given(
    answers=st.lists(st.lists(st.sampled_from("abc"), min_size=3, max_size=3), min_size=1, max_size=4), data=st.data()
)
def test_a_finished_file_says_the_same_as_the_answers_it_was_made_of(answers: list[list[str]], data: Any) -> None:
    """Law: rows_by_request undoes merge_equal, whatever the order of the answers and whichever are missing."""
    section = SyntheticSection(enabled=True, teacher_model="t", seed_prompts=["p"], samples_per_prompt=3)
    requests = build_requests(section, [f"prompt {number}" for number in range(len(answers))])
    known = data.draw(st.sets(st.sampled_from(requests)))
    teacher = TeacherIdentity("t", "api")
    rows = {
        request.digest: build_row(section, teacher, Outcome(request, answers[request.number - 1][request.sample]))
        for request in random.Random(0).sample(sorted(known, key=lambda request: request.position), len(known))
    }
    merged = merge_equal(requests, rows)
    lines = as_lines(merged).split(b"\n")[:-1]
    again = {digest: row for line in lines for digest, row in rows_by_request(row_in(line) or {})}
    assert again.keys() == rows.keys()
    assert as_lines(merge_equal(requests, again)) == as_lines(merged)


def test_progress_counts_what_was_asked(endpoint: Any, config_with: Config, tmp_path: Path) -> None:
    endpoint.script = {"One?": [400]}
    seen: list[Progress] = []
    SyntheticDataGenerator(config_with(concurrency=1)).generate(str(tmp_path / "r.jsonl"), progress=seen.append)
    assert [(each.stage, each.step, each.total, each.message) for each in seen] == [
        ("synthetic", 1, 2, "0 answered, 1 failed"),
        ("synthetic", 2, 2, "1 answered, 1 failed"),
    ]


def test_prompts_come_from_text_and_row_files_each_once_and_the_rest_is_counted(
    config_with: Config, tmp_path: Path
) -> None:
    answers = [{"instruction": f"Q{i}?", "output": f"A{i}"} for i in range(3)]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    (tmp_path / "seeds.txt").write_text("Q1?\n\n Q0? \nQ1?\nQ9?\n")
    config = config_with(
        teacher_backend="file",
        teacher_model=str(tmp_path / "answers.jsonl"),
        seed_prompts=["Q1?"],
        seed_file=str(tmp_path / "seeds.txt"),
        output_format="prompt_response",
    )
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    rows = rows_of(tmp_path / "rows.jsonl")
    assert [row["response"] for row in rows] == ["A1", "A0"]
    assert result.errors == ("prompt 3: the file holds no response to this prompt; add one, or take the prompt out",)
    assert rows[0]["synthetic"]["teacher"] == "answers.jsonl"
    assert rows[0]["synthetic"]["teacher_digest"] == str(Digest.of_file(tmp_path / "answers.jsonl"))
    assert str(tmp_path) not in (tmp_path / "rows.jsonl").read_text()
    report = read_report(tmp_path / "rows.jsonl.report.json", SyntheticReport)
    assert (report.repeated_seeds, report.skipped_seeds) == (2, 0)


def test_rows_of_a_seed_file_without_a_prompt_are_counted(config_with: Config, tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"prompt": "One?"}\n{"x": 1}\n{broken\n{"prompt": "\\ud800 is lone"}\n')
    config = config_with(seed_prompts=[], seed_file=str(tmp_path / "seeds.jsonl"))
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    report = read_report(tmp_path / "rows.jsonl.report.json", SyntheticReport)
    assert report.skipped_seeds + result.total_prompts == 4
    assert report.skipped_seeds >= 2
    assert result.successful == result.total_prompts


def test_a_file_teacher_gives_sample_k_its_kth_answer(config_with: Config, tmp_path: Path) -> None:
    lines = [
        {"prompt": "One?", "response": "1"},
        {"prompt": "Two?", "response": "2"},
        {"prompt": "One?", "response": "I"},
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = config_with(
        teacher_backend="file",
        teacher_model=str(tmp_path / "answers.jsonl"),
        samples_per_prompt=2,
        temperature=0,
        output_format="prompt_response",
    )
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert [row["response"] for row in rows_of(tmp_path / "rows.jsonl")] == ["1", "I", "2"]
    assert result.errors == (
        "prompt 2, sample 2: the file holds 1 responses to this prompt; add one, or take the prompt out",
    )


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "not enabled": ({"enabled": False}, "synthetic.enabled is false"),
    "no such seed file": ({"seed_file": "nowhere.txt"}, "there is no file 'nowhere.txt'"),
    "blank prompts": ({"seed_prompts": ["  ", "\n"]}, "every prompt is blank"),
    "key not set": ({"api_key_env": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE is not set"),
    "not a URL": ({"api_base": "localhost:8000"}, "begins with https://"),
    "no host": ({"api_base": "http://"}, "begins with https://"),
    "not a port": ({"api_base": "http://host:many/v1"}, "not a URL"),
    "a password in the URL": ({"api_base": "http://ann:hush@host/v1"}, "holds a user name"),
    "a query in the URL": ({"api_base": "http://host/v1?key=hush"}, "or a fragment"),
    "no answers": ({"teacher_backend": "file", "teacher_model": "nowhere.jsonl"}, "there is no file 'nowhere.jsonl'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_said_before_anything_is_asked(
    case: str, endpoint: Any, config_with: Config, tmp_path: Path
) -> None:
    section, words = WRONG[case]
    with pytest.raises(ConfigError, match=words) as raised:
        SyntheticDataGenerator(config_with(**section)).generate(str(tmp_path / "rows.jsonl"))
    assert "hush" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert endpoint.requests == []


def test_samples_without_temperature_are_refused_because_they_would_be_equal(config_with: Config) -> None:
    with pytest.raises(ConfigError, match="samples_per_prompt above 1 with temperature 0"):
        config_with(samples_per_prompt=2, temperature=0)


def test_a_seed_file_that_is_not_utf_8_is_named(config_with: Config, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="byte 3 is not UTF-8"):
        SyntheticDataGenerator(config_with(seed_file=str(tmp_path / "seeds.txt"))).generate(str(tmp_path / "r.jsonl"))
