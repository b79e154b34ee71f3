"""`ForgeTrainer` on a recipe whose base model is what another line released, found through the registry."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_pipeline import ForgeTrainer
from forge_pipeline.audit_log import AuditLogger, read_entries
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, check_earlier_stages, load_tuned, pin_base_line, resolve_base_model
from forge_pipeline.models.directory import ModelRecord, write_record
from forge_pipeline.registry import Registry

ROWS = Digest.of(b"rows of the other line")


@pytest.fixture
def released(tmp_path: Path, recipe: Callable[..., ForgeConfig], monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    """A model of the line ``support``: its weights are the tiny model's."""
    home = tmp_path / "home"
    monkeypatch.setenv("FORGE_HOME", str(home))
    base = resolve_base_model(recipe())
    shutil.copytree(base.path, home / "model")
    write_record(home / "model", ModelRecord("full", base.record, "sft", ROWS, ROWS, ROWS, None, 0))
    model = ModelDirectory.open(home / "model")
    (home / "audit_log" / "support").mkdir(parents=True)
    AuditLogger(str(home / "audit_log" / "support"), "r").log_event(
        "gate.decided", asset_key="support/fine_tuned_model", gate="loss_is_finite", verdict="passed", outcome="pass",
        subject=model.digest, policy_digest=ROWS, reason="finite",
    )  # fmt: skip
    registry = Registry(f"sqlite:///{home / 'registry.sqlite'}")
    registry.register_model(
        uid=model.digest, name="support", line="support", base_model="b", path=str(model.path), stage="released"
    )
    registry.set_alias("support", "released", model.digest, set_by="tests", reason="tests")
    registry.close()
    return model


def test_it_goes_on_from_the_released_model(
    released: ModelDirectory, recipe: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}]}
        for n in ("owls", "maps", "snow", "tea", "bread", "trains")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = recipe(
        model={"name_or_path": "line:support"},
        data={"dataset_name_or_path": str(tmp_path / "rows.jsonl"), "split": {"validation": 0.0},
              "audit": {"max_split_overlap": 1.0}},
        training={"trainer_type": "sft", "output_dir": str(tmp_path / "out")},
    )  # fmt: skip
    result = ForgeTrainer(config).train()
    assert result.success, result.error
    model = ModelDirectory.open(str(result.final_model_path))
    (stage,) = model.record.earlier
    assert (stage.name, stage.model_digest) == ("line:support@released", released.digest)
    assert model.record.kind == "full"
    assert model.record.dataset_digests[0] == ROWS
    check_earlier_stages(model.record)
    load_tuned(config, model)
    (begun,) = [each for each in read_entries(tmp_path / "out" / "audit_log.jsonl") if each.event == "recipe.resolved"]
    assert begun.data["config_digest"] == config_digest(pin_base_line(config)) != config_digest(config)


def test_a_line_that_released_nothing_is_told_before_anything_is_written(
    released: ModelDirectory, recipe: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    config = recipe(model={"name_or_path": "line:other"}, training={"output_dir": str(tmp_path / "out")})
    with pytest.raises(ModelError, match="the line 'other' has no model; it has released no model"):
        ForgeTrainer(config).train()
    assert not (tmp_path / "out").exists()
