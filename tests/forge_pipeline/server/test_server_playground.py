"""Conformance rows P, and G8: generating with a real, tiny model through HTTP."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forge_pipeline.server.served import (
    TRAINABLE,
    Endless,
    Studio,
    check_envelope,
    in_thread,
    jsonl,
    settings_for,
)
from tests.forge_pipeline.server.served_models import register

PATH = "/api/playground/generate"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path_factory.mktemp("playground"))) as studio:
        yield studio


@pytest.fixture(scope="module")
def chat_model(studio: Studio, tiny_model: Path) -> int:
    return register(studio, tiny_model, "chat", chat=True)


def generate(studio: Studio, **body: Any) -> dict[str, Any]:
    reply = studio.post(PATH, json=body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_a_model_answers(studio: Studio, chat_model: int) -> None:
    answer = generate(
        studio, model_id=chat_model, prompt="What is two plus two?", max_new_tokens=8, temperature=0.7, top_p=0.9
    )
    assert type(answer["generated_text"]) is str
    assert 0 <= answer["tokens_generated"] <= 8
    assert answer["generation_time_ms"] >= 0


def test_only_the_model_and_the_prompt_are_needed(studio: Studio, chat_model: int) -> None:
    assert generate(studio, model_id=chat_model, prompt="a")["tokens_generated"] <= 100


def test_greedy_is_repeatable_and_leaves_the_prompt_out(studio: Studio, chat_model: int) -> None:
    prompt = "Name a color, any color at all, please"
    answers = {
        generate(studio, model_id=chat_model, prompt=prompt, max_new_tokens=12, temperature=0)["generated_text"]
        for _ in range(3)
    }
    assert len(answers) == 1
    assert prompt not in answers.pop()


def test_a_temperature_near_zero_is_zero(studio: Studio, chat_model: int) -> None:
    body = {"model_id": chat_model, "prompt": "Name a color.", "max_new_tokens": 8}
    coldest = generate(studio, **body, temperature=1e-320)
    assert coldest["generated_text"] == generate(studio, **body, temperature=0)["generated_text"]


def test_a_model_that_learnt_plain_text_is_asked_in_plain_text(
    studio: Studio, chat_model: int, tiny_model: Path
) -> None:
    plain = register(studio, tiny_model, "plain", chat=False)
    body = {"prompt": "Name a color.", "max_new_tokens": 12, "temperature": 0}
    assert generate(studio, model_id=plain, **body) | {"generation_time_ms": 0} != generate(
        studio, model_id=chat_model, **body
    ) | {"generation_time_ms": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ...},
        {"prompt": ""},
        {"prompt": 3},
        {"model_id": ...},
        {"model_id": "abc"},
        {"model_id": 1.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"max_new_tokens": "x"},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"surprise": 1},
        {"stream": "yes"},
        {"base": 1},
        {"system": ""},
        {"stop": "word"},
        {"stop": [""]},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"seed": -1},
        {"seed": 1.5},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_400_and_names_the_field(
    studio: Studio, chat_model: int, changes: dict[str, Any]
) -> None:
    body = {"model_id": chat_model, "prompt": "a"} | changes
    detail = check_envelope(studio.post(PATH, json={k: v for k, v in body.items() if v is not ...}), 400)
    assert next(iter(changes)) in detail


def test_the_same_seed_gives_the_same_text(studio: Studio, chat_model: int) -> None:
    body = {"model_id": chat_model, "prompt": "Count", "max_new_tokens": 12, "temperature": 1.0}
    texts = [generate(studio, **body, seed=seed)["generated_text"] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_ends_the_text_and_the_counts_say_so(studio: Studio, chat_model: int) -> None:
    body = {"model_id": chat_model, "prompt": "Count", "max_new_tokens": 12, "temperature": 1.0, "seed": 7}
    free = generate(studio, **body)
    assert (free["finish_reason"], free["tokens_generated"]) == ("length", 12)
    stop = free["generated_text"][3:5]
    stopped = generate(studio, **body, stop=["never said", stop])
    assert stopped["generated_text"] == free["generated_text"].split(stop)[0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["tokens_generated"] < 12
    assert stopped["prompt_tokens"] == free["prompt_tokens"] > 0


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_a_system_message_reaches_the_model(studio: Studio, tiny_model: Path, kind: str) -> None:
    model = register(studio, tiny_model, f"system-{kind}", chat=kind == "chat", adapter=1)
    body = {"model_id": model, "prompt": "Count", "max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    alone, told = generate(studio, **body), generate(studio, **body, system="Be short.")
    assert told["prompt_tokens"] > alone["prompt_tokens"]
    assert told["generated_text"] != alone["generated_text"]


def test_the_base_model_answers_beside_adapters_that_share_it(studio: Studio, tiny_model: Path) -> None:
    body = {"prompt": "Name a color.", "max_new_tokens": 12, "temperature": 0}
    full = register(studio, tiny_model, "the-base-itself", chat=True)
    expected = generate(studio, model_id=full, **body)["generated_text"]
    assert generate(studio, model_id=full, **body, base=True)["generated_text"] == expected
    first, second = (register(studio, tiny_model, f"adapter-{n}", chat=True, adapter=n) for n in (1, 2))
    for _ in range(2):
        texts = [generate(studio, model_id=model, **body)["generated_text"] for model in (first, second)]
        assert len({expected, *texts}) == 3
        for model in (first, second):
            assert generate(studio, model_id=model, **body, base=True)["generated_text"] == expected


def test_a_prompt_without_room_is_400(studio: Studio, chat_model: int) -> None:
    detail = check_envelope(studio.post(PATH, json={"model_id": chat_model, "prompt": "word " * 500}), 400)
    assert "256" in detail


def test_an_unknown_model_is_404(studio: Studio) -> None:
    check_envelope(studio.post(PATH, json={"model_id": 999999, "prompt": "a"}), 404)


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_model_whose_files_are_gone_or_changed_is_500_without_details(
    studio: Studio, tiny_model: Path, harm: str
) -> None:
    model_id = register(studio, tiny_model, harm, chat=True)
    directory = studio.data_dir / "store" / harm
    if harm == "gone":
        shutil.rmtree(directory)
    else:
        (directory / "config.json").write_text((directory / "config.json").read_text() + " ")
    detail = check_envelope(studio.post(PATH, json={"model_id": model_id, "prompt": "a"}), 500)
    assert "request id" in detail


def test_a_model_of_the_pipelines_lines_is_listed_described_and_deleted(studio: Studio, tiny_model: Path) -> None:
    model_id = register(studio, tiny_model, "line-model", chat=True)
    details = studio.get(f"/api/models/{model_id}").json()
    assert (details["name"], details["base_model"], details["job_id"]) == ("line-model", "tiny", None)
    assert set(details["metrics"].values()) == {None}
    assert studio.http.delete(f"/api/models/{model_id}").json()["status"] == "deleted"
    assert not (studio.data_dir / "store" / "line-model").exists()
    check_envelope(studio.post(PATH, json={"model_id": model_id, "prompt": "a"}), 404)


def test_a_chat_while_a_training_runs_is_answered_and_leaves_it_alone(tmp_path: Path, tiny_model: Path) -> None:
    """Conformance row P6."""
    with in_thread(settings_for(tmp_path), Endless()) as training:
        model_id = register(training, tiny_model, "chat", chat=True)
        training.upload("rows.jsonl", jsonl(TRAINABLE))
        job_id = training.start().json()["job_id"]
        training.until("training")
        assert generate(training, model_id=model_id, prompt="a", max_new_tokens=2)["tokens_generated"] <= 2
        body = {"model": str(model_id), "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        assert training.post("/v1/chat/completions", json=body).status_code == 200
        status = training.status()
        assert (status["status"], status["job_id"]) == ("training", job_id)
        training.post("/api/stop_training")
