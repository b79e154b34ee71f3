"""Several models into one: against the papers' formulas written out, the same bytes twice, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, IntegrityError, ModelError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelDirectory, ModelRecord, load_tuned, resolve_base_model
from forge_pipeline.models.combining import merge_models
from forge_pipeline.models.directory import write_record
from forge_pipeline.models.shards import ShardedTensors

pytest.importorskip("mergekit")


@pytest.fixture
def parents(recipe: Callable, tiny_model: Path, tmp_path: Path) -> list[ModelDirectory]:
    """Two full models, each the tiny one and some noise."""
    return [noisy(recipe(), tiny_model, tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]


def noisy(config: ForgeConfig, source: Path, directory: Path, seed: int) -> ModelDirectory:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, directory)
    torch.manual_seed(seed)
    weights = {k: v + 0.1 * torch.randn_like(v) for k, v in load_file(source / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    record = ModelRecord(
        kind="full", base_model=resolve_base_model(config).record, trainer_type="sft",
        config_digest=Digest.of(b"config" + bytes([seed])), dataset_digest=Digest.of(b"dataset" + bytes([seed])),
        tokenized_digest=Digest.of(b""), chat_template_digest=None, seed=0,
    )  # fmt: skip
    write_record(directory, record)
    return ModelDirectory.open(directory)


def merging(parents: list[ModelDirectory], weights: tuple[float, ...] = (3.0, 1.0), **section: Any) -> dict[str, Any]:
    models = [{"path": str(each.path), "weight": weight} for each, weight in zip(parents, weights, strict=True)]
    return {"models": models} | section


def tensors(directory: Path) -> dict[str, Any]:
    found = ShardedTensors.of_directory(directory)
    assert found is not None
    return {name: found.read(name).clone() for name in found}


def linear(base: Any, first: Any, second: Any) -> Any:
    return 0.75 * first + 0.25 * second


def slerp(base: Any, first: Any, second: Any) -> Any:
    angle = (first.flatten() / first.norm()).dot(second.flatten() / second.norm()).clamp(-1, 1).acos()
    return ((0.75 * angle).sin() * first + (0.25 * angle).sin() * second) / angle.sin()


def ties(base: Any, first: Any, second: Any) -> Any:
    """Trim, elect a sign, take the weighted mean of those that agree with it."""
    import torch

    def trimmed(change: Any) -> Any:
        kept = change.abs().flatten().topk(max(1, int(0.8 * change.numel()))).indices
        mask = torch.zeros(change.numel())
        mask[kept] = 1
        return change * mask.view_as(change)

    changes = torch.stack([0.75 * trimmed(first - base), 0.25 * trimmed(second - base)])
    sign = torch.where(changes.sum(0) >= 0, 1.0, -1.0)
    agree = (changes.sign() == sign).float()
    shares = torch.tensor([0.75, 0.25]).view(-1, *[1] * first.dim()) * agree
    return base + (changes * agree).sum(0) / shares.sum(0).where(shares.sum(0) > 0, torch.tensor(1.0))


@pytest.mark.parametrize(("method", "formula"), {"linear": linear, "slerp": slerp, "ties": ties}.items())
def test_the_weights_are_what_the_method_says(
    method: str, formula: Callable, parents: list, recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    merged = merge_models(recipe(merge=merging(parents, method=method)), tmp_path / "merged")
    base, first, second = (tensors(each) for each in (tiny_model, parents[0].path, parents[1].path))
    found = tensors(merged.path)
    assert found.keys() == base.keys()
    for name, value in found.items():
        wanted = formula(base[name], first[name], second[name])
        assert torch.allclose(value, wanted, atol=2e-6 if method != "slerp" else 1e-4), name


def test_dare_drops_as_many_changes_as_asked_by_the_seed(
    parents: list, recipe: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    def merged(name: str, seed: int) -> dict[str, Any]:
        section = merging(parents, method="dare", dare_drop_rate=0.4, dare_seed=seed)
        return tensors(merge_models(recipe(merge=section), tmp_path / name).path)

    one, other = merged("one", 1), merged("other", 2)
    base = tensors(tiny_model)
    name = "model.embed_tokens.weight"
    untouched = (one[name] == base[name]).float().mean()
    assert untouched == pytest.approx(0.16, abs=0.02), "both dropped: 0.4 squared"
    assert not one[name].equal(other[name])
    # Survivors are scaled up, so that the sum of the changes is about what it was.
    changes = sum(w * (tensors(p.path)[name] - base[name]).abs() for w, p in zip((0.75, 0.25), parents, strict=True))
    assert (one[name] - base[name]).abs().sum() == pytest.approx(float(changes.sum()), rel=0.15)


PROGRAM = """
import json, sys
from pathlib import Path
from forge_pipeline.config import ForgeConfig
from forge_pipeline.models.combining import merge_models
print(merge_models(ForgeConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])).digest)
"""


def test_equal_parents_give_equal_bytes_in_another_process_and_leave_the_callers_dice_alone(
    parents: list, recipe: Callable, tmp_path: Path
) -> None:
    import torch

    config = recipe(merge=merging(parents, method="dare"))
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    merged = merge_models(config, tmp_path / "merged")
    assert torch.rand(1).equal(wanted)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, config.model_dump_json(exclude_unset=True), str(tmp_path / "again")],
        env=os.environ | {"PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[-1] == merged.digest
    text = b"".join(path.read_bytes() for path in merged.path.iterdir())
    assert str(tmp_path).encode() not in text


def test_every_parent_and_what_it_saw_stands_in_the_record(parents: list, recipe: Callable, tmp_path: Path) -> None:
    config = recipe(merge=merging(parents, method="ties"))
    merged = merge_models(config, tmp_path / "merged")
    record = merged.record
    assert record.merge_method == "ties"
    assert [(each.name, each.digest, each.weight, each.density) for each in record.merged_from] == [
        ("first", parents[0].digest, 0.75, 0.8),
        ("second", parents[1].digest, 0.25, 0.8),
    ]
    assert set(record.dataset_digests) == {each.record.dataset_digest for each in parents}
    again = merge_models(
        recipe(merge=merging([merged, parents[0]], (1.0, 1.0), method="linear")), tmp_path / "again"
    )  # a merge can be a parent
    assert set(again.record.dataset_digests) == set(record.dataset_digests)
    assert Manifest.of_directory(merged.path).digest == merged.digest
    load_tuned(config, merged)


def test_a_line_is_the_model_being_trained_or_what_it_released(parents: list, recipe: Callable, tmp_path: Path) -> None:
    section = {
        "method": "linear", "enabled": True,
        "models": [{"line": "tiny"}, {"line": "other", "digest": parents[1].digest}],
    }  # fmt: skip
    config = recipe(merge=section)
    merged = merge_models(
        config, tmp_path / "merged", tuned=parents[0], find_line=lambda line: {"other": parents[1].path}[line]
    )
    assert [each.digest for each in merged.record.merged_from] == [each.digest for each in parents]
    with pytest.raises(IntegrityError, match=r"merge\.models: .*first: expected sha256:"):
        merge_models(config, tmp_path / "no", tuned=parents[0], find_line=lambda line: parents[0].path)
    with pytest.raises(ConfigError, match="line 'other': there is no registry here"):
        merge_models(config, tmp_path / "no", tuned=parents[0])


def other_vocabulary(directory: Path) -> None:
    path = directory / "tokenizer.json"
    path.write_text(path.read_text().replace('"<|endoftext|>"', '"<|other|>"'))
    config = directory / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|endoftext|>", "<|other|>"))


def other_positions(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5000.0
    (directory / "config.json").write_text(json.dumps(config))


def one_weight_less(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def not_a_number(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def another_task(directory: Path) -> None:
    record = ModelDirectory.open(directory).record
    write_record(directory, replace(record, task="summarization"))


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "another vocabulary": (other_vocabulary, "different vocabularies: '<|endoftext|>' is no token and 0"),
    "other positions": (other_positions, "differ in rope_parameters"),
    "a weight less": (one_weight_less, r"differ in 1 weights, the first model.norm.weight \(\(32,\) and none\)"),
    "weights that are not numbers": (not_a_number, "merged weight model.norm.weight is not finite"),
    "another task": (another_task, "second is a model for summarization, not for text-generation"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_models_that_do_not_fit_are_refused_by_name(
    spoil: Callable, words: str, parents: list, recipe: Callable, tmp_path: Path
) -> None:
    spoil(parents[1].path)
    with pytest.raises(ModelError, match=words.replace("|", r"\|")):
        merge_models(recipe(merge=merging(parents, method="linear")), tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_models_without_any_record_are_refused(parents: list, recipe: Callable, tmp_path: Path) -> None:
    for each in parents:
        (each.path / "forge_model.json").unlink()
    with pytest.raises(ModelError, match=r"none of first, second has a forge_model\.json"):
        merge_models(recipe(merge=merging(parents, method="linear")), tmp_path / "merged")


SECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "one model": ({"enabled": True, "models": [{"line": "tiny"}]}, "two models or more, and there are 1"),
    "neither path nor line": ({"models": [{"weight": 1.0}]}, "expected path or line, and not both"),
    "slerp of three": ({"method": "slerp", "models": [{"path": x} for x in "abc"]}, "lies between two models"),
    "density without differences": (
        {"method": "linear", "models": [{"path": "a", "density": 0.5}, {"path": "b"}]}, "density is for ties and dare",
    ),
    "training that ends without itself": (
        {"enabled": True, "models": [{"path": "a"}, {"path": "b"}]}, r"add \{line: tiny\}",
    ),
    "a key that is not one": ({"models": [{"path": "a", "wieght": 1.0}]}, "wieght"),
}  # fmt: skip


@pytest.mark.parametrize(("section", "words"), SECTIONS.values(), ids=SECTIONS)
def test_a_section_that_cannot_be_meant_is_refused(section: dict, words: str, recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(merge=section)
