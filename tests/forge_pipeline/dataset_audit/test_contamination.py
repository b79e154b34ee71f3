"""Benchmark items in training rows: runs of words, near-duplicates, and what is no proof."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import runs_of_words
from forge_pipeline.dataset_audit.contamination import MOST_SHARED, Contamination, TaskContamination, find_contamination

QUESTION = "Which river flows through the old town of Prague before it meets the Elbe at Melnik, and how long is it?"
OTHER = "Name the chemical element with the highest melting point of all metals, and give its symbol and number."


def found(items: dict[str, list[str]], rows: list[str], **options: float) -> Contamination:
    return find_contamination(items, [pa.array(rows, pa.string())], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(QUESTION, "ngram", id="the item itself"),
        pytest.param(f"Please answer!\n\n{QUESTION.upper()}  Thank you.", "ngram", id="inside other text, shouted"),
        pytest.param(f"Frage: {QUESTION} – die Moldau, 430 km", "ngram", id="among letters that are not ASCII"),
        pytest.param(
            " ".join(word for word in QUESTION.split() if word not in ("old", "how")),
            "near_duplicate",
            id="two words cut",
        ),
    ],
)
def test_an_item_in_a_row_is_found(row: str, kind: str) -> None:
    result = found({"geo": [OTHER, QUESTION]}, ["Nothing to see here.", row])
    assert result.tasks == {"geo": TaskContamination(items=2, contaminated=1, too_short=0)}
    (hit,) = result.hits
    assert (hit.task, hit.item, hit.row, hit.kind) == ("geo", 1, 1, kind)
    assert result.rows == {1}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("", id="an empty row"),
        pytest.param("Which river flows through the old town? " * 3, id="a shorter run, repeated"),
        pytest.param(" ".join(reversed(QUESTION.split()[:12])), id="other words' order and not all of them"),
        pytest.param(OTHER, id="another question"),
    ],
)
def test_what_only_resembles_an_item_is_not_found(row: str) -> None:
    assert found({"geo": [QUESTION]}, [row]).contaminated == 0


def test_an_item_of_few_words_is_counted_and_not_looked_for() -> None:
    result = found({"geo": ["What is two plus two?"]}, ["What is two plus two? Four."])
    assert result.tasks["geo"] == TaskContamination(items=0, contaminated=0, too_short=1)


def test_boilerplate_of_a_benchmark_proves_nothing() -> None:
    intro = "The following are multiple choice questions with answers about the history of the world. Question"
    items = [f"{intro} {number}: who reigned in the year {1000 + number}?" for number in range(MOST_SHARED + 1)]
    assert found({"history": items}, [f"{intro} 99: name a famous ship."]).contaminated == 0
    assert found({"history": items}, [f"A row about {items[3][-60:]} indeed: {items[3]}"]).contaminated >= 1


def test_items_are_counted_by_task_and_rows_over_blocks() -> None:
    blocks = [pa.array(["nothing", QUESTION]), pa.array([OTHER, QUESTION])]
    result = find_contamination({"geo": [QUESTION], "chemistry": [OTHER]}, blocks)
    assert {hit.row for hit in result.hits if hit.task == "geo"} == {1, 3}
    assert {hit.row for hit in result.hits if hit.task == "chemistry"} == {2}
    assert (result.items, result.contaminated) == (2, 2)
    assert result.summary()["contaminated_rows"] == 3


def test_the_length_of_the_run_is_the_recipes() -> None:
    row = "Somebody asked: which river flows through the old town of Prague today"
    assert found({"geo": [QUESTION]}, [row], ngram=9).contaminated == 1
    assert found({"geo": [QUESTION]}, [row], ngram=11).contaminated == 0


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abAB 1_,.é–\nß", max_size=40), max_size=12), st.integers(1, 3))
def test_the_compiled_search_finds_what_python_finds(texts: list[str], length: int) -> None:
    pytest.importorskip("numba")
    words = [word for text in texts for word in runs_of_words.tokens_of(text)]
    random.Random(0).shuffle(words)
    wanted = sorted({runs_of_words.hash_of_run(words[at : at + length]) for at in range(0, len(words), 2)})
    lengths, hashes, rows = (length, length + 1), np.array(wanted, dtype=np.uint64), pa.array(texts, pa.string())
    before, runs_of_words._WORTH_A_KERNEL = runs_of_words._WORTH_A_KERNEL, 0
    try:
        compiled = runs_of_words.runs_in(rows, lengths, hashes)
        runs_of_words._WORTH_A_KERNEL = 1 << 60
        plain = runs_of_words.runs_in(rows, lengths, hashes)
    finally:
        runs_of_words._WORTH_A_KERNEL = before
    assert [list(map(int, column)) for column in compiled] == [list(map(int, column)) for column in plain]
