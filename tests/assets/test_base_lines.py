"""Lines that go on from the model that another line released."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.base_lines import rings
from assets.definitions import build_definitions, build_line
from assets.line import Line
from forge_pipeline.audit_log import read_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.integrity import REPORT_FILE, read_report
from forge_pipeline.models import ModelDirectory
from forge_pipeline.registry import Registry
from resources.home import Home


def line_on(name: str, base: str, **model: object) -> ForgeConfig:
    return ForgeConfig(
        name=name, model={"name_or_path": base, **model}, lora={}, training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "rows.jsonl"},
    )  # fmt: skip


def upstream(config: ForgeConfig, stage: str) -> set[str]:
    definitions = build_line(Line(config.name, None, config))
    (asset,) = [each for each in definitions.assets or () if dg.AssetKey([config.name, stage]) in each.keys]
    return {key.to_user_string() for key in asset.dependency_keys if key.path[0] != config.name}


def test_recipe_and_model_follow_the_release_of_the_other_line() -> None:
    config = line_on("assistant", "line:support")
    assert upstream(config, "recipe") == upstream(config, "fine_tuned_model") == {"support/released_model"}
    assert upstream(config, "tokenized_dataset") == set()


def test_of_an_unreleased_model_they_follow_the_model() -> None:
    config = line_on("assistant", "line:support@newest", allow_unreleased=True)
    assert upstream(config, "recipe") == upstream(config, "fine_tuned_model") == {"support/fine_tuned_model"}


def test_of_a_chain_only_the_first_model_follows_the_other_line() -> None:
    stages = [{"name": name, "training": {"trainer_type": "sft"}} for name in ("one", "two")]
    config = ForgeConfig(**{**line_on("assistant", "line:support").model_dump(), "pipeline": {"stages": stages}})
    first, last = Line("assistant", None, config).parts()
    assert [key.to_user_string() for key in first.other_lines("fine_tuned_model")] == ["support/released_model"]
    assert last.other_lines("fine_tuned_model") == []


RINGS = {
    "two": ({"a": "b", "b": "a"}, {"a": "a -> b -> a", "b": "b -> a -> b"}),
    "three, and one that leads into them": (
        {"a": "b", "b": "c", "c": "a", "d": "a"}, {"a": "a -> b -> c -> a", "b": "b -> c -> a -> b", "c": "c -> a -> b -> c"}
    ),
    "none": ({"a": "b", "b": "c"}, {}),
    "a line that is not declared": ({"a": "nowhere"}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("follows", "expected"), RINGS.values(), ids=RINGS)
def test_rings_are_found_with_their_names(follows: dict[str, str], expected: dict[str, str]) -> None:
    found = rings([line_on(name, f"line:{other}") for name, other in follows.items()])
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert f"the lines {words} each go on from" in found[name]


def test_a_ring_is_refused_at_load_and_the_other_lines_are_built(tmp_path: Path) -> None:
    for name, base in (("a", "line:b"), ("b", "line:a"), ("c", "owner/base")):
        values = line_on(name, base).model_dump(mode="json", exclude_unset=True)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    found = build_definitions(tmp_path, Home(tmp_path / "home"), str(tmp_path / "store"))
    keys = {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}
    assert {key for key in keys if key.startswith(("a/", "b/"))} == {"a/recipe", "b/recipe"}
    assert "c/released_model" in keys


@pytest.mark.slow
def test_a_line_goes_on_from_what_another_released(deployment) -> None:
    deployment.write_recipe("support", training__merge_adapters=True, export__enabled=False)
    deployment.write_recipe("assistant", model__name_or_path="line:support", export__enabled=False)
    first = deployment.materialize(_up_to_the_model("support"))
    assert first.returncode == 0, first.stderr[-9000:]
    support = opened(deployment, "support")
    early = deployment.materialize("key:assistant/recipe")
    assert early.returncode == 1
    assert "the line 'support' has no model; it has released no model" in early.stderr + early.stdout
    release(deployment, support)

    done = deployment.materialize(_up_to_the_model("assistant"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-9000:]
    model = opened(deployment, "assistant")
    (stage,) = model.record.earlier
    assert (stage.name, stage.model_digest) == ("line:support@released", support.digest)
    assert {"no_secrets", "loss_is_finite", "loss"} <= {each.gate for each in stage.gates}
    assert (model.record.kind, model.record.base_model) == ("full", support.record.base_model)
    assert model.record.dataset_digests[0] == support.record.dataset_digest
    pinned = read_report(artefact(deployment, "assistant", "recipe") / REPORT_FILE, ForgeConfig)
    assert pinned.model.revision == support.digest
    log = deployment.root / "forge" / "audit_log" / "assistant" / "audit_log.jsonl"
    made = {each.data["asset_key"]: each.data for each in read_entries(log) if each.event == "artifact.materialized"}
    assert made["assistant/fine_tuned_model"]["inputs"]["support/fine_tuned_model"] == support.digest


def _up_to_the_model(line: str) -> str:
    stages = ("recipe", "raw_dataset", "dataset_audit_report", "tokenized_dataset", "fine_tuned_model")
    return " or ".join(f"key:{line}/{stage}" for stage in stages)


def release(deployment, model: ModelDirectory) -> None:
    """What a release leaves in the registry; `promote` itself has its own tests."""
    registry = Registry(f"sqlite:///{deployment.root / 'forge' / 'registry.sqlite'}")
    try:
        registry.set_stage(model.digest, "released")
        registry.set_alias("support", "released", model.digest, set_by="tests", reason="tests")
    finally:
        registry.close()


def artefact(deployment, line: str, stage: str) -> Path:
    event = deployment.latest(line, stage)
    assert event is not None, f"{line}/{stage}"
    return Path(str(event.metadata["dagster/uri"].value))


def opened(deployment, line: str) -> ModelDirectory:
    return ModelDirectory.open(artefact(deployment, line, "fine_tuned_model"))
