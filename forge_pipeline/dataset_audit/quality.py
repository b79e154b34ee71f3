"""Five heuristics for text that is hardly prose: each names its reason.

Code fences are taken out first. The thresholds suit Latin scripts; short chat turns
without punctuation trip `low_punct_endings`, so what they say is a hint, not a gate.
"""

import re
from collections import Counter

REASONS = ("low_alpha_ratio", "low_punct_endings", "mean_word_length", "short_paragraphs", "repeated_lines")

_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})[^\n]*\n.*?(?:^(?P=fence)[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_ENDINGS = tuple(".!?…:;\"'”’»)]}。！？")


def quality_flags(text: str) -> tuple[str, ...]:
    """Names of the heuristics that `text` fails, in the order of `REASONS`; none where all is code or blank."""
    prose = _FENCE.sub("", text)
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    if not lines:
        return ()
    failed = (_low_alpha(prose), _unpunctuated(lines), _odd_words(prose), _short_paragraphs(prose), _repeated(lines))
    return tuple(reason for reason, fails in zip(REASONS, failed, strict=True) if fails)


def _low_alpha(prose: str) -> bool:
    """Under 70 % of what is not white space are letters."""
    visible = [char for char in prose if not char.isspace()]
    return sum(map(str.isalpha, visible)) < 0.7 * len(visible)


def _unpunctuated(lines: list[str]) -> bool:
    """Under half of the lines end with punctuation."""
    return sum(line.endswith(_ENDINGS) for line in lines) < 0.5 * len(lines)


def _odd_words(prose: str) -> bool:
    """The mean word has fewer than 3 or more than 12 characters."""
    words = prose.split()
    return not 3 <= sum(map(len, words)) / len(words) <= 12


def _short_paragraphs(prose: str) -> bool:
    """More than half of the paragraphs have fewer than five words."""
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", prose) if paragraph.strip()]
    return sum(len(paragraph.split()) < 5 for paragraph in paragraphs) > 0.5 * len(paragraphs)


def _repeated(lines: list[str]) -> bool:
    """Of at least three lines, the three most repeated ones are more than 30 %."""
    repeated = sum(count for _, count in Counter(lines).most_common(3) if count >= 2)
    return len(lines) >= 3 and repeated > 0.3 * len(lines)
