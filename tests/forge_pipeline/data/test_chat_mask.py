"""Which tokens of a conversation are learnt, with and without generation tags."""

from collections.abc import Callable
from typing import Any

import pytest

from forge_pipeline.data.chat_mask import ChatMasker
from forge_pipeline.errors import DataError

CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello\n\n  there"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye!"},
]
TAGGED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNTAGGED = TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def learnt(tokenizer: Any, messages: list[dict[str, Any]], *, learn_from: int = 0, assistant_only: bool = True) -> str:
    """The learnt text, with ``|`` where something between is not learnt."""
    masker = ChatMasker.of(tokenizer)
    tokens = masker.tokens(messages, learn_from=learn_from, assistant_only=assistant_only, tools=None)
    pieces: list[list[int]] = [[]]
    for token, on in zip(tokens.input_ids, tokens.mask, strict=True):
        if on:
            pieces[-1].append(token)
        elif pieces[-1]:
            pieces.append([])
    return "|".join(tokenizer.decode(piece) for piece in pieces if piece)


def test_with_smollm2s_template_the_assistants_turns_are_learnt_end_of_turn_included(tokenizer: Any) -> None:
    assert learnt(tokenizer, CONVERSATION) == "Hello\n\n  there<|im_end|>|Bye!<|im_end|>"


def test_the_tokens_are_the_templates_own(tokenizer: Any) -> None:
    tokens = ChatMasker.of(tokenizer).tokens(CONVERSATION, learn_from=0, assistant_only=True, tools=None)
    assert tokens.input_ids == tokenizer.apply_chat_template(CONVERSATION, return_dict=True)["input_ids"]


def test_generation_tags_and_rendering_by_prefix_give_the_same_mask(make_tokenizer: Callable[..., Any]) -> None:
    masks = [
        ChatMasker.of(make_tokenizer(template)).tokens(CONVERSATION, learn_from=0, assistant_only=True, tools=None)
        for template in (TAGGED, UNTAGGED)
    ]
    assert masks[0] == masks[1]
    assert ChatMasker.of(make_tokenizer(TAGGED)).template_marks_turns


@pytest.mark.parametrize("template", [TAGGED, UNTAGGED], ids=["tagged", "untagged"])
def test_of_prompt_and_completion_only_the_completion_is_learnt(
    template: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(template)
    assert learnt(tokenizer, CONVERSATION, learn_from=3) == "Bye!<|im_end|>"
    assert learnt(tokenizer, CONVERSATION, learn_from=3, assistant_only=False) == "Bye!<|im_end|>\n"


def test_without_assistant_only_everything_is_learnt(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    assert learnt(tokenizer, CONVERSATION, assistant_only=False) == text


def test_a_token_that_reaches_from_the_template_into_the_answer_is_learnt(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(merges=(("Ċ", "Ċ"),))  # a byte-level Ċ is a line break
    indented = [CONVERSATION[0], {"role": "assistant", "content": "\nx"}]
    assert learnt(tokenizer, indented) == "\n\nx<|im_end|>"


def test_turns_that_end_in_a_question_leave_it_unlearnt(tokenizer: Any) -> None:
    assert learnt(tokenizer, CONVERSATION[:3]) == "Hello\n\n  there<|im_end|>"
    assert learnt(tokenizer, CONVERSATION[:1]) == ""


def test_an_assistant_who_speaks_first_is_context(tokenizer: Any) -> None:
    opening = [{"role": "assistant", "content": "Welcome"}, *CONVERSATION[:2]]
    assert learnt(tokenizer, opening) == "Hello\n\n  there<|im_end|>"


REFUSED = {
    "no template": (None, "has no chat template; set model.chat_template"),
    "no end of turn": (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "does not end with a special end-of-turn token",
    ),
    "end of turn outside the tags": (
        TAGGED.replace(" + '<|im_end|>' }}{% endgeneration %}", " }}{% endgeneration %}<|im_end|>"),
        "does not end with a special end-of-turn token",
    ),
    "tags that mark nothing": (
        UNTAGGED + "{% if false %}{% generation %}{% endgeneration %}{% endif %}",
        "mark nothing of the assistant's turns",
    ),
    "history rendered differently": (
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and not loop.last %}{{ '(said) ' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "renders the conversation up to message 1 differently",
    ),
    "roles refused": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_does_not_tell_the_turns_apart_is_refused(
    name: str, make_tokenizer: Callable[..., Any]
) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(DataError) as refused:
        learnt(make_tokenizer(template), CONVERSATION)
    assert reason in str(refused.value)
