"""`ForgeTrainer` on a recipe with a `pipeline`: SFT, then DPO on preference pairs, on the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline import ForgeTrainer, verify_audit_log
from forge_pipeline.audit_log import read_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import GateFailedError, ModelError, TrainingError
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, check_earlier_stages, load_tuned

WORDS = ["rivers", "trains", "violins", "comets", "bread", "cheese", "snow", "bridges", "owls", "clocks", "maps", "tea"]
STEPS = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-3}


@pytest.fixture
def chain(recipe: Callable[..., ForgeConfig], tmp_path: Path) -> Callable[..., ForgeConfig]:
    chats = [
        {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"{word}!"}]}
        for word in WORDS
    ]
    pairs = [{"prompt": f"Say {word}.", "chosen": f" {word}!", "rejected": f" {word[::-1]}?"} for word in WORDS]
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(sft: dict[str, Any] | None = None, **sections: Any) -> ForgeConfig:
        audit = {"split": {"validation": 0.0}, "audit": {"max_split_overlap": 1.0}}
        stages = [
            {"name": "sft", "training": STEPS | {"trainer_type": "sft"}} | (sft or {}),
            {
                "name": "dpo",
                "training": STEPS | {"trainer_type": "dpo"},
                "data": {"dataset_name_or_path": str(tmp_path / "pairs.jsonl")} | audit,
            },
        ]
        pipeline = {"output_dir": str(tmp_path / "out"), "stages": stages}
        return recipe(
            data={"dataset_name_or_path": str(tmp_path / "chats.jsonl")} | audit, pipeline=pipeline, **sections
        )

    return build


def events(tmp_path: Path) -> list[str]:
    return [entry.event for entry in read_entries(str(tmp_path / "out" / "audit_log.jsonl"))]


def test_each_stage_goes_on_from_the_model_of_the_one_before(chain: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    config = chain()
    result = ForgeTrainer(config).train()
    assert result.success, result.error
    first = ModelDirectory.open(tmp_path / "out" / "run-0001" / "stages" / "sft" / "final_model")
    final = ModelDirectory.open(str(result.final_model_path))

    record = final.record
    assert (first.record.trainer_type, record.trainer_type) == ("sft", "dpo")
    assert [(stage.name, stage.model_digest) for stage in record.earlier] == [("sft", first.digest)]
    assert record.base_model == first.record.base_model, "the published model is still the base"
    assert record.dataset_digests == (first.record.dataset_digest, record.dataset_digest)
    assert {"no_secrets", "loss_is_finite"} <= {decision.gate for decision in record.earlier[0].gates}
    check_earlier_stages(record)

    # Two steps of a small learning rate leave it near the stage that it came from, and not at the base.
    import torch
    from transformers import AutoModelForCausalLM

    weights = [
        torch.cat([value.flatten() for value in AutoModelForCausalLM.from_pretrained(path).state_dict().values()])
        for path in (config.model.name_or_path, first.path, final.path)
    ]
    assert (weights[2] - weights[1]).norm() < (weights[2] - weights[0]).norm()
    assert not torch.equal(weights[2], weights[1])
    load_tuned(config, final)

    assert verify_audit_log(str(tmp_path / "out" / "audit_log.jsonl")).valid
    found = events(tmp_path)
    assert found.count("pipeline.stage_started") == found.count("pipeline.stage_completed") == 1
    assert found.count("training.started") == 2


def test_a_stage_whose_gate_fails_ends_the_chain(chain: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    result = ForgeTrainer(chain(sft={"evaluation": {"max_acceptable_loss": 0.001}})).train()
    assert not result.success
    assert "max_acceptable_loss" in str(result.error)
    assert events(tmp_path).count("training.started") == 1, "dpo was not started"
    assert (tmp_path / "out" / "run-0001" / "stages" / "sft" / "final_model").is_dir(), "and nothing was deleted"


def test_a_resumed_chain_takes_over_the_stages_that_are_done(
    chain: Callable[..., ForgeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge_pipeline.training import ranks

    real = ranks.launched_fine_tune

    def power_cut(config: ForgeConfig, *args: Any, **kwargs: Any) -> Any:
        if config.training.trainer_type == "dpo":
            raise KeyboardInterrupt
        return real(config, *args, **kwargs)

    monkeypatch.setattr(ranks, "launched_fine_tune", power_cut)
    with pytest.raises(KeyboardInterrupt):
        ForgeTrainer(chain()).train()
    monkeypatch.undo()
    result = ForgeTrainer(chain()).train(resume_from_checkpoint=True)
    assert result.success, result.error
    assert events(tmp_path).count("pipeline.stage_reused") == 1
    models = [tmp_path / "out" / run / "stages" / "sft" / "final_model" for run in ("run-0001", "run-0002")]
    assert ModelDirectory.open(models[0]).digest == ModelDirectory.open(models[1]).digest


def test_a_changed_stage_is_not_resumed_silently(chain: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    ForgeTrainer(chain()).train()
    changed = chain(sft={"training": STEPS | {"trainer_type": "sft", "seed": 7}})
    with pytest.raises(TrainingError, match=r"training\.seed"):
        ForgeTrainer(changed).train(resume_from_checkpoint=True)
    assert "pipeline.stage_reused" not in events(tmp_path)


def test_a_release_needs_every_gate_of_every_stage(chain: Callable[..., ForgeConfig]) -> None:
    from dataclasses import replace

    result = ForgeTrainer(chain()).train()
    record = ModelDirectory.open(str(result.final_model_path)).record
    stage = record.earlier[0]
    failed = replace(stage, gates=(replace(stage.gates[0], outcome="not_run", guards=("release",)), *stage.gates[1:]))
    with pytest.raises(GateFailedError, match="release refused"):
        check_earlier_stages(replace(record, earlier=(failed,)))


def test_an_adapter_for_a_stages_model_is_not_put_on_the_published_one(
    chain: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    config = chain()
    assert ForgeTrainer(config).train().success
    adapter = ModelDirectory.open(tmp_path / "out" / "run-0001" / "adapter")
    with pytest.raises(ModelError, match="the stage 'sft'"):
        load_tuned(config, adapter)
    assert isinstance(adapter.digest, Digest)
