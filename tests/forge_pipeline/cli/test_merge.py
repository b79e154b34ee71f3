"""`forge merge` and `forge deploy`: what they print, and what they end with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from forge_pipeline.audit_log import read_entries
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, ModelRecord, resolve_base_model
from forge_pipeline.models.directory import write_record


@pytest.fixture
def parent(recipe: Callable, tiny_llama: Path, tmp_path: Path) -> ModelDirectory:
    shutil.copytree(tiny_llama, tmp_path / "parent")
    nothing = Digest.of(b"")
    record = ModelRecord(
        kind="full", base_model=resolve_base_model(recipe()).record, trainer_type="sft", config_digest=nothing,
        dataset_digest=nothing, tokenized_digest=nothing, chat_template_digest=nothing, seed=0,
    )  # fmt: skip
    write_record(tmp_path / "parent", record)
    return ModelDirectory.open(tmp_path / "parent")


def test_a_recipe_is_merged_and_the_merge_deployed(
    forge: Callable, parent: ModelDirectory, tiny_llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mergekit")
    recipe = {
        "model": {"name_or_path": str(tiny_llama)}, "lora": {}, "training": {},
        "data": {"dataset_name_or_path": "rows.jsonl"},
        "merge": {"method": "linear", "models": [{"path": str(parent.path), "weight": 3}, {"path": str(tiny_llama)}]},
    }  # fmt: skip
    Path("line.yaml").write_text(yaml.safe_dump(recipe))
    done = forge("merge", "line.yaml", "merged", "--dtype", "bfloat16", "--json")
    assert done.code == 0, done.err
    merged = ModelDirectory.open(tmp_path / "merged")
    printed = json.loads(done.out)
    assert printed["digest"] == merged.digest
    assert [each["weight"] for each in printed["merged_from"]] == [0.75, 0.25]
    assert json.loads((merged.path / "config.json").read_text())["dtype"] == "bfloat16"
    logged = read_entries(tmp_path / "home" / "audit_log" / "line" / "audit_log.jsonl")[-1]
    assert (logged.event, logged.data["subject"], logged.data["method"]) == ("model.merged", merged.digest, "linear")
    assert logged.data["parents"] == [each.digest for each in merged.record.merged_from]

    done = forge("deploy", "merged", "served", "--target", "vllm", "--name", "line")
    assert done.code == 0, done.err
    assert "docker compose up" in done.out
    assert yaml.safe_load(Path("served/vllm.yaml").read_text())["served-model-name"] == ["line"]
    assert forge("deploy", "merged", "served", "--target", "vllm").code == 1, "nothing is overwritten"


def test_a_line_that_released_nothing_and_a_recipe_without_models_are_named(
    forge: Callable, parent: ModelDirectory, tiny_llama: Path
) -> None:
    pytest.importorskip("mergekit")
    recipe = {
        "model": {"name_or_path": str(tiny_llama)}, "lora": {}, "training": {},
        "data": {"dataset_name_or_path": "rows.jsonl"},
    }  # fmt: skip
    Path("plain.yaml").write_text(yaml.safe_dump(recipe))
    done = forge("merge", "plain.yaml")
    assert done.code == 1
    assert "there is no merge section" in done.err
    merge = {"method": "linear", "models": [{"path": str(parent.path)}, {"line": "other"}]}
    Path("line.yaml").write_text(yaml.safe_dump(recipe | {"merge": merge}))
    done = forge("merge", "line.yaml")
    assert done.code == 1
    assert "the line 'other' has released no model" in done.err
