"""A LoRA adapter beside its base in llama.cpp answers as the tuned model in transformers does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ExportError
from forge_pipeline.export.adapter_gguf import export_adapter_gguf
from forge_pipeline.export.gguf_reader import read_gguf
from forge_pipeline.export.gguf_verify import verify_gguf
from forge_pipeline.export.gguf_writer import write_gguf
from forge_pipeline.export.llama_cpp import LlamaCpp

TOKENS = list(range(3, 60))
EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_adapter(base: Path, directory: Path, **options: Any) -> Any:
    """Save a random adapter; return what the tuned model in transformers makes of `TOKENS`."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 2, "target_modules": EVERY_LINEAR, "init_lora_weights": False} | options
    tuned = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    tuned.save_pretrained(directory)
    with torch.no_grad():
        return tuned(torch.tensor([TOKENS])).logits[0].numpy()


ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "every linear module of a llama": ({}, {}),
    "rsLoRA": ({}, {"use_rslora": True}),
    "ranks and alphas of their own": (
        {}, {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}, "alpha_pattern": {"v_proj": 5}},
    ),
    "embedding and output": (
        {"tie_word_embeddings": False}, {"target_modules": ["embed_tokens", "lm_head", "k_proj"]},
    ),
    "qwen2": ({"family": "qwen2", "pre": "qwen2"}, {"target_modules": ["q_proj", "k_proj"]}),
    "phi3, fused": (
        {"family": "phi3", "sliding_window": None, "tie_word_embeddings": False},
        {"target_modules": ["qkv_proj", "gate_up_proj"]},
    ),
    "gemma 2": (
        {"family": "gemma2", "pre": "sentencepiece", "query_pre_attn_scalar": 16, "sliding_window": 8},
        {"target_modules": ["q_proj", "down_proj"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "adapter"), ADAPTERS.values(), ids=list(ADAPTERS))
def test_beside_its_base_it_is_the_tuned_model(
    model: dict[str, Any], adapter: dict[str, Any], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    import numpy as np

    base = tiny_model(**model)
    expected = write_adapter(base, tmp_path / "adapter", **adapter)
    write_gguf(base, tmp_path / "base.gguf", "f32")
    export_adapter_gguf(tmp_path / "adapter", base, tmp_path / "lora.gguf", provenance={"model_digest": "x"})
    result = verify_gguf(tmp_path / "lora.gguf")
    assert result.valid, result.reason
    assert result.checks["tensors"] == "passed"
    with LlamaCpp(tmp_path / "base.gguf") as plain:
        assert np.abs(plain.logits(TOKENS) - expected).max() > 0.5  # the adapter is no small thing
    with LlamaCpp(tmp_path / "base.gguf", adapter=tmp_path / "lora.gguf") as tuned:
        assert np.abs(tuned.logits(TOKENS) - expected).max() < 0.05


def test_its_metadata_say_what_it_is_and_where_it_comes_from(llama_directory: Path, tmp_path: Path) -> None:
    write_adapter(llama_directory, tmp_path / "adapter")
    for name in ("a", "b"):
        destination = tmp_path / f"{name}.gguf"
        export_adapter_gguf(
            tmp_path / "adapter", llama_directory, destination, quantization="f16", provenance={"log_root": "r"}
        )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    header = read_gguf(tmp_path / "a.gguf")
    assert header.metadata == {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 2.0,
        "general.file_type": 1, "forge.log_root": "r",
    }  # fmt: skip
    assert len(header.tensors) == 2 * 2 * 7
    assert {tensor.type.name for tensor in header.tensors} == {"F16"}
    by_name = {tensor.name: tensor.dims for tensor in header.tensors}
    assert by_name["blk.1.ffn_down.weight.lora_a"] == (96, 4)
    assert by_name["blk.1.ffn_down.weight.lora_b"] == (4, 64)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "DoRA": ({"use_dora": True}, "DoRA's magnitudes"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "whole modules"),
    "biases": ({"bias": "all"}, "trained biases"),
    "PiSSA that was not subtracted": ({"init_lora_weights": "pissa"}, "start from 'pissa'"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_llama_cpp_would_leave_out_is_refused(
    changes: dict[str, Any], words: str, llama_directory: Path, tmp_path: Path
) -> None:
    write_adapter(llama_directory, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ExportError, match=words):
        export_adapter_gguf(tmp_path / "adapter", llama_directory, tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()


def test_an_adapter_on_a_shared_embedding_is_refused(llama_directory: Path, tmp_path: Path) -> None:
    write_adapter(llama_directory, tmp_path / "adapter", target_modules=["embed_tokens"])
    with pytest.raises(ExportError, match="embedding and output at once"):
        export_adapter_gguf(tmp_path / "adapter", llama_directory, tmp_path / "lora.gguf")


def test_another_models_adapter_is_refused(
    llama_directory: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    write_adapter(tiny_model(intermediate_size=128), tmp_path / "adapter")
    with pytest.raises(ExportError, match="another model's adapter"):
        export_adapter_gguf(tmp_path / "adapter", llama_directory, tmp_path / "lora.gguf")


def test_a_missing_half_is_refused_by_name(llama_directory: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_adapter(llama_directory, tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, path)
    with pytest.raises(ExportError, match=r"one half of model\.layers\.1\.self_attn\.q_proj"):
        export_adapter_gguf(tmp_path / "adapter", llama_directory, tmp_path / "lora.gguf")
