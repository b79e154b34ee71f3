"""What counts as a statement, and what does not."""

from pathlib import Path

import pytest

from forge_pipeline.annex_iv import POINT_IDS, POINTS, is_placeholder, load_regime
from forge_pipeline.annex_iv.declarations import declaration, stated_version
from forge_pipeline.annex_iv.example import example_config
from forge_pipeline.config.compliance import ANNEX_IV_POINTS
from forge_pipeline.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\n\t ", "x", "X.", "xx", "xxx", "aaaa", "...", "---", "?", "n/a", "N/A.", "NA", "none", "None", "NaN",
        "null", "TODO", "todo: ask legal", "TBD", "tbd later", "FIXME", "to be defined", "To be determined.",
        "Lorem ipsum dolor sit amet", "unknown", "placeholder", "not applicable", "[insert purpose here]",
        "{{ purpose }}", "<your text here>", "Example provider (replace with yours)", "CHANGE ME",
        "\u200b", "\u200bx\u200b", "\u00ad\u2060", "ＴＯＤＯ", "no", "yes", "- - -", "**TODO**", "“n/a”",
    ],
)  # fmt: skip
def test_a_placeholder_states_nothing(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "Answers questions about invoices.",
        "Ja, nur für Rechnungen.",
        "请回答客户的问题",
        "None of the rows holds personal data.",
        "Unknown words are answered with a refusal.",
        "ACME",
        "To do its work the system reads tickets.".replace("To do", "In order to do"),
        "No other system is connected.",
    ],
)
def test_a_sentence_states_something(text: str) -> None:
    assert not is_placeholder(text)


@pytest.mark.parametrize(("version", "expected"), [("1", "1"), ("v2", "v2"), ("0.1", "0.1"), ("", None), ("x", None)])
def test_versions_may_be_short_but_have_a_digit(tmp_path: Path, version: str, expected: str | None) -> None:
    assert stated_version(example_config(tmp_path, system_version=version)) == expected


def test_not_applicable_needs_a_reason(tmp_path: Path) -> None:
    given = {"1(g)": "Not applicable: the system has no user interface."}
    config = example_config(tmp_path, declarations={**given, "9": "not applicable", "4": "not applicable: x"})
    assert declaration(config, "1(g)").not_applicable == "the system has no user interface."
    for point in ("9", "4"):
        assert declaration(config, point).not_applicable is None
        assert declaration(config, point).text is None


def test_the_points_are_those_of_the_law() -> None:
    assert (
        (
            *(f"1({letter})" for letter in "abcdefgh"),
            *(f"2({letter})" for letter in "abcdefgh"),
            *("3", "4", "5", "6", "7", "8", "9"),
        )
        == POINT_IDS
        == ANNEX_IV_POINTS
    )
    assert all(point.title and point.asks for point in POINTS)


def test_the_regime_is_read_from_its_file_and_ordered() -> None:
    regime = load_regime()
    dates = [each.applies_from for each in regime.dates]
    assert dates == sorted(dates)
    assert {"2027-12-02", "2028-08-02"} <= set(dates)


@pytest.mark.parametrize("name", ["02024R1689-20240712", "", "../points"])
def test_an_unknown_regime_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="this version ships 02024R1689-20260727"):
        load_regime(name)
