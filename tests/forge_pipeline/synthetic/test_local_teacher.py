"""A tiny real model as the teacher, in batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ModelError
from forge_pipeline.integrity import Digest, read_report
from forge_pipeline.synthetic import SyntheticDataGenerator, SyntheticReport

PROMPTS = ["Name a color.", "Say hello.", "Count to three.", "Where is Paris?", "What is two plus two?"]


@pytest.fixture(scope="module")
def talker(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with an output layer of its own, so that it does not repeat its last token when it is greedy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path_factory.mktemp("talker")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    return directory


@pytest.fixture
def taught(recipe: Callable[..., ForgeConfig], talker: Path) -> Callable[..., ForgeConfig]:
    def build(**keys: Any) -> ForgeConfig:
        section = {
            "enabled": True,
            "teacher_backend": "local",
            "teacher_model": str(talker),
            "seed_prompts": PROMPTS,
            "max_new_tokens": 8,
            "batch_size": 2,
        }
        return recipe(synthetic=section | keys)

    return build


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_equal_recipes_give_equal_bytes_and_another_seed_other_ones(
    temperature: float, taught: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        config = taught(temperature=temperature, seed=seed)
        result = SyntheticDataGenerator(config).generate(str(tmp_path / name))
        assert (result.successful, result.failed) == (5, 0)
    answers = {name: [row["messages"][-1] for row in rows_of(tmp_path / name)] for name in "abc"}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (answers["a"] == answers["c"]) == (temperature == 0)


def test_a_run_that_goes_on_makes_the_same_batches(taught: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    config, output = taught(temperature=1.0, samples_per_prompt=2), tmp_path / "rows.jsonl"
    SyntheticDataGenerator(config).generate(str(output))
    expected = output.read_bytes()
    lines = expected.splitlines(keepends=True)
    output.unlink()
    (tmp_path / "rows.jsonl.partial").write_bytes(lines[0] + lines[5] + lines[6][:-9])
    SyntheticDataGenerator(config).generate(str(output))
    assert output.read_bytes() == expected


def test_a_batch_of_greedy_answers_is_what_each_prompt_gets_alone(
    taught: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    for size in (1, 5):
        config = taught(temperature=0.0, batch_size=size)
        SyntheticDataGenerator(config).generate(str(tmp_path / f"{size}.jsonl"))
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "5.jsonl").read_bytes()
    assert len({row["messages"][-1]["content"] for row in rows_of(tmp_path / "1.jsonl")}) > 2


def test_rows_name_the_model_by_its_digest_and_no_folder_of_this_machine(
    taught: Callable[..., ForgeConfig], talker: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    SyntheticDataGenerator(taught(seed=3)).generate(str(output))
    facts = rows_of(output)[0]["synthetic"]
    assert facts["teacher"] == talker.name
    assert Digest(facts["teacher_digest"])
    assert facts["seed"] == 3
    assert facts["finish_reason"] in ("stop", "length")
    assert str(talker.parent) not in output.read_text()
    report = read_report(tmp_path / "rows.jsonl.report.json", SyntheticReport)
    assert report.teacher is not None
    assert report.teacher.digest == facts["teacher_digest"]


def test_a_prompt_without_room_for_an_answer_fails_alone(taught: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    config = taught(seed_prompts=["word " * 300, *PROMPTS])
    result = SyntheticDataGenerator(config).generate(str(tmp_path / "rows.jsonl"))
    assert (result.successful, result.failed) == (5, 1)
    assert result.errors[0].startswith("prompt 1: the prompt has ")
    assert "no room for 8 in the teacher's 256" in result.errors[0]


def test_a_teacher_that_is_not_there_is_named_by_its_key(taught: Callable[..., ForgeConfig], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"synthetic\.teacher_model"):
        SyntheticDataGenerator(taught(teacher_model="./nowhere")).generate(str(tmp_path / "rows.jsonl"))


def test_a_teacher_without_a_chat_template_is_refused(
    taught: Callable[..., ForgeConfig], talker: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in talker.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="no chat template"):
        SyntheticDataGenerator(taught(teacher_model=str(bare))).generate(str(tmp_path / "rows.jsonl"))
