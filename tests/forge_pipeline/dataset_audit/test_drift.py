"""Drift: the figures against scipy and a sum by hand, and what passes a limit."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from forge_pipeline.config.automation import DriftSection
from forge_pipeline.dataset_audit import language
from forge_pipeline.dataset_audit.drift import compare, kolmogorov_smirnov, population_stability
from forge_pipeline.integrity import Digest

SECTION = DriftSection(data="recent.jsonl", min_rows=30)
DIGESTS = (Digest.of(b"recent"), Digest.of(b"reference"))
ENGLISH = "The river runs slowly through the old town and nobody is in a hurry today"
GERMAN = "Der Fluss fließt langsam durch die alte Stadt und heute hat es niemand eilig"


def test_the_distance_of_two_samples_is_scipys():
    rng = np.random.default_rng(0)
    for size in (1, 30, 400):
        recent, reference = rng.poisson(50, size), rng.poisson(60, 300)
        assert kolmogorov_smirnov(recent, reference) == pytest.approx(ks_2samp(recent, reference).statistic)


def test_the_stability_index_is_the_sum_that_its_definition_says():
    recent, reference = np.array([20, 30, 50]), np.array([25, 25, 50])
    expected = (0.20 - 0.25) * np.log(0.20 / 0.25) + (0.30 - 0.25) * np.log(0.30 / 0.25)
    assert population_stability(recent, reference) == pytest.approx(expected)
    assert population_stability(recent, recent) == 0


def test_an_empty_bin_leaves_the_index_finite():
    assert np.isfinite(population_stability(np.array([0, 100]), np.array([100, 0])))


def texts(sentence: str, count: int, words: int = 10) -> list[str]:
    rng = np.random.default_rng(len(sentence) + count)
    parts = sentence.split()
    return [" ".join(parts[: int(rng.integers(words // 2, words + 1))]) + f" {number % 7}" for number in range(count)]


def test_data_of_one_kind_has_not_drifted():
    report = compare(SECTION, texts(ENGLISH, 300), texts(ENGLISH, 400), digests=DIGESTS)
    assert not report.has_drifted, report.passed
    assert report.length_psi is not None


DRIFTED = {
    "longer texts": ([f"{text} {text}" for text in texts(ENGLISH, 300)], "length_psi"),
    "another language": (texts(GERMAN, 300), "language_psi"),
}


@pytest.mark.parametrize(("recent", "figure"), DRIFTED.values(), ids=DRIFTED)
def test_data_that_moved_names_the_figure(recent, figure):
    if figure == "language_psi" and language.available():
        pytest.skip(language.available() or "")
    report = compare(SECTION, recent, texts(ENGLISH, 400), digests=DIGESTS)
    assert any(reason.startswith(figure) for reason in report.passed), report


def test_too_few_rows_say_nothing_and_say_so():
    report = compare(SECTION, texts(ENGLISH, 29), texts(ENGLISH, 400), digests=DIGESTS)
    assert not report.has_drifted
    assert "29 recent rows are fewer than the 30" in report.not_measured
