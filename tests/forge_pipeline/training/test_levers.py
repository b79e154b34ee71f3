"""Each lever of a recipe moves what it says: measured on the weights, the losses and the model that is loaded again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory, load_base, load_tuned, merge
from forge_pipeline.training import fine_tune

RAW = Digest.of(b"raw")
IDS = torch.arange(5, 45)[None]

NO_WEIGHT_KEEPS = {"weight_decay": 0.0}


@pytest.fixture
def architecture(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Saves a tiny random model of an architecture, with the tiny llama's tokenizer."""

    def build(config_class: str, **values: Any) -> Path:
        import transformers

        directory = tmp_path / f"base-{config_class}"
        shutil.copytree(tiny_model, directory, ignore=lambda *_: ["model.safetensors", "config.json"])
        size = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        }
        tokens = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config = getattr(transformers, config_class)(**(size | tokens | values))
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        return directory

    return build


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def losses(result: Any) -> list[float]:
    return [point.loss for point in result.report.loss_history if point.loss is not None]


# --- 4 bits -----------------------------------------------------------------------------------------------------------

FOUR_BITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nf4, scales quantized too": ({}, {}),
    "fp4": ({"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}, {}),
    "dora": ({}, {"method": "dora"}),
    "rslora": ({}, {"method": "rslora"}),
}


@pytest.mark.parametrize(("model", "lora"), FOUR_BITS.values(), ids=FOUR_BITS)
def test_an_adapter_on_four_bits_is_trained_loaded_and_merged_on_the_same_rounded_weights(
    model: dict, lora: dict, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    config = recipe(
        model={"load_in_4bit": True} | model,
        lora={"dropout": 0.0} | lora,
        training={"learning_rate": 5e-2, "max_steps": 4, "eval_steps": 2},
    )
    dataset = tokenized()
    result = fine_tune(config, dataset, RAW, tmp_path / "model")
    record = result.model.record
    assert result.report.dtype == config.model.bnb_4bit_quant_type
    assert record.quantization is not None
    assert (record.quantization.kind, record.quantization.double) == (
        config.model.bnb_4bit_quant_type,
        config.model.bnb_4bit_use_double_quant,
    )

    merged = merge(config, result.model, tmp_path / "merged")
    tuned, whole = logits(load_tuned(config, result.model, dtype="float32")[0]), logits(load_tuned(config, merged)[0])
    assert torch.allclose(tuned, whole, atol=0.05), "the merged model is cast to bfloat16 when it is loaded"
    exact = logits(load_tuned(config, merged, dtype="float32")[0])
    assert torch.allclose(tuned, exact, atol=1e-5)
    assert "quantization_config" not in json.loads((merged.path / "config.json").read_text())

    # The last evaluation saw four-bit weights; the model that is loaded again gives the same loss on the same rows.
    assert loss_on_validation(load_tuned(config, result.model, dtype="float32")[0], dataset) == pytest.approx(
        result.report.eval_loss, rel=2e-3
    )
    # And on the unrounded base it would be another model: rounding is most of the difference that is left.
    unrounded = ModelDirectory.open(_without_rounding(result.model, tmp_path / "unrounded"))
    apart = (logits(load_tuned(config, unrounded, dtype="float32")[0]) - tuned).abs().mean()
    assert apart > 100 * (tuned - exact).abs().mean()


def _without_rounding(model: ModelDirectory, directory: Path) -> Path:
    shutil.copytree(model.path, directory)
    record = json.loads((directory / "forge_model.json").read_text())
    record["quantization"] = None
    (directory / "forge_model.json").write_text(json.dumps(record, separators=(",", ":"), sort_keys=True))
    return directory


def loss_on_validation(model: Any, dataset: Any) -> float:
    summed, tokens = 0.0, 0
    for row in dataset.table("validation").to_pylist():
        labels = torch.tensor(row["labels"])
        scores = logits(model, torch.tensor(row["input_ids"])[None])[0]
        summed += torch.nn.functional.cross_entropy(scores[:-1], labels[1:], ignore_index=-100, reduction="sum").item()
        tokens += int((labels[1:] != -100).sum())
    return summed / tokens


def test_four_bits_train_to_the_same_bytes_twice_and_an_evaluation_changes_nothing(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    dataset = tokenized()
    often, never = (
        fine_tune(
            recipe(
                model={"load_in_4bit": True},
                lora={"dropout": 0.0},
                training={"max_steps": 4, "eval_steps": steps, "early_stopping_patience": 9},
            ),
            dataset,
            RAW,
            tmp_path / str(steps),
        )
        for steps in (1, 100)
    )
    weights = [Digest.of_file(each.model.path / "adapter_model.safetensors") for each in (often, never)]
    assert losses(often) == losses(never)
    assert weights[0] == weights[1]


def test_an_adapter_on_four_bits_moves_at_a_usual_learning_rate(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    # Eight bits of mantissa at 0.1 are steps of 5e-4: in bfloat16 none of these updates would be seen in lora_A.
    config = recipe(
        model={"load_in_4bit": True}, training={"learning_rate": 2e-5, "warmup_ratio": 0.0, "weight_decay": 0.0}
    )
    start = fine_tune(
        config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 1e-12})}),
        tokenized(),
        RAW,
        tmp_path / "start",
    )
    end = fine_tune(config, tokenized(name="2"), RAW, tmp_path / "end")
    before, after = (load_file(each.model.path / "adapter_model.safetensors") for each in (start, end))
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = [name for name in after if "lora_A" in name and not torch.equal(before[name], after[name])]
    assert len(moved) == sum("lora_A" in name for name in after)


@pytest.mark.parametrize("trainer_type", ["dpo", "kto", "orpo", "simpo"])
def test_every_kind_of_trainer_steps_on_four_bits(
    trainer_type: str, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    config = recipe(model={"load_in_4bit": True}, training={"trainer_type": trainer_type})
    result = fine_tune(config, tokenized(trainer_type), RAW, tmp_path / "model")
    assert result.report.steps == 2
    assert result.report.dtype == "nf4"
    load_tuned(config, result.model)


# --- positions and windows --------------------------------------------------------------------------------------------

ROPE: dict[str, dict[str, Any]] = {
    "linear": {"type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope", "factor": 2.0, "short_factor": [1.5] * 4, "long_factor": [4.0] * 4,
    },
}  # fmt: skip
LONGEST = {"linear": 256, "dynamic": 256, "yarn": 1024, "longrope": 512}


@pytest.mark.parametrize("kind", ROPE)
def test_stretched_positions_are_trained_recorded_loaded_and_served(
    kind: str, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    config = recipe(training={"rope_scaling": ROPE[kind]}, model={"dtype": "float32"})
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    plain = recipe(model={"dtype": "float32"})
    merged = merge(config, result.model, tmp_path / "merged")

    saved = json.loads((merged.path / "config.json").read_text())
    assert saved["rope_parameters"]["rope_type"] == kind
    assert saved["rope_parameters"]["rope_theta"] == 10000.0
    assert saved["max_position_embeddings"] == LONGEST[kind]
    # What is served knows of it without the recipe: from the adapter's record, and from the merged config.json.
    ids = torch.arange(600).remainder(290)[None] + 5
    tuned = logits(load_tuned(config, result.model)[0], ids)
    assert torch.equal(tuned, logits(load_tuned(plain, result.model)[0], ids))
    assert torch.allclose(tuned, logits(load_tuned(plain, merged)[0], ids), atol=1e-4)
    assert not torch.allclose(tuned, logits(load_base(config)[0], ids), atol=1e-3)
    first = fine_tune(plain, tokenized(name="plain"), RAW, tmp_path / "plain")
    if kind != "dynamic":  # which leaves positions as they are, up to the length the model was trained for
        assert losses(first)[0] != losses(result)[0]


WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("MistralConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "phi3": ("Phi3Config", {}),
    "gemma2": ("Gemma2Config", {"head_dim": 8}),
}


@pytest.mark.parametrize(("config_class", "values"), WINDOWED.values(), ids=WINDOWED)
def test_a_window_hides_what_lies_before_it_in_training_and_in_what_is_served(
    config_class: str, values: dict, architecture: Callable, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    window = 4
    config = recipe(
        model={"name_or_path": str(architecture(config_class, **values)), "dtype": "float32"},
        lora={"target_modules": ["all-linear"]},
        training={"sliding_window_attention": window, "max_steps": 1},
    )
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    merged = merge(config, result.model, tmp_path / "merged")
    assert json.loads((merged.path / "config.json").read_text())["sliding_window"] == window
    model = load_tuned(config, merged)[0]
    # Two layers reach twice as far as a window (Gemma: one of the two has none, so its far end is seen).
    other = IDS.clone()
    other[0, 0] = 200
    far = 2 * (window - 1) + 1
    changed = (logits(model) - logits(model, other)).abs().amax(-1)[0]
    assert changed[0] > 0
    if config_class == "Gemma2Config":
        assert result.model.record.architecture == {"sliding_window": window}
    else:
        assert changed[far:].max() == 0
        base = load_base(config)[0]
        assert (logits(base) - logits(base, other)).abs().amax(-1)[0][far:].max() > 0


# --- optimizers -------------------------------------------------------------------------------------------------------


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


GALORE: dict[str, tuple[dict[str, Any], int]] = {
    "adamw": ({}, 2),
    "adafactor": ({"galore_optim": "galore_adafactor"}, 2),
    "layer by layer": ({"galore_optim": "galore_adamw_layerwise"}, 2),
    "another rank": ({"galore_rank": 3}, 3),
}


@pytest.mark.parametrize(("training", "rank"), GALORE.values(), ids=GALORE)
def test_a_galore_step_changes_a_weight_by_a_matrix_of_its_rank(
    training: dict, rank: int, recipe: Callable, tokenized: Callable, tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("galore_torch")
    galore = {"galore_enabled": True, "galore_rank": 2, "max_steps": 1, "warmup_ratio": 0.0, "learning_rate": 1e-2}
    config = recipe(lora={"method": "none"}, training=galore | NO_WEIGHT_KEEPS | training)
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    before, after = weights_of(tiny_model), weights_of(result.model.path)
    for name in before:
        if "proj" in name:
            assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) == rank, name
    assert "optim_args" in dict(result.report.arguments)


def test_galore_decays_weights_as_the_recipe_says(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    pytest.importorskip("galore_torch")
    galore = {"galore_enabled": True, "galore_rank": 2, "max_steps": 1, "warmup_ratio": 0.0, "learning_rate": 1e-2}
    name = "model.layers.0.mlp.up_proj.weight"
    plain, decayed = (
        weights_of(
            fine_tune(
                recipe(lora={"method": "none"}, training=galore | {"weight_decay": decay}),
                tokenized(name=str(decay)),
                RAW,
                tmp_path / str(decay),
            ).model.path
        )
        for decay in (0.0, 10.0)
    )
    assert torch.allclose(decayed[name], plain[name] * (1 - 0.1), atol=1e-6)


def test_galore_resumes_to_the_same_bytes(recipe: Callable, tokenized: Callable, tmp_path: Path) -> None:
    pytest.importorskip("galore_torch")
    dataset, work = tokenized(), tmp_path / "work"
    config = recipe(
        lora={"method": "none"},
        training={
            "galore_enabled": True,
            "galore_rank": 2,
            "galore_update_proj_gap": 3,
            "max_steps": 5,
            "save_steps": 2,
        },
    )

    def interrupt(moment: Any) -> None:
        if moment.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(config, dataset, RAW, tmp_path / "model", work_dir=work, progress=interrupt)
    resumed = fine_tune(config, dataset, RAW, tmp_path / "model", work_dir=work, resume_from_checkpoint=True)
    straight = fine_tune(config, dataset, RAW, tmp_path / "straight" / "model")
    manifests = [Manifest.of_directory(run.model.path) for run in (resumed, straight)]
    assert manifests[0].differences(manifests[1]) == []


@pytest.mark.parametrize("optim", ["adamw_8bit", "lion_8bit", "apollo_adamw", "adafactor", "adamw_torch_fused"])
def test_an_optimizer_that_is_installed_steps_here(
    optim: str, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    from forge_pipeline.training.optimizers import OPTIMIZERS

    needs = OPTIMIZERS[optim]
    if needs:
        pytest.importorskip(needs[0])
    lora = {"method": "none"} if optim.startswith("apollo") else {}
    result = fine_tune(recipe(lora=lora, training={"optim": optim}), tokenized(), RAW, tmp_path / "model")
    assert losses(result)[1] != losses(result)[0]


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_ranks_scales_and_whole_modules_are_those_of_the_recipe(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    config = recipe(
        model={"dtype": "float32"},
        lora={
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 7},
            "alpha_pattern": {"v_proj": 32},
            "modules_to_save": ["model.norm"],
            "dropout": 0.0,
        },
        training={"learning_rate": 1e-2},
    )
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    found = load_file(result.model.path / "adapter_model.safetensors")
    ranks = {name.partition("layers.")[2]: len(weight) for name, weight in found.items() if "lora_A" in name}
    assert ranks == {
        "0.self_attn.q_proj.lora_A.weight": 4,
        "0.self_attn.v_proj.lora_A.weight": 2,
        "1.self_attn.q_proj.lora_A.weight": 7,
        "1.self_attn.v_proj.lora_A.weight": 2,
    }
    whole = [name for name in found if "lora_" not in name]
    assert whole == ["base_model.model.model.norm.weight"]
    assert not torch.equal(found[whole[0]], torch.ones(32))
    tuned = load_tuned(config, result.model)[0]
    assert tuned.base_model.model.model.layers[0].self_attn.v_proj.scaling == {"default": 16.0}
    merged = merge(config, result.model, tmp_path / "merged")
    assert torch.allclose(logits(tuned), logits(load_tuned(config, merged)[0]), atol=1e-4)


BIASES = {"none": set(), "all": {"q_proj", "k_proj", "v_proj"}, "lora_only": {"q_proj", "v_proj"}}


@pytest.mark.parametrize("bias", BIASES)
def test_biases_are_trained_as_the_recipe_says(
    bias: str, architecture: Callable, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    config = recipe(
        model={"name_or_path": str(architecture("Qwen2Config"))}, lora={"bias": bias}, training={"learning_rate": 1e-2}
    )
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    found = load_file(result.model.path / "adapter_model.safetensors")
    names = [name.removesuffix(".bias").removesuffix(".base_layer") for name in found if name.endswith(".bias")]
    assert {name.rpartition(".")[2] for name in names} == BIASES[bias]
    load_tuned(config, result.model)


MOE: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8},
    ),
}


@pytest.mark.parametrize(("config_class", "values"), MOE.values(), ids=MOE)
@pytest.mark.parametrize(("experts", "learn"), [("all", {0, 1, 2, 3}), ("1, 3", {1, 3}), ("none", set())])
def test_the_experts_that_the_recipe_names_learn_and_no_other(
    experts: str,
    learn: set[int],
    config_class: str,
    values: dict,
    architecture: Callable,
    recipe: Callable,
    tokenized: Callable,
    tmp_path: Path,
) -> None:
    base = architecture(config_class, **values)
    config = recipe(
        model={"name_or_path": str(base), "dtype": "float32", "moe": {"experts_to_train": experts}},
        lora={"dropout": 0.0},
        training={"learning_rate": 5e-2, "max_steps": 3},
    )
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    merged = merge(config, result.model, tmp_path / "merged")
    tuned = load_tuned(config, result.model)[0]
    assert torch.allclose(logits(tuned), logits(load_tuned(config, merged)[0]), atol=1e-4)
    before, after = load_base(config)[0].state_dict(), load_tuned(config, merged)[0].state_dict()
    for name in before:
        if ".experts." in name:
            changed = {n for n in range(4) if not torch.equal(before[name][n], after[name][n])}
            assert changed == learn, name
    attention = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[attention], after[attention])


TOGETHER: dict[str, dict[str, dict[str, Any]]] = {
    "the head whole, with the embeddings it shares": {"lora": {"modules_to_save": ["lm_head"]}},
    "the embeddings whole": {"lora": {"modules_to_save": ["embed_tokens"]}},
    "pissa with ranks of its own": {"lora": {"method": "pissa", "rank_pattern": {"v_proj": 2}}},
    "four bits, every layer and a module whole": {
        "model": {"load_in_4bit": True}, "lora": {"target_modules": ["all-linear"], "modules_to_save": ["model.norm"]},
    },
    "four bits, recomputed, without padding": {
        "model": {"load_in_4bit": True}, "training": {"gradient_checkpointing": True, "padding_free": True},
    },
}  # fmt: skip


@pytest.mark.parametrize("sections", TOGETHER.values(), ids=TOGETHER)
def test_levers_work_together_and_the_merged_model_is_the_trained_one(
    sections: dict, recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    if sections.get("model"):
        pytest.importorskip("bitsandbytes")
    config = recipe(training={"learning_rate": 1e-2} | sections.get("training", {}), model=sections.get("model", {}),
                    lora=sections.get("lora", {}))  # fmt: skip
    result = fine_tune(config, tokenized(), RAW, tmp_path / "model")
    merged = merge(config, result.model, tmp_path / "merged")
    tuned, whole = (logits(load_tuned(config, each, dtype="float32")[0]) for each in (result.model, merged))
    assert torch.allclose(tuned, whole, atol=1e-4)
    assert not torch.allclose(tuned, logits(load_base(config, dtype="float32")[0]), atol=1e-4)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_noise_on_the_embeddings_is_there_in_training_and_gone_in_evaluation(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    quiet, noisy = (
        fine_tune(
            recipe(
                lora={"dropout": 0.0},
                training={"neftune_noise_alpha": alpha, "learning_rate": 1e-12, "eval_steps": 1},
            ),
            tokenized(name=str(alpha)),
            RAW,
            tmp_path / str(alpha),
        )
        for alpha in (None, 50.0)
    )
    assert losses(quiet)[0] != losses(noisy)[0]
    assert quiet.report.eval_loss == pytest.approx(noisy.report.eval_loss, abs=1e-6)


def test_recomputed_activations_and_rows_without_padding_give_the_same_training(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    settings = {"plain": {}, "recomputed": {"gradient_checkpointing": True}, "unpadded": {"padding_free": True}}
    runs = {
        name: fine_tune(
            recipe(model={"dtype": "float32"}, lora={"dropout": 0.0}, training={"max_steps": 4} | values),
            tokenized(name=name),
            RAW,
            tmp_path / name,
        )
        for name, values in settings.items()
    }
    assert losses(runs["plain"]) == losses(runs["recomputed"])
    assert losses(runs["plain"]) == pytest.approx(losses(runs["unpadded"]), rel=2e-3)
    assert runs["unpadded"].report.arguments["padding_free"] is True
