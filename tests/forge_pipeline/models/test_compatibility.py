"""What cannot be trained is refused from the base model's configuration alone, before weights are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forge_pipeline.errors import ConfigError, ModelError, OptionalDependencyError
from forge_pipeline.models.base import resolve_base_model
from forge_pipeline.models.compatibility import check_compatibility

SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A model directory that has everything but real weights: nothing here may read them."""

    def build(config_class: str = "LlamaConfig", **values: Any) -> Path:
        import transformers

        directory = tmp_path / f"base-{config_class}"
        shutil.copytree(tiny_model, directory, ignore=lambda *_: ["model.safetensors", "config.json"])
        getattr(transformers, config_class)(**(SMALL | values)).save_pretrained(directory)
        (directory / "model.safetensors").write_bytes(b"not weights")
        return directory

    return build


def check(recipe: Callable, directory: Path, device: str = "cpu", **sections: Any) -> None:
    sections["model"] = {"name_or_path": str(directory)} | sections.pop("model", {})
    config = recipe(**sections)
    check_compatibility(config, resolve_base_model(config), device)  # type: ignore[arg-type]


def lora(**values: Any) -> dict[str, Any]:
    return {"lora": values}


def training(**values: Any) -> dict[str, Any]:
    return {"training": values}


def model(**values: Any) -> dict[str, Any]:
    return {"model": values}


MIXTRAL = ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2})
LLAMA: tuple[str, dict[str, Any]] = ("LlamaConfig", {})

# name: (architecture, sections of the recipe, class of the error, what the message must hold)
REFUSED: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any], type[Exception], str]] = {
    # names
    "a target that is no module": (
        LLAMA, lora(target_modules=["q_proj", "query"]), ConfigError,
        r"target_modules: no module of .* is called 'query'.*down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj;.*all-linear",
    ),
    "targets of another architecture": (
        ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4}), {}, ConfigError, r"is called 'q_proj'.*c_attn",
    ),
    "a target that is part of a name": (LLAMA, lora(target_modules=["proj"]), ConfigError, r"is called 'proj'"),
    "a target that takes no adapter": (
        LLAMA, lora(target_modules=["input_layernorm"]), ConfigError, r"'input_layernorm' is a LlamaRMSNorm, which takes no",
    ),
    "an adapter on the head": (LLAMA, lora(target_modules=["q_proj", "lm_head"]), ConfigError, r"'lm_head' is the language model's head"),
    "a whole module that is not there": (
        LLAMA, lora(modules_to_save=["embeddings"]), ConfigError, r"modules_to_save: no module is called 'embeddings'.*embed_tokens",
    ),
    "an adapter on embeddings that are the head": (
        ("LlamaConfig", {"tie_word_embeddings": True}), lora(target_modules=["embed_tokens"]), ConfigError,
        r"'embed_tokens' shares its weights with the head.*modules_to_save: \[embed_tokens\]",
    ),
    "an adapter out of the weights and a module saved whole": (
        LLAMA, lora(method="pissa", modules_to_save=["model.norm"]), ConfigError, r"pissa goes with bias: none and without modules_to_save",
    ),
    "an adapter out of the weights and biases": (LLAMA, lora(method="pissa", bias="all"), ConfigError, r"pissa goes with bias: none"),
    "an adapter out of the weights and a head": (
        LLAMA, lora(method="pissa") | training(trainer_type="reward"), ConfigError, r"pissa cannot save the head that this trainer trains",
    ),
    "a rank for a module that is not there": (
        LLAMA, lora(rank_pattern={"w1": 4}), ConfigError, r"rank_pattern: 'w1' matches no module that gets an adapter. Those are: q_proj, v_proj",
    ),
    "a rank for a module that gets no adapter": (LLAMA, lora(rank_pattern={"k_proj": 4}), ConfigError, r"rank_pattern: 'k_proj' matches"),
    "a scale for a module that is not there": (LLAMA, lora(alpha_pattern={"w1": 4}), ConfigError, r"alpha_pattern: 'w1' matches"),
    "a rank for no pattern": (LLAMA, lora(rank_pattern={"q_proj(": 4}), ConfigError, r"'q_proj\(' is no regular expression"),
    "galore on layers that are not there": (
        LLAMA, lora(method="none") | training(galore_enabled=True, galore_target_modules=["attn", "w1"]), ConfigError,
        r"galore_target_modules: 'w1' matches no linear layer. There are: down_proj",
    ),
    # architectures
    "an encoder": (("BertConfig", {}), {}, ModelError, r"is a bert model, an encoder that reads a text from both sides"),
    "an encoder-decoder": (("T5Config", {"d_model": 32}), {}, ModelError, r"is a t5 model, an encoder-decoder, and sft trains causal"),
    "a vision model": (("CLIPConfig", {}), {}, ModelError, r"clip model, of which transformers has no causal language model"),
    # experts
    "experts of a dense model": (LLAMA, model(moe={}) | lora(dropout=0.0), ConfigError, r"model.moe: llama has no fused experts"),
    "an expert that is not there": (
        MIXTRAL, model(moe={"experts_to_train": "0,4"}) | lora(dropout=0.0), ConfigError, r"there is no expert 4; a layer has 4, numbered from 0",
    ),
    "dropout on experts": (MIXTRAL, model(moe={}), ConfigError, r"lora.dropout: found 0.1; adapters on experts have none"),
    "a variant on experts": (MIXTRAL, model(moe={}) | lora(dropout=0.0, method="dora"), ConfigError, r"dora does not work on fused experts"),
    "experts in four bits": (MIXTRAL, model(moe={"quantize_experts": True}), ConfigError, r"quantize_experts: bitsandbytes quantizes linear"),
    "experts beside every weight": (MIXTRAL, model(moe={}) | lora(method="none"), ConfigError, r"trains every expert anyway"),
    # positions
    "no positions to stretch": (
        ("GPT2Config", {}), lora(target_modules=["c_attn"]) | training(rope_scaling={"type": "linear", "factor": 2}), ConfigError,
        r"rope_scaling: gpt2 models have no rotary positions",
    ),
    "positions stretched already": (
        ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        training(rope_scaling={"type": "linear", "factor": 2}), ConfigError, r"are stretched already \(linear\)",
    ),
    "too few factors": (
        LLAMA, training(rope_scaling={"type": "longrope", "short_factor": [1], "long_factor": [1, 1, 1, 1]}), ConfigError,
        r"short_factor: found 1 factors; this model has 4 rotary frequencies",
    ),
    "no window": (LLAMA, training(sliding_window_attention=8), ConfigError, r"sliding_window_attention: llama models have no sliding window"),
    # rows that would see each other
    "packing over positions that are not followed": (
        ("BloomConfig", {"n_head": 4}), lora(target_modules=["query_key_value"]) | training(packing=True), ConfigError,
        r"training.packing: the attention of BloomForCausalLM does not follow positions",
    ),
    "packing over a state that runs on": (
        ("MambaConfig", {}), lora(target_modules=["in_proj"]) | training(packing=True), ConfigError, r"whose state runs on from one row into the next",
    ),
    "no padding over a state that runs on": (
        ("MambaConfig", {}), lora(target_modules=["in_proj"]) | training(padding_free=True), ConfigError, r"training.padding_free: Mamba",
    ),
    # precision and kernels
    "half precision on a CPU": (LLAMA, model(dtype="fp16"), ConfigError, r"model.dtype: float16 cannot be trained on a CPU"),
    "flash attention on a CPU": (LLAMA, model(attn_implementation="flash_attention_2"), ConfigError, r"flash_attention_2 needs a CUDA device, and this run uses cpu"),
    "fused kernels on a CPU": (LLAMA, training(use_liger_kernel=True), ConfigError, r"use_liger_kernel: its kernels run on CUDA devices, and this run uses cpu"),
    "four bits under an adapter out of the weights": (
        LLAMA, model(load_in_4bit=True) | lora(method="pissa"), ConfigError, r"pissa takes the adapter out of the unrounded base",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "sections", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_one_clear_error_before_weights_are_read(
    architecture: tuple[str, dict], sections: dict, error: type[Exception], words: str, base: Callable, recipe: Callable
) -> None:
    name, values = architecture
    with pytest.raises(error, match=words) as caught:
        check(recipe, base(name, **values), **sections)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


FITS: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any]]] = {
    "the end of a name": (LLAMA, lora(target_modules=["self_attn.q_proj", "layers.1.mlp.up_proj"])),
    "all linear layers": (LLAMA, lora(target_modules=["all-linear"], rank_pattern={r"mlp\..*_proj": 2})),
    "embeddings": (LLAMA, lora(target_modules=["embed_tokens"])),
    "a convolution called linear": (("GPT2Config", {"n_embd": 32, "n_layer": 2}), lora(target_modules=["c_attn"])),
    "an encoder-decoder that sums up": (("T5Config", {"d_model": 32, "num_layers": 2}), model(task="summarization") | lora(target_modules=["q"])),
    "a causal bert": (("BertConfig", {"is_decoder": True}), lora(target_modules=["query"])),
    "packing": (LLAMA, training(packing=True)),
    "experts": (MIXTRAL, model(moe={"experts_to_train": "0,3"}) | lora(dropout=0.0)),
    "a mixture whose attention alone learns": (MIXTRAL, {}),
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "sections"), FITS.values(), ids=FITS)
def test_what_fits_passes(architecture: tuple[str, dict], sections: dict, base: Callable, recipe: Callable) -> None:
    name, values = architecture
    check(recipe, base(name, **values), **sections)


def test_a_configuration_that_cannot_be_read_is_a_model_error(base: Callable, recipe: Callable) -> None:
    directory = base()
    (directory / "config.json").write_text('{"model_type": "not_known_to_anybody"}')
    with pytest.raises(ModelError, match="transformers does not know its architecture"):
        check(recipe, directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match="its configuration cannot be read"):
        check(recipe, directory)


def test_weights_that_were_published_quantized_cannot_be_trained_whole(base: Callable, recipe: Callable) -> None:
    directory = base()
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps(values | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(ModelError, match=r"its weights are quantized \(gptq\) and cannot be trained whole"):
        check(recipe, directory, lora={"method": "none"})


def test_a_gpu_without_bfloat16_and_kernels_that_are_not_installed_are_refused(
    base: Callable, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge_pipeline.models.devices.computes_bfloat16", lambda device: False)
    monkeypatch.setattr("forge_pipeline.models.devices.device_name", lambda device: "Tesla T4")
    with pytest.raises(ConfigError, match=r"model\.dtype: Tesla T4 does not compute in bfloat16"):
        check(recipe, base(), "cuda", model={"dtype": "bf16"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionalDependencyError, match="pip install flash-attn"):
        check(recipe, base("Qwen2Config"), "cuda", model={"attn_implementation": "flash_attention_2"})
    with pytest.raises(OptionalDependencyError, match="pip install liger-kernel"):
        check(recipe, base("MistralConfig"), "cuda", training={"use_liger_kernel": True})


class Gated:
    """The Hub as it answers for a gated model: 401 and the code that its client looks for."""

    @staticmethod
    def answer(request: Any) -> None:
        request.send_response(401)
        request.send_header("X-Error-Code", "GatedRepo")
        request.send_header("X-Error-Message", "Access to model owner/gated is restricted.")
        request.send_header("Content-Length", "0")
        request.end_headers()


def test_a_gated_model_is_an_error_that_says_how_to_get_access(tmp_path: Path) -> None:
    """In a process of its own, because the Hub's address is read when its client is imported."""
    import subprocess
    import sys
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        do_GET = do_HEAD = Gated.answer  # noqa: N815  # the standard library's names

        def log_message(self, *arguments: Any) -> None:
            del arguments

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "from forge_pipeline.config import ForgeConfig\n"
        "from forge_pipeline.errors import ModelError\n"
        "from forge_pipeline.models.base import resolve_base_model\n"
        "from forge_pipeline.models.compatibility import check_compatibility\n"
        "config = ForgeConfig(model={'name_or_path': 'owner/gated'}, lora={}, training={}, data={'dataset_name_or_path': 'd'})\n"
        "try:\n"
        "    check_compatibility(config, resolve_base_model(config), 'cpu')\n"
        "except ModelError as error:\n"
        "    print('REFUSED', error)\n"
    )
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
        "no_proxy": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
        server.server_close()
    assert "REFUSED" in done.stdout, done.stderr[-2000:]
    assert "gated" in done.stdout
    assert "HF_TOKEN" in done.stdout


# The rule about rows laid end to end reads source code, so it is held against what the models really do.
PACKED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("LlamaConfig", {}, True),
    "qwen2": ("Qwen2Config", {}, True),
    "qwen3": ("Qwen3Config", {"head_dim": 8}, True),
    "mistral with a window": ("MistralConfig", {"sliding_window": 4}, True),
    "gemma2": ("Gemma2Config", {"head_dim": 8}, True),
    "phi3": ("Phi3Config", {}, True),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, True),
    "gpt_neox": ("GPTNeoXConfig", {}, True),
    "mixtral": (*MIXTRAL, True),
    "bloom": ("BloomConfig", {"n_head": 4, "n_layer": 2}, False),
    "falcon with alibi": ("FalconConfig", {"alibi": True, "new_decoder_architecture": False}, False),
    "mamba": ("MambaConfig", {"state_size": 4, "num_hidden_layers": 2}, False),
}


@pytest.mark.parametrize(("config_class", "values", "apart"), PACKED.values(), ids=PACKED)
def test_rows_laid_end_to_end_are_allowed_only_where_they_do_not_see_each_other(
    config_class: str, values: dict, apart: bool, base: Callable, recipe: Callable
) -> None:
    import transformers

    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**(SMALL | values))).eval()
    for weight in net.parameters():  # so that what leaks through shows
        torch.nn.init.normal_(weight, std=0.3)
    first, second = torch.arange(10, 22)[None], torch.arange(40, 50)[None]
    positions = torch.cat([torch.arange(12), torch.arange(10)])[None]
    options = {} if config_class in ("MambaConfig", "BloomConfig") else {"position_ids": positions}
    with torch.no_grad():
        alone = net(second, use_cache=False).logits[0]
        packed = net(torch.cat([first, second], 1), use_cache=False, **options).logits[0, 12:]
    assert bool((alone - packed).abs().max() < 1e-2) is apart

    sections = {"lora": {"target_modules": ["all-linear"]}, "training": {"packing": True}}
    if apart:
        check(recipe, base(config_class, **values), **sections)
    else:
        with pytest.raises(ConfigError, match=r"training\.packing"):
            check(recipe, base(config_class, **values), **sections)
