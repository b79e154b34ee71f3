"""Adapters over one copy of the weights answer as if they were alone, and switched off as if there were none."""

from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.evaluation.generation import generate
from forge_pipeline.models import ModelDirectory, load_base, load_tuned
from forge_pipeline.models.shared_base import SharedBase, base_to_load, what_to_load
from tests.forge_pipeline.server.served import Studio
from tests.forge_pipeline.server.served_models import recipe_over, register_directory, write_adapter

ASKED = [[{"role": "user", "content": text}] for text in ("Name a color.", "Where is Paris?")]


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModelDirectory]:
    """Two of two matrices, and one that brings its own head."""
    folder = tmp_path_factory.mktemp("adapters")
    studio = Studio("http://nowhere.invalid", folder)
    made = []
    for number, saved in enumerate((None, None, ["lm_head"])):
        directory = write_adapter(tiny_model, folder / str(number), seed=number, saved=saved)
        register_directory(studio, tiny_model, directory, str(number))
        made.append(ModelDirectory.open(directory))
    return made


def said(model: Any, tokenizer: Any) -> list[str]:
    return generate(model, tokenizer, ASKED, max_new_tokens=12)


def test_adapters_share_their_base_and_answer_as_alone(tiny_model: Path, adapters: list[ModelDirectory]) -> None:
    config = recipe_over(tiny_model)
    base, tokenizer = load_base(config)
    bare = said(base, tokenizer)
    alone = [said(load_tuned(config, adapter)[0], tokenizer) for adapter in adapters]
    assert len({str(each) for each in (bare, *alone)}) == 4, "each is to answer its own way"

    keys = {what_to_load(config, adapter).key for adapter in adapters}
    assert len(keys) == 1
    shared = SharedBase(what_to_load(config, adapters[0]))
    assert shared.size == what_to_load(config, adapters[0]).size()
    for number, adapter in enumerate(adapters):
        shared.add(str(number), adapter)
    for name in ("0", "2", None, "1", "0", None):
        with shared.speaking(name) as model:
            assert said(model, tokenizer) == (bare if name is None else alone[int(name)]), name

    grown = shared.size
    shared.remove("0")
    with shared.speaking("1") as model:
        assert said(model, tokenizer) == alone[1]
    shared.remove("2")
    shared.remove("1")
    assert shared.size == what_to_load(config, adapters[0]).size() < grown
    with shared.speaking(None) as model:
        assert said(model, tokenizer) == bare
    shared.add("again", adapters[0])
    with shared.speaking("again") as model:
        assert said(model, tokenizer) == alone[0]


def test_what_changes_the_base_models_own_weights_is_loaded_alone(
    tiny_model: Path, adapters: list[ModelDirectory], tmp_path: Path
) -> None:
    import json

    directory = write_adapter(tiny_model, tmp_path / "biased", seed=0)
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(settings | {"bias": "all"}))
    register_directory(Studio("http://nowhere.invalid", tmp_path), tiny_model, directory, "biased")
    config, biased = recipe_over(tiny_model), ModelDirectory.open(directory)
    assert what_to_load(config, biased).key != what_to_load(config, adapters[0]).key
    assert what_to_load(config, biased).key.alone == biased.digest


def test_a_full_models_base_is_the_weights_that_adapters_share(
    tiny_model: Path, adapters: list[ModelDirectory], tmp_path: Path
) -> None:
    import shutil

    directory = shutil.copytree(tiny_model, tmp_path / "full")
    register_directory(Studio("http://nowhere.invalid", tmp_path), tiny_model, directory, "full")
    config, full = recipe_over(tiny_model), ModelDirectory.open(directory)
    assert what_to_load(config, full).key.digest == full.digest
    assert base_to_load(config, full).key == what_to_load(config, adapters[0]).key
