"""Text from tokens, stop strings, and one conversation continued by a tiny model."""

from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import CancelledError, EvaluationError
from forge_pipeline.evaluation.continuation import Continuation, TokenText, UntilStop, continue_conversation
from forge_pipeline.models.interruption import interruptible

ASKED = [{"role": "user", "content": "Name a color."}]
TEXTS = {
    "letters": "Blue is a color.",
    "blanks": "  two  blanks \n\n and lines \n",
    "accents": "naïve café, Größe",
    "other scripts": "日本語 と 한국어, Ελληνικά, עברית",
    "emoji of several characters": "👩🏽‍🚀 and 🇪🇺!",
    "combining marks": "e\u0301a\u0308",
    "special tokens": "<|im_start|>user\nhello<|im_end|>",
}


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), tokenizer


def ask(loaded: tuple[Any, Any], **options: Any) -> tuple[Continuation, list[str]]:
    pieces: list[str] = []
    options = {"max_new_tokens": 24} | options
    return continue_conversation(*loaded, ASKED, pieces.append, **options), pieces


@pytest.mark.parametrize("name", TEXTS)
def test_pieces_are_whole_characters_and_together_the_text(name: str, loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    ids = tokenizer(TEXTS[name], add_special_tokens=False)["input_ids"]
    text = TokenText(tokenizer)
    pieces = [text.add(token) for token in ids] + [text.rest()]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    if name == "letters":
        assert len([piece for piece in pieces if piece]) > 2, "it is to come in pieces"


def test_bytes_that_are_no_characters_lose_nothing_of_what_follows(loaded: tuple[Any, Any]) -> None:
    import torch

    tokenizer = loaded[1]
    torch.manual_seed(0)
    ids = torch.randint(0, len(tokenizer), (600,)).tolist()
    text = TokenText(tokenizer)
    whole = "".join([*(text.add(token) for token in ids), text.rest()])
    assert whole == tokenizer.decode(ids, skip_special_tokens=True)


# Name -> what comes in, the stop strings, what may be shown after each, what is left at the end.
STOPS: dict[str, tuple[list[str], list[str], list[str], str]] = {
    "none": (["a", "b"], [], ["a", "b"], ""),
    "whole": (["a", "STOP", "b"], ["STOP"], ["a", "", ""], ""),
    "over several pieces": (["aS", "TO", "P!"], ["STOP"], ["a", "", ""], ""),
    "only begun": (["aST", "AY"], ["STOP"], ["a", "STAY"], ""),
    "begun at the end": (["aST"], ["STOP"], ["a"], "ST"),
    "begun twice": (["aSTST", "OP"], ["STOP"], ["aST", ""], ""),
    "the first of two": (["one two"], ["two", "one"], [""], ""),
    "one inside another": (["a\n", "\nb"], ["\n\nc", "\n"], ["a", ""], ""),
    "of one character": (["ab", "c"], ["b"], ["a", ""], ""),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_text_ends_before_its_stop_string(name: str) -> None:
    given, stop, shown, rest = STOPS[name]
    until = UntilStop(stop)
    assert [until.add(text) for text in given] == shown
    assert until.rest() == rest


def test_what_is_told_in_pieces_is_what_is_made_at_once(loaded: tuple[Any, Any]) -> None:
    from forge_pipeline.evaluation.generation import generate

    found, pieces = ask(loaded)
    assert "".join(pieces) == found.text
    assert [found.text] == generate(*loaded, [ASKED], max_new_tokens=24)


def test_counts_are_those_of_the_tokens(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    found, _ = ask(loaded, max_new_tokens=7)
    rendered = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert (found.prompt_tokens, found.completion_tokens, found.finish_reason) == (len(rendered), 7, "length")


def test_the_same_seed_gives_the_same_text_and_leaves_the_callers_chance_alone(loaded: tuple[Any, Any]) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    texts = [ask(loaded, temperature=1.0, seed=seed)[0].text for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), expected)
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_ends_the_work_as_well(loaded: tuple[Any, Any]) -> None:
    free, _ = ask(loaded, temperature=1.0, seed=1)
    stop = free.text[4:6]
    found, pieces = ask(loaded, temperature=1.0, seed=1, stop=[stop])
    assert found.text == "".join(pieces) == free.text[: free.text.index(stop)]
    assert found.finish_reason == "stop"
    assert found.completion_tokens < free.completion_tokens


def test_the_models_end_of_turn_is_a_stop(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    first, _ = ask(loaded, max_new_tokens=1)
    made = tokenizer(first.text, add_special_tokens=False)["input_ids"][0]
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = made
    try:
        found, _ = ask(loaded)
    finally:
        model.generation_config.eos_token_id = before
    assert (found.finish_reason, found.completion_tokens) == ("stop", 1)


def test_no_limit_is_what_the_context_has_left(loaded: tuple[Any, Any]) -> None:
    found, _ = ask(loaded, max_new_tokens=None)
    assert found.finish_reason == "stop" or found.prompt_tokens + found.completion_tokens == 256


def test_a_conversation_without_room_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(EvaluationError, match="256"):
        continue_conversation(
            *loaded, [{"role": "user", "content": "word " * 300}], lambda _: None, max_new_tokens=None
        )


def test_a_model_is_stopped_between_two_layers(loaded: tuple[Any, Any]) -> None:
    asked: list[bool] = []

    def is_cancelled() -> bool:
        asked.append(True)
        return len(asked) == 3  # the model, its first layer, its second

    with pytest.raises(CancelledError), interruptible(loaded[0], is_cancelled):
        ask(loaded)
    assert len(asked) == 3, "it went on"
    ask(loaded)
    assert len(asked) == 3, "it still asks"
