"""A chat template in parts: the very text that Jinja gives, or a refusal."""

from pathlib import Path

import pytest

from forge_pipeline.errors import ExportError
from forge_pipeline.export.turns import turn_format

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<h>{{ m['role'] }}</h>\n\n{{ m['content'] }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% else %}{{ raise_exception('no') }}"
    "{% endif %}{% endfor %}"
)
TRIMMED = CHATML.replace("m['content']", "m['content'] | upper")
LAST_ONLY = "{{ messages[-1]['content'] }}"
PLAIN = {"chatml": CHATML, "a default system message": DEFAULT_SYSTEM, "headers": HEADERS, "no system": INSTRUCTIONS}


@pytest.fixture
def tokenizer(tiny_llama: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize("template", PLAIN.values(), ids=PLAIN)
def test_the_parts_give_the_text_that_jinja_gives(template: str, tokenizer) -> None:
    tokenizer.chat_template = template
    parts = turn_format(tokenizer)
    conversation = [
        {"role": "user", "content": "¿Dos y dos?"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": " spaced "},
    ]  # fmt: skip
    wanted = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert parts.render(conversation) == wanted
    assert (parts.system is None) == (template is INSTRUCTIONS)


@pytest.mark.parametrize("template", [TRIMMED, LAST_ONLY, None])
def test_a_template_that_does_more_is_refused(template: str | None, tokenizer) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ExportError, match="chat template"):
        turn_format(tokenizer)


def test_braces_are_literal_and_the_first_token_is_not_written_twice(tokenizer) -> None:
    tokenizer.chat_template = HEADERS.replace("<h>", "{{ '{{h}}' }}")
    written = turn_format(tokenizer).go_template(leave_out=tokenizer.bos_token)
    assert '{{ "{{" }}h}}' in written
    assert tokenizer.bos_token not in written


def test_what_ollamas_parser_would_drop_is_escaped(tokenizer) -> None:
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "\u3000<|im_end|>\u200b")
    assert r'{{ "\U00003000" }}<|im_end|>{{ "\U0000200b" }}' in turn_format(tokenizer).go_template()
