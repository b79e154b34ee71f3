"""Personal data and credentials in a whole column of texts.

`anchor_search` goes once through the column, as one buffer and without the GIL, for the anchors of
`secret_scan` and `pii`. Where one stands, the exact patterns and validators look around it, and
nowhere else. So ``scan_texts`` finds in a column what `find_secrets` and `find_pii` find in
each text alone; where a secret and personal data overlap, the secret wins (the digits inside a key
are no phone number).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import pii, pii_ml, secret_scan, utf8
from forge_pipeline.dataset_audit.anchor_search import Places, anchor_loop, anchors_of
from forge_pipeline.dataset_audit.anchor_tables import PERSONAL, SECRET
from forge_pipeline.dataset_audit.finding import Finding, Severity, shape, without_overlaps
from forge_pipeline.dataset_audit.pii_ml import EntityFinder, FindEntities

CATEGORIES: tuple[str, ...] = (*secret_scan.FAMILIES, *pii.CATEGORIES, *pii_ml.SEVERITY)
"""Families of secrets, then categories of personal data, then entities: the order of precedence."""

SEVERITY: dict[str, Severity] = {
    **pii_ml.SEVERITY,
    **pii.SEVERITY,
    **dict.fromkeys(secret_scan.FAMILIES, "critical"),
}
"""Severity of each category."""

SOURCE: dict[str, Literal["pii", "pii_ml", "secret"]] = {
    **dict.fromkeys(pii_ml.SEVERITY, "pii_ml"),
    **dict.fromkeys(pii.CATEGORIES, "pii"),
    **dict.fromkeys(secret_scan.FAMILIES, "secret"),
}
"""Which kind of detector finds each category."""

_RANK = {category: rank for rank, category in enumerate(CATEGORIES)}

_SLICE = 65_536  # texts that are looked at together
_SHORT = 64  # bytes of a text that may come again: labels, names, numbers


@dataclass(frozen=True)
class FoundInTexts:
    """Findings in a column: parallel arrays, one element a finding, ordered by (text, start).

    Attributes:
        text: Index of the text in the column.
        category: Index into `CATEGORIES`.
        start, end: Half-open range of characters (indices of a Python str).
        placeholder: As in `Finding`.
        preview: The shape of what was found, as `finding.shape` gives it.
    """

    text: npt.NDArray[np.int64]
    category: npt.NDArray[np.int16]
    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    placeholder: npt.NDArray[np.bool_]
    preview: list[str]

    def __len__(self) -> int:
        return len(self.preview)


def scan_texts(
    texts: "pa.StringArray | pa.LargeStringArray", *, entities: FindEntities | None = None, compiled: bool = False
) -> FoundInTexts:
    """Find secrets and personal data in every text; nulls hold nothing.

    Args:
        texts: A column of strings.
        entities: Finds names in a text, from `pii_ml.entity_finder`; asked for every text.
        compiled: Whether compiled loops look for anchors, where numba is installed: worth it for many texts.
    """
    indices: list[int] = []
    found: list[Finding] = []
    previews: list[str] = []
    for first in range(0, len(texts), _SLICE):
        part = texts.slice(first, _SLICE)
        own = _findings(part, compiled)
        for index, text, findings in own if entities is None else _with_entities(own, part, entities):
            for finding in findings:
                start, end = finding.span
                indices.append(first + index)
                found.append(finding)
                previews.append(shape(text[start:end]))
    return FoundInTexts(
        text=np.array(indices, dtype=np.int64),
        category=np.array([_RANK[finding.kind] for finding in found], dtype=np.int16),
        start=np.array([finding.span[0] for finding in found], dtype=np.int32),
        end=np.array([finding.span[1] for finding in found], dtype=np.int32),
        placeholder=np.array([finding.placeholder for finding in found], dtype=np.bool_),
        preview=previews,
    )


TextFindings: TypeAlias = tuple[int, str, list[Finding]]
"""Index of a text, the text, and what is found in it: something."""


def _findings(texts: "pa.StringArray | pa.LargeStringArray", compiled: bool) -> Iterator[TextFindings]:
    """In the order of the texts."""
    if not len(texts):
        return
    data, offsets = utf8.buffers(texts, padding=0)
    places, kinds = anchors_of(data, offsets, anchor_loop() if compiled else None)
    content = data.data
    known: dict[str, list[Finding]] = {}
    for index, start, end, anchors in _by_text(places, kinds, offsets):
        text = str(content[start:end], "utf-8")
        findings = known.get(text) if end - start <= _SHORT else None
        if findings is None:
            findings = _findings_at(text, *anchors)
            if end - start <= _SHORT:
                known[text] = findings
        if findings:
            yield index, text, findings


def _with_entities(
    found: Iterable[TextFindings], texts: "pa.StringArray | pa.LargeStringArray", find: FindEntities
) -> Iterator[TextFindings]:
    """What was found, and names."""
    by_text = {index: (text, findings) for index, text, findings in found}
    names = {index: (text, findings) for index, text, findings in _entities(texts, find)}
    for index in sorted(by_text.keys() | names.keys()):
        text, findings = by_text.get(index) or names[index]
        if index in names:
            findings = without_overlaps([*findings, *names[index][1]], _RANK)
        yield index, text, findings


def _by_text(
    places: Places, kinds: Places, offsets: Places
) -> Iterator[tuple[int, int, int, tuple[list[int], list[int]]]]:
    """Each text that has anchors: its index, its bounds, and of the anchors the offsets in its bytes and the kinds."""
    owners = np.searchsorted(offsets, places, side="right") - 1
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    texts, bounds = owners[firsts], [*firsts.tolist(), len(places)]
    values, kinds_of_all = (places - offsets[owners]).tolist(), kinds.tolist()
    columns = (texts, offsets[texts], offsets[texts + 1])
    for index, start, end, (first, last) in zip(
        *(column.tolist() for column in columns), pairwise(bounds), strict=True
    ):
        yield index, start, end, (values[first:last], kinds_of_all[first:last])


def _findings_at(text: str, anchors: Sequence[int], kinds: Sequence[int]) -> list[Finding]:
    """The findings of a text that has anchors of these kinds at these bytes."""
    secrets: list[Finding] = []
    known: secret_scan.Known = {}
    personal: list[Finding] = []
    is_ascii = text.isascii()
    readable = text if is_ascii else pii.folded(text)
    following = 0
    for at, kind in zip(anchors if is_ascii else _characters(text, anchors), kinds, strict=True):
        if at >= following:
            if kind & SECRET:
                secret_scan.secrets_at(text, at, secrets, known)
            if kind & PERSONAL:
                following = pii.personal_at(readable, at, personal)
    if not is_ascii and pii.needs_folding(text):  # its anchors are not those of the text as it is
        personal = pii.find_pii(text)
    if len(secrets) + len(personal) < 2:
        return secrets or personal
    return without_overlaps([*without_overlaps(secrets, _RANK), *without_overlaps(personal, _RANK)], _RANK)


def _characters(text: str, anchors: Iterable[int]) -> Iterator[int]:
    """Offsets in UTF-8, ascending, as those of characters."""
    data, place, index = text.encode(), 0, 0
    for anchor in anchors:
        index += len(str(data[place:anchor], "utf-8"))
        place = anchor
        yield index


def _entities(texts: "pa.StringArray | pa.LargeStringArray", find: FindEntities) -> Iterator[TextFindings]:
    present = [(index, text) for index, text in enumerate(texts.to_pylist()) if text]
    many = find.many if isinstance(find, EntityFinder) else lambda several: [find(text) for text in several]
    for (index, text), findings in zip(present, many([text for _, text in present]), strict=True):
        if findings:
            yield index, text, findings
