"""One recipe, two machines' worth of settings, one model; and a proof that can be asked for later."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.cli.exit_codes import INTEGRITY, RUNTIME, SUCCESS
from forge_pipeline.cli.main import main
from forge_pipeline.config import resolved
from forge_pipeline.errors import TrainingError
from forge_pipeline.integrity import Digest, Manifest, canonical_json
from forge_pipeline.training import FineTune, fine_tune, reproduce
from forge_pipeline.training.report import REPORT_NAME

RAW = Digest.of(b"raw")


@pytest.fixture
def trained(recipe: Callable, tokenized: Callable, tmp_path: Path) -> tuple[Any, Any, FineTune]:
    """A recipe of six updates, its rows, and the model."""
    config, dataset = recipe(training={"max_steps": 6}), tokenized()
    return config, dataset, fine_tune(config, dataset, RAW, tmp_path / "model")


def test_the_environment_is_told_beside_the_model_and_not_in_it(trained: tuple[Any, Any, FineTune]) -> None:
    import torch

    _, dataset, done = trained
    facts = done.environment
    assert facts["training:torch"] == torch.__version__
    assert facts["training:cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["training:torch_build_digest"] == Digest.of(torch.__config__.show().encode())
    assert facts["training:threads"] == str(torch.get_num_threads())
    assert facts["training:dtype"] == done.report.dtype
    assert facts["training:ordered_data_digest"] == dataset.digest
    assert facts["training:chat_template_digest"] == dataset.summary.chat_template_digest
    assert "whatever the number of threads" in facts["training:equal_elsewhere"]
    everything = b"".join(path.read_bytes() for path in done.model.path.glob("*.json"))
    for name in ("torch_build_digest", "cpu_capability"):
        assert facts[f"training:{name}"].encode() not in everything


def test_full_determinism_reaches_torch_and_is_taken_back(
    recipe: Callable, tokenized: Callable, tmp_path: Path
) -> None:
    import torch

    seen = []
    config = recipe(training={"full_determinism": True})
    done = fine_tune(
        config, tokenized(), RAW, tmp_path / "model",
        progress=lambda moment: seen.append(torch.are_deterministic_algorithms_enabled()),
    )  # fmt: skip
    assert seen[1:-1]
    assert all(seen[1:-1])
    assert not torch.are_deterministic_algorithms_enabled()
    assert done.environment["training:full_determinism"] == "yes"


def test_the_first_updates_of_a_model_can_be_made_again(trained: tuple[Any, Any, FineTune]) -> None:
    config, dataset, done = trained
    assert [each.step for each in done.report.weights] == [1, 4]
    before = Manifest.of_directory(done.model.path)
    for steps, made in ((None, 4), (1, 1)):
        result = reproduce(config, dataset, done.model, steps=steps)
        assert result.valid
        assert result.steps == made
        assert result.actual == result.expected
        assert result.not_checked == (f"the updates after {made}; the model has 6",)
    assert Manifest.of_directory(done.model.path) == before


def _other_digest(report: Path) -> None:
    values = json.loads(report.read_text())
    values["weights"][-1]["digest"] = Digest.of(b"other")
    report.write_bytes(canonical_json(values))


def test_weights_that_come_out_different_are_told_with_both_digests(trained: tuple[Any, Any, FineTune]) -> None:
    config, dataset, done = trained
    _other_digest(done.model.path / REPORT_NAME)
    result = reproduce(config, dataset, done.model)
    assert not result.valid
    assert result.expected == Digest.of(b"other")
    assert result.reason == f"after 4 updates the weights are {result.actual}; recorded was {Digest.of(b'other')}"


def test_another_recipe_other_rows_and_unknown_steps_are_refused(
    trained: tuple[Any, Any, FineTune], recipe: Callable, tokenized: Callable
) -> None:
    config, dataset, done = trained
    with pytest.raises(TrainingError, match="was made with"):
        reproduce(recipe(), dataset, done.model)
    with pytest.raises(TrainingError, match="was made from"):
        reproduce(config, tokenized(validation=False, name="-other"), done.model)
    with pytest.raises(TrainingError, match="steps: found 3; the report has digests after 1, 4"):
        reproduce(config, dataset, done.model, steps=3)


def test_forge_verify_reproduce_says_whether_they_are_equal(
    trained: tuple[Any, Any, FineTune], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, dataset, done = trained
    (tmp_path / "recipe.json").write_text(json.dumps(resolved(config)))
    command = ["verify", "reproduce", str(done.model.path), "--recipe", str(tmp_path / "recipe.json")]
    command += ["--data", str(dataset.path), "--json", "-q"]
    assert main(command) == SUCCESS
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"]
    assert answer["assurance"] == "retrained"
    assert answer["environment"]["training:torch"] == done.environment["training:torch"]
    assert main([*command, "--steps", "2"]) == RUNTIME
    capsys.readouterr()
    _other_digest(done.model.path / REPORT_NAME)
    assert main(command) == INTEGRITY
    assert not json.loads(capsys.readouterr().out)["valid"]
