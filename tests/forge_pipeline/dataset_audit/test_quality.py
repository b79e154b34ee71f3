"""Quality heuristics: each names its reason, and prose passes."""

import pytest

from forge_pipeline.dataset_audit.quality import REASONS, quality_flags

PROSE = (
    "The committee met on a rainy morning and talked about the new bridge for two hours.\n"
    "Nobody could agree on the colour, but everybody agreed on the price."
)
FAILS = {
    "low_alpha_ratio": "12 + 34 = 46; 9 * 9 = 81; 7 / 7 = 1.",
    "low_punct_endings": "this line has no end\nneither does this other one here\nnor this third one at all",
    "mean_word_length": "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism.",
    "short_paragraphs": f"One two.\n\nThree four.\n\nFive six.\n\n{PROSE}",
    "repeated_lines": "The same line again.\n" * 3 + "Another line that ends well.",
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_heuristic_names_its_reason(reason: str) -> None:
    assert reason in quality_flags(FAILS[reason])


@pytest.mark.parametrize("text", [PROSE, "", "  \n", "```python\nx = [1] * 9\n```", f"{PROSE}\n```\n{{}};=+\n```\n"])
def test_prose_code_and_blanks_are_not_flagged(text: str) -> None:
    assert quality_flags(text) == ()
