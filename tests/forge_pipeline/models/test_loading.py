"""Weights in memory: precision, adapters, merging, and whose adapter it is."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline.errors import ConfigError, ModelError, OptionalDependencyError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import (
    ModelDirectory,
    ModelRecord,
    get_model_and_tokenizer,
    load_base,
    load_tokenizer,
    load_tuned,
    merge,
    resolve_base_model,
)
from forge_pipeline.models.devices import choose_dtype
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.quantization import quantization_config
from forge_pipeline.models.writing import write_adapter, write_tokenizer


@pytest.fixture
def adapter(recipe: Callable, tmp_path: Path) -> ModelDirectory:
    """An adapter on the tiny model with weights that change its answers."""
    import torch

    config = recipe(model={"dtype": "float32"})
    model, _ = get_model_and_tokenizer(config)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    directory = tmp_path / "adapter"
    directory.mkdir()
    write_adapter(model, directory, base="tiny")
    write_tokenizer(load_tokenizer(config), directory)
    (directory / "training_report.json").write_text("{}")
    write_record(
        directory,
        ModelRecord(
            kind="adapter",
            base_model=resolve_base_model(config).record,
            trainer_type="sft",
            config_digest=Digest.of(b"config"),
            dataset_digest=Digest.of(b"dataset"),
            tokenized_digest=Digest.of(b"tokenized"),
            chat_template_digest=None,
            seed=42,
        ),
    )
    return ModelDirectory.open(directory)


def logits(model) -> "object":
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def test_the_merged_model_answers_as_the_adapter_on_its_base_does(
    adapter: ModelDirectory, recipe: Callable, tmp_path: Path
) -> None:
    import torch

    config = recipe(model={"dtype": "float32"})
    merged = merge(config, adapter, tmp_path / "merged")
    assert merged.record.kind == "full"
    assert merged.record.dataset_digest == adapter.record.dataset_digest
    assert (merged.path / "training_report.json").is_file()
    assert not (merged.path / "adapter_config.json").exists()
    tuned, base = logits(load_tuned(config, adapter)[0]), logits(load_base(config)[0])
    assert torch.allclose(logits(load_tuned(config, merged)[0]), tuned, atol=1e-4)
    assert not torch.allclose(base, tuned, atol=1e-2)


def test_merging_twice_gives_the_same_bytes(adapter: ModelDirectory, recipe: Callable, tmp_path: Path) -> None:
    first, second = (merge(recipe(), adapter, tmp_path / name) for name in ("a", "b"))
    assert Manifest.of_directory(first.path).differences(Manifest.of_directory(second.path)) == []


def test_an_adapter_is_refused_on_another_base(
    adapter: ModelDirectory, recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ModelError, match="holds an adapter for"):
        load_tuned(recipe(model={"name_or_path": str(other)}), adapter)


def test_a_directory_without_a_record_is_not_ours(recipe: Callable, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"has no forge_model\.json"):
        load_tuned(recipe(), ModelDirectory.open(tiny_model))


def test_the_adapters_configuration_does_not_follow_the_hash_seed(adapter: ModelDirectory) -> None:
    values = json.loads((adapter.path / "adapter_config.json").read_text())
    assert values["target_modules"] == sorted(values["target_modules"])
    assert values["base_model_name_or_path"] == "tiny"


def test_a_fresh_adapter_follows_the_seed_and_changes_nothing_yet(recipe: Callable) -> None:
    import torch

    first, _ = get_model_and_tokenizer(recipe())
    second, _ = get_model_and_tokenizer(recipe())
    weights = {name: weight for name, weight in second.named_parameters() if "lora_A" in name}
    assert weights
    assert all(torch.equal(weight, weights[name]) for name, weight in first.named_parameters() if name in weights)
    assert {name for name, weight in first.named_parameters() if weight.requires_grad} == {
        name for name in dict(first.named_parameters()) if "lora_" in name
    }


DTYPES: dict[str, tuple[dict, dict, bool, bool, str]] = {
    "a CPU with bfloat16": ({}, {}, True, True, "bfloat16"),
    "a CPU without": ({}, {}, True, False, "float32"),
    "asked for": ({"dtype": "fp32"}, {}, True, True, "float32"),
    "every weight trained": ({}, {"method": "none"}, True, True, "float32"),
    "every weight, only read": ({}, {"method": "none"}, False, True, "bfloat16"),
}


@pytest.mark.parametrize(("model", "lora", "training", "bfloat16", "expected"), DTYPES.values(), ids=DTYPES)
def test_precision(
    model: dict,
    lora: dict,
    training: bool,
    bfloat16: bool,
    expected: str,
    recipe: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forge_pipeline.models.devices.computes_bfloat16", lambda device: bfloat16)
    assert choose_dtype(recipe(model=model, lora=lora), "cpu", training=training) == expected


def test_training_every_weight_in_half_precision_is_refused(recipe: Callable) -> None:
    with pytest.raises(ModelError, match="updates vanish in rounding"):
        choose_dtype(recipe(model={"dtype": "bf16"}, lora={"method": "none"}), "cpu", training=True)


FOUR_BITS: dict[str, tuple[dict, dict, str, bool]] = {
    "left open, on a CPU": ({}, {}, "cpu", False),
    "left open, on a GPU": ({}, {}, "cuda", True),
    "left open, every weight trained": ({}, {"method": "none"}, "cuda", False),
    "left open, an adapter out of the base weights": ({}, {"method": "pissa"}, "cuda", False),
    "asked for, on a CPU": ({"load_in_4bit": True}, {}, "cpu", True),
    "asked for, on a GPU": ({"load_in_4bit": True}, {}, "cuda", True),
    "refused, on a GPU": ({"load_in_4bit": False}, {}, "cuda", False),
}


@pytest.mark.parametrize(("model", "lora", "device", "expected"), FOUR_BITS.values(), ids=FOUR_BITS)
def test_four_bits(model: dict, lora: dict, device: str, expected: bool, recipe: Callable) -> None:
    pytest.importorskip("bitsandbytes")
    config = recipe(model={"load_in_4bit": "auto", "bnb_4bit_compute_dtype": "bf16"} | model, lora=lora)
    assert (quantization_config(config, device) is not None) is expected


def test_four_bits_that_cannot_be_had_are_an_error_where_they_were_asked_for(
    recipe: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="not done on Apple GPUs"):
        quantization_config(recipe(model={"load_in_4bit": True}), "mps")
    with pytest.raises(ConfigError, match="pissa takes the adapter out of the unrounded base"):
        quantization_config(recipe(model={"load_in_4bit": True}, lora={"method": "pissa"}), "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionalDependencyError, match=r"needs the module 'bitsandbytes'.*forge-pipeline\[qlora\]"):
        quantization_config(recipe(model={"load_in_4bit": True}), "cpu")
    with caplog.at_level(logging.WARNING):
        assert quantization_config(recipe(model={"load_in_4bit": "auto"}), "cuda") is None
    assert "stays unquantized: bitsandbytes is not installed" in caplog.text
