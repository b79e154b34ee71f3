"""The tiny llama as a GGUF file, and packages that cannot be imported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

# Rows of q and k are interleaved in GGUF; see llama.cpp's converter.
HEADS = {"attn_q": 4, "attn_k": 2}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama in one GGUF file: float32 weights, its tokenizer, its chat template."""
    import gguf
    from safetensors.numpy import load_file

    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    config = json.loads((tiny_model / "config.json").read_text())
    tokenizer = json.loads((tiny_model / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_unk_token_id(vocabulary["<|endoftext|>"])
    writer.add_chat_template((tiny_model / "chat_template.jinja").read_text())
    for name, tensor in load_file(tiny_model / "model.safetensors").items():
        writer.add_tensor(*_as_gguf(name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_gguf(name: str, tensor):
    stem = name.removeprefix("model.").removesuffix(".weight")
    if stem in ("embed_tokens", "norm"):
        return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[stem], tensor
    _, layer, inner = stem.split(".", 2)
    short = NAMES[inner]
    if short in HEADS:
        rows, columns = tensor.shape
        tensor = tensor.reshape(HEADS[short], 2, rows // HEADS[short] // 2, columns).swapaxes(1, 2)
        tensor = tensor.reshape(rows, columns).copy()
    return f"blk.{layer}.{short}.weight", tensor


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes an installed package whose import fails, with the given files beside its `__init__`."""

    def build(name: str, files: dict[str, Path]) -> Path:
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('importing me was not asked for')")
        for file, source in files.items():
            (folder / file).write_bytes(source.read_bytes())
        metadata = tmp_path / "site" / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: Apache-2.0\n"
        )
        (metadata / "top_level.txt").write_text(f"{name}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return folder

    return build


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own forge home, and no Hub token."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "HUGGINGFACE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"
