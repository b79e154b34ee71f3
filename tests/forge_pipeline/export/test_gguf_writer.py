"""Each supported architecture: exported, loaded by llama.cpp, logits held against transformers."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError
from forge_pipeline.export.architectures import NOT_YET, read_architecture
from forge_pipeline.export.gguf_reader import read_gguf
from forge_pipeline.export.gguf_verify import STEPS, verify_gguf
from forge_pipeline.export.gguf_writer import write_gguf, write_ggufs
from forge_pipeline.export.hard_strings import HARD_STRINGS
from forge_pipeline.export.llama_cpp import LlamaCpp

TEXT = "The fox's 12345 dogs  jump über <tool> Deich.\n\n  人工 <|im_end|>   7 def f(x):\n    return"
LLAMA_3_ROPE = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]


def longrope(original: int, size: int = 8) -> dict[str, Any]:
    rope = {"rope_type": "longrope", "rope_theta": 5000.0, "short_factor": SHORT[:size], "long_factor": LONG[:size],
            "original_max_position_embeddings": original}  # fmt: skip
    return {"rope_parameters": rope, "original_max_position_embeddings": original}


GEMMA_3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 20000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama in bfloat16": {"dtype": "bfloat16"},
    "llama with an output matrix": {"tie_word_embeddings": False},
    "llama with every bias": {"attention_bias": True, "mlp_bias": True},
    "llama with wide heads": {"head_dim": 32},
    "llama 3": {"pre": "llama-bpe", "rope_parameters": LLAMA_3_ROPE},
    "llama with linear RoPE": {
        "pre": "gpt-2",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    },
    "llama with YaRN": {"rope_parameters": YARN_ROPE},
    "qwen2 with YaRN": {"family": "qwen2", "pre": "qwen2", "rope_parameters": YARN_ROPE | {"beta_fast": 16.0}},
    "smollm3": {"family": "smollm3", "pre": "llama-bpe", "num_hidden_layers": 5},
    "phi3": {"family": "phi3", "sliding_window": None, "tie_word_embeddings": False},
    "phi3 with its tokenizer": {"family": "phi3", "pre": "phi-3 with prefix", "sliding_window": None},
    "phi3 with LongRoPE, short text": {
        "family": "phi3", "sliding_window": None, "max_position_embeddings": 2048, **longrope(1024),
    },
    "phi3 with LongRoPE, long text": {
        "family": "phi3", "sliding_window": None, "max_position_embeddings": 2048, **longrope(16),
    },
    "phi3 rotated in part": {
        "family": "phi3", "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
    },
    "mixtral": {"family": "mixtral", "sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3 with experts": {
        "family": "qwen3_moe", "pre": "qwen2", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "gemma": {"family": "gemma", "pre": "sentencepiece"},
    "mistral": {"family": "mistral", "sliding_window": None},
    "qwen2": {"family": "qwen2", "pre": "qwen2"},
    "qwen3": {"family": "qwen3", "pre": "qwen2", "head_dim": 32},
    "llama with a SentencePiece tokenizer": {"pre": "sentencepiece with prefix"},
    "gemma 2": {
        "family": "gemma2", "pre": "sentencepiece", "query_pre_attn_scalar": 16, "sliding_window": 8,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0, "num_hidden_layers": 3,
    },
    "gemma 3": {
        "family": "gemma3_text", "pre": "sentencepiece", "query_pre_attn_scalar": 16, "sliding_window": 8,
        "num_hidden_layers": 7, "rope_parameters": GEMMA_3_ROPE,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))
def test_llama_cpp_computes_what_transformers_computes(
    options: dict[str, Any], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    import numpy as np
    import torch
    import transformers

    directory = tiny_model(**options)
    path = tmp_path / "model.gguf"
    write_gguf(directory, path, "f32")
    result = verify_gguf(path)
    assert result.valid, result.reason
    assert [result.checks[step] for step in STEPS] == ["passed"] * 5
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    with LlamaCpp(path) as llama:
        found = llama.logits(tokens)
        for string in (TEXT, *HARD_STRINGS.values()):
            for special in (False, True):
                ids = tokenizer(string, add_special_tokens=special)["input_ids"]
                assert llama.tokenize(string, add_special=special) == ids, string
        assert llama.chat_template == tokenizer.chat_template
    # llama.cpp keeps keys and values in float16: 0.02 on logits whose spread is 1.6.
    assert np.abs(found - expected).max() < 0.05
    assert expected.std() > 1.0


def test_the_comparison_notices_rope_that_was_not_interleaved(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from forge_pipeline.export.architectures import Architecture

    directory = tiny_model()
    write_gguf(directory, tmp_path / "right.gguf", "f32")
    monkeypatch.setattr(Architecture, "convert", lambda self, name, tensor: tensor)
    write_gguf(directory, tmp_path / "wrong.gguf", "f32")
    tokens = list(range(3, 60))
    with LlamaCpp(tmp_path / "right.gguf") as right, LlamaCpp(tmp_path / "wrong.gguf") as wrong:
        assert np.abs(right.logits(tokens) - wrong.logits(tokens)).max() > 0.5


def test_equal_models_give_equal_bytes_at_another_place(llama_directory: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(llama_directory, tmp_path / "copy")
    write_gguf(llama_directory, tmp_path / "a.gguf", "q4_k_m", {"recipe_digest": "x"})
    write_gguf(tmp_path / "copy", tmp_path / "b.gguf", "q4_k_m", {"recipe_digest": "x"})
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert b"copy" not in (tmp_path / "b.gguf").read_bytes()


def test_shards_give_the_same_bytes_as_one_file(llama_directory: Path, tmp_path: Path) -> None:
    import shutil

    import transformers

    shutil.copytree(llama_directory, tmp_path / "sharded", ignore=shutil.ignore_patterns("*.safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(llama_directory)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    write_gguf(llama_directory, tmp_path / "one.gguf", "f16")
    write_gguf(tmp_path / "sharded", tmp_path / "many.gguf", "f16")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_provenance_stands_in_the_metadata(llama_gguf: Path) -> None:
    metadata = read_gguf(llama_gguf).metadata
    assert metadata["forge.model_digest"] == "sha256:" + "0" * 64
    assert metadata["general.name"] == "tiny"


def test_several_quantizations_in_one_pass_are_those_of_one_each(llama_directory: Path, tmp_path: Path) -> None:
    several: tuple[Quantization, ...] = ("f32", "f16", "bf16", "q8_0", "q3_k_m")
    write_ggufs(llama_directory, {each: tmp_path / f"together.{each}" for each in several}, name="tiny")
    for each in several:
        write_gguf(llama_directory, tmp_path / f"alone.{each}", each, name="tiny")
        assert (tmp_path / f"together.{each}").read_bytes() == (tmp_path / f"alone.{each}").read_bytes()


def test_of_several_files_none_stays_if_one_cannot_be_written(llama_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "b.gguf").write_text("mine")
    with pytest.raises(FileExistsError):
        write_ggufs(llama_directory, {"f16": tmp_path / "a.gguf", "f32": tmp_path / "b.gguf"})
    assert [path.name for path in tmp_path.iterdir()] == ["b.gguf"]


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("written", ["f16", "bf16", "f32"])
def test_values_are_rounded_once_and_to_nearest(
    stored: str, written: Quantization, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Against torch, also where sixteen bits go another way than through float32."""
    import torch
    from safetensors.torch import load_file

    directory = tiny_model(dtype=stored, initializer_range=1e-4)  # down to float16's subnormal numbers
    write_gguf(directory, tmp_path / "m.gguf", written)
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[written]
    expected = load_file(directory / "model.safetensors")["model.embed_tokens.weight"].to(dtype)
    tensor = next(each for each in read_gguf(tmp_path / "m.gguf").tensors if each.name == "token_embd.weight")
    data = (tmp_path / "m.gguf").read_bytes()[tensor.offset : tensor.offset + tensor.size]
    assert data == expected.contiguous().view(torch.uint8).numpy().tobytes()


def test_rows_in_many_pieces_are_the_rows_in_one(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.export import gguf_writer

    for family, options in {"llama": {}, "mixtral": {"sliding_window": None, "num_local_experts": 4}}.items():
        directory = tiny_model(family, **options)
        write_gguf(directory, tmp_path / f"{family}.one", "q8_0")
        with monkeypatch.context() as small:
            small.setattr(gguf_writer, "_CHUNK", 100)
            write_gguf(directory, tmp_path / f"{family}.many", "q8_0")
        assert (tmp_path / f"{family}.one").read_bytes() == (tmp_path / f"{family}.many").read_bytes()


NAMES = {
    "Phi-3 beside llama": "Phi_3 beside llama",
    "phi3": "phi_3",
    "my modern-bert": "my modern_bert",
    "tiny": "tiny",
}


@pytest.mark.parametrize(("name", "written"), NAMES.items())
def test_a_name_that_llama_cpp_takes_for_another_tokenizers_is_respelled(
    name: str, written: str, llama_directory: Path, tmp_path: Path
) -> None:
    write_gguf(llama_directory, tmp_path / "m.gguf", "f16", name=name)
    assert read_gguf(tmp_path / "m.gguf").metadata["general.name"] == written
    LlamaCpp(tmp_path / "m.gguf").close()


def test_hard_strings_are_in_nfc() -> None:
    assert [name for name, text in HARD_STRINGS.items() if not unicodedata.is_normalized("NFC", text)] == []


def test_a_mistral_window_bounds_the_declared_context(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    write_gguf(tiny_model("mistral", sliding_window=64), tmp_path / "m.gguf", "f16")
    assert read_gguf(tmp_path / "m.gguf").metadata["llama.context_length"] == 64


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown family": ({"model_type": "gpt_neox"}, "model_type 'gpt_neox' is not supported"),
    "another activation": ({"hidden_act": "gelu"}, "the activation 'gelu'"),
    "dynamic RoPE": ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "rope_type 'dynamic'"),
    "longrope": ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "rope_type 'longrope'"),
    "yarn that scales otherwise": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0}},
        "YaRN settings",
    ),
    "partial rotation": ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary"),
    "sliding layers": ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding-window layers"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized weights"),
    "no width": ({"hidden_size": None}, "hidden_size is None"),
    "another width": ({"intermediate_size": 100}, "config.json contradicts"),
    "too few blocks": ({"num_hidden_layers": 1}, "model.layers.1"),
    "too many blocks": ({"num_hidden_layers": 3}, "blk.2"),
    "rows fewer than tokens": ({"vocab_size": 100}, "embedding has 100 rows"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_answer_wrongly_is_refused(
    changes: dict[str, Any], words: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = tiny_model()
    edit_config(directory, **changes)
    with pytest.raises(ExportError, match=words):
        write_gguf(directory, tmp_path / "model.gguf", "f16")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("model_type", NOT_YET)
def test_a_known_but_unsupported_family_is_refused_with_what_is_missing(model_type: str) -> None:
    with pytest.raises(ExportError, match="missing is"):
        read_architecture({"model_type": model_type})


def test_a_diverged_model_is_refused_and_leaves_no_file(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    directory = tiny_model()
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = np.nan
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ExportError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: it holds NaN"):
        write_gguf(directory, tmp_path / "model.gguf", "f16")
    assert not (tmp_path / "model.gguf").exists()


def test_values_beyond_float16_are_refused_rather_than_made_infinite(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tiny_model()
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 70000.0
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ExportError, match="exceeds float16's 65504"):
        write_gguf(directory, tmp_path / "f16.gguf", "f16")
    write_gguf(directory, tmp_path / "bf16.gguf", "bf16")
    assert verify_gguf(tmp_path / "bf16.gguf").valid


def test_an_existing_file_is_not_overwritten(llama_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(FileExistsError):
        write_gguf(llama_directory, tmp_path / "model.gguf", "f16")
    assert (tmp_path / "model.gguf").read_text() == "mine"
