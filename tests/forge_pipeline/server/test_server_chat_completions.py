"""/v1, asked by OpenAI's own Python client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.registry import Registry
from tests.forge_pipeline.server.served import Studio, check_envelope, in_thread, settings_for
from tests.forge_pipeline.server.served_models import register

openai = pytest.importorskip("openai")

PATH = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "Name a color."}]
GREEDY: dict[str, Any] = {"messages": ASKED, "max_completion_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with in_thread(settings_for(tmp_path_factory.mktemp("chat"), playground_models=4)) as studio:
        yield studio


@pytest.fixture(scope="module")
def models(studio: Studio, tiny_model: Path) -> dict[str, int]:
    """Name -> id: an adapter, two that are called the same, one whose name is a number, one that summarizes."""
    ids = {"support": register(studio, tiny_model, "support", adapter=1)}
    ids["twice, older"] = register(studio, tiny_model, "twice", adapter=2)
    registry = Registry(f"sqlite:///{studio.data_dir / 'registry.sqlite'}")
    for label, name, seed, task in (
        ("twice, newer", "twice", 3, "text-generation"),
        ("number", "7", 4, "text-generation"),
        ("summaries", "summaries", 5, "summarization"),
    ):
        made = registry.get_model(register(studio, tiny_model, f"to-be-{label}", adapter=seed))
        assert made is not None
        registry.delete_model(made.id)
        ids[label] = registry.register_model(
            uid=made.uid, name=name, line="a_line", base_model="tiny", size_bytes=1000, path=made.path, task=task
        ).id
    registry.close()
    return ids


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{studio.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_every_chat_model_is_listed_with_its_base(client: Any, models: dict[str, int]) -> None:
    listed = list(client.models.list())
    numbers = [models[name] for name in ("number", "twice, newer", "twice, older")]
    expected = [*(str(number) for number in sorted(numbers, reverse=True)), "support"]
    assert [model.id for model in listed] == [each for name in expected for each in (name, f"{name}:base")]
    assert {model.object for model in listed} == {"model"}
    assert all(model.created > 1_700_000_000 for model in listed)
    assert client.models.retrieve("support:base").id == "support:base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("summaries")


def test_a_conversation_is_continued_and_counted(client: Any, models: dict[str, int], tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "system", "content": "Be short."}, *ASKED]
    made = client.chat.completions.create(model="support", **GREEDY | {"messages": messages})
    (choice,) = made.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    rendered = AutoTokenizer.from_pretrained(tiny_model).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (len(rendered), 12)
    assert made.usage.total_tokens == len(rendered) + 12
    assert (made.object, made.model) == ("chat.completion", "support")
    assert made.system_fingerprint.startswith("sha256:")
    again = [*messages, choice.message, {"role": "user", "content": "Another."}]
    assert client.chat.completions.create(model="support", **GREEDY | {"messages": again}).choices[0].message.content


def said(client: Any, model: str, **options: Any) -> str:
    return str(client.chat.completions.create(model=model, **GREEDY | options).choices[0].message.content)


def test_a_model_is_called_by_name_or_id_and_its_base_beside_it(client: Any, models: dict[str, int]) -> None:
    assert said(client, "support") == said(client, str(models["support"])) != said(client, "support:base")
    assert (
        said(client, "twice") == said(client, str(models["twice, newer"])) != said(client, str(models["twice, older"]))
    )
    assert said(client, "support:base") == said(client, f"{models['number']}:base")


def test_the_same_seed_gives_the_same_text(client: Any, models: dict[str, int]) -> None:
    texts = [said(client, "support", temperature=1.0, seed=seed) for seed in (7, 7, -8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_is_one_or_several(client: Any, models: dict[str, int]) -> None:
    free = said(client, "support")
    for stop in (free[3:5], ["never said", free[3:5]]):
        made = client.chat.completions.create(model="support", stop=stop, **GREEDY)
        assert made.choices[0].message.content == free.split(free[3:5])[0]
        assert made.choices[0].finish_reason == "stop"


def test_a_stream_is_the_same_text_in_chunks(client: Any, models: dict[str, int]) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="support", stream=True, stream_options=options, **GREEDY))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    first, *pieces, last, counts = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(pieces) > 1
    assert "".join(chunk.choices[0].delta.content for chunk in pieces) == said(client, "support")
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("length", None)
    assert (counts.choices, counts.usage.completion_tokens) == ([], 12)
    without = list(client.chat.completions.create(model="support", stream=True, **GREEDY))
    assert without[-1].choices[0].finish_reason == "length"


def test_a_stream_ends_with_openais_word(studio: Studio, models: dict[str, int]) -> None:
    text = studio.post(PATH, json={"model": "support", "stream": True, **GREEDY}).text
    lines = [line for line in text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0].keys() >= {"index", "delta", "finish_reason"}


def test_an_error_in_a_stream_reaches_the_client(
    client: Any, models: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.evaluation import continuation

    def breaks(model: Any, tokenizer: Any, conversation: Any, on_text: Any, **_: Any) -> Any:
        on_text("half an ")
        raise RuntimeError("secret words")

    monkeypatch.setattr(continuation, "continue_conversation", breaks)
    with pytest.raises(openai.APIError) as raised:
        list(client.chat.completions.create(model="support", stream=True, **GREEDY))
    assert "secret" not in str(raised.value)


REFUSED: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "functions": [{"name": "f"}],
    "response_format": {"type": "json_object"},
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": 1},
    "n": 2,
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "modalities": ["text", "audio"],
    "store": True,
    "reasoning_effort": "low",
    "best_of": 1,
    "echo": False,
    "model": "",
    "messages": [],
    "temperature": 2.5,
    "top_p": 0,
    "stop": ["a", "b", "c", "d", "e"],
    "max_completion_tokens": 0,
    "max_tokens": 5000,
    "stream_options": {"include_usage": True},
    "stream": "yes",
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_offered_is_400_and_named(studio: Studio, models: dict[str, int], field: str) -> None:
    reply = studio.post(PATH, json={"model": "support", "messages": ASKED, field: REFUSED[field]})
    assert field in check_envelope(reply, 400)


SAID: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "a field that is not offered": ({"n": 2}, "n", "n: is not offered by this server"),
    "a list that is too long": ({"stop": list("abcde")}, "stop", "List should have at most 4 items"),
    "no content": (
        {"messages": [{"role": "user", "content": None}]},
        "messages.0.content",
        "a valid string or a valid",
    ),
    "no such model": ({"model": "nobody"}, None, "There is no model 'nobody'"),
}


@pytest.mark.parametrize("name", SAID)
def test_openais_client_says_what_is_wrong(client: Any, models: dict[str, int], name: str) -> None:
    changes, field, words = SAID[name]
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**{"model": "support", "messages": ASKED} | changes)
    assert words in str(raised.value)
    assert (raised.value.param, raised.value.type) == (field, "invalid_request_error")


def test_a_model_can_be_looked_up_by_whatever_a_request_may_call_it(client: Any, models: dict[str, int]) -> None:
    number = str(models["support"])
    assert client.models.retrieve(number).id == number
    assert client.models.retrieve(f"{number}:base").id == f"{number}:base"


MESSAGES: dict[str, Any] = {
    "a tool's": {"role": "tool", "content": "4", "tool_call_id": "a"},
    "with a tool call": {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]},
    "with an image": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]},
    "without content": {"role": "user"},
    "with no text": {"role": "assistant", "content": None},
    "of nobody": {"content": "a"},
    "with a name": {"role": "user", "content": "a", "name": "me"},
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_would_not_be_read_whole_is_400(studio: Studio, models: dict[str, int], name: str) -> None:
    reply = studio.post(PATH, json={"model": "support", "messages": [*ASKED, MESSAGES[name]]})
    assert "messages.1" in check_envelope(reply, 400)


def test_what_asks_for_nothing_is_let_pass(client: Any, models: dict[str, int]) -> None:
    nothing = {
        "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "logit_bias": None, "user": "me", "stop": None, "seed": None,
        "safety_identifier": "me", "prompt_cache_key": "mine", "reasoning_effort": "none",
    }  # fmt: skip
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name a "}, {"type": "text", "text": "color."}]}]
    assert said(client, "support", extra_body=nothing, messages=parts) == said(client, "support")


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no such name": ({"model": "nobody"}, 404, "/v1/models"),
    "no such id": ({"model": "99999"}, 404, "99999"),
    "no number that fits": ({"model": "9" * 300}, 404, "999"),
    "a model that summarizes": ({"model": "summaries"}, 400, "/api/playground/generate"),
    "its base": ({"model": "summaries:base"}, 400, "/api/playground/generate"),
    "no room": ({"messages": [{"role": "user", "content": "word " * 300}]}, 400, "256"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_answered_says_why(studio: Studio, models: dict[str, int], name: str) -> None:
    changes, status, word = WRONG[name]
    for stream in (False, True):
        reply = studio.post(PATH, json={"model": "support", "messages": ASKED, "stream": stream, **changes})
        assert word in check_envelope(reply, status)
