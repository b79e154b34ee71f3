"""Results are held against the truth as the page says: on rows small enough to count by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.audited import Corpus, Found, FoundThing, Place
from benchmarks.corpus import Planted, Truth
from benchmarks.true_duplicates import Duplicates, duplicates, groups_of_pairs
from benchmarks.true_findings import findings

WORDS = "a b c d e f g h i j k l m n o p q r s t"  # one word in twenty: Jaccard 19/21 = 0.905
ONE_OTHER = WORDS.replace("t", "other")
ROWS = {
    "train": [WORDS, WORDS, ONE_OTHER, "nothing like it at all", "and one more of its own kind"],
    "validation": [WORDS.upper(), "held out and alone in the world"],
}
A, B, C, D, E = (("train", row) for row in range(5))
V, W = ("validation", 0), ("validation", 1)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for split, texts in ROWS.items():
        lines = [json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n" for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return Corpus(Truth(tmp_path, tmp_path, {split: len(texts) for split, texts in ROWS.items()}, 0, ""))


CASES: dict[str, tuple[dict[Place, int], tuple[int, int, int]]] = {  # groups -> found rows, right rows, found pairs
    "everything": ({A: 0, B: 0, C: 0, V: 0}, (4, 4, 6)),
    "nothing": ({}, (0, 0, 0)),
    "one row missed": ({A: 0, B: 0, V: 0}, (3, 3, 3)),
    "one pair of equal rows": ({A: 0, B: 0}, (2, 2, 1)),
    "a row that is like no other": ({A: 0, B: 0, C: 0, V: 0, D: 0}, (5, 4, 6)),
    "two rows that are not alike": ({D: 0, E: 0}, (2, 0, 0)),
    "similar rows in different groups": ({A: 0, D: 0, C: 1, E: 1}, (4, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_groups_are_counted_against_all_true_pairs(corpus: Corpus, case: str) -> None:
    groups, (found_rows, right_rows, found_pairs) = CASES[case]
    result = duplicates(corpus, groups, {"validation": 1})
    assert result == Duplicates(
        true_rows=4,  # the two equal rows, the one with another word, the one in capitals
        found_rows=found_rows,
        right_rows=right_rows,
        true_pairs=6,
        found_pairs=found_pairs,
        within={"train": 3, "validation": 0},
        leaks={"validation": (1, 1)},
    )


def test_pairs_that_share_a_row_are_one_group() -> None:
    groups = groups_of_pairs([A, B, C, D, E], [(0, 1), (2, 1), (3, 4)])
    assert groups[A] == groups[B] == groups[C] != groups[D] == groups[E]


def _finding(category: str, start: int, end: int, source: str, placeholder: bool = False) -> FoundThing:
    return FoundThing("train", 3, "messages[0].content", category, start, end, source, placeholder)


FINDINGS: dict[str, tuple[str, FoundThing, tuple[int, int, int]]] = {  # what, finding -> found, named, marked
    "its own span": ("pii", _finding("email", 8, 12, "pii"), (1, 1, 0)),
    "part of it": ("pii", _finding("email", 10, 20, "pii"), (1, 1, 0)),
    "another name": ("pii", _finding("phone", 8, 12, "pii"), (1, 0, 0)),
    "just before it": ("pii", _finding("email", 4, 8, "pii"), (0, 0, 0)),
    "a secret where personal data is": ("pii", _finding("email", 8, 12, "secret"), (0, 0, 0)),
    "a documented example": ("look_alike", _finding("email", 8, 12, "secret", placeholder=True), (0, 0, 1)),
    "a look-alike": ("look_alike", _finding("email", 8, 12, "secret"), (1, 1, 0)),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_a_finding_counts_by_its_span_and_sort(corpus: Corpus, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what, finding, expected = FINDINGS[case]
    planted = [Planted("train", 3, "messages[0].content", 8, 12, what, "email")]
    monkeypatch.setattr(Truth, "planted", property(lambda truth: planted))
    result = findings(corpus, Found({}, [finding], None), None)
    assert [(kind.found, kind.named, kind.marked) for kind in result.kinds] == [expected]
    assert sum(result.elsewhere.values()) == (case == "just before it")
    assert result.clean_rows == 6
