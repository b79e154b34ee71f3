"""From a recipe to a raw dataset: nothing lost, everything accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, conversation_of, ingest
from forge_pipeline.errors import DataError

Recipe = Callable[..., ForgeConfig]
Write = Callable[..., Path]
Rows = list[dict[str, Any]]


def ids(dataset: RawDataset, split: str) -> list[int]:
    return [row["id"] for row in dataset.rows(split)]


def test_every_row_comes_through_whole_and_once(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    dataset = ingest(recipe(write_jsonl(dialogues)), tmp_path / "raw")
    rows = [row for split in dataset.splits for row in dataset.rows(split)]
    assert sorted(rows, key=lambda row: row["id"]) == dialogues
    assert dataset.splits == ("train", "validation")
    assert dataset.provenance.rows == {split: len(dataset.table(split)) for split in dataset.splits}
    assert dataset.provenance.dataset_type == "language modeling"
    assert ids(dataset, "train") == sorted(ids(dataset, "train"))


def test_the_same_rows_give_the_same_bytes_wherever_they_lie(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    first = ingest(recipe(write_jsonl(dialogues, "a/rows.jsonl")), tmp_path / "first")
    second = ingest(recipe(write_jsonl(dialogues, "b/rows.jsonl")), tmp_path / "second")
    assert first.digest == second.digest
    assert str(tmp_path) not in (first.path / "provenance.json").read_text()


def test_the_split_does_not_depend_on_the_order_of_the_file(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    first = ingest(recipe(write_jsonl(dialogues, "a.jsonl")), tmp_path / "first")
    second = ingest(recipe(write_jsonl(dialogues[::-1], "b.jsonl")), tmp_path / "second")
    assert set(ids(first, "validation")) == set(ids(second, "validation"))


def test_repeats_do_not_straddle_splits(recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path) -> None:
    shouted = [
        {**row, "messages": [{**m, "content": m["content"].upper()} for m in row["messages"]]} for row in dialogues
    ]
    dataset = ingest(recipe(write_jsonl(dialogues + shouted), split={"validation": 0.3, "test": 0.2}), tmp_path / "raw")
    seen = [set(ids(dataset, split)) for split in dataset.splits]
    assert len(seen) == 3
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_a_broken_row_is_left_out_with_its_line_and_reason(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    path = write_jsonl(dialogues)
    lines = path.read_text().splitlines()
    lines[4] = '{"messages": ['
    lines[9] = '{"title": "no layout"}'
    lines[14] = '{"text": "another family"}'
    path.write_text("\n".join(lines))
    provenance = ingest(recipe(path), tmp_path / "raw").provenance
    assert [(row.source, row.line) for row in provenance.skipped] == [
        ("rows.jsonl", 5),
        ("rows.jsonl", 10),
        ("rows.jsonl", 15),
    ]
    assert "not JSON" in provenance.skipped[0].reason
    assert "no known dataset layout" in provenance.skipped[1].reason
    assert "most rows are language modeling, conversational" in provenance.skipped[2].reason
    assert provenance.skipped_count == 3
    assert (provenance.sources[0].rows_read, provenance.sources[0].rows_skipped) == (40, 3)
    assert sum(provenance.rows.values()) == 37


def test_more_than_a_tenth_of_broken_rows_is_refused_with_examples(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    path = write_jsonl([*dialogues, *({"title": i} for i in range(5))])
    with pytest.raises(DataError, match=r"rows\.jsonl: 5 of 45 rows cannot be used, more than a tenth; .*line 41"):
        ingest(recipe(path), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_file_without_one_usable_row_names_what_was_found_and_expected(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no usable row; .*line 1: columns title, body .*Expected .*messages"):
        ingest(recipe(write_jsonl([{"title": "a", "body": "b"}])), tmp_path / "raw")


def test_conversations_of_different_layouts_and_columns_stand_together(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    mixed: Rows = [*dialogues, *({"instruction": f"Do {i}", "output": f"Done {i}", "id": 100 + i} for i in range(9))]
    mixed.append({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "id": "text"})
    dataset = ingest(recipe(write_jsonl(mixed)), tmp_path / "raw")
    rows = {str(row["id"]): row for split in dataset.splits for row in dataset.rows(split)}
    assert sorted(rows) == sorted(str(row["id"]) for row in mixed)
    assert all(rows[str(row["id"])] == row for row in mixed)
    assert all(conversation_of(row) for row in rows.values())


def test_white_space_changes_only_where_the_recipe_says_so(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    path = write_jsonl(dialogues)
    kept = ingest(recipe(path), tmp_path / "kept")
    cleaned = ingest(recipe(path, clean_text=True), tmp_path / "cleaned")
    assert "\n\n    twice()" in next(kept.rows("train"))["messages"][1]["content"]
    assert " twice()" in next(cleaned.rows("train"))["messages"][1]["content"]
    assert kept.provenance.transformations == ()
    assert [step.name for step in cleaned.provenance.transformations] == ["clean_text"]


def test_declared_splits_stay_and_missing_ones_come_from_train(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    write_jsonl(dialogues[:30], "d/train.jsonl")
    write_jsonl(dialogues[30:], "d/test.jsonl")
    dataset = ingest(recipe(tmp_path / "d", split={"validation": 0.2, "test": 0.5}), tmp_path / "raw")
    assert ids(dataset, "test") == list(range(30, 40))
    assert sorted(ids(dataset, "train") + ids(dataset, "validation")) == list(range(30))
    assert ids(dataset, "validation")


def test_a_raw_dataset_can_be_read_again_as_a_folder(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    first = ingest(recipe(write_jsonl([*dialogues, {**dialogues[0], "id": "text"}])), tmp_path / "raw")
    again = ingest(recipe(first.path), tmp_path / "again")
    for split in first.splits:
        assert list(again.rows(split)) == list(first.rows(split))


def test_limit_takes_the_same_rows_whatever_their_order(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    taken = []
    for name, rows in {"a": dialogues, "b": dialogues[::-1]}.items():
        dataset = ingest(recipe(write_jsonl(rows, f"{name}.jsonl"), limit=10), tmp_path / name)
        taken.append({i for split in dataset.splits for i in ids(dataset, split)})
        assert [(s.name, s.rows_in, s.rows_out) for s in dataset.provenance.transformations] == [("limit", 40, 10)]
    assert taken[0] == taken[1]


def test_extra_datasets_are_added_and_mixed_by_weight(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    more: Rows = [{"question": f"Q{i}", "answer": f"A{i}", "id": 100 + i} for i in range(30)]
    first, second = write_jsonl(dialogues, "first.jsonl"), write_jsonl(more, "second.jsonl")
    extra = {"extra_datasets": [str(second)], "license": "CC0-1.0", "category": "public"}
    everything = ingest(recipe(first, **extra), tmp_path / "all")
    assert sum(everything.provenance.rows.values()) == 70
    assert [(s.license, s.category) for s in everything.provenance.sources] == [("CC0-1.0", "public"), (None, "other")]
    mixed = ingest(recipe(first, **extra, mix_ratio=[0.8, 0.2]), tmp_path / "mixed")
    taken = [i for split in mixed.splits for i in ids(mixed, split)]
    assert (sum(i < 100 for i in taken), sum(i >= 100 for i in taken)) == (40, 10)
    assert mixed.provenance.transformations[0].rows_out == 50
    with_zero = ingest(recipe(first, **extra, mix_ratio=[0, 1]), tmp_path / "zero")
    assert sum(with_zero.provenance.rows.values()) == 30


def test_an_extra_dataset_of_another_type_is_refused_by_name(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    other = write_jsonl([{"text": f"text {i}"} for i in range(20)], "other.jsonl")
    with pytest.raises(DataError, match=r"other\.jsonl: 20 of 20 rows cannot be used"):
        ingest(recipe(write_jsonl(dialogues), extra_datasets=[str(other)]), tmp_path / "raw")


def test_the_real_english_dialogues_are_read_from_the_installed_package(recipe: Recipe, tmp_path: Path) -> None:
    dataset = ingest(recipe("package:chatterbot_corpus/data/english/*.yml"), tmp_path / "raw")
    provenance = dataset.provenance
    assert sum(provenance.rows.values()) == 2025
    assert [(row.source, row.line) for row in provenance.skipped] == [("data/english/trivia.yml", 35)]
    assert provenance.sources[0].license == "BSD License"
    assert all(row["messages"][0]["role"] == "user" and row["categories"] for row in dataset.rows("validation"))


def test_one_theme_of_the_dialogues_is_a_dataset_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    dataset = ingest(recipe("package:chatterbot_corpus/data/english/history.yml"), tmp_path / "raw")
    assert sum(dataset.provenance.rows.values()) == 8
    assert dataset.splits == ("train", "validation")


def test_provenance_is_canonical_json_without_times_or_places(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    facts = json.loads((ingest(recipe(write_jsonl(dialogues)), tmp_path / "raw").path / "provenance.json").read_bytes())
    assert set(facts) == {
        "sources", "dataset_type", "dataset_format", "reason", "rows", "skipped", "skipped_count", "transformations"
    }  # fmt: skip
    assert facts["sources"][0]["uri"] == "file:rows.jsonl"


def test_nothing_is_overwritten(recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path) -> None:
    config = recipe(write_jsonl(dialogues))
    ingest(config, tmp_path / "raw")
    with pytest.raises(FileExistsError):
        ingest(config, tmp_path / "raw")


def test_a_split_that_is_not_there_is_refused_by_name(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    dataset = ingest(recipe(write_jsonl(dialogues)), tmp_path / "raw")
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        dataset.table("test")
