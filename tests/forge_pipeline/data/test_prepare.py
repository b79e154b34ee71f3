"""One call from a recipe to tokenized datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline import prepare_dataset
from forge_pipeline.config import ForgeConfig

Recipe = Callable[..., ForgeConfig]
Write = Callable[..., Path]
Rows = list[dict[str, Any]]


def test_prepare_dataset_gives_tokenized_datasets_by_split(
    write_jsonl: Write, recipe: Recipe, tokenizer: Any, dialogues: Rows
) -> None:
    prepared = prepare_dataset(recipe(write_jsonl(dialogues)), tokenizer)
    assert list(prepared) == ["train", "validation"]
    assert prepared["train"].column_names == ["input_ids", "labels", "length"]
    assert len(prepared["train"]) + len(prepared["validation"]) == 40
    assert set(prepared["train"][0]["labels"]) != {-100}


def test_a_second_call_with_a_cache_tokenizes_nothing(
    write_jsonl: Write, recipe: Recipe, tokenizer: Any, dialogues: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(dialogues)
    first = prepare_dataset(recipe(path), tokenizer, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(type(tokenizer), "__call__", None)  # whoever tokenizes now fails
    second = prepare_dataset(recipe(path, training={"learning_rate": 1e-3}), tokenizer, cache_dir=tmp_path / "cache")
    assert {split: rows.to_list() for split, rows in first.items()} == {
        split: rows.to_list() for split, rows in second.items()
    }
