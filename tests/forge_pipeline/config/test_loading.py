"""Recipes: what loads, and what a person reads when one does not."""

import pickle
from pathlib import Path

import pytest

from forge_pipeline.config import ForgeConfig, config_digest, load_config, resolved
from forge_pipeline.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"
GOOD = "model: {name_or_path: m}\nlora: {}\ndata: {dataset_name_or_path: d}\ntraining: {}\n"

# name: (the file's text, what the message must hold)
BROKEN = {
    "unknown section": (GOOD + "modle: {}\n", ["modle", "did you mean 'model'"]),
    "unknown key": (GOOD.replace("training: {}", "training: {sed: 1}"), ["training.sed", "did you mean 'seed'"]),
    "wrong word": (GOOD.replace("training: {}", "training: {trainer_type: sftt}"), ["training.trainer_type", "'sftt'", "'sft'"]),
    "wrong type": (GOOD.replace("lora: {}", "lora: {r: eight}"), ["lora.r", "'eight'", "integer"]),
    "out of range": (GOOD.replace("lora: {}", "lora: {r: 0}"), ["lora.r", "found 0", "greater than or equal to 1"]),
    "missing section": ("model: {name_or_path: m}\n", ["lora: is required", "data: is required", "training: is required"]),
    "not YAML": ("a: [", [":1:", "not valid YAML"]),
    "not a mapping": ("- a\n", ["found list", "mapping"]),
    "empty": ("", ["found NoneType"]),
    "key is a number": ("1: {}\n", ["key 1"]),
    "a value that nothing would read": (GOOD.replace("{name_or_path: m}", "{name_or_path: m, multimodal: {enabled: true}}"), ["multimodal.enabled", "not supported"]),
    "nested deeply": ("a: " + "[" * 3000, ["r.yaml"]),
    "high risk without safety": (GOOD + "risk_assessment: {risk_category: high-risk}\n", ["evaluation.safety.enabled: true"]),
    "mix of the wrong length": (GOOD.replace("{dataset_name_or_path: d}", "{dataset_name_or_path: d, mix_ratio: [1, 2]}"), ["mix_ratio", "expected 1"]),
    "full fine-tune of 4-bit weights": (GOOD.replace("lora: {}", "lora: {method: none}").replace("m}", "m, load_in_4bit: true}"), ["load_in_4bit: false"]),
    "benchmark without tasks": (GOOD + "evaluation: {benchmark: {enabled: true}}\n", ["tasks is empty"]),
    "owner that is nobody": (GOOD + "owners: [somebody]\n", ["team:<name>"]),
    "a point that Annex IV does not have": (GOOD + "compliance: {declarations: {'1(z)': x}}\n", ["'1(z)' is no point", "2(e)"]),
    "no such way to stretch positions": (GOOD.replace("training: {}", "training: {rope_scaling: {type: ntk, factor: 2}}"), ["rope_scaling.type", "'ntk'", "yarn"]),
    "positions stretched by nothing": (GOOD.replace("training: {}", "training: {rope_scaling: {type: linear}}"), ["rope_scaling.factor", "missing"]),
    "positions shrunk": (GOOD.replace("training: {}", "training: {rope_scaling: {type: linear, factor: 0.5}}"), ["rope_scaling.factor", "0.5", "above 1"]),
    "a key of another stretching": (GOOD.replace("training: {}", "training: {rope_scaling: {type: linear, factor: 2, beta_fast: 1}}"), ["rope_scaling.beta_fast", "not a key of linear"]),
    "factors that are no list": (GOOD.replace("training: {}", "training: {rope_scaling: {type: longrope, short_factor: 1, long_factor: [1]}}"), ["rope_scaling.short_factor", "list of numbers"]),
    "experts that are no numbers": (GOOD.replace("m}", "m, moe: {experts_to_train: first}}"), ["experts_to_train", "'first'", "0,3,5"]),
    "a rank of nothing": (GOOD.replace("lora: {}", "lora: {rank_pattern: {q_proj: 0}}"), ["rank_pattern", "1 or more"]),
    "name with a slash": (GOOD + "name: a/b\n", ["a-z, 0-9"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_recipe_names_file_key_value_and_fix(tmp_path, text, words):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    assert str(file) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_and_one_that_is_not_text_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such recipe"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(str(tmp_path / "bytes.yaml"))


def test_every_shipped_recipe_loads_and_names_its_file():
    files = sorted(CONFIGS.glob("*.yaml"))
    assert {"quickstart", "sft_qlora", "dpo", "kto", "orpo", "simpo", "grpo", "compliance_strict"} <= {
        f.stem for f in files
    }
    for file in files:
        assert load_config(str(file)).name == file.stem


def test_constructing_in_memory_raises_the_same_error():
    with pytest.raises(ConfigError, match=r"lora\.r: found 0"):
        ForgeConfig(model={"name_or_path": "m"}, lora={"r": 0}, data={"dataset_name_or_path": "d"}, training={})


def test_a_resolved_recipe_loads_back_to_itself_and_digests_alike():
    config = load_config(str(CONFIGS / "quickstart.yaml"))
    again = ForgeConfig(**resolved(config))
    assert again == config
    assert config_digest(again) == config_digest(config)


def test_secrets_do_not_stand_in_a_resolved_recipe():
    config = ForgeConfig(
        model={"name_or_path": "m"},
        lora={},
        data={"dataset_name_or_path": "d"},
        training={},
        auth={"hf_token": "hf_secret"},
    )
    assert "hf_secret" not in str(resolved(config))
    assert "hf_secret" not in repr(config)


def test_undeclared_compliance_facts_stay_unknown():
    config = ForgeConfig(
        model={"name_or_path": "m"}, lora={}, data={"dataset_name_or_path": "d", "governance": {}}, training={},
        compliance={}, risk_assessment={},
    )  # fmt: skip
    assert config.data.governance.personal_data_included is None
    assert config.compliance.risk_classification is None
    assert config.risk_assessment.vulnerable_groups_considered is None


def test_a_config_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ConfigError("a: b")))
    assert isinstance(error, ConfigError)
    assert str(error) == "a: b"
