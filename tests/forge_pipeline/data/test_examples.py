"""Every supported layout, and the reasons for refusing a row."""

import json
from typing import Any

import pytest

from forge_pipeline.data import conversation_of
from forge_pipeline.data.examples import RowError, example_of, unpaired

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}

LAYOUTS: dict[str, tuple[dict[str, Any], str, str]] = {
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


# The columns of public datasets, and what they are: dataset type, format, and the conversation they make.
WEATHER = {"name": "weather", "description": "Now.", "parameters": {"city": {"type": "str"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
NO = {"role": "assistant", "content": "No"}
HH = "\n\nHuman: Hi\n\nAssistant:"
PUBLIC: dict[str, tuple[dict[str, Any], str, str, list[dict[str, Any]] | None]] = {
    "UltraFeedback binarized": (
        {"prompt": "Hi", "prompt_id": "ab", "chosen": [USER, ANSWER], "rejected": [USER, NO],
         "messages": [USER, ANSWER], "score_chosen": 8.0, "score_rejected": 3.5},
        "preference", "conversational", [USER, ANSWER]),
    "HH-RLHF": (
        {"chosen": f"{HH} I'm here", "rejected": f"{HH} I am"},
        "preference", "standard",
        [{"role": "user", "content": HH}, {"role": "assistant", "content": " I'm here"}]),
    "Orca DPO pairs": (
        {"system": "Be brief.", "question": "Hi", "chosen": "Hello", "rejected": "No"},
        "preference", "conversational", [SYSTEM, USER, ANSWER]),
    "distilabel Orca pairs": (
        {"system": "Be brief.", "input": "Hi", "chosen": "Hello", "rejected": "No", "rating": [9.0, 2.0]},
        "preference", "conversational", [SYSTEM, USER, ANSWER]),
    "stack-exchange-paired": (
        {"qid": 1, "question": "Hi", "response_j": "Hello", "response_k": "No"},
        "preference", "conversational", [USER, ANSWER]),
    "peers' names of the answers": (
        {"instruction": "Hi", "chosen_response": "Hello", "rejected_response": "No"},
        "preference", "conversational", [USER, ANSWER]),
    "KTO mix": (
        {"prompt": [USER], "completion": [ANSWER], "label": True},
        "unpaired preference", "conversational", [USER, ANSWER]),
    "LLaMA-Factory KTO": (
        {"messages": [USER, ANSWER], "kto_tag": False},
        "unpaired preference", "conversational", [USER, ANSWER]),
    "PRM800K for TRL": (
        {"prompt": "6 * 7?", "completions": ["6 * 7 = 42", "So 24"], "labels": [True, False]},
        "stepwise supervision", "standard",
        [{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": "6 * 7 = 42\nSo 24"}]),
    "OpenOrca": (
        {"id": "niv.1", "system_prompt": "Be brief.", "question": "Hi", "response": "Hello"},
        "prompt-completion", "conversational", [SYSTEM, USER, ANSWER]),
    "SlimOrca": (
        {"conversations": [{"from": "system", "value": "Be brief.", "weight": None},
                           {"from": "human", "value": "Hi", "weight": 0.0}, {"from": "gpt", "value": "Hello", "weight": 1.0}]},
        "language modeling", "conversational", [SYSTEM, USER, ANSWER]),
    "Dolly": (
        {"instruction": "Hi", "context": "", "response": "Hello", "category": "open_qa"},
        "prompt-completion", "conversational", [USER, ANSWER]),
    "OpenAssistant Guanaco": (
        {"text": "### Human: Hi### Assistant: Hello"}, "language modeling", "standard", None),
    "GSM8K": (
        {"question": "Hi", "answer": "Hello"}, "prompt-completion", "conversational", [USER, ANSWER]),
    "MATH": (
        {"problem": "Hi", "level": "Level 1", "type": "Algebra", "solution": "Hello"},
        "prompt-completion", "conversational", [USER, ANSWER]),
    "MetaMathQA": (
        {"type": "GSM_Rephrased", "query": "Hi", "original_question": "Hey", "response": "Hello"},
        "prompt-completion", "conversational", [USER, ANSWER]),
    "Glaive function calling v2": (
        {"system": "SYSTEM: Be brief.\n",
         "chat": "USER: Hi\n\n\nASSISTANT: <functioncall> {\"name\": \"f\"} <|endoftext|>\n\n\n"
                 "FUNCTION RESPONSE: {\"a\": 1}\n\n\nASSISTANT: Hello <|endoftext|>\n\n\n"},
        "language modeling", "conversational",
        [SYSTEM, USER, {"role": "assistant", "content": '<functioncall> {"name": "f"}'},
         {"role": "tool", "content": '{"a": 1}'}, ANSWER]),
    "xLAM function calling": (
        {"id": 1, "query": "Hi", "answers": json.dumps([CALL["function"]]), "tools": json.dumps([WEATHER])},
        "prompt-completion", "conversational", [USER, {"role": "assistant", "content": ""}]),
    "SQuAD": (
        {"id": "5", "title": "Ada", "context": "Ada wrote it.", "question": "Who?",
         "answers": {"text": ["Ada", "Ada"], "answer_start": [0, 0]}},
        "prompt-completion", "conversational",
        [{"role": "user", "content": "Who?\n\nAda wrote it."}, {"role": "assistant", "content": "Ada"}]),
    "SQuAD 2.0 without an answer": (
        {"context": "Ada wrote it.", "question": "When?", "answers": {"text": [], "answer_start": []}},
        "prompt-completion", "conversational",
        [{"role": "user", "content": "When?\n\nAda wrote it."}, {"role": "assistant", "content": "unanswerable"}]),
    "CNN/DailyMail": (
        {"article": "Hi", "highlights": "Hello", "id": "a"}, "prompt-completion", "conversational", [USER, ANSWER]),
    "XSum": ({"document": "Hi", "summary": "Hello"}, "prompt-completion", "conversational", [USER, ANSWER]),
    "SAMSum": ({"id": "1", "dialogue": "Hi", "summary": "Hello"}, "prompt-completion", "conversational", [USER, ANSWER]),
    "BillSum": ({"text": "Hi", "summary": "Hello"}, "prompt-completion", "conversational", [USER, ANSWER]),
    "WMT": ({"translation": {"en": "Hi", "de": "Hello"}}, "prompt-completion", "conversational", [USER, ANSWER]),
    "a code corpus": ({"content": "x = 1\n", "path": "a.py"}, "language modeling", "standard", None),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_the_layouts_of_public_datasets_are_recognised(name: str) -> None:
    row, dataset_type, dataset_format, conversation = PUBLIC[name]
    shape = example_of(row).shape
    assert (shape.dataset_type, shape.dataset_format) == (dataset_type, dataset_format)
    assert conversation_of(row) == conversation


LABELS: dict[str, tuple[Any, bool]] = {
    "true": (True, True),
    "one": (1, True),
    "minus one": (-1, False),
    "nought as a float": (0.0, False),
    "text": ("False", False),
    "thumbs up": ("👍", True),
    "thumbs down": ("thumbs_down", False),
}


@pytest.mark.parametrize("name", LABELS)
def test_every_spelling_of_a_label_is_read(name: str) -> None:
    value, label = LABELS[name]
    assert example_of({"prompt": "Hi", "completion": "Hello", "label": value}).columns["label"] is label


def test_a_preference_row_is_taken_apart_into_a_good_and_a_bad_answer() -> None:
    pair = example_of({"prompt": "Hi", "chosen": "Hello", "rejected": "No"})
    assert [each.columns for each in unpaired(pair)] == [
        {"prompt": "Hi", "completion": "Hello", "label": True},
        {"prompt": "Hi", "completion": "No", "label": False},
    ]
    assert unpaired(pair)[0].shape.dataset_type == "unpaired preference"


def test_sharegpt_speakers_of_tool_use_become_calls_and_results_and_tools_are_parsed() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Ulm"}})},
            {"from": "observation", "value": "sunny"},
            {"from": "function_response", "value": "warm"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "system": "Be brief.",
        "tools": json.dumps([WEATHER]),
    }
    example = example_of(row)
    assert [message["role"] for message in example.columns["messages"]] == [
        "system", "user", "assistant", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert example.columns["messages"][2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert example.tools == [{"type": "function", "function": WEATHER}]


def test_a_call_that_is_no_json_stays_the_text_that_it_is() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "call(weather)"}]
    assert example_of({"conversations": turns}).columns["messages"][1] == {
        "role": "assistant",
        "content": "call(weather)",
    }


CALLS: dict[str, dict[str, Any]] = {
    "OpenAI, arguments as text": {
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]
    },
    "OpenAI, older": {"function_call": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
    "as text": {"tool_calls": json.dumps([CALL])},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_of_a_call_are_values_because_templates_write_json_themselves(name: str) -> None:
    message = {"role": "assistant", "content": None, **CALLS[name]}
    (call,) = example_of({"messages": [USER, message]}).columns["messages"][1]["tool_calls"]
    assert call["function"] == CALL["function"]


def test_what_a_row_says_to_its_template_comes_along() -> None:
    row = {"messages": [USER, ANSWER], "functions": [WEATHER], "chat_template_kwargs": {"enable_thinking": False}}
    example = example_of(row)
    assert example.template_options == {"enable_thinking": False}
    assert example.tools == [{"type": "function", "function": WEATHER}]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
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
    "same answers to a prompt": ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "are the same"),
    "a node of OpenAssistant's trees": (
        {"message_id": "1", "user_id": "u", "text": "Hi", "role": "prompter", "lang": "en"},
        "one message of a conversation tree",
    ),
    "steps and labels of other lengths": (
        {"prompt": "Hi", "completions": ["a", "b"], "labels": [True]},
        "completions has 2 steps and labels has 1",
    ),
    "a label on a question": ({"messages": [USER], "label": True}, "does not end with an answer"),
    "arguments that are no JSON": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "the arguments of f are not JSON",
    ),
    "a call of nothing": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "names no function",
    ),
    "tools that are no JSON": ({"messages": [USER, ANSWER], "tools": "["}, "tools is not JSON"),
    "tools that are texts of numbers": ({"messages": [USER, ANSWER], "tools": ["1"]}, "expected tool definitions"),
    "SQuAD answers that are numbers": (
        {"question": "Who?", "context": "Ada", "answers": {"text": [1]}},
        "expected a text, or text and answer_start",
    ),
    "half a translation": ({"translation": {"en": "Hi", "de": ""}}, "translation.de is empty"),
    "an unpaired summary": ({"document": "Hi", "summary": " "}, "summary is empty"),
    "blank text": ({"text": "\n"}, "text is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_cannot_be_learnt_from_is_refused_with_a_reason(name: str) -> None:
    row, reason = REFUSED[name]
    with pytest.raises(RowError) as refused:
        example_of(row)
    assert reason in str(refused.value)
    assert conversation_of(row) is None
