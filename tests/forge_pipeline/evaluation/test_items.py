"""The texts of the items that will measure a model, as the contamination check reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data.artifacts import PROVENANCE_FILE, DatasetProvenance, RawDataset
from forge_pipeline.data.columns import table_of, write_parquet
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation import benchmark_items
from forge_pipeline.integrity import write_report

ROWS = [
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"What is {n}?"},
                  {"role": "assistant", "content": f"{n} is a number."}]}
    for n in range(3)
]  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., RawDataset]:
    def build(**splits: list[dict[str, Any]]) -> RawDataset:
        folder = tmp_path / "raw"
        folder.mkdir()
        for split, rows in splits.items():
            write_parquet(table_of(rows), folder / f"{split}.parquet")
        counts = {split: len(rows) for split, rows in splits.items()}
        found = DatasetProvenance((), "language modeling", "conversational", "because", counts, (), 0, ())
        write_report(folder / PROVENANCE_FILE, found)
        return RawDataset.open(folder)

    return build


def test_without_a_benchmark_there_is_nothing_to_look_for(
    recipe: Callable[..., ForgeConfig], dataset: Callable[..., RawDataset]
) -> None:
    assert benchmark_items(recipe(), dataset(train=ROWS)) is None
    off = recipe(benchmark={"enabled": False, "tasks": ["held_out"]})
    assert benchmark_items(off, RawDataset(Path("x"), "sha256:" + "0" * 64)) is None  # type: ignore[arg-type]


def test_held_out_items_are_the_turns_without_system_prompt_or_template(
    recipe: Callable[..., ForgeConfig], dataset: Callable[..., RawDataset]
) -> None:
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"]})
    items = benchmark_items(config, dataset(train=ROWS[:1], test=ROWS[1:]))
    assert items is not None
    assert items() == {"held_out": ["What is 1?\n1 is a number.", "What is 2?\n2 is a number."]}


def test_held_out_without_a_split_says_so(
    recipe: Callable[..., ForgeConfig], dataset: Callable[..., RawDataset]
) -> None:
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"]})
    items = benchmark_items(config, dataset(train=ROWS))
    assert items is not None
    with pytest.raises(EvaluationError, match="test or validation split"):
        items()


TASKS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[str]]] = {
    "multiple choice by index": (
        {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "gold"},
        [{"question": "Which bird cannot fly?", "choices": ["the swift", "the penguin"], "gold": 1}],
        ["Which bird cannot fly? the penguin"],
    ),
    "generation": (
        {"output_type": "generate_until", "doc_to_text": "Q: {{question}}", "doc_to_target": "{{answer}}",
         "generation_kwargs": {"until": ["x"]}},
        [{"question": "Who wrote Faust?", "answer": "Goethe"}],
        ["Q: Who wrote Faust? Goethe"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("task", "rows", "expected"), TASKS.values(), ids=TASKS)
def test_a_task_files_items_are_question_and_right_answer(
    recipe: Callable[..., ForgeConfig],
    dataset: Callable[..., RawDataset],
    tmp_path: Path,
    task: dict[str, Any],
    rows: list[dict[str, Any]],
    expected: list[str],
) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {
        "task": "birds", "dataset_path": "json", "test_split": "test", **task,
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
    }  # fmt: skip
    (tmp_path / "birds.yaml").write_text(yaml.safe_dump(whole))
    config = recipe(benchmark={"enabled": True, "tasks": [str(tmp_path / "birds.yaml")]})
    items = benchmark_items(config, dataset(train=ROWS))
    assert items is not None
    assert items() == {"birds": expected}


def test_an_unknown_task_is_named_when_the_items_are_asked_for(
    recipe: Callable[..., ForgeConfig], dataset: Callable[..., RawDataset]
) -> None:
    config = recipe(benchmark={"enabled": True, "tasks": ["no_such_task.yaml"]})
    items = benchmark_items(config, dataset(train=ROWS))
    assert items is not None
    with pytest.raises(ConfigError, match="no_such_task"):
        items()
