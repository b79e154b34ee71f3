"""From a recipe to a raw dataset: nothing lost, everything accounted for."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, conversation_of, gathering, ingest
from forge_pipeline.data.examples import example_of
from forge_pipeline.data.row_texts import row_text
from forge_pipeline.dataset_audit.rows import row_texts_of
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
        "sources", "dataset_type", "dataset_format", "reason", "rows", "skipped", "skipped_count", "transformations",
        "notes",
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


# --- Nothing is lost


UNKNOWN = {
    "score": 0.5,
    "count": 2**53 - 1,
    "flag": False,
    "nothing": None,
    "list": [1, 2],
    "nested": {"deep": [{"er": "x"}]},
    "mixed": ["a", 1],
    "empty": "",
    "no items": [],
    "spaces": "  trailing \t \r\n",
    "line separator": "a\u2028b\u2029c\u0085d",
    "family": "👩\u200d👩\u200d👧\u200d👦 e\u0301 \ufeff",
    "code": "def f():\n\tif x:\n\t\treturn `a`\r\n",
}


def test_every_unknown_column_survives_with_its_type_and_white_space(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    rows: Rows = [{"text": f"text {i}\t\r\n  ", "id": i, **UNKNOWN} for i in range(20)]
    dataset = ingest(recipe(write_jsonl(rows)), tmp_path / "raw")
    found = [row for split in dataset.splits for row in dataset.rows(split)]
    wanted = [{key: value for key, value in row.items() if value is not None} for row in rows]
    assert sorted(found, key=lambda row: row["id"]) == wanted
    assert all(type(row[key]) is type(value) for row in found for key, value in UNKNOWN.items() if value is not None)


def test_columns_of_a_parquet_file_keep_their_values(recipe: Recipe, tmp_path: Path) -> None:
    rows: Rows = [
        {
            "text": f"text {i}",
            "meta": {"n": i, "tags": ["a", "b"]},
            "score": i / 3,
            "flag": i % 2 == 0,
            "big": 2**62 + i,
        }
        for i in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    dataset = ingest(recipe(tmp_path / "rows.parquet", split={"validation": 0}), tmp_path / "raw")
    assert list(dataset.rows("train")) == rows


def test_a_column_whose_kind_changes_after_thousands_of_rows_keeps_every_value(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    rows: Rows = [
        {"text": f"{i}", "id": i if i < 9000 else f"#{i}", "big": 0.5 if i % 5000 else 2**52} for i in range(9100)
    ]
    dataset = ingest(recipe(write_jsonl(rows), split={"validation": 0}), tmp_path / "raw")
    assert list(dataset.rows("train")) == rows


MEASURED = """
import resource, sys
from pathlib import Path
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import ingest
source, output = sys.argv[1:]
config = ForgeConfig(model={"name_or_path": "a/b", "load_in_4bit": False, "offline": True}, lora={}, training={},
                     data={"dataset_name_or_path": source})
dataset = ingest(config, Path(output))
rows = sum(1 for split in dataset.splits for _ in dataset.rows(split))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000, 15_000):
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as file:
            for i in range(rows):
                file.write(json.dumps({"text": f"{i} abcdefghijklmnopqrstuvwxyz " * 300, "id": i}) + "\n")
        run = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / f"raw-{rows}")]
        done = subprocess.run(
            run, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        found, peak = map(int, done.stdout.split())
        assert found == rows
        peaks.append(peak / 1024)
    assert path.stat().st_size > 140e6
    # MiB: the small file fills no row group; the large one fills many, of which one and its copies are held.
    assert peaks[1] - peaks[0] < 64, peaks


def test_the_scratch_files_are_gone_afterwards_whether_it_ended_well_or_not(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ingest(recipe(write_jsonl(dialogues)), out / "raw")
    with pytest.raises(DataError):
        ingest(recipe(write_jsonl([{"title": 1}], "bad.jsonl")), out / "bad")
    assert [path.name for path in out.iterdir()] == ["raw"]


def test_rows_are_read_as_they_are_asked_for(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ingest(recipe(write_jsonl(dialogues)), tmp_path / "raw")
    first = ids(dataset, "train")[0]
    monkeypatch.setattr(pq, "read_table", lambda *_: pytest.fail("the whole split was read"))
    assert next(dataset.rows("train"))["id"] == first
    with pytest.raises(DataError, match="no split 'test'"):
        dataset.rows("test")


# --- Several datasets


def questions(count: int, start: int) -> Rows:
    return [
        {"question": f"Question number {i}?", "answer": f"Answer {i}", "id": i} for i in range(start, start + count)
    ]


def test_every_dataset_carries_its_own_declaration(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    first, second, third = (write_jsonl(questions(20, 100 * i), f"{i}.jsonl") for i in range(3))
    config = recipe(
        first,
        license="CC0-1.0",
        category="public",
        extra_datasets=[
            {"name_or_path": str(second), "license": "MIT", "origin": "bought", "category": "licensed"},
            str(third),
            {"name_or_path": "package:chatterbot_corpus/data/english/ai.yml", "category": "public"},
            {"name_or_path": "package:chatterbot_corpus/data/english/food.yml", "license": "BSD-3-Clause"},
        ],
    )
    provenance = ingest(config, tmp_path / "raw").provenance
    sources = provenance.sources
    assert [(source.license, source.category) for source in sources] == [
        ("CC0-1.0", "public"),
        ("MIT", "licensed"),
        (None, "other"),
        ("BSD License", "public"),
        ("BSD-3-Clause", "other"),
    ]
    assert sources[1].origin == "bought"
    assert sources[3].origin == "https://github.com/gunthercox/chatterbot-corpus"
    assert sum(source.rows_taken or 0 for source in sources) == sum(provenance.rows.values())


def test_a_small_dataset_is_repeated_in_train_only_and_the_record_says_how_often(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    large, small = write_jsonl(questions(200, 0), "large.jsonl"), write_jsonl(questions(20, 1000), "small.jsonl")
    mix = {"extra_datasets": [str(small)], "mix_ratio": [0.5, 0.5], "mix_replacement": True, "mix_rows": 300}
    split = {"validation": 0.2, "test": 0.1}
    dataset = ingest(recipe(large, **mix, split=split), tmp_path / "raw")
    where = {name: Counter(ids(dataset, name)) for name in dataset.splits}
    assert not set(where["train"]) & (set(where["validation"]) | set(where["test"]))
    assert all(count == 1 for name in ("validation", "test") for count in where[name].values())
    assert {count for row, count in where["train"].items() if row >= 1000} == {7, 8}
    assert {count for row, count in where["train"].items() if row < 1000} == {1}
    assert ids(dataset, "train") == sorted(ids(dataset, "train"))
    provenance = dataset.provenance
    steps = {step.name: step for step in provenance.transformations}
    assert (steps["mix"].rows_in, steps["mix"].rows_out, steps["mix"].rows_by_source) == (220, 300, (150, 150))
    assert steps["held_out_once"].rows_out == sum(provenance.rows.values())
    times = Counter(str(count) for row, count in where["train"].items() if row >= 1000)
    assert provenance.sources[1].repeats == times
    assert provenance.sources[0].repeats == {}
    large_rows = [count for rows in where.values() for row, count in rows.items() if row < 1000]
    assert provenance.sources[0].rows_taken == sum(large_rows)


def test_declared_held_out_rows_are_never_resampled(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl(questions(10, 0), "d/train.jsonl")
    write_jsonl(questions(7, 500), "d/test.jsonl")
    dataset = ingest(
        recipe(tmp_path / "d", mix_replacement=True, mix_rows=35, split={"validation": 0}), tmp_path / "raw"
    )
    assert ids(dataset, "test") == list(range(500, 507))
    assert Counter(Counter(ids(dataset, "train")).values()) == {3: 5, 4: 5}
    assert dataset.provenance.sources[0].declared_splits == {"train": 10, "test": 7}


def test_a_limit_keeps_the_shares_of_the_mix(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    large, small = write_jsonl(questions(3000, 0), "large.jsonl"), write_jsonl(questions(600, 9000), "small.jsonl")
    dataset = ingest(
        recipe(large, extra_datasets=[str(small)], mix_ratio=[0.5, 0.5], limit=400, split={"validation": 0}),
        tmp_path / "raw",
    )
    taken = dataset.provenance.transformations[-1].rows_by_source
    assert sum(taken) == 400
    assert 150 < taken[0] < 250


def test_temperature_evens_the_datasets_out(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    large, small = write_jsonl(questions(900, 0), "large.jsonl"), write_jsonl(questions(100, 9000), "small.jsonl")
    dataset = ingest(recipe(large, extra_datasets=[str(small)], mix_temperature=2.0), tmp_path / "raw")
    assert dataset.provenance.transformations[0].rows_by_source == (300, 100)


# --- Near-duplicate clusters


def by_first_word(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
    """Clusters of texts that begin with the same word."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(str(text).split()[0], i) for i, text in enumerate(texts)])


def test_clusters_stay_in_one_split_whatever_the_order_of_the_rows(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    rows: Rows = [{"text": f"w{i % 40} {i}", "id": i} for i in range(200)]
    found = []
    for order in range(3):
        random.Random(order).shuffle(rows)
        config = recipe(write_jsonl(rows), split={"validation": 0.2, "test": 0.1})
        dataset = ingest(config, tmp_path / f"raw-{order}", group_rows=by_first_word)
        found.append({name: set(ids(dataset, name)) for name in dataset.splits})
        assert dataset.provenance.notes == (
            "near-duplicate rows are in one split: 200 rows in 40 clusters, the largest of 5",
        )
    assert found[0] == found[1] == found[2]
    assert found[0].keys() == {"train", "validation", "test"}
    clusters = [{i % 40 for i in rows} for rows in found[0].values()]
    assert sum(map(len, clusters)) == 40


def test_clusters_are_asked_for_only_where_the_recipe_wants_them_and_a_split_is_made(
    recipe: Recipe, write_jsonl: Write, dialogues: Rows, tmp_path: Path
) -> None:
    def never(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
        raise AssertionError("nobody wanted clusters")

    path = write_jsonl(dialogues)
    ingest(recipe(path, split={"keep_together": "same_words"}), tmp_path / "words", group_rows=never)
    ingest(recipe(path, split={"validation": 0}), tmp_path / "none", group_rows=never)
    write_jsonl(dialogues[:30], "d/train.jsonl")
    write_jsonl(dialogues[30:], "d/validation.jsonl")
    ingest(recipe(tmp_path / "d"), tmp_path / "declared", group_rows=never)
    plain = ingest(recipe(path), tmp_path / "plain")
    assert plain.provenance.notes == (
        "rows with equal words are in one split; near-duplicate rows were not looked for",
    )


def test_only_the_rows_that_are_to_be_split_are_compared(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    seen: list[str] = []

    def keep(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
        seen.extend(texts.to_pylist())
        return np.arange(len(texts))

    write_jsonl(questions(30, 0), "d/train.jsonl")
    write_jsonl(questions(9, 500), "d/test.jsonl")
    ingest(recipe(tmp_path / "d", limit=25), tmp_path / "raw", group_rows=keep)
    assert 0 < len(seen) < 25
    assert not any("number 5" in text and len(text) > 36 for text in seen)
    assert all("Question number" in text and "\n" in text for text in seen)


TEXTS: Rows = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}], "id": "d"},
    {"messages": [{"content": "b", "role": "assistant"}], "prompt": "p", "Answer": "z", "note": "not said"},
    {"question": "q", "answer": "w", "source": "s"},
    {"question": "q", "answer": " ", "extra": "only this", "lang": "en"},
    {"chosen": [{"role": "assistant", "content": "x"}], "rejected": "y", "meta": {"text": "no column"}},
    {"text": "", "other": ["one", {"two": "three", "id": "four"}]},
    {"text": "tab\t  line\n\u2028", "tools": [{"type": "function", "function": {"name": "n", "description": "d"}}]},
    {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]}]},
]


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_rows_are_compared_by_the_text_that_the_audit_compares(number: int, write_jsonl: Write) -> None:
    path = write_jsonl([TEXTS[number]])
    (audited,) = (text for texts in row_texts_of(path) for text in texts.to_pylist())
    assert row_text(TEXTS[number]) == audited


def test_the_audits_own_clusters_keep_near_duplicates_together(
    recipe: Recipe, write_jsonl: Write, tmp_path: Path
) -> None:
    from forge_pipeline.dataset_audit.grouping import near_duplicate_groups

    chance = random.Random(3)
    words = [f"w{i}" for i in range(4000)]
    rows: Rows = []
    for i in range(60):
        base = chance.sample(words, 60)
        rows += [{"text": " ".join([*base[:-1], extra]), "id": i} for extra in chance.sample(words, 4)]
    chance.shuffle(rows)
    config = recipe(write_jsonl(rows), split={"validation": 0.2, "test": 0.1})
    dataset = ingest(config, tmp_path / "raw", group_rows=near_duplicate_groups)
    assert sum(len(set(ids(dataset, name))) for name in dataset.splits) == 60
    torn = ingest(config, tmp_path / "torn")
    assert sum(len(set(ids(torn, name))) for name in torn.splits) > 60


# --- Malformed input


GOOD = b'{"text": "fine"}\n'
SKIPPED = {
    "a broken line": (b'{"text": "a\n', "not JSON"),
    "NUL bytes": (b'{"text": "a\0b"}\n', "NUL"),
    "10,000 levels of nesting": (b'{"text": "a", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n", "nested"),
    "a column of another kind": (b'{"text": ["a"]}\n', "text is"),
    "another layout": (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "looks like"),
    "an unknown layout": (b'{"title": "a"}\n', "no known dataset layout"),
    "half a surrogate pair": (b'{"text": "\\ud83d"}\n', "surrogate"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_row_that_cannot_be_used_is_counted_and_named_and_the_others_are_kept(
    name: str, recipe: Recipe, tmp_path: Path
) -> None:
    line, reason = SKIPPED[name]
    (tmp_path / "rows.jsonl").write_bytes(GOOD * 10 + line + GOOD * 10)
    provenance = ingest(recipe(tmp_path / "rows.jsonl"), tmp_path / "raw").provenance
    assert (provenance.skipped_count, sum(provenance.rows.values())) == (1, 20)
    assert (provenance.skipped[0].source, provenance.skipped[0].line) == ("rows.jsonl", 11)
    assert reason in provenance.skipped[0].reason


def test_a_line_of_twenty_megabytes_is_a_row_like_any_other(recipe: Recipe, tmp_path: Path) -> None:
    text = "x" * 20_000_000
    (tmp_path / "rows.jsonl").write_bytes(GOOD + json.dumps({"text": text}).encode() + b"\n" + GOOD)
    dataset = ingest(recipe(tmp_path / "rows.jsonl", split={"validation": 0}), tmp_path / "raw")
    assert [len(row["text"]) for row in dataset.rows("train")] == [4, 20_000_000, 4]


def _latin1(path: Path) -> None:
    path.write_bytes(GOOD + b'{"text": "caf\xe9"}\n')


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another encoding": (_latin1, "line 2: byte 0xe9 is not UTF-8"),
    "UTF-16": (lambda path: path.write_text('{"text": "a"}\n', encoding="utf-16"), "UTF-16"),
    "an empty file": (lambda path: path.write_bytes(b""), "holds no rows"),
    "a folder of that name": (lambda path: path.mkdir(), "holds no data files"),
    "a pipe": (os.mkfifo, "is a pipe; expected a plain file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "a link that leads nowhere, or in a circle"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "a link that leads nowhere, or in a circle"),
    "no file": (lambda path: None, "there is no such file"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.timeout(20)
def test_a_file_that_cannot_be_read_is_refused_by_name(name: str, recipe: Recipe, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    make(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=reason) as refused:
        ingest(recipe(tmp_path / "rows.jsonl"), tmp_path / "raw")
    assert "rows.jsonl" in str(refused.value)
    assert not (tmp_path / "raw").exists()


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_by_name(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    path = write_jsonl([{"text": "a"}])
    path.chmod(0)
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read: Permission denied"):
        ingest(recipe(path), tmp_path / "raw")


CHANGES = {"shrinks": 500, "grows": 20_001, "is replaced": 20_000}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 20_000)
    real = example_of
    seen = 0

    def meddling(row: dict[str, Any]) -> Any:
        nonlocal seen
        seen += 1
        if seen == 100 and change == "is replaced":
            (tmp_path / "other").write_bytes(GOOD * CHANGES[change])
            (tmp_path / "other").replace(path)
        elif seen == 100:
            path.write_bytes(GOOD * CHANGES[change])
        return real(row)

    monkeypatch.setattr(gathering, "example_of", meddling)
    with pytest.raises(DataError, match=r"rows\.jsonl: changed while it was being read"):
        ingest(recipe(path), tmp_path / "raw")


def test_more_broken_rows_than_can_be_told_are_all_counted(recipe: Recipe, tmp_path: Path) -> None:
    lines = [b"{\n" if i % 10 == 3 else f'{{"text": "{i}"}}\n'.encode() for i in range(3000)]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines))
    provenance = ingest(recipe(tmp_path / "rows.jsonl"), tmp_path / "raw").provenance
    assert provenance.skipped_count == provenance.sources[0].rows_skipped == 300
    assert [row.line for row in provenance.skipped] == list(range(4, 1000, 10))


def test_rows_that_each_bring_new_columns_are_refused(recipe: Recipe, write_jsonl: Write, tmp_path: Path) -> None:
    rows: Rows = [{"text": "a", f"key {i}": i} for i in range(3000)]
    with pytest.raises(DataError, match=r"rows\.jsonl line 1000: .* more than 1000 different columns"):
        ingest(recipe(write_jsonl(rows)), tmp_path / "raw")


def test_documents_become_rows_and_the_record_says_how_they_were_cut(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for i in range(5):
        (tmp_path / "d" / f"{i}.md").write_text(f"# Chapter {i}\n\nWords of chapter {i}.\n\n    code()\n")
    dataset = ingest(recipe(tmp_path / "d", split={"validation": 0}), tmp_path / "raw", count_tokens=len)
    assert all("code()" in row["text"] for row in dataset.rows("train"))
    assert "documents cut by structure into at most 512 tokens of the recipe's tokenizer" in dataset.provenance.notes


def test_rows_that_the_deployment_refuses_are_named_skips(
    write_jsonl: Callable[..., Path], recipe: Callable[..., ForgeConfig], tmp_path: Path
) -> None:
    """A row that names an erased person does not come back with the next export of the corpus."""
    rows = [{"text": f"Sentence number {number} about bread."} for number in range(20)]
    rows[7]["text"] = "Write to anna.nowak@example.org about bread."
    refused = lambda row: "anna.nowak@" in row  # noqa: E731
    raw = ingest(recipe(write_jsonl(rows), split={"validation": 0}), tmp_path / "raw", refused=refused)
    assert raw.provenance.rows == {"train": 19}
    (skip,) = raw.provenance.skipped
    assert skip.line == 8
    assert "deny-list" in skip.reason
    assert "anna" not in skip.reason
