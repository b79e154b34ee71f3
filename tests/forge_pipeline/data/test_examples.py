"""Every supported layout, and the reasons for refusing a row."""

import pytest

from forge_pipeline.data import conversation_of
from forge_pipeline.data.examples import RowError, example_of

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}

LAYOUTS = {
    "chat": ({"messages": [USER, ANSWER]}, "language modeling", "conversational"),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        "language modeling",
        "conversational",
    ),
    "Alpaca": ({"instruction": "Hi", "input": "", "output": "Hello"}, "prompt-completion", "conversational"),
    "instruction and response": ({"instruction": "Hi", "response": "Hello"}, "prompt-completion", "conversational"),
    "User and Assistant": ({"User": "Hi", "Assistant": "Hello"}, "prompt-completion", "conversational"),
    "question and answer": ({"question": "Hi", "answer": "Hello"}, "prompt-completion", "conversational"),
    "input and output": ({"input": "Hi", "output": "Hello"}, "prompt-completion", "conversational"),
    "prompt and response": ({"prompt": "Hi", "response": "Hello"}, "prompt-completion", "conversational"),
    "prompt and completion": ({"prompt": "Hi", "completion": "Hello"}, "prompt-completion", "standard"),
    "chat in prompt and completion": (
        {"prompt": [USER], "completion": [ANSWER]},
        "prompt-completion",
        "conversational",
    ),
    "preference": ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, "preference", "standard"),
    "chat preference": (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "No"}]},
        "preference",
        "conversational",
    ),
    "preference with implicit prompt": (
        {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]},
        "preference",
        "conversational",
    ),
    "preference with an instruction": (
        {"instruction": "Hi", "chosen": "Hello", "rejected": "No"},
        "preference",
        "conversational",
    ),
    "preference that repeats its prompt": (
        {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No"}]},
        "preference",
        "conversational",
    ),
    "ShareGPT preference": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        "preference",
        "conversational",
    ),
    "plain turns": ({"conversation": ["Hi", "Hello"]}, "language modeling", "conversational"),
    "completion with label": (
        {"prompt": "Hi", "completion": "Hello", "label": True},
        "unpaired preference",
        "standard",
    ),
    "completion with label from CSV": (
        {"prompt": "Hi", "completion": "Hello", "label": "false"},
        "unpaired preference",
        "standard",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised_and_read_as_the_same_conversation(name: str) -> None:
    row, dataset_type, dataset_format = LAYOUTS[name]
    shape = example_of(row).shape
    assert (shape.dataset_type, shape.dataset_format) == (dataset_type, dataset_format)
    assert conversation_of(row) == [USER, ANSWER]


def test_text_is_language_modeling_and_no_conversation() -> None:
    assert example_of({"text": "  def f():\n\treturn 1\n"}).columns == {"text": "  def f():\n\treturn 1\n"}
    assert conversation_of({"text": "some text"}) is None


def test_a_prompt_alone_is_prompt_only_and_keeps_its_answer_column_out_of_the_conversation() -> None:
    row = {"prompt": "6 * 7?", "answer": "42"}
    assert example_of(row).shape.dataset_type == "prompt-only"
    assert conversation_of(row) == [{"role": "user", "content": "6 * 7?"}]


def test_the_input_of_alpaca_and_the_context_of_dolly_are_part_of_the_question() -> None:
    alpaca = {"instruction": "Indent:", "input": "if x:\n  y", "output": "ok"}
    dolly = {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}
    assert conversation_of(alpaca)[0]["content"] == "Indent:\n\nif x:\n  y"  # type: ignore[index]
    assert conversation_of(dolly)[0]["content"] == "Who?\n\nAda wrote it."  # type: ignore[index]


def test_white_space_and_code_come_through_unchanged() -> None:
    code = "def f():\n\n\t return  1\r\n "
    assert conversation_of({"question": code, "answer": code}) == [
        {"role": "user", "content": code},
        {"role": "assistant", "content": code},
    ]


def test_a_system_column_becomes_the_first_message() -> None:
    rows = (
        {"system": "Be brief.", "question": "Hi", "answer": "Hello"},
        {"system": "Be brief.", "messages": [USER, ANSWER]},
    )
    for row in rows:
        assert conversation_of(row) == [{"role": "system", "content": "Be brief."}, USER, ANSWER]


def test_text_parts_of_list_content_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert conversation_of({"messages": [USER, {"role": "assistant", "content": parts}]}) == [USER, ANSWER]


def test_a_tool_call_without_content_is_a_message() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    message = example_of({"messages": [USER, call]}).columns["messages"][1]
    assert message == {"role": "assistant", "content": "", "tool_calls": call["tool_calls"]}


def test_a_number_is_an_answer() -> None:
    assert conversation_of({"question": "6 * 7?", "answer": 42})[1]["content"] == "42"  # type: ignore[index]


def test_an_implicit_prompt_in_text_ends_before_the_space_of_the_answer() -> None:
    row = {"chosen": "Human: Hi Assistant: Hello", "rejected": "Human: Hi Assistant: No"}
    assert example_of(row).columns == {
        "prompt": "Human: Hi Assistant:",
        "chosen": " Hello",
        "rejected": " No",
    }


def test_a_label_that_is_no_yes_or_no_does_not_make_a_row_unpaired_preference() -> None:
    row = {"prompt": "Hi", "completion": "Hello", "label": "positive"}
    assert example_of(row).shape.dataset_type == "prompt-completion"


REFUSED = {
    "unknown columns": ({"title": "a", "body": "b"}, "columns title, body form no known dataset layout"),
    "no columns": ({}, "(none)"),
    "null content": (
        {"messages": [USER, {"role": "assistant", "content": None}]},
        r"messages[1] (assistant) has no content",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "content part of type 'image_url'",
    ),
    "unknown role": ({"messages": [{"role": "narrator", "content": "x"}]}, "the role 'narrator'"),
    "no messages": ({"messages": []}, "messages has no messages"),
    "blank messages": ({"messages": [{"role": "user", "content": "  "}]}, "holds no text"),
    "message is a number": ({"messages": [USER, 3]}, "messages[1] is int"),
    "empty answer": ({"instruction": "Hi", "output": " "}, "output is empty"),
    "answer is a list": ({"question": "Hi", "answer": ["a"]}, "answer is list"),
    "answers that are lists of text": (
        {"prompt": "Hi", "chosen": ["Hello"], "rejected": ["No"]},
        "chosen[0] is str; expected a message",
    ),
    "conversation that is text": (
        {"conversations": "Hi", "chosen": "Hello", "rejected": "No"},
        "conversations is str; expected a list of messages",
    ),
    "same answers": ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "then differ"),
    "mixed answers": ({"chosen": "a", "rejected": [ANSWER]}, "different kinds"),
    "blank text": ({"text": "\n"}, "text is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_cannot_be_learnt_from_is_refused_with_a_reason(name: str) -> None:
    row, reason = REFUSED[name]
    with pytest.raises(RowError) as refused:
        example_of(row)
    assert reason in str(refused.value)
    assert conversation_of(row) is None
