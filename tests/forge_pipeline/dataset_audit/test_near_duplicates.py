"""The near-duplicate join against brute force, and that big clusters stay cheap."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forge_pipeline.dataset_audit import audit_dataset, compute_simhash

WriteRows = Callable[..., Path]
METHODS = ["simhash", "minhash"]


def mutated(texts: list[str], rng: np.random.Generator) -> list[str]:
    """Each text, and copies of it with 0 to 8 words replaced."""
    copies = list(texts)
    for text in texts:
        for changes in (0, 1, 2, 3, 8):
            words = text.split()
            for place in rng.choice(len(words), changes, replace=False):
                words[place] = f"new{rng.integers(10_000)}"
            copies.append(" ".join(words))
    return copies


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def brute_force(texts: list[str], threshold: float, hamming: int | None) -> int:
    sets = [set(re.findall(r"\w+", text.lower())) for text in texts]
    signatures = [compute_simhash(text) for text in texts]
    return sum(
        jaccard(sets[i], sets[j]) >= threshold
        and (hamming is None or (signatures[i] ^ signatures[j]).bit_count() <= hamming)
        for i in range(len(texts))
        for j in range(i)
    )


@pytest.mark.parametrize(("method", "hamming"), [("simhash", 3), ("simhash", 8), ("minhash", None)])
def test_pairs_are_those_that_brute_force_finds(
    method: str, hamming: int | None, sentences: Callable[[int], list[str]], write_rows: WriteRows
) -> None:
    texts = mutated(sentences(60), np.random.default_rng(0))
    report = audit_dataset(
        str(write_rows({"text": text} for text in texts)), dedup_method=method, near_dup_threshold=hamming or 3
    )
    expected = brute_force(texts, 0.85, hamming)
    found = report.near_duplicate_summary["pairs_per_split"]["train"]
    assert expected > 60
    if method == "simhash":
        assert found == expected
    else:
        assert expected * 0.97 <= found <= expected  # LSH finds 99 % at the threshold; verification adds nothing
    assert report.near_duplicate_summary["pairs_are_lower_bounds"] is False


@pytest.mark.parametrize("method", METHODS)
def test_ten_thousand_identical_rows_are_counted_not_paired(method: str, write_rows: WriteRows) -> None:
    path = write_rows({"text": "The same words in every row of this file."} for _ in range(10_000))
    started = time.process_time()
    report = audit_dataset(str(path), dedup_method=method)
    assert time.process_time() - started < 5
    assert report.near_duplicate_summary["pairs_per_split"] == {"train": 10_000 * 9_999 // 2}
    assert report.near_duplicate_summary["exact_duplicates_per_split"] == {"train": 9_999}
    assert report.duplicate_count == 9_999
    assert report.near_duplicate_summary["clusters_per_split"]["train"] == {
        "clusters": 1, "largest": 10_000, "redundant_rows": 9_999,
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_huge_group_of_similar_rows_is_one_cluster_and_says_that_pairs_are_bounds(
    method: str, write_rows: WriteRows
) -> None:
    base = " ".join(f"word{i}" for i in range(60))
    report = audit_dataset(str(write_rows({"text": f"{base} number {i}"} for i in range(1_500))), dedup_method=method)
    assert report.near_duplicate_summary["pairs_are_lower_bounds"] is True
    assert report.duplicate_count > 1_400
    assert any("lower bounds" in note for note in report.notes)


@pytest.mark.parametrize("method", METHODS)
def test_overlap_counts_rows_of_each_side(
    method: str, sentences: Callable[[int], list[str]], write_rows: WriteRows
) -> None:
    texts = sentences(40)
    near = texts[1].replace(texts[1].split()[3], "changed", 1)
    path = write_rows([{"text": text} for text in [*texts[:20], texts[0]]])
    write_rows([{"text": texts[0]}, {"text": near}, {"text": texts[30]}, {"text": ""}], "validation.jsonl")
    report = audit_dataset(str(path.parent), dedup_method=method, near_dup_threshold=10)
    assert report.cross_split_overlap["pairs"] == {
        "train__validation": {
            "leaked_rows_in_train": 3,
            "leak_rate_train": 0.1429,
            "exact_rows_in_train": 2,
            "rows_compared_in_train": 21,
            "leaked_rows_in_validation": 2,
            "leak_rate_validation": 0.6667,
            "exact_rows_in_validation": 1,
            "rows_compared_in_validation": 3,
        }
    }
    first = report.near_duplicate_summary["examples"][0]
    assert first == {"split_a": "train", "row_a": 0, "split_b": "train", "row_b": 20, "similarity": 1.0}


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_words_are_duplicates_of_nothing(method: str, write_rows: WriteRows) -> None:
    report = audit_dataset(str(write_rows({"text": text} for text in ["", " ", "...", "!!"] * 5)), dedup_method=method)
    assert report.duplicate_count == 0
    assert report.near_duplicate_summary["pairs_per_split"] == {"train": 0}
