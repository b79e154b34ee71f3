"""The code location: light to load, shaped by the recipes, and tolerant of one broken file."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.line import OPTIONAL_STAGES, Line
from resources.home import Home

CHECKOUT = Path(__file__).parents[2]
RECIPE = "model: {name_or_path: m, load_in_4bit: false}\nlora: {}\ndata: {dataset_name_or_path: d}\ntraining: {}\n"


def definitions(tmp_path, **recipes):
    configs = tmp_path / "configs"
    configs.mkdir()
    for name, text in recipes.items():
        (configs / f"{name}.yaml").write_text(text)
    return build_definitions(configs, Home(tmp_path), str(tmp_path / "store"))


def test_loading_the_code_location_does_not_import_torch():
    code = (
        "import sys, assets.definitions\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'lm_eval') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=CHECKOUT).strip() == "[]"


STAGES = Line("any").stages


def test_each_recipe_is_a_group_of_all_stages(tmp_path):
    graph = definitions(tmp_path, one=RECIPE, two=RECIPE).resolve_asset_graph()
    for line in ("one", "two", "studio"):
        keys = {key.path[1] for key in graph.get_all_asset_keys() if key.path[0] == line}
        assert keys == set(STAGES)
        assert {graph.get(dg.AssetKey([line, stage])).group_name for stage in STAGES} == {line}


OPTIONAL = {
    "clean_dataset": RECIPE.replace("dataset_name_or_path: d", "dataset_name_or_path: d, clean: {enabled: true}"),
    "synthetic_dataset": RECIPE
    + "synthetic: {enabled: true, teacher_backend: file, seed_prompts: [a], teacher_model: t, seed_file: ''}\n",
    "scorer_calibration": RECIPE + "evaluation: {safety: {enabled: true, calibration: labels.jsonl}}\n",
    "judge_report": RECIPE + "evaluation: {llm_judge: {enabled: true}}\n",
    "published_model": RECIPE + "release: {push_to: owner/name}\n",
}


@pytest.mark.parametrize(("stage", "recipe"), OPTIONAL.items(), ids=OPTIONAL)
def test_a_stage_that_the_recipe_asks_for_is_there(tmp_path, stage, recipe):
    assert set(OPTIONAL) == set(OPTIONAL_STAGES)
    graph = definitions(tmp_path, one=recipe).resolve_asset_graph()
    assert {key.path[1] for key in graph.get_all_asset_keys() if key.path[0] == "one"} == {*STAGES, stage}


WITHOUT_GGUF = {
    "switched off": RECIPE + "export: {enabled: false}\n",
    "a reward model": RECIPE.replace("training: {}", "training: {trainer_type: reward}"),
    "answers by their ends": RECIPE.replace("model: {", "model: {task: extractive-question-answering, "),
}


@pytest.mark.parametrize("recipe", WITHOUT_GGUF.values(), ids=WITHOUT_GGUF)
def test_a_line_that_exports_nothing_has_no_gguf_and_its_bundle_waits_for_none(tmp_path, recipe):
    graph = definitions(tmp_path, one=recipe).resolve_asset_graph()
    assert {key.path[1] for key in graph.get_all_asset_keys() if key.path[0] == "one"} == {*STAGES} - {"gguf_model"}
    bundle = graph.get(dg.AssetKey(["one", "annex_iv_bundle"]))
    assert dg.AssetKey(["one", "fine_tuned_model"]) in bundle.parent_keys


def test_every_asset_has_a_description_kinds_and_a_code_version(tmp_path):
    graph = definitions(tmp_path, one="owners: ['team:x']\n" + RECIPE).resolve_asset_graph()
    for stage in STAGES:
        node = graph.get(dg.AssetKey(["one", stage]))
        assert node.description
        assert node.kinds
        assert node.code_version
        assert node.owners == ["team:x"]


EDITS = {
    "learning rate": (
        "training: {}",
        "training: {learning_rate: 0.1}",
        {"recipe", "fine_tuned_model"},  # tokens do not depend on it
    ),
    "gate policy": (
        "training: {}",
        "training: {}\nevaluation: {max_acceptable_loss: 1.0}",
        {"recipe", "benchmark_report", "safety_report", "gguf_model", "annex_iv_bundle", "released_model"},
    ),
    "purpose": ("training: {}", "training: {}\ncompliance: {intended_purpose: tests}", {"recipe", "annex_iv_bundle"}),
}


@pytest.mark.parametrize(("old", "new", "changed"), EDITS.values(), ids=EDITS)
def test_an_edit_of_a_section_marks_exactly_the_stages_that_read_it(tmp_path, old, new, changed):
    before = definitions(tmp_path, one=RECIPE).resolve_asset_graph()
    (tmp_path / "again").mkdir()
    after = definitions(tmp_path / "again", one=RECIPE.replace(old, new)).resolve_asset_graph()
    keys = {stage: dg.AssetKey(["one", stage]) for stage in STAGES}
    assert {
        stage for stage, key in keys.items() if before.get(key).code_version != after.get(key).code_version
    } == changed


def test_a_broken_recipe_does_not_take_the_other_lines_with_it(tmp_path):
    graph = definitions(tmp_path, good=RECIPE, broken="model: {}\n").resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert "good/fine_tuned_model" in keys
    assert {key for key in keys if key.startswith("broken/")} == {"broken/recipe"}


OTHERS_THAT_STILL_LOAD = {
    "a copy that kept its name": ({"copy": RECIPE + "name: good\n"}, {"good/recipe"}, "good.yaml"),
    "the studio's name": ({"studio": RECIPE}, {"studio_2/recipe"}, "the line of the studio's jobs"),
    "the name of the API's log": ({"log": RECIPE + "name: api\n"}, {"log/recipe"}, "audit log"),
    "a broken file called as a line is": ({"a": "model: {}\n", "b": RECIPE + "name: a\n"}, {"a_2/recipe"}, "model"),
    "a file name that is no name": ({"My Recipe": RECIPE}, {"my_recipe/recipe"}, "because it names assets"),
}


@pytest.mark.parametrize(("files", "refused", "words"), OTHERS_THAT_STILL_LOAD.values(), ids=OTHERS_THAT_STILL_LOAD)
def test_a_recipe_whose_name_is_taken_or_none_is_refused_and_the_rest_loads(tmp_path, files, refused, words):
    found = definitions(tmp_path, good=RECIPE, fine=RECIPE, **files)
    keys = {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}
    assert {"fine/fine_tuned_model", "studio/fine_tuned_model"} <= keys
    lines = {key.partition("/")[0] for key in refused}
    assert {key for key in keys if key.partition("/")[0] in lines} == refused
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        (key,) = refused
        asset = found.resolve_assets_def(dg.AssetKey(key.split("/")))
        done = dg.materialize([asset], instance=instance, raise_on_error=False)
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    assert words in failure.step_failure_data.error.message + str(failure.step_failure_data.error.cause)
