"""`pipeline.stages`: how a chain of fine-tunes is declared."""

from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig, config_digest, policy_digest, resolved
from forge_pipeline.errors import ConfigError

SFT = {"name": "sft", "training": {"trainer_type": "sft", "learning_rate": 1e-3}}
DPO = {
    "name": "dpo",
    "training": {"trainer_type": "dpo", "learning_rate": 1e-5},
    "data": {"dataset_name_or_path": "pairs.jsonl"},
}


def chain(*stages: dict[str, Any], **sections: Any) -> ForgeConfig:
    values: dict[str, Any] = {
        "model": {"name_or_path": "owner/base"},
        "lora": {"r": 4},
        "training": {},
        "data": {"dataset_name_or_path": "rows.jsonl"},
        "pipeline": {"stages": list(stages)},
    }
    return ForgeConfig(**(values | sections))


def test_the_last_stage_is_what_the_recipe_describes() -> None:
    config = chain(SFT, DPO)
    assert config.training.trainer_type == "dpo"
    assert config.data.dataset_name_or_path == "pairs.jsonl"
    assert [stage.name for stage in config.earlier_stages] == ["sft"]


def test_a_stage_takes_from_the_root_what_it_does_not_name() -> None:
    first = chain(SFT, DPO).stage_config("sft")
    assert first.training.trainer_type == "sft"
    assert first.data.dataset_name_or_path == "rows.jsonl"
    assert first.lora.r == 4
    assert first.pipeline is None


def test_a_resolved_chain_reads_back_as_itself() -> None:
    config = chain(SFT, DPO)
    again = ForgeConfig(**resolved(config))
    assert again == config
    assert config_digest(again) == config_digest(config)
    assert again.stage_config("sft") == config.stage_config("sft")


def test_stages_of_a_chain_hand_on_merged_models_and_one_alone_does_not_have_to() -> None:
    assert chain(SFT, DPO).merges_adapter
    assert chain(SFT, DPO).stage_config("sft").merges_adapter
    assert not chain(SFT).merges_adapter


def test_the_policy_covers_the_gates_of_every_stage() -> None:
    strict = SFT | {"evaluation": {"max_acceptable_loss": 2.0}}
    assert policy_digest(chain(SFT, DPO)) != policy_digest(chain(strict, DPO))


REFUSED = {
    "two stages of one name": ([SFT, SFT], {}, "sft stands there more than once"),
    "no stage": ([], {}, "pipeline.stages"),
    "a trainer by default": ([{"name": "sft", "training": {"learning_rate": 1e-3}}], {}, "write trainer_type"),
    "an asset's name": ([SFT | {"name": "raw_dataset"}], {}, "is the name of an asset"),
    "a name with a slash": ([SFT | {"name": "a/b"}], {}, "pipeline.stages.0.name"),
    "another base model": (
        [SFT, DPO | {"model": {"name_or_path": "other/base"}}],
        {},
        "goes on from the one before it",
    ),
    "a section that no stage has": ([SFT | {"release": {}}], {}, "is not a key of this section"),
}


@pytest.mark.parametrize(("stages", "sections", "words"), REFUSED.values(), ids=REFUSED)
def test_a_chain_that_cannot_be_meant_is_refused(stages: list[Any], sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain(*stages, **sections)


def test_an_unknown_stage_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="there is no 'rl'; there are sft, dpo"):
        chain(SFT, DPO).stage_config("rl")
