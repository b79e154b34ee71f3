"""An adapter folded into its base model tensor by tensor: the bytes that PEFT's own merge in memory gives."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import (
    ModelDirectory,
    ModelRecord,
    load_base,
    load_tokenizer,
    load_tuned,
    merge,
    resolve_base_model,
)
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.quantization import QuantizationRecord
from forge_pipeline.models.shards import ShardedTensors
from forge_pipeline.models.writing import write_adapter, write_tokenizer


@pytest.fixture
def make_adapter(recipe: Callable, tmp_path: Path) -> Callable[..., ModelDirectory]:
    """Builds an adapter of any kind on a base model, with random weights, as training would leave it."""

    def build(
        base: Path | None = None,
        *,
        name: str = "adapter",
        kind: Any = None,
        rounding: QuantizationRecord | None = None,
        **lora: Any,
    ) -> tuple[Any, ModelDirectory]:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        config = recipe(model={"dtype": "float32"} | ({"name_or_path": str(base)} if base else {}))
        source = resolve_base_model(config)
        model = AutoModelForCausalLM.from_pretrained(source.path)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
        model = get_peft_model(model, (kind or LoraConfig)(**(settings | lora)))
        torch.manual_seed(1)
        for key, weight in model.named_parameters():
            if weight.requires_grad:
                scale = 0.02 if "magnitude" in key else 0.3
                weight.data += scale * torch.randn_like(weight)
        directory = tmp_path / name
        directory.mkdir()
        write_adapter(model, directory, base="tiny")
        write_tokenizer(load_tokenizer(config), directory)
        nothing = Digest.of(b"")
        record = ModelRecord(
            kind="adapter", base_model=source.record, trainer_type="sft", config_digest=nothing,
            dataset_digest=nothing, tokenized_digest=nothing, chat_template_digest=None, seed=0, quantization=rounding,
        )  # fmt: skip
        write_record(directory, record)
        return config, ModelDirectory.open(directory)

    return build


@pytest.fixture(scope="session")
def biased(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny llama with biases on its attention, a head of its own, bfloat16 weights, in several shards."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("biased")
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    (directory / "model.safetensors").unlink()
    config = LlamaConfig.from_pretrained(tiny_model, attention_bias=True, tie_word_embeddings=False)
    torch.manual_seed(3)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory, max_shard_size=20_000)
    return directory


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A GPT-2, whose linear layers are stored transposed."""
    import shutil

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = tmp_path_factory.mktemp("gpt2")
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    torch.manual_seed(4)
    GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4)).save_pretrained(directory)
    return directory


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("tiny", {}),
    "on every linear layer": ("tiny", {"target_modules": "all-linear"}),
    "rslora": ("tiny", {"use_rslora": True}),
    "dora": ("tiny", {"use_dora": True}),
    "ranks and alphas by module": ("tiny", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*down_proj": 32}}),
    "a base in bfloat16, in shards": ("biased", {}),
    "dora on that": ("biased", {"use_dora": True}),
    "every bias trained": ("biased", {"bias": "all"}),
    "the biases of its own layers trained": ("biased", {"bias": "lora_only"}),
    "head and norms saved whole": ("biased", {"modules_to_save": ["lm_head", "norm"]}),
    "embeddings adapted": ("biased", {"target_modules": ["q_proj", "embed_tokens"]}),
    "shared embeddings saved whole": ("tiny", {"modules_to_save": ["embed_tokens"]}),
    "shared head saved whole": ("tiny", {"modules_to_save": ["lm_head"]}),
    "weights stored transposed": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "dora on those": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
}  # fmt: skip


@pytest.mark.parametrize(("base", "lora"), KINDS.values(), ids=KINDS)
def test_tensor_by_tensor_gives_the_bytes_that_peft_gives_in_memory(
    base: str,
    lora: dict,
    make_adapter: Callable,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, adapter = make_adapter(None if base == "tiny" else request.getfixturevalue(base), **lora)
    with caplog.at_level(logging.INFO):
        streamed = merge(config, adapter, tmp_path / "streamed")
    assert "in memory" not in caplog.text
    whole = merge(config, adapter, tmp_path / "whole", streaming=False)
    assert Manifest.of_directory(whole.path).differences(Manifest.of_directory(streamed.path)) == []
    assert not equal_to_base(config, streamed)


def equal_to_base(config: Any, merged: ModelDirectory) -> bool:
    base = load_base(config)[0].state_dict()
    tensors = ShardedTensors.of_directory(merged.path)
    return all(tensors.read(name).equal(base[name].to(tensors.read(name).dtype)) for name in tensors)


FOUR_BITS = {
    "nf4, scales rounded too": QuantizationRecord("nf4", True, "bfloat16"),
    "fp4, from float32": QuantizationRecord("fp4", False, "float32"),
}


@pytest.mark.parametrize("rounding", FOUR_BITS.values(), ids=FOUR_BITS)
def test_an_adapter_on_rounded_weights_is_added_to_those_very_weights(
    rounding: QuantizationRecord, make_adapter: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("bitsandbytes")
    config, adapter = make_adapter(rounding=rounding, use_dora=rounding.double)
    with caplog.at_level(logging.INFO):
        streamed = merge(config, adapter, tmp_path / "streamed")
    assert "in memory" not in caplog.text
    whole = merge(config, adapter, tmp_path / "whole", streaming=False)
    assert Manifest.of_directory(whole.path).differences(Manifest.of_directory(streamed.path)) == []


def test_a_base_that_was_published_in_four_bits_is_dequantized(
    make_adapter: Callable, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("bitsandbytes")
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    published = tmp_path / "published"
    shutil.copytree(tiny_model, published)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )
    AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.bfloat16, quantization_config=settings, device_map={"": "cpu"}
    ).save_pretrained(published)
    config, adapter = make_adapter(published, rounding=QuantizationRecord("nf4", True, "bfloat16"))
    with caplog.at_level(logging.INFO):
        merged = merge(config, adapter, tmp_path / "merged")
    assert "in memory" not in caplog.text
    assert "quantization_config" not in json.loads((merged.path / "config.json").read_text())
    tuned = load_tuned(config, adapter, dtype="float32")[0].merge_and_unload(safe_merge=True).state_dict()
    tensors = ShardedTensors.of_directory(merged.path)
    assert all(tensors.read(name).equal(tuned[name]) for name in tensors)
    with pytest.raises(ModelError, match="cannot save a model that was published in 4 bits"):
        merge(config, adapter, tmp_path / "in_memory", streaming=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_sum_is_rounded_once_and_shards_are_bounded(dtype: str, make_adapter: Callable, tmp_path: Path) -> None:
    config, adapter = make_adapter()
    exact = merge(config, adapter, tmp_path / "exact")
    merged = merge(config, adapter, tmp_path / "merged", dtype=dtype, max_shard_bytes=20_000)
    shards = sorted(merged.path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 23_000 for shard in shards)
    wanted, found = ShardedTensors.of_directory(exact.path), ShardedTensors.of_directory(merged.path)
    assert set(wanted) == set(found)
    for name in wanted:
        tensor = found.read(name)
        assert str(tensor.dtype) == f"torch.{dtype}"
        assert tensor.equal(wanted.read(name).to(tensor.dtype)), name
    again = merge(config, merged, tmp_path / "again", dtype=dtype)
    assert (again.path / "model.safetensors").is_file(), "a full model is written again, in one file"
    in_memory = merge(config, merged, tmp_path / "in_memory", dtype=dtype, streaming=False)
    assert Manifest.of_directory(again.path).differences(Manifest.of_directory(in_memory.path)) == []


def test_an_adapter_of_another_kind_is_merged_in_memory_and_the_log_says_why(
    make_adapter: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import LoHaConfig

    config, adapter = make_adapter(kind=lambda lora_alpha, **settings: LoHaConfig(alpha=lora_alpha, **settings))
    with caplog.at_level(logging.INFO):
        merged = merge(config, adapter, tmp_path / "merged")
    assert "is merged in memory, not tensor by tensor: it is a LOHA adapter" in caplog.text
    assert not equal_to_base(config, merged)


def test_a_sum_that_is_not_finite_is_refused_and_nothing_is_left(make_adapter: Callable, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    config, adapter = make_adapter()
    weights = load_file(adapter.path / "adapter_model.safetensors")
    name = next(each for each in weights if "lora_B" in each)
    weights[name] = torch.full_like(weights[name], float("inf"))
    save_file(weights, adapter.path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"adapter cannot be merged: the sum in .* is not finite"):
        merge(config, adapter, tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


def test_a_damaged_adapter_is_named(make_adapter: Callable, tmp_path: Path) -> None:
    config, adapter = make_adapter()
    file = adapter.path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is not a whole safetensors file"):
        merge(config, adapter, tmp_path / "merged")
