"""Findings: where in a text something stands that should not be in training data.

A finding never holds the text that it points to. A span counts for one category:
where candidates overlap, the one that stands first in the table of detectors wins,
then the one that starts first, then the longer one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low")

_PREVIEW_LENGTH = 40  # characters


@dataclass(frozen=True)
class Finding:
    """One finding in one text.

    Attributes:
        kind: PII category or secret family: ``email``, ``github_token``, ...
        span: Half-open range (start, end) of characters in the text.
        severity: How bad it is to train on this.
        placeholder: A value that its vendor's documentation prints as an example, such as
            ``AKIAIOSFODNN7EXAMPLE``: found and masked, but it does not fail a gate.
    """

    kind: str
    span: tuple[int, int]
    severity: Severity
    placeholder: bool = False

    @property
    def start(self) -> int:
        return self.span[0]

    @property
    def end(self) -> int:
        return self.span[1]


@dataclass(frozen=True)
class RowFinding:
    """One finding in one row of a dataset.

    Attributes:
        split: The split's name.
        row: Index of the row in its split, from 0, in reading order.
        column: Path of the text inside the row: ``messages[1].content``.
        category: As `Finding.kind`.
        start, end: Half-open range of characters in that text.
        source: Which kind of detector found it.
        preview: The shape of what was found: letters as ``x`` and ``X``, digits as ``9``.
    """

    split: str
    row: int
    column: str
    category: str
    start: int
    end: int
    source: Literal["pii", "pii_ml", "secret"]
    severity: Severity
    preview: str
    placeholder: bool = False


def without_overlaps(candidates: Sequence[Finding], precedence: Sequence[str] | Mapping[str, int]) -> list[Finding]:
    """Keep of `candidates` those that no preferred one overlaps, in order of their spans.

    Args:
        candidates: In any order.
        precedence: Kinds, the preferred first; or the rank of each kind, the preferred lowest.
    """
    if len(candidates) < 2:
        return list(candidates)
    rank = precedence if isinstance(precedence, Mapping) else {kind: index for index, kind in enumerate(precedence)}
    ordered = sorted(candidates, key=lambda finding: (rank[finding.kind], finding.start, -finding.end))
    kept: list[Finding] = []
    starts: list[int] = []
    for finding in ordered:
        at = bisect_left(starts, finding.start)
        clear_before = at == 0 or kept[at - 1].end <= finding.start
        clear_after = at == len(kept) or finding.end <= kept[at].start
        if clear_before and clear_after:
            kept.insert(at, finding)
            starts.insert(at, finding.start)
    return kept


def counts(findings: Iterable[Finding], order: Sequence[str]) -> dict[str, int]:
    """Number of findings of each kind, in the given order of kinds; absent kinds are left out."""
    found = [finding.kind for finding in findings]
    return {kind: number for kind in order if (number := found.count(kind))}


def masked(text: str, findings: Iterable[Finding], replacement: str) -> str:
    """`text` with each finding replaced. The findings must not overlap and must be in order."""
    parts, position = [], 0
    for finding in findings:
        parts += [text[position : finding.start], replacement]
        position = finding.end
    return "".join([*parts, text[position:]])


def shape(value: str) -> str:
    """The value's shape, at most 40 characters of it, with nothing of its content.

    Letters, marks and other signs of any script become ``x`` or ``X``, digits ``9``;
    ASCII punctuation and white space stay.

    >>> shape("Zoë.O'Neil+7@müller.de"), shape("क्षि ٣")
    ("Xxx.X'Xxxx+9@xxxxxx.xx", 'xxxx 9')
    """
    cut = value[:_PREVIEW_LENGTH]
    shaped = cut.translate(_ASCII_SHAPE)
    if not shaped.isascii():
        shaped = "".join(char if char.isascii() else _shape_of(char) for char in shaped)
    return shaped + "…" if len(value) > _PREVIEW_LENGTH else shaped


_ASCII_SHAPE = {
    code: "x" if chr(code).islower() else "X" for code in range(128) if chr(code).isalpha()
} | dict.fromkeys(range(ord("0"), ord("9") + 1), "9")


def _shape_of(char: str) -> str:
    if char.isdecimal():
        return "9"
    if char.isspace():
        return " "
    return "X" if char.isupper() else "x"
