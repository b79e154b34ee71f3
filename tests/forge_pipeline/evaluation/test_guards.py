"""Each known guard's prompt, and its verdict read from a model whose probabilities are known exactly."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config.evaluation import SafetySection
from forge_pipeline.evaluation.guards import GUARDS, ScorerUnavailableError, guard_for
from forge_pipeline.evaluation.scorers import Score, build_scorer

PROMPT, ANSWER = "Where is the key?", "Under the mat."
PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[verdict]"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}|{% endfor %}{% endfor %}[verdict]"
GRANITE = (
    "{{ guardian_config['risk_name'] }}: {% for m in messages %}{{ m['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}[verdict]{% endif %}"
)
GRANITE_33 = (
    "{{ guardian_config['criteria_id'] }} <score> {{ 'thinks' if think else 'says' }}: "
    "{% for m in messages %}{{ m['content'] }}|{% endfor %}[verdict]"
)
GUIDED = "{{ guideline }}{% for m in messages %}{{ m['content'] }}|{% endfor %}[verdict]"
WORDS = (
    "safe", "unsafe", "Yes", "No", " yes", " no", " Safe", " Controversial", " Unsafe", "S9", "\n\n", "[verdict]",
    "<score>", ":",
)  # fmt: skip
Table = Mapping[str, Mapping[str, float]]


@pytest.fixture
def written_guard(tokenizer: Any, tmp_path: Path) -> Callable[..., str]:
    """Saves a guard whose next token depends on the last one alone, with the probabilities of a table."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(name: str, table: Table, template: str | None) -> str:
        words = deepcopy(tokenizer)
        words.add_tokens(list(WORDS))
        words.chat_template = template
        size = len(words)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size, hidden_size=size + size % 2, intermediate_size=2, num_hidden_layers=1,
                num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=8192, pad_token_id=0,
                eos_token_id=words.eos_token_id,
            )
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # the layer adds nothing: a token's one-hot row passes through
            model.model.norm.weight.fill_(1.0)
            model.model.embed_tokens.weight[:, :size] = torch.eye(size)
            width = model.config.hidden_size
            for last, follows in table.items():
                rest = (1 - sum(follows.values())) / (size - len(follows))
                row = torch.full((size,), max(rest, 1e-9))
                for word, share in follows.items():
                    row[one_token(words, word)] = share
                model.lm_head.weight[:, one_token(words, last)] = row.log() / width**0.5
        path = tmp_path / name
        model.save_pretrained(path)
        words.save_pretrained(path)
        return str(path)

    return build


def one_token(words: Any, text: str) -> int:
    (token,) = words(text, add_special_tokens=False)["input_ids"]
    return int(token)


VERDICTS = {
    "llama guard 3, safe": (
        "Llama-Guard-3-8B", PLAIN, {"\n\n": {"safe": 0.9, "unsafe": 0.05}}, Score("safe", 0.05 / 0.95),
    ),
    "llama guard 4, unsafe, with its hazard, in content parts": (
        "Llama-Guard-4-12B",
        PARTS,
        {"\n\n": {"safe": 0.05, "unsafe": 0.9}, "\n": {"S9": 0.99}, "S9": {"<|im_end|>": 0.99}},
        Score("unsafe", 0.9 / 0.95, hazards=("S9",)),
    ),
    "shieldgemma by its guideline": (
        "shieldgemma-2b", GUIDED, {"[verdict]": {"Yes": 0.6, "No": 0.2}}, Score("unsafe", 0.75),
    ),
    "shieldgemma without a template": (
        "shieldgemma-9b", None, {"\n": {"Yes": 0.2, "No": 0.6}, "\n\n": {"Yes": 0.2, "No": 0.6}}, Score("safe", 0.25),
    ),
    "granite guardian 3.1": (
        "granite-guardian-3.1-8b", GRANITE, {"[verdict]": {"Yes": 0.9, "No": 0.1}}, Score("unsafe", 0.9),
    ),
    "granite guardian 3.3 in its tags": (
        "granite-guardian-3.3-8b", GRANITE_33, {"<score>": {" yes": 0.1, " no": 0.8}}, Score("safe", 1 / 9),
    ),
    "wildguard": (
        "wildguard", None, {":": {" yes": 0.8, " no": 0.1}}, Score("unsafe", 8 / 9, refused=True),
    ),
    "qwen3guard: controversial counts as unsafe": (
        "Qwen3Guard-Gen-0.6B",
        PLAIN,
        {":": {" Safe": 0.3, " Controversial": 0.4, " Unsafe": 0.2}},
        Score("unsafe", 6 / 9),
    ),
    "a guard that would write something else": (
        "Llama-Guard-3-1B", PLAIN, {"\n\n": {"safe": 0.3, "unsafe": 0.1}}, Score("unscored"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "template", "table", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_of_each_known_guard(
    written_guard: Callable[..., str], name: str, template: str | None, table: Table, expected: Score
) -> None:
    section = SafetySection(enabled=True, classifier=written_guard(name, table, template), min_classifier_confidence=0)
    (score,) = build_scorer(section).score([(PROMPT, ANSWER)])
    assert (score.label, score.refused, score.hazards) == (expected.label, expected.refused, expected.hazards)
    if expected.unsafe_probability is None:
        assert score == expected
    else:
        assert score.unsafe_probability == pytest.approx(expected.unsafe_probability, rel=1e-3)


PROMPTS = {
    "shieldgemma": [
        "You are a policy expert", "<start_of_turn>\nHuman Question: Where is the key?\n<end_of_turn>",
        "<start_of_turn>\nChatbot Response: Under the mat.\n<end_of_turn>", '* "No Harassment": The chatbot shall not',
        "Your answer must start with 'Yes' or 'No'",
    ],
    "wildguard": [
        "<s><|user|>\n[INST] You are a classifier", "Human user:\nWhere is the key?\n\nAI assistant:\nUnder the mat.",
        "---\n\nAnswers: [/INST]\n<|assistant|>\nHarmful request: yes\nResponse refusal: yes\nHarmful response:",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "parts"), PROMPTS.items(), ids=PROMPTS)
def test_a_prompt_without_a_template_is_that_of_the_model_card(tokenizer: Any, name: str, parts: list[str]) -> None:
    asked: list[str] = []

    def ask(text: str, words: tuple[str, ...]) -> dict[str, float]:
        asked.append(text)
        return dict.fromkeys(words, 1 / len(words))

    words = deepcopy(tokenizer)
    words.chat_template = None
    guard_for(name, "auto").read(ask, lambda text, tokens: "", words, PROMPT, ANSWER)
    for part in parts:
        assert any(part in text for text in asked), (part, asked[-1])


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("meta-llama/Llama-Guard-3-8B", "llama-guard"),
        ("meta-llama/Llama-Guard-4-12B", "llama-guard"),
        ("google/shieldgemma-2b", "shieldgemma"),
        ("ibm-granite/granite-guardian-3.3-8b", "granite-guardian"),
        ("allenai/wildguard", "wildguard"),
        ("Qwen/Qwen3Guard-Gen-4B", "qwen3guard"),
    ],
)
def test_a_guard_is_known_by_its_name(model: str, kind: str) -> None:
    assert guard_for(model, "auto").name == kind
    assert guard_for("./copy", kind).name == kind


@pytest.mark.parametrize(
    "model",
    ["Qwen/Qwen3-4B", "google/shieldgemma-2-4b-it", "ibm-granite/granite-guardian-4.1-8b", "Qwen/Qwen3Guard-Stream-4B"],
)
def test_an_unknown_guard_is_refused_and_the_known_ones_are_named(model: str) -> None:
    with pytest.raises(ScorerUnavailableError) as refused:
        guard_for(model, "auto")
    assert all(guard.name in str(refused.value) for guard in GUARDS)
    assert "classifier_format" in str(refused.value)


def test_a_template_that_leaves_out_the_answer_is_refused(written_guard: Callable[..., str]) -> None:
    path = written_guard("Llama-Guard-3-8B", {}, "{{ messages[0]['content'] }}[verdict]")
    with pytest.raises(ScorerUnavailableError, match="leaves out the prompt or the answer"):
        build_scorer(SafetySection(enabled=True, classifier=path))
