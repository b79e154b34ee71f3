"""Quality filters: each names its reason, prose passes, and compiled code measures the same."""

import random
import re
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline import dataset_audit
from forge_pipeline.dataset_audit import quality
from forge_pipeline.dataset_audit.quality import (
    FAMILIES,
    REASONS,
    Measures,
    families_of,
    measures_of,
    quality_flags,
    quality_masks,
)
from forge_pipeline.errors import ConfigError

PROSE = (
    "The committee met on a rainy morning and talked about the new bridge for two hours.\n"
    "Nobody could agree on the colour, but everybody agreed on the price."
)
DOCUMENT = (
    "The committee met on a rainy morning and talked about the new bridge for two hours. "
    "Nobody could agree on its colour, but all of them found the price too high.\n"
    "Old plans were brought up from the cellar, with drawings that no member had ever seen. "
    "An engineer explained why stone would last longer than steel, and what that means to those who pay. "
    "When the rain stopped, they walked down to the river to see for themselves."
)
FAILS = {
    "low_alpha_ratio": "12 + 34 = 46; 9 * 9 = 81; 7 / 7 = 1.",
    "low_punct_endings": "this line has no end\nneither does this other one here\nnor this third one at all",
    "mean_word_length": "Pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism.",
    "short_paragraphs": f"One two.\n\nThree four.\n\nFive six.\n\n{PROSE}",
    "repeated_lines": "The same line again.\n" * 3 + "Another line that ends well.",
    "gopher_word_count": PROSE,
    "gopher_mean_word_length": "Misunderstanding notwithstanding (internationalization).",
    "gopher_symbol_ratio": "#one #two and the #three of these.",
    "gopher_bullet_lines": "- the first of them\n* and the second\n• to the third",
    "gopher_ellipsis_lines": "It goes on...\nand on…\nand ends.",
    "gopher_alpha_words": "1 2 3 4 five six seven",
    "gopher_stop_words": "Heute war schönes Wetter in der ganzen Stadt.",
    "gopher_duplicate_lines": "again\nagain\nand once",
    "gopher_duplicate_paragraphs": "One part.\n\nOne part.\n\nAnother part.",
    "gopher_duplicate_line_characters": f"{PROSE}\n{PROSE}",
    "gopher_duplicate_paragraph_characters": f"{PROSE}\n\n{PROSE}\n\nThe end.",
    "gopher_top_ngrams": "so it is and so it is or so it was and so it will be",
    "gopher_duplicate_ngrams": f"{PROSE} Then again: {PROSE}",
    "c4_terminal_punctuation": "no line ends as it should,\nnot this one,\nand this one trails off...",
    "c4_few_sentences": "This line has as many words as it needs. It has two sentences, though.",
    "c4_curly_bracket": "Put {name} here.",
    "c4_lorem_ipsum": "Lorem Ipsum dolor sit amet.",
    "c4_javascript": "Please enable JavaScript to see this page.",
    "fineweb_line_punctuation": "\n".join(["a heading without a mark"] * 9 + ["And a sentence."]),
    "fineweb_short_lines": "short\nalso short\nshort too\nand one line that is rather longer than thirty characters",
    "fineweb_duplicate_characters": f"{PROSE}\nThe end.\nThe end.\nThe end.\nThe end.",
    "fineweb_newlines": "one\ntwo\nthree\nfour",
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_filter_names_its_reason(reason: str) -> None:
    family = families_of([reason])
    assert reason in quality_flags(FAILS[reason], family)
    mask = int(quality_masks(pa.array([FAILS[reason]]), family)[0])
    assert mask >> REASONS.index(reason) & 1


@pytest.mark.parametrize("text", [PROSE, "", "  \n", "```python\nx = [1] * 9\n```", f"{PROSE}\n```\n{{}};=+\n```\n"])
def test_prose_code_and_blanks_are_not_flagged(text: str) -> None:
    assert quality_flags(text) == ()


def test_an_english_document_passes_all_families() -> None:
    assert quality_flags(DOCUMENT, tuple(FAMILIES)) == ()


@pytest.mark.parametrize("text", ["", " \n ", "```\nx\n```", "~~~\nno end {#}"])
def test_a_row_of_code_or_blanks_is_not_judged_by_any_family(text: str) -> None:
    assert quality_flags(text, tuple(FAMILIES)) == ()
    assert quality_masks(pa.array([text]), tuple(FAMILIES)).tolist() == [0]


LIMITS = {  # a text, a measure of it, and what it must be
    "a word is counted without the marks around it": ('He said "(hello)".', "named_characters", 11),
    "stop words stand in any case, once each": ("The the THE and, and “of”", "stop_words", 3),
    "dots are counted by threes": ("a.... b......", "ellipses", 3),
    "sentences of a kept line": ('They said "No." Then we all left. It was late!', "sentences", 3),
    "a full stop within a word ends nothing": ("See the file a.b.c and then e.g.this one.", "sentences", 1),
    "an n-gram that stands once is no repetition": ("one two three four", "top_2", 0),
    "a repeated n-gram counts with its spaces": ("ab cd x ab cd y", "top_2", 10),
    "overlapping repetitions count once": (" ".join(["ab"] * 12), "again_5", 20),
    "line breaks of other systems": ("a b\r\nc d\x85e\u2028f", "lines", 4),
    "a paragraph needs a blank line": ("a\nb\n \nc\n\n\nd", "paragraphs", 3),
}


@pytest.mark.parametrize(("text", "measure", "expected"), LIMITS.values(), ids=LIMITS.keys())
def test_what_is_measured(text: str, measure: str, expected: int) -> None:
    assert getattr(measures_of(text), measure) == expected


def test_todays_five_are_the_default_and_come_first() -> None:
    assert REASONS[:5] == FAMILIES["basic"]
    assert len(REASONS) <= 32
    braces = "Put the {name} of the town here."
    assert quality_flags(braces) == ()
    assert quality_flags(braces, ("c4",)) == ("c4_few_sentences", "c4_curly_bracket")


def test_families_are_found_by_their_reasons() -> None:
    assert families_of(["c4_javascript", "repeated_lines", "c4_lorem_ipsum"]) == ("basic", "c4")
    assert families_of([]) == ()


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="found the family 'gopher'; expected some of basic, gopher_quality"):
        quality_masks(pa.array(["text"]), ("gopher",))


def test_masks_are_the_flags_of_each_row() -> None:
    texts = [*FAILS.values(), PROSE, DOCUMENT]
    for families in (("basic",), ("c4", "fineweb"), tuple(FAMILIES)):
        flags = [[REASONS.index(reason) for reason in quality_flags(text, families)] for text in texts]
        expected = [sum(1 << bit for bit in row) for row in flags]
        assert quality_masks(pa.array(texts), families, compiled=False).tolist() == expected
        if quality._kernels() is not None:
            assert quality_masks(pa.array(texts), families, compiled=True).tolist() == expected


def test_without_numba_the_masks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([*FAILS.values()])
    expected = quality_masks(texts, tuple(FAMILIES)).tolist()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "forge_pipeline.dataset_audit.quality_kernels", raising=False)
    monkeypatch.delitem(sys.modules, "forge_pipeline.dataset_audit.text_kernels", raising=False)
    monkeypatch.delattr(dataset_audit, "quality_kernels", raising=False)
    monkeypatch.setattr(quality, "_kernels", quality._kernels.__wrapped__)
    assert quality._kernels() is None
    assert quality_masks(texts, tuple(FAMILIES), compiled=True).tolist() == expected


def test_compiled_code_measures_the_same_text_of_words_and_lines() -> None:
    draw = random.Random(11)
    pieces = [
        *re.findall(r"\S+", PROSE), "JavaScript", "java\nscript", "lorem ipsum", "x" * 1001, "...", "…", "\n", "\n\n", "\r\n",
        "{", "#", "```\n", "~~~~\n", "the”", "“The", "1,2", "- ", "•", "K", "ß—x", "x.) y", '?!" z', "\x01", "\0", "\x85", "漢字。",
    ]  # fmt: skip
    texts = []
    for size in (5, 20, 80):
        for separator in ("", " ", "\n"):
            texts += [separator.join(draw.choices(pieces, k=draw.randrange(size))) for _ in range(250)]
    texts += [" ".join(draw.choices("abcd", k=draw.randrange(60))) for _ in range(500)]
    assert_measured_alike(texts)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=200),
            st.text(st.sampled_from('ab Ä漢.\n!?"”…#{-`~jJ\t\x1c\x01\0\x85\u2028\u3000'), max_size=60),
        ),
        max_size=20,
    )
)
def test_compiled_code_measures_any_text_the_same(texts: list[str]) -> None:
    assert_measured_alike([text.encode(errors="replace").decode() for text in texts])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("run", ["~", "`", "!", "!)", "\n", "a ", "#", "x", " ", "~~~\n", "é."])
def test_a_long_run_of_anything_is_measured_at_once(run: str) -> None:
    assert_measured_alike([run * 30_000, f"One line of five words {run * 30_000}. And an end."])


def test_many_rows_in_arrow_arrays_of_any_form() -> None:
    texts = [*FAILS.values()] * 400  # beyond one batch
    expected = quality_masks(pa.array(texts[: len(FAILS)]), tuple(FAMILIES), compiled=False).tolist() * 400
    forms = (
        pa.array(texts, pa.large_string()),
        pa.array(["x", *texts]).slice(1),
        pa.chunked_array([texts[:7], texts[7:]]),
    )
    for form in forms:
        assert quality_masks(form, tuple(FAMILIES)).tolist() == expected
    assert quality_masks(pa.array([None, "{"]), ("c4",)).tolist()[0] == 0
    assert quality_masks(pa.array([], pa.string())).tolist() == []


def assert_measured_alike(texts: list[str]) -> None:
    kernels = quality._kernels()
    if kernels is None:
        pytest.skip("numba is not installed")
    array = pa.array(texts, pa.string())
    reference, compiled = quality._measured(array, tuple(FAMILIES)), kernels(array, tuple(FAMILIES))
    for field in Measures._fields:
        assert getattr(reference, field).tolist() == getattr(compiled, field).tolist(), field
