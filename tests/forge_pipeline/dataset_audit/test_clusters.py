"""Clusters row by row, over all splits: who belongs together, who stays; the file beside the report."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import audit_dataset
from forge_pipeline.dataset_audit.clusters import CLUSTERS

WriteRows = Callable[..., Path]

BASE = " ".join(f"word{i}" for i in range(30))
OTHER = " ".join(f"other{i}" for i in range(30))


def clusters_of(write_rows: WriteRows, tmp_path: Path, **splits: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """The report on the texts by split, and the rows of the file beside it."""
    for split, texts in splits.items():
        write_rows([{"text": text} for text in texts], f"data/{split}.jsonl")
    report = audit_dataset(str(tmp_path / "data"), output_dir=str(tmp_path / "out"), dedup_method="minhash")
    table = pq.read_table(tmp_path / "out" / "clusters.parquet")
    assert table.schema.equals(CLUSTERS)
    return report, table.to_pylist()


def test_each_row_of_a_cluster_is_listed_with_its_nearest(write_rows: WriteRows, tmp_path: Path) -> None:
    train = ["alone", OTHER, BASE, "", BASE + " more", OTHER]
    _, rows = clusters_of(write_rows, tmp_path, train=train, validation=[BASE.upper(), "alone too"])
    near = pytest.approx(30 / 31)
    assert rows == [
        {"split": "train", "row": 1, "cluster": 0, "kept": True, "exact": True, "similarity": 1.0},
        {"split": "train", "row": 2, "cluster": 1, "kept": True, "exact": False, "similarity": 1.0},
        {"split": "train", "row": 4, "cluster": 1, "kept": False, "exact": False, "similarity": near},
        {"split": "train", "row": 5, "cluster": 0, "kept": False, "exact": True, "similarity": 1.0},
        {"split": "validation", "row": 0, "cluster": 1, "kept": True, "exact": False, "similarity": 1.0},
    ]


def test_rows_that_only_another_split_connects_are_both_kept(write_rows: WriteRows, tmp_path: Path) -> None:
    """One cluster over all splits, but neither training row could stand for the other."""
    left, right = f"{BASE} a b c", f"{BASE} x y z"  # 30 of 36 words in common; 30 of 33 with the one between
    report, rows = clusters_of(write_rows, tmp_path, train=[left, right], validation=[BASE])
    assert [(row["cluster"], row["kept"]) for row in rows] == [(0, True)] * 3
    assert report.duplicate_count == 0
    assert report.near_duplicate_summary["clusters_over_all_splits"] == {"clusters": 1, "largest": 3, "rows": 3}


def test_without_repeats_there_is_a_file_without_rows(write_rows: WriteRows, tmp_path: Path) -> None:
    report, rows = clusters_of(write_rows, tmp_path, train=["one", "two", "", ""])
    assert rows == []
    assert report.near_duplicate_summary["clusters_over_all_splits"] == {"clusters": 0, "largest": 0, "rows": 0}


TEXTS = [*(f"{BASE} {i}" for i in range(3)), BASE + " 0", OTHER, OTHER.upper(), f"{OTHER} k l", "short", "Short!", ""]


@given(splits=st.lists(st.lists(st.sampled_from(TEXTS), max_size=8), min_size=1, max_size=3))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_file_and_the_report_say_the_same(
    splits: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("laws")
    names = ["train", "validation", "test"][: len(splits)]
    data = directory / "data"
    data.mkdir()
    for name, texts in zip(names, splits, strict=True):
        (data / f"{name}.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    report = audit_dataset(str(data), output_dir=str(directory / "out"), dedup_method="minhash")
    rows = pq.read_table(directory / "out" / "clusters.parquet").to_pylist()
    summary = report.near_duplicate_summary

    kept = Counter(row["split"] for row in rows if not row["kept"])
    redundant = {split: entry["redundant_rows"] for split, entry in summary["clusters_per_split"].items()}
    assert {split: kept[split] for split in redundant} == redundant
    assert sum(redundant.values()) == report.duplicate_count
    members = defaultdict(list)
    for row in rows:
        members[row["cluster"]].append(row)
    assert list(members) == list(range(len(members)))  # numbered in the order of first rows
    assert all(len(cluster) > 1 for cluster in members.values())
    assert summary["clusters_over_all_splits"]["rows"] == len(rows)
    text_at = {(name, i): text for name, own in zip(names, splits, strict=True) for i, text in enumerate(own)}
    for cluster in members.values():
        said = Counter(text_at[row["split"], row["row"]] for row in cluster)
        assert all(row["exact"] == (said[text_at[row["split"], row["row"]]] > 1) for row in cluster)
        assert all(row["similarity"] >= 0.85 for row in cluster)
    exact = summary["exact_duplicates_per_split"]
    for name, own in zip(names, splits, strict=True):
        words = [text for text in own if text]
        assert exact[name] == len(words) - len(set(words))
