"""Filters for text that is hardly prose, in families; each names its reason.

============================  ======================================================================
``basic``                     five heuristics of this library, for any Latin script
``gopher_quality``            Rae et al. 2021, arXiv 2112.11446, section A.1.1: English documents
``gopher_repetition``         the same, table A1: repeated lines, paragraphs and n-grams
``c4``                        Raffel et al. 2020, arXiv 1910.10683, section 2.2, with the numbers of
                              its published pipeline (TensorFlow Datasets, `c4_utils`): English pages
``fineweb``                   Penedo et al. 2024, arXiv 2406.17557, section 3.6; `fineweb_newlines`
                              is in its published code only (datatrove, `FineWebQualityFilter`)
============================  ======================================================================

The last four were made for web pages: short chat turns trip them, so they are asked for by
name, and what any filter says is a hint, not a gate. Where the sources leave room: code blocks
are taken out first, and a row of nothing but code or blanks is not judged; words are what
stands between white space (Gopher counts those that hold a letter or digit, without the
punctuation around them); lines are stripped, blank ones do not count; paragraphs have a blank
line between them; an n-gram that stands once is not a repetition. C4 drops lines and then
pages; here a row is flagged for what C4 would drop a page for, for mentioning JavaScript, and
where no line ends as C4 wants.

A filter judges the `Measures` of a text. They are taken by readable code, or by compiled code
that takes the same ones where numba is installed and texts are many.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import utf8
from forge_pipeline.dataset_audit.prose import without_code
from forge_pipeline.errors import ConfigError

FAMILIES: dict[str, tuple[str, ...]] = {
    "basic": ("low_alpha_ratio", "low_punct_endings", "mean_word_length", "short_paragraphs", "repeated_lines"),
    "gopher_quality": (
        "gopher_word_count", "gopher_mean_word_length", "gopher_symbol_ratio", "gopher_bullet_lines",
        "gopher_ellipsis_lines", "gopher_alpha_words", "gopher_stop_words",
    ),
    "gopher_repetition": (
        "gopher_duplicate_lines", "gopher_duplicate_paragraphs", "gopher_duplicate_line_characters",
        "gopher_duplicate_paragraph_characters", "gopher_top_ngrams", "gopher_duplicate_ngrams",
    ),
    "c4": ("c4_terminal_punctuation", "c4_few_sentences", "c4_curly_bracket", "c4_lorem_ipsum", "c4_javascript"),
    "fineweb": (
        "fineweb_line_punctuation", "fineweb_short_lines", "fineweb_duplicate_characters", "fineweb_newlines",
    ),
}  # fmt: skip
"""Reasons of each family."""
REASONS: tuple[str, ...] = tuple(reason for reasons in FAMILIES.values() for reason in reasons)

TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
"""Gopher: largest share of characters in the most frequent n-gram."""
DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Gopher: largest share of characters in n-grams that stood before."""
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = "•-*"
C4_ENDINGS = '.?!"”'
C4_WORDS = 5
"""Fewest words of a line that C4 keeps."""
LONGEST_C4_WORD = 1000
SHORT_LINE = 30

_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(rf"[{re.escape(utf8.TERMINALS)}][{re.escape(utf8.CLOSINGS)}]*+(?=\s)")
_COMPILED_FROM = 2000  # rows; from here on compiled code saves more than it takes to load
_ROWS = 4000  # measured at once; no power of two, or the columns would fight for the same lines of the cache

Number = Any  # an int of one text, or an array of many


class Measures(NamedTuple):
    """What the filters judge: of one text numbers, of many texts arrays of int64. All 0 without prose.

    Attributes:
        characters, newlines: Code points of the prose; line feeds among them.
        visible, letters: Code points that are not white space; letters among them.
        lines: That are not blank.
        ended_lines, terminal_lines, c4_lines: That end with one of `utf8.ENDINGS`, of `utf8.TERMINALS`, as C4 wants.
        bullet_lines, ellipsis_lines, short_lines: That begin with a bullet, end with an ellipsis, are short.
        javascript_lines: That mention JavaScript.
        sentences: Of the lines that C4 keeps.
        paragraphs, short_paragraphs: All; with fewer than five words.
        words, alpha_words: All; with a letter.
        named_words, named_characters: Words with a letter or digit; their characters from the first such to the last.
        stop_words: Different ones.
        hashes, ellipses, curly, lorem: How often these stand in the prose.
        frequent_lines: How many lines equal one of the three most frequent that stand twice or more.
        repeated_lines, repeated_line_characters: Lines that stood before; their characters.
        repeated_paragraphs, repeated_paragraph_characters: Likewise.
        top_2, top_3, top_4: Characters in the most frequent n-gram, spaces between its words counted.
        again_5 to again_10: Characters, without spaces, in n-grams that stood before and overlap no other such.
    """

    characters: Number = 0
    newlines: Number = 0
    visible: Number = 0
    letters: Number = 0
    lines: Number = 0
    ended_lines: Number = 0
    terminal_lines: Number = 0
    c4_lines: Number = 0
    bullet_lines: Number = 0
    ellipsis_lines: Number = 0
    short_lines: Number = 0
    javascript_lines: Number = 0
    sentences: Number = 0
    paragraphs: Number = 0
    short_paragraphs: Number = 0
    words: Number = 0
    alpha_words: Number = 0
    named_words: Number = 0
    named_characters: Number = 0
    stop_words: Number = 0
    hashes: Number = 0
    ellipses: Number = 0
    curly: Number = 0
    lorem: Number = 0
    frequent_lines: Number = 0
    repeated_lines: Number = 0
    repeated_line_characters: Number = 0
    repeated_paragraphs: Number = 0
    repeated_paragraph_characters: Number = 0
    top_2: Number = 0
    top_3: Number = 0
    top_4: Number = 0
    again_5: Number = 0
    again_6: Number = 0
    again_7: Number = 0
    again_8: Number = 0
    again_9: Number = 0
    again_10: Number = 0


_FILTERS: dict[str, Callable[[Measures], Any]] = {
    "low_alpha_ratio": lambda m: m.letters < 0.7 * m.visible,
    "low_punct_endings": lambda m: m.ended_lines < 0.5 * m.lines,
    "mean_word_length": lambda m: (m.visible < 3 * m.words) | (m.visible > 12 * m.words),
    "short_paragraphs": lambda m: m.short_paragraphs > 0.5 * m.paragraphs,
    "repeated_lines": lambda m: (m.lines >= 3) & (m.frequent_lines > 0.3 * m.lines),
    "gopher_word_count": lambda m: (m.named_words < 50) | (m.named_words > 100_000),
    "gopher_mean_word_length": lambda m: (
        (m.named_characters < 3 * m.named_words) | (m.named_characters > 10 * m.named_words)
    ),
    "gopher_symbol_ratio": lambda m: (m.hashes > 0.1 * m.words) | (m.ellipses > 0.1 * m.words),
    "gopher_bullet_lines": lambda m: m.bullet_lines > 0.9 * m.lines,
    "gopher_ellipsis_lines": lambda m: m.ellipsis_lines > 0.3 * m.lines,
    "gopher_alpha_words": lambda m: m.alpha_words < 0.8 * m.words,
    "gopher_stop_words": lambda m: m.stop_words < 2,
    "gopher_duplicate_lines": lambda m: m.repeated_lines > 0.3 * m.lines,
    "gopher_duplicate_paragraphs": lambda m: m.repeated_paragraphs > 0.3 * m.paragraphs,
    "gopher_duplicate_line_characters": lambda m: m.repeated_line_characters > 0.2 * m.characters,
    "gopher_duplicate_paragraph_characters": lambda m: m.repeated_paragraph_characters > 0.2 * m.characters,
    "gopher_top_ngrams": lambda m: _above(m, "top", TOP_NGRAMS),
    "gopher_duplicate_ngrams": lambda m: _above(m, "again", DUPLICATE_NGRAMS),
    "c4_terminal_punctuation": lambda m: m.c4_lines == 0,
    "c4_few_sentences": lambda m: m.sentences < 3,
    "c4_curly_bracket": lambda m: m.curly > 0,
    "c4_lorem_ipsum": lambda m: m.lorem > 0,
    "c4_javascript": lambda m: m.javascript_lines > 0,
    "fineweb_line_punctuation": lambda m: m.terminal_lines < 0.12 * m.lines,
    "fineweb_short_lines": lambda m: m.short_lines > 0.67 * m.lines,
    "fineweb_duplicate_characters": lambda m: m.repeated_line_characters > 0.1 * (m.characters - m.newlines),
    "fineweb_newlines": lambda m: m.newlines > 0.3 * m.words,
}


def families_of(reasons: Iterable[str]) -> tuple[str, ...]:
    """The families that hold any of these reasons."""
    wanted = set(reasons)
    return tuple(name for name, members in FAMILIES.items() if wanted.intersection(members))


def quality_flags(text: str, families: Sequence[str] = ("basic",)) -> tuple[str, ...]:
    """Names of the filters that `text` fails, in the order of `REASONS`; none where all is code or blank.

    Raises:
        ConfigError: A family is not in `FAMILIES`.
    """
    reasons = _reasons(families)
    measures = measures_of(text, families)
    return tuple(reason for reason in reasons if measures.lines and _FILTERS[reason](measures))


def quality_masks(
    texts: utf8.Strings, families: Sequence[str] = ("basic",), *, compiled: bool | None = None
) -> npt.NDArray[np.uint32]:
    """For each text a number whose bit `i` says that it fails the filter `REASONS[i]`.

    Args:
        texts: Nulls are empty texts.
        families: Filters of other families are not asked.
        compiled: Use compiled code, which gives the same answers. None: where numba is there and the texts are many.

    Raises:
        ConfigError: A family is not in `FAMILIES`.
    """
    reasons = _reasons(families)
    measure = _kernels() if (len(texts) >= _COMPILED_FROM if compiled is None else compiled) else None
    masks = np.zeros(len(texts), dtype=np.uint32)
    for first in range(0, len(texts), _ROWS):
        part = texts.slice(first, _ROWS)
        measures = _measured(part, families) if measure is None else measure(part, families)
        mask = np.zeros(len(part), dtype=np.uint32)
        for reason in reasons:
            mask |= _FILTERS[reason](measures).astype(np.uint32) << np.uint32(REASONS.index(reason))
        masks[first : first + _ROWS] = np.where(measures.lines > 0, mask, np.uint32(0))
    return masks


def measures_of(text: str, families: Sequence[str] = tuple(FAMILIES)) -> Measures:
    """The measures of one text that the filters of these families judge; the others may be 0."""
    prose = without_code(text)
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    words = prose.split()
    paragraphs = [part.strip() for part in _BLANK_LINES.split(prose) if part.strip()]
    if not lines:
        return Measures()
    measures = Measures(
        visible=sum(map(len, words)),
        letters=sum(map(str.isalpha, prose)),
        lines=len(lines),
        ended_lines=sum(line.endswith(tuple(utf8.ENDINGS)) for line in lines),
        paragraphs=len(paragraphs),
        short_paragraphs=sum(len(paragraph.split()) < 5 for paragraph in paragraphs),
        words=len(words),
        frequent_lines=sum(count for _, count in Counter(lines).most_common(3) if count >= 2),
    )
    if set(families) - {"basic"}:
        measures = measures._replace(**_document_measures(prose, lines, words, paragraphs))
    if "gopher_repetition" in families:
        measures = measures._replace(**_ngram_measures(words))
    return measures


def _document_measures(prose: str, lines: list[str], words: list[str], paragraphs: list[str]) -> dict[str, int]:
    named = [core for core in map(_core, words) if core]
    again_lines, again_paragraphs = _repeated(lines), _repeated(paragraphs)
    c4_lines = [line for line in lines if line.endswith(tuple(C4_ENDINGS)) and not line.endswith("...")]
    return {
        "characters": len(prose),
        "newlines": prose.count("\n"),
        "terminal_lines": sum(line.endswith(tuple(utf8.TERMINALS)) for line in lines),
        "c4_lines": len(c4_lines),
        "bullet_lines": sum(line.startswith(tuple(BULLETS)) for line in lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
        "short_lines": sum(len(line) <= SHORT_LINE for line in lines),
        "javascript_lines": sum("javascript" in line.lower() for line in lines),
        "sentences": sum(1 + len(_SENTENCE_END.findall(line)) for line in c4_lines if _kept_by_c4(line)),
        "alpha_words": sum(any(map(str.isalpha, word)) for word in words),
        "named_words": len(named),
        "named_characters": sum(map(len, named)),
        "stop_words": len({core.lower() for core in named}.intersection(STOP_WORDS)),
        "hashes": prose.count("#"),
        "ellipses": prose.count("...") + prose.count("…"),
        "curly": prose.count("{"),
        "lorem": prose.lower().count("lorem ipsum"),
        "repeated_lines": len(again_lines),
        "repeated_line_characters": sum(map(len, again_lines)),
        "repeated_paragraphs": len(again_paragraphs),
        "repeated_paragraph_characters": sum(map(len, again_paragraphs)),
    }


def _core(word: str) -> str:
    """A word from its first letter or digit to its last; "" if it has none."""
    places = [place for place, char in enumerate(word) if char.isalnum()]
    return word[places[0] : places[-1] + 1] if places else ""


def _repeated(parts: list[str]) -> list[str]:
    """Those that stood before."""
    seen: set[str] = set()
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]


def _kept_by_c4(line: str) -> bool:
    words = line.split()
    return len(words) >= C4_WORDS and max(map(len, words)) <= LONGEST_C4_WORD and "javascript" not in line.lower()


def _ngram_measures(words: list[str]) -> dict[str, int]:
    ends = [0, *accumulate(map(len, words))]
    measures = {}
    for n in TOP_NGRAMS:
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        top, count = counts.most_common(1)[0] if counts else ((), 0)
        measures[f"top_{n}"] = count * (sum(map(len, top)) + n - 1) if count > 1 else 0
    for n in DUPLICATE_NGRAMS:
        seen, characters, place = set(), 0, 0
        while place <= len(words) - n:
            ngram = tuple(words[place : place + n])
            if ngram in seen:
                characters += ends[place + n] - ends[place]
                place += n
            else:
                seen.add(ngram)
                place += 1
        measures[f"again_{n}"] = characters
    return measures


def _above(measures: Measures, kind: str, limits: dict[int, float]) -> Any:
    above: Any = False
    for n, limit in limits.items():
        above = above | (getattr(measures, f"{kind}_{n}") > limit * measures.characters)
    return above


def _reasons(families: Sequence[str]) -> tuple[str, ...]:
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        raise ConfigError(f"quality filters: found the family {unknown[0]!r}; expected some of {', '.join(FAMILIES)}")
    return tuple(reason for family, reasons in FAMILIES.items() if family in families for reason in reasons)


def _measured(texts: utf8.Strings, families: Sequence[str]) -> Measures:
    rows = [measures_of(text or "", families) for text in texts.to_pylist()]
    return Measures(*np.array(rows, dtype=np.int64).reshape(-1, len(Measures._fields)).T)


@cache
def _kernels() -> Callable[[utf8.Strings, Sequence[str]], Measures] | None:
    """`_measured` in compiled code, or None without numba."""
    try:
        from forge_pipeline.dataset_audit import quality_kernels
    except ImportError:  # numba is not installed, or not for this Python
        return None
    return quality_kernels.measured
