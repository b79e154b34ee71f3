"""Verdicts, advice, serving, bad input: what a person asks of `forge fit-check`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forge_pipeline.cli.main import main
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ModelError
from forge_pipeline.fit_check import fit_check
from forge_pipeline.fit_check.cache import cache_bytes
from forge_pipeline.fit_check.optimizers import optimizer_bytes
from forge_pipeline.fit_check.packed_linear import packed_bytes
from forge_pipeline.fit_check.report import judge
from forge_pipeline.fit_check.serving import serving_memory
from forge_pipeline.models.memory import control_group_limits, format_memory, parse_memory
from tests.forge_pipeline.fit_check.architectures import LLAMA_8B, Recipe


@pytest.fixture
def large(planned: Recipe, directory_of: Callable[..., Path]) -> ForgeConfig:
    """An adapter on a model of some 8 billion weights."""
    return planned(
        directory_of(**LLAMA_8B),
        model={"max_length": 2048, "dtype": "bfloat16"},
        training={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    )


def test_a_tiny_model_fits_and_its_parts_are_its_sum(planned: Recipe) -> None:
    report = fit_check(planned(), memory="24GB", device="cuda")
    assert report.verdict == "fits"
    assert report.training.how == "simulated"
    assert report.training.needed == sum(report.training.parts.values())
    assert report.training.cross_check is not None
    assert report.advice == ()
    assert "error:" in "\n".join(report.lines())


def test_without_an_amount_the_budget_is_what_is_free_here(planned: Recipe) -> None:
    report = fit_check(planned(), quick=True)
    assert 0 < report.budget.bytes < 2**50
    assert report.training.how == "formula"


def test_advice_fits_keeps_the_effective_batch_and_begins_with_the_least_change(large: ForgeConfig) -> None:
    report = fit_check(large, memory="30GB", device="cuda")
    assert report.verdict == "does_not_fit"
    assert report.advice
    for each in report.advice:
        assert each.needed <= 30e9
        rows = each.keys.get("training.per_device_train_batch_size", 4)
        assert rows * each.keys.get("training.gradient_accumulation_steps", 2) == 8
        changed = _changed(large, each.keys)
        again = fit_check(changed, memory="30GB", device="cuda")
        assert again.training.needed == each.needed
        assert again.fits
    assert all(not set(report.advice[0].keys) < set(each.keys) or each is report.advice[0] for each in report.advice)


def _changed(config: ForgeConfig, keys: Any) -> ForgeConfig:
    values = config.model_dump(exclude_unset=True)
    for key, value in keys.items():
        section, _, name = key.partition(".")
        values[section][name] = value
    return ForgeConfig(**values)


def test_where_nothing_helps_it_says_so(large: ForgeConfig) -> None:
    report = fit_check(large, memory="3GB", device="cuda")
    assert report.advice == ()
    assert "smaller base model" in "\n".join(report.lines())


@pytest.mark.parametrize(
    ("needed", "budget", "verdict"),
    [(90, 100, "fits"), (91, 100, "tight"), (100, 100, "tight"), (101, 100, "does_not_fit")],
)
def test_verdicts(needed: int, budget: int, verdict: str) -> None:
    assert judge(needed, budget) == verdict


def test_an_architecture_that_cannot_be_traced_falls_back_to_the_formula_and_says_why(
    planned: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaAttention

    def reads_values(self: Any, hidden_states: Any, **_: Any) -> Any:
        return hidden_states.numpy()

    monkeypatch.setattr(LlamaAttention, "forward", reads_values)
    report = fit_check(planned(), memory="24GB", device="cuda")
    assert report.training.how == "formula"
    assert any("cannot be traced" in note for note in report.notes)


BAD_MEMORY = ["", "24", "24 parsecs", "-24GB", "GB", "0GB", "1e9GB", "twenty GB", "24G"]


@pytest.mark.parametrize("text", BAD_MEMORY)
def test_an_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_memory(text)


@given(st.integers(1, 2**40))
def test_more_bytes_are_never_written_as_fewer(amount: int) -> None:
    assert parse_memory(f"{amount}B") == amount
    assert parse_memory(f"{amount}KiB") == 1024 * amount
    assert format_memory(amount).endswith(("GB", "MB", "kB"))


BAD_MODELS = {
    "a directory without a configuration": (".", "config.json"),
    "a path where nothing is": ("./nowhere", "there is nothing"),
    "a package that is not installed": ("package:no_such_module/x.gguf", "not installed"),
    "a file that is no model": ("rows.txt", "expected a model directory"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_an_absent_model_is_an_error_that_says_where_it_was_looked_for(
    planned: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("x")
    path, words = BAD_MODELS[name]
    with pytest.raises(ModelError, match=words):
        fit_check(planned(model={"name_or_path": path}), memory="24GB", device="cuda")


def test_an_unknown_architecture_is_an_error(planned: Recipe, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "from_the_future"}')
    with pytest.raises(ModelError, match="architecture"):
        fit_check(planned(tmp_path), memory="24GB", device="cuda")


def test_another_device_needs_an_amount(planned: Recipe) -> None:
    from forge_pipeline.models.devices import pick_device

    other: Any = "cpu" if pick_device() == "cuda" else "cuda"
    with pytest.raises(ConfigError, match="how much"):
        fit_check(planned(), device=other)


def test_the_cache_counts_shared_heads_and_windows(directory_of: Callable[..., Path]) -> None:
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig

    llama = LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    assert cache_bytes(llama, tokens=100, rows=3, element=2) == 2 * (2 * 2 * 16) * 100 * 3 * 2
    sliding = MistralConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=10
    )
    assert cache_bytes(sliding, tokens=100, rows=1, element=2) == cache_bytes(llama, tokens=10, rows=1, element=2)
    gemma = Gemma3TextConfig(
        num_hidden_layers=6, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        sliding_window=10,
    )  # fmt: skip
    assert cache_bytes(gemma, tokens=100, rows=1, element=2) == (2 * 2 * 16) * (5 * 10 + 100) * 2


@given(st.integers(1, 4096), st.integers(1, 16))
def test_a_longer_context_or_one_more_request_never_needs_less(tokens: int, rows: int) -> None:
    from transformers import LlamaConfig

    llama = LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4)
    now = cache_bytes(llama, tokens=tokens, rows=rows, element=2)
    assert now < cache_bytes(llama, tokens=tokens + 1, rows=rows, element=2)
    assert now < cache_bytes(llama, tokens=tokens, rows=rows + 1, element=2)


def test_serving_counts_what_the_export_writes() -> None:
    from transformers import LlamaConfig

    found = {
        each.quantization: each.bits_per_weight
        for each in serving_memory(LlamaConfig(**LLAMA_8B), budget=10**11, on_cuda=False, contexts=[4096], batches=[1])
        if each.runtime == "llama.cpp"
    }
    order = ["f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m"]
    assert [found[name] for name in order] == sorted((found[name] for name in order), reverse=True)
    assert found["q4_k_m"] == pytest.approx(4.89, abs=0.02)  # what llama.cpp reports of Llama-3-8B
    with pytest.raises(ConfigError):
        serving_memory(LlamaConfig(**LLAMA_8B), budget=1, on_cuda=False, contexts=[0])


def test_optimizer_states_and_packed_weights() -> None:
    assert optimizer_bytes("adamw_torch", (1000, 1000), 4) == 8_000_000
    assert optimizer_bytes("adamw_bnb_8bit", (1024, 1024), 4) == round(2 * 2**20 * (1 + 4 / 256))
    assert optimizer_bytes("sgd", (1000, 1000), 4) == 0
    assert optimizer_bytes("adafactor", (1000, 500), 4) == 6000
    assert optimizer_bytes("galore_adamw", (1000, 500), 4, galore_rank=10) == 2 * 10 * 1000 * 4 + 10 * 500 * 4
    assert packed_bytes(64 * 256, double_quant=True) == 32 * 256 + 256 + 4
    assert packed_bytes(64, double_quant=False) == 36


def test_limits_of_control_groups_above_this_process_count(tmp_path: Path) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "memory.current").write_text("700\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 400\ninactive_file 300\n")
    (group / "memory.max").write_text("max\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert control_group_limits(tmp_path, membership) == [(1000, 400)]
    assert control_group_limits(tmp_path, tmp_path / "absent") == []


def _write(config: ForgeConfig, path: Path) -> Path:
    values = {
        key: value
        for key, value in config.model_dump(exclude_unset=True).items()
        if key in ("name", "model", "lora", "training", "data")
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_command_ends_with_0_or_3_and_prints_keys_to_set(
    large: ForgeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(_write(large, tmp_path / "recipe.yaml"))
    assert main(["fit-check", recipe, "--memory", "200GB", "--device", "cuda", "--serving"]) == 0
    out = capsys.readouterr().out
    assert "fits: needs" in out
    assert "q4_k_m" in out
    assert main(["fit-check", recipe, "--memory", "30GB", "--device", "cuda", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "does_not_fit"
    assert document["advice"][0]["keys"]


def test_the_command_refuses_an_amount_that_is_none(
    planned: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(_write(planned(), tmp_path / "recipe.yaml"))
    assert main(["fit-check", recipe, "--memory=-3GB"]) == 1
    assert "24GB" in capsys.readouterr().err
