"""The shared-prefix `LM` gives what lm-eval's own `HFLM` gives, for models that read such masks and for others."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.shared_prefix import attention_window, shared_prefix_lm, why_ordinary

COUNTRIES = ("France", "Spain", "Peru", "Japan", "Chile")
PAIRS = [
    *((f"Q: What is the capital of {name}? é漢字 🦙 ", f" It is {city}.") for name in COUNTRIES
      for city in ("Paris", "Madrid", "Ōsaka", "Lima")),
    *((f"Q: What is the capital of {name}?", letter) for name in COUNTRIES for letter in (" A", " B", " I", " I")),
    *(("A long context. " * 12 + name, answer) for name in COUNTRIES[:2] for answer in (" It is Paris.", " No.")),
    ("", "It is Paris."),
    ("", "It is Madrid."),
    ("a ", "b"),
]  # fmt: skip
TEXTS = [("It is Paris. " * 20,), ("short é",), ("What is the capital of Peru?",)]


def _shape(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 96,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3, **more,
    }  # fmt: skip


def _build(name: str, tokenizer: Any) -> Any:
    import torch
    import transformers as t

    torch.manual_seed(0)
    small = {"vocab_size": len(tokenizer)}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "initializer_range": 0.3}
    bloom = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "seq_length": 96}
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    mamba = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    models: dict[str, Callable[[], Any]] = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_shape(tokenizer))),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_shape(tokenizer))),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**_shape(tokenizer, sliding_window=40))),
        "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**_shape(tokenizer, sliding_window=40))),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_shape(tokenizer, sliding_window=40))),
        "granite": lambda: t.GraniteForCausalLM(t.GraniteConfig(**_shape(tokenizer, logits_scaling=3.0))),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**small, **gpt2)),
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(**small, **bloom)),
        "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(**small, **mamba)),
        "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**small, **t5)),
    }
    return models[name]().eval()


def _asked(kind: str, arguments: Sequence[tuple[str, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=pair, idx=0) for pair in arguments]


def _reference(model: Any, tokenizer: Any) -> Any:
    from copy import deepcopy

    from lm_eval.models.huggingface import HFLM

    # Its cache reads wrong positions where windows of one text are equal.
    return HFLM(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=8, logits_cache=False)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gemma3", "mistral", "granite", "gpt2"])
def test_log_likelihoods_are_those_of_lm_evals_own_class(name: str, tokenizer: Any) -> None:
    model = _build(name, tokenizer)
    ours, theirs = shared_prefix_lm(model, tokenizer), _reference(model, tokenizer)
    mine = ours.loglikelihood(_asked("loglikelihood", PAIRS))
    expected = theirs.loglikelihood(_asked("loglikelihood", PAIRS), disable_tqdm=True)
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in expected]
    rolling = ours.loglikelihood_rolling(_asked("loglikelihood_rolling", TEXTS))
    wanted = theirs.loglikelihood_rolling(_asked("loglikelihood_rolling", TEXTS), disable_tqdm=True)
    assert rolling == pytest.approx(wanted, abs=2e-3)
    assert ours.truncated == 4
    windowed = attention_window(model) is not None
    assert bool(ours.ordinary) == windowed
    assert not windowed or "longer than the model's attention window" in ours.ordinary


def test_the_greedy_flag_is_set_where_the_model_would_write_the_answer(tuned_model: Any, tokenizer: Any) -> None:
    context = "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\n"
    lm = shared_prefix_lm(tuned_model, tokenizer)
    asked = _asked("loglikelihood", [(context, "It is Lima."), (context, "It is Rome.")])
    assert [greedy for _, greedy in lm.loglikelihood(asked)] == [True, False]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bloom", "refuses an attention mask"), ("mamba", "refuses an attention mask"), ("t5", "encoder-decoder")],
)
def test_a_model_without_such_masks_takes_lm_evals_own_path_and_says_why(
    name: str, reason: str, tokenizer: Any
) -> None:
    model = _build(name, tokenizer)
    ours, theirs = shared_prefix_lm(model, tokenizer), _reference(model, tokenizer)
    mine = ours.loglikelihood(_asked("loglikelihood", PAIRS[:8]))
    expected = theirs.loglikelihood(_asked("loglikelihood", PAIRS[:8]), disable_tqdm=True)
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert reason in ours.ordinary


def test_a_model_that_ignores_positions_is_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build("llama", tokenizer)
    assert why_ordinary(model) is None
    forward = model.forward

    def deaf(**arguments: Any) -> Any:
        return forward(**{**arguments, "position_ids": None})

    monkeypatch.setattr(model, "forward", deaf)
    assert "does not have its effect" in (why_ordinary(model) or "")


def test_another_attention_is_named(tokenizer: Any) -> None:
    model = _build("llama", tokenizer)
    model.config._attn_implementation = "flex_attention"
    assert "its attention implementation is flex_attention" in (why_ordinary(model) or "")


def test_the_batch_size_is_the_rows_of_a_forward_pass(tokenizer: Any) -> None:
    model = _build("llama", tokenizer)
    many = [(f"{n} " * 60, f" {n}") for n in range(40)]
    passes = {}
    for size in (1, 8):
        steps: list[tuple[int, int]] = []
        lm = shared_prefix_lm(
            model, tokenizer, batch_size=size, on_requests=lambda *step, seen=steps: seen.append(step)
        )
        passes[size] = (lm.loglikelihood(_asked("loglikelihood", many)), steps)
        assert steps == sorted(steps)
        assert steps[-1] == (40, 40)
    assert len(passes[1][1]) > len(passes[8][1])
    one, eight = ([value for value, _ in passes[size][0]] for size in (1, 8))
    assert one == pytest.approx(eight, abs=1e-4)


def test_a_continuation_beyond_the_context_is_an_error_with_both_numbers(tokenizer: Any) -> None:
    lm = shared_prefix_lm(_build("llama", tokenizer), tokenizer)
    with pytest.raises(EvaluationError, match=r"a continuation of \d+ tokens exceeds the model's context of 96"):
        lm.loglikelihood(_asked("loglikelihood", [("a", "It is Paris. " * 40)]))


def test_a_context_of_spaces_is_scored_as_text_after_nothing(tokenizer: Any) -> None:
    lm = shared_prefix_lm(_build("llama", tokenizer), tokenizer)
    (spaces,) = lm.loglikelihood(_asked("loglikelihood", [("\n", " Paris")]))
    (nothing,) = lm.loglikelihood(_asked("loglikelihood", [("", "\n Paris")]))
    assert spaces[0] == pytest.approx(nothing[0], abs=1e-4)


def test_an_empty_continuation_is_an_error(tokenizer: Any) -> None:
    lm = shared_prefix_lm(_build("llama", tokenizer), tokenizer)
    with pytest.raises(EvaluationError, match="nothing to score"):
        lm.loglikelihood(_asked("loglikelihood", [("a", "")]))


def test_generation_stops_where_the_task_says(tuned_model: Any, tokenizer: Any) -> None:
    context = "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\n"
    lm = shared_prefix_lm(tuned_model, tokenizer)
    settings: Any = {"until": ["."], "max_gen_toks": 12, "do_sample": False}
    assert lm.generate_until(_asked("generate_until", [(context, settings)])) == ["It is Lima"]
