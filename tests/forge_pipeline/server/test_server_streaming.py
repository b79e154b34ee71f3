"""Answers as they are made; who goes away, who waits, and what stays in memory."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_pipeline.errors import ConfigError
from forge_pipeline.models.memory import parse_memory
from forge_pipeline.server import app as server_app
from forge_pipeline.server.playground import Playground
from forge_pipeline.server.settings import ServerSettings
from tests.forge_pipeline.server.served import Studio, check_envelope, in_thread, settings_for, wait_for
from tests.forge_pipeline.server.served_models import register, with_long_context

PATH = "/api/playground/generate"
PROMPT = {"prompt": "Name a color.", "temperature": 0}
ENDLESS = {"max_new_tokens": 4096, **PROMPT}  # ten seconds and more for a model that repeats itself


@pytest.fixture(scope="module")
def playgrounds() -> Iterator[list[Playground]]:
    """The playgrounds of the servers that a test starts, in the order in which they started."""
    made: list[Playground] = []

    class Seen(Playground):
        def __init__(self, settings: ServerSettings) -> None:
            super().__init__(settings)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app, "Playground", Seen)
        yield made


@pytest.fixture(scope="module")
def studio(playgrounds: list[Playground], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    settings = settings_for(tmp_path_factory.mktemp("streaming"), playground_models=3, playground_wait=2.0)
    with in_thread(settings) as studio:
        yield studio


@pytest.fixture(scope="module")
def playground(studio: Studio, playgrounds: list[Playground]) -> Playground:
    return playgrounds[0]


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_long_context(tiny_model, tmp_path_factory.mktemp("long") / "base")


@pytest.fixture(scope="module")
def model(studio: Studio, base: Path) -> int:
    return register(studio, base, "tuned", adapter=1)


@pytest.fixture(scope="module")
def endless(studio: Studio, base: Path) -> int:
    """The untrained model itself, which without sampling says one thing over and over."""
    return register(studio, base, "endless")


def events(studio: Studio, **body: Any) -> list[tuple[str, Any]]:
    """(event, data) of a stream."""
    with studio.http.stream("POST", PATH, json=body | {"stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        return list(parsed(reply))


def parsed(reply: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = "message"
    for line in reply.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
            name = "message"


def test_a_stream_is_the_whole_answer_in_pieces(studio: Studio, model: int) -> None:
    body = {"model_id": model, "max_new_tokens": 24, **PROMPT}
    whole = studio.post(PATH, json=body).json()
    *pieces, (last, done) = events(studio, **body)
    assert {name for name, _ in pieces} == {"message"}
    assert len(pieces) > 1
    assert "".join(data["text"] for _, data in pieces) == whole["generated_text"]
    assert last == "done"
    assert done | {"generation_time_ms": 0} == whole | {"generation_time_ms": 0}


def test_what_is_wrong_before_the_first_piece_has_its_own_status(studio: Studio, model: int) -> None:
    body = {"model_id": model, "stream": True, **PROMPT}
    check_envelope(studio.post(PATH, json=body | {"model_id": 999}), 404)
    check_envelope(studio.post(PATH, json=body | {"prompt": "word " * 20_000}), 400)
    assert "context" in check_envelope(studio.post(PATH, json=body | {"context": "a"}), 400)


def test_what_goes_wrong_afterwards_is_an_event(studio: Studio, model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge_pipeline.evaluation import continuation

    def breaks(model: Any, tokenizer: Any, conversation: Any, on_text: Any, **_: Any) -> Any:
        on_text("half an ")
        raise RuntimeError("secret words")

    monkeypatch.setattr(continuation, "continue_conversation", breaks)
    (_, piece), (name, error) = events(studio, model_id=model, **PROMPT)
    assert (piece["text"], name) == ("half an ", "error")
    assert error.keys() == {"error", "detail", "status_code"}
    assert error["status_code"] == 500
    assert "secret" not in error["detail"]


def leave_a_stream(studio: Studio, model: int) -> None:
    with studio.http.stream("POST", PATH, json={"model_id": model, "stream": True, **ENDLESS}) as reply:
        next(parsed(reply))


def leave_a_whole_answer(studio: Studio, model: int) -> None:
    with pytest.raises(httpx.ReadTimeout):
        studio.post(PATH, json={"model_id": model, **ENDLESS}, timeout=0.7)


@pytest.mark.parametrize("leave", [leave_a_stream, leave_a_whole_answer])
def test_a_client_that_goes_away_holds_nobody_up(studio: Studio, endless: int, leave: Any) -> None:
    studio.post(PATH, json={"model_id": endless, "max_new_tokens": 1, **PROMPT})  # it is loaded
    leave(studio, endless)
    began = time.monotonic()
    reply = studio.post(PATH, json={"model_id": endless, "max_new_tokens": 1, **PROMPT})
    assert reply.status_code == 200
    assert time.monotonic() - began < 1


def test_who_waits_too_long_for_the_turn_is_told_to_come_again(studio: Studio, endless: int) -> None:
    with studio.http.stream("POST", PATH, json={"model_id": endless, "stream": True, **ENDLESS}) as busy:
        pieces = parsed(busy)
        next(pieces)
        for stream in (False, True):
            reply = studio.post(PATH, json={"model_id": endless, "stream": stream, **PROMPT})
            assert "busy" in check_envelope(reply, 503)
            assert int(reply.headers["Retry-After"]) > 0
        assert studio.get("/api/health").elapsed.total_seconds() < 1
    assert studio.post(PATH, json={"model_id": endless, "max_new_tokens": 1, **PROMPT}).status_code == 200


def test_a_model_asked_for_by_many_is_loaded_once(studio: Studio, playground: Playground, tiny_model: Path) -> None:
    fresh = register(studio, tiny_model, "asked-by-many")
    before = playground.models.loads
    with ThreadPoolExecutor(4) as pool:
        body = {"model_id": fresh, "max_new_tokens": 4, **PROMPT}
        replies = list(pool.map(lambda _: studio.post(PATH, json=body), range(4)))
    assert [reply.status_code for reply in replies] == [200] * 4
    assert len({reply.json()["generated_text"] for reply in replies}) == 1
    assert playground.models.loads == before + 1


def test_the_least_recently_used_model_is_given_up(studio: Studio, playground: Playground, base: Path) -> None:
    ask = {"max_new_tokens": 1, **PROMPT}
    adapters = [register(studio, base, f"of-many-{number}", adapter=10 + number) for number in range(4)]
    for model in adapters[:3]:
        studio.post(PATH, json={"model_id": model, **ask})
    loads, size = playground.models.loads, playground.models.size
    for model in (adapters[0], adapters[3], adapters[0]):
        studio.post(PATH, json={"model_id": model, **ask})
    assert playground.models.count == 3
    assert playground.models.loads == loads, "the base under them is one"
    assert playground.models.size == size
    assert studio.http.delete(f"/api/models/{adapters[3]}").status_code == 200
    wait_for(lambda: playground.models.count == 2, timeout=10)
    assert playground.models.size < size


@pytest.fixture(scope="module")
def small(
    studio: Studio, playgrounds: list[Playground], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Studio, Playground]]:
    """A server with memory for one tiny model and an adapter or two; one weighs 56 kB, an adapter 25 kB."""
    settings = settings_for(tmp_path_factory.mktemp("small"), playground_models=9, playground_memory=90_000)
    with in_thread(settings) as studio:
        yield studio, playgrounds[-1]


def test_memory_is_bounded_in_bytes(small: tuple[Studio, Playground], tiny_model: Path) -> None:
    studio, playground = small
    ask = {"max_new_tokens": 1, **PROMPT}
    full, first, second = (
        register(studio, tiny_model, name, adapter=seed) for name, seed in (("full", None), ("a", 1), ("b", 2))
    )
    for model, counts in ((full, 1), (first, 1), (second, 1), (full, 1)):
        assert studio.post(PATH, json={"model_id": model, **ask}).status_code == 200
        assert playground.models.size <= 90_000
        assert playground.models.count == counts


def test_a_model_beyond_the_limit_is_refused_and_takes_nobodys_place_for_long(
    small: tuple[Studio, Playground], llama_maker: Any, tmp_path: Path
) -> None:
    studio, playground = small
    large = register(studio, llama_maker(tmp_path / "large", hidden_size=128), "large")
    detail = check_envelope(studio.post(PATH, json={"model_id": large, **PROMPT}), 400)
    assert "FORGE_PLAYGROUND_MEMORY" in detail
    assert "90 kB" in detail
    assert playground.models.count == 0


def test_memory_that_runs_out_is_given_back(
    studio: Studio, playground: Playground, model: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.evaluation import continuation

    def too_much(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(continuation, "continue_conversation", too_much)
        check_envelope(studio.post(PATH, json={"model_id": model, **PROMPT}), 503)
    assert playground.models.size == 0
    assert studio.post(PATH, json={"model_id": model, "max_new_tokens": 1, **PROMPT}).status_code == 200


def test_a_server_that_ends_does_not_wait_for_long_answers(
    playgrounds: list[Playground], base: Path, tmp_path: Path
) -> None:
    with in_thread(settings_for(tmp_path)) as studio:
        model = register(studio, base, "tuned")
        with studio.http.stream("POST", PATH, json={"model_id": model, "stream": True, **ENDLESS}) as reply:
            pieces = parsed(reply)
            next(pieces)
            began = time.monotonic()
            playgrounds[-1].close()
            assert time.monotonic() - began < 1
            name, error = list(pieces)[-1]
        assert (name, error["status_code"]) == ("error", 503)
        check_envelope(studio.post(PATH, json={"model_id": model, **PROMPT}), 503)


def test_the_limit_is_read_with_its_unit() -> None:
    settings = ServerSettings.read({"FORGE_PLAYGROUND_MEMORY": "4GiB", "FORGE_PLAYGROUND_WAIT": "5"})
    assert (settings.playground_memory, settings.playground_wait) == (parse_memory("4GiB"), 5.0)
    assert ServerSettings.read({}).playground_memory is None
    with pytest.raises(ConfigError, match="FORGE_PLAYGROUND_MEMORY"):
        ServerSettings.read({"FORGE_PLAYGROUND_MEMORY": "a lot"})


def test_the_stream_is_documented(studio: Studio) -> None:
    paths = studio.get("/openapi.json").json()["paths"]
    for path in (PATH, "/v1/chat/completions"):
        replies = paths[path]["post"]["responses"]
        assert set(replies["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "503" in replies
