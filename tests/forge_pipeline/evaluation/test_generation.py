"""Batched generation against one conversation at a time."""

from typing import Any

import pytest

from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation import generate

COUNTRIES = ("France", "Spain", "Kenya", "Nepal", "Iran")


def asked(country: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


def test_a_model_that_learned_the_answers_gives_them(tuned_model: Any, tokenizer: Any) -> None:
    answers = generate(tuned_model, tokenizer, [asked("France"), asked("Nepal")], max_new_tokens=24)
    assert answers == ["It is Paris.", "It is Kathmandu."]


def test_batches_of_any_size_give_the_same_answers_in_order(base_model: Any, tokenizer: Any) -> None:
    conversations = [asked(country) for country in COUNTRIES] + [[{"role": "user", "content": "Hi"}]]
    alone = [generate(base_model, tokenizer, [c], max_new_tokens=8)[0] for c in conversations]
    assert generate(base_model, tokenizer, conversations, max_new_tokens=8, batch_size=4) == alone


def test_sampling_follows_its_seed_and_leaves_the_callers_random_state(base_model: Any, tokenizer: Any) -> None:
    import torch

    def sample(seed: int) -> list[str]:
        return generate(base_model, tokenizer, [asked("Peru")] * 2, max_new_tokens=12, temperature=1.5, seed=seed)

    before = torch.random.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_models_own_sampling_settings_do_not_apply(base_model: Any, tokenizer: Any) -> None:
    plain = generate(base_model, tokenizer, [asked("Cuba")], max_new_tokens=8)
    own = base_model.generation_config
    before = own.to_dict()
    try:
        own.do_sample, own.temperature, own.repetition_penalty, own.no_repeat_ngram_size = True, 5.0, 9.0, 1
        assert generate(base_model, tokenizer, [asked("Cuba")], max_new_tokens=8) == plain
    finally:
        base_model.generation_config = type(own).from_dict(before)


def test_model_and_tokenizer_come_back_as_they_were(base_model: Any, tokenizer: Any) -> None:
    tokenizer.padding_side = "right"
    base_model.train()
    try:
        generate(base_model, tokenizer, [asked("Iraq"), asked("Qatar")], max_new_tokens=4)
        assert base_model.training
        assert tokenizer.padding_side == "right"
    finally:
        base_model.eval()


def test_progress_counts_conversations(base_model: Any, tokenizer: Any) -> None:
    seen: list[int] = []
    generate(base_model, tokenizer, [asked(c) for c in COUNTRIES], max_new_tokens=2, batch_size=2, on_batch=seen.append)
    assert seen == [2, 4, 5]


def test_no_conversations_give_no_answers(base_model: Any, tokenizer: Any) -> None:
    assert generate(base_model, tokenizer, [], max_new_tokens=4) == []


def test_a_prompt_that_leaves_no_room_is_named(base_model: Any, tokenizer: Any) -> None:
    long = [{"role": "user", "content": "What " * 600}]
    with pytest.raises(EvaluationError, match=r"conversation 1 has \d+ tokens.*context of 512"):
        generate(base_model, tokenizer, [asked("Iran"), long], max_new_tokens=4)


def test_a_missing_or_refusing_template_is_said(base_model: Any, tokenizer: Any) -> None:
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(EvaluationError, match=r"no chat template; set model\.chat_template"):
        generate(base_model, bare, [asked("Iran")], max_new_tokens=4)
    bare.chat_template = "{{ raise_exception('only user and assistant roles') }}"
    with pytest.raises(EvaluationError, match=r"roles \['user'\].*only user and assistant"):
        generate(base_model, bare, [asked("Iran")], max_new_tokens=4)


def test_an_encoder_decoders_answer_is_kept_whole(tokenizer: Any) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, eos_token_id=2,
            pad_token_id=0, decoder_start_token_id=0,
        )
    ).eval()  # fmt: skip
    (short,) = generate(model, tokenizer, [asked("Peru")], max_new_tokens=1)
    (long,) = generate(model, tokenizer, [asked("Peru")], max_new_tokens=6)
    assert len(tokenizer(long, add_special_tokens=False)["input_ids"]) >= 1
    assert long.startswith(short)
