"""What counts as a statement, and what does not."""

from pathlib import Path

import pytest

from forge_pipeline.annex_iv import POINT_IDS, POINTS, is_placeholder, load_regime
from forge_pipeline.annex_iv.declarations import (
    declaration,
    declared_flag,
    declared_number,
    placeholders_in,
    stated_version,
)
from forge_pipeline.annex_iv.example import example_config
from forge_pipeline.config.compliance import ANNEX_IV_POINTS
from forge_pipeline.config.data import DatasetEntry, GovernanceSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest


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


@pytest.mark.parametrize("text", ["x", "TODO", "  ", "n/a", "lorem ipsum", "NaN", "not applicable: x", "-"])
def test_a_placeholder_is_found_wherever_it_stands(tmp_path: Path, text: str) -> None:
    config = example_config(
        tmp_path,
        provider_name=text,
        declarations={"1(b)": text, "7": "not applicable: no standard is harmonised yet"},
    )
    assert config.risk_assessment is not None
    config = config.model_copy(
        update={
            "risk_assessment": config.risk_assessment.model_copy(
                update={"foreseeable_misuse": ["A real misuse.", text]}
            ),
            "data": config.data.model_copy(
                update={
                    "license": text,
                    "governance": GovernanceSection(collection_method=text, personal_data_included=False),
                    "extra_datasets": ["other", DatasetEntry(name_or_path="more", origin=text)],
                }
            ),
        }
    )
    assert placeholders_in(config) == [
        "compliance.declarations['1(b)']",
        "compliance.provider_name",
        "data.extra_datasets[1].origin",
        "data.governance.collection_method",
        "data.license",
        "risk_assessment.foreseeable_misuse[1]",
    ]


def test_what_nobody_filled_in_is_no_placeholder(tmp_path: Path) -> None:
    assert placeholders_in(example_config(tmp_path)) == []
    assert placeholders_in(example_config(tmp_path, provider_name="", system_version="1")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.98e22", 1.98e22), ("1.98e22, model card", 1.98e22), ("3", 3.0), ("0.4", 0.4),
        ("0", None), ("x", None), ("", None), ("1e999", None), ("-1", None), ("1.2.3", None), ("1e22abc", None),
    ],
)  # fmt: skip
def test_a_declared_number_is_the_one_that_the_text_begins_with(
    tmp_path: Path, text: str, expected: float | None
) -> None:
    config = example_config(tmp_path, declarations={"2(c)": text})
    assert declared_number(config, "2(c)") == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("yes", True), ("No, it is not.", False), ("", None), ("perhaps", None), ("nothing", None)]
)
def test_a_declared_flag_is_never_guessed(tmp_path: Path, text: str, expected: bool | None) -> None:
    assert declared_flag(example_config(tmp_path, declarations={"2(c)": text}), "2(c)") is expected


def test_the_digests_of_the_points_are_those_of_the_laws_words() -> None:
    """Two texts of Annex IV as the Official Journal has them."""
    digests = load_regime().text_digests
    assert digests["IV 2(h)"] == Digest.of(b"cybersecurity measures put in place;")
    assert digests["IV 8"] == Digest.of(b"A copy of the EU declaration of conformity referred to in Article 47;")
    assert {name.removeprefix("IV ") for name in digests if name.startswith("IV ")} == set(POINT_IDS)
