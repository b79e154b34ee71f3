"""Exact match, F1 and ROUGE."""

import pytest

from forge_pipeline.models.answer_scores import ROUGE_TYPES, exact_match, f1, rouge

PAIRS: dict[str, tuple[str, list[str], float, float]] = {
    "the same": ("Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
    "case, articles and punctuation do not count": ("the Denver broncos!", ["Denver Broncos"], 1.0, 1.0),
    "one word of two": ("Denver", ["Denver Broncos"], 0.0, 2 / 3),
    "the best of several": ("Santa Clara", ["Levi's Stadium", "in Santa Clara"], 0.0, 0.8),
    "a word counts as often as it is there": ("no no no", ["no"], 0.0, 0.5),
    "another answer": ("Boston", ["Denver"], 0.0, 0.0),
    "no answer where there is none": ("", [], 1.0, 1.0),
    "an answer where there is none": ("Denver", [], 0.0, 0.0),
    "no answer where there is one": ("", ["Denver"], 0.0, 0.0),
    "typographic quotes": ("“Hallo”", ["Hallo"], 1.0, 1.0),
}


@pytest.mark.parametrize(("given", "right", "match", "overlap"), PAIRS.values(), ids=PAIRS)
def test_exact_match_and_f1(given: str, right: list[str], match: float, overlap: float) -> None:
    assert exact_match(given, right) == match
    assert f1(given, right) == pytest.approx(overlap)


def test_rouge_of_english_is_what_the_package_says() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    reference, summary = "The cat didn't sit\non 2 mats.", "a cat sat on\nmats; 2 of them"
    scores = RougeScorer(list(ROUGE_TYPES)).score(reference, summary)
    expected = {name: score.fmeasure for name, score in scores.items()}
    assert rouge([summary], [reference]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["το σπίτι είναι κόκκινο", "那座房子是红色的", "дом красный"], ids=["Greek", "Chinese", "Russian"]
)
def test_rouge_reads_every_script(text: str) -> None:
    assert rouge([text], [text]) == dict.fromkeys(ROUGE_TYPES, 1.0)
    assert rouge([text[: len(text) // 2]], [text])["rouge1"] < 1.0


def test_rouge_is_the_mean_over_summaries_and_nothing_without_any() -> None:
    assert rouge(["one two", "three"], ["one two", "four"])["rouge1"] == 0.5
    assert rouge([], []) == {}
