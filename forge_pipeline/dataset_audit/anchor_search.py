"""The anchors of `secret_scan` and `pii` in a buffer of texts: by RE2, or where there are many texts, compiled.

What is an anchor RE2 says (`Gate`). `anchor_kernels` finds the same places in less time, and without the tenths of a
second in which RE2's automaton grows.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import pii, secret_scan
from forge_pipeline.dataset_audit.anchors import Gate
from forge_pipeline.dataset_audit.groups import distinct
from forge_pipeline.dataset_audit.machine_code import loops

Places: TypeAlias = npt.NDArray[np.int64]
Find: TypeAlias = Callable[..., Any]

GATE = Gate("|".join((secret_scan.GATE, pii.GATE, pii.FOLD_GATE)))
"""Matches at every place where something to be found has its anchor."""

_SOURCES = ("anchor_tables", "kernels", "text_kernels")
_ONE_IN = 64  # bytes there are, about, for each anchor, at the least


@cache
def anchor_loop() -> Find | None:
    """The compiled search; None where numba is not installed."""
    compiled = None if find_spec("numba") is None else loops("anchor_kernels", *_SOURCES)
    return None if compiled is None else compiled["find_anchors"]


def anchors_of(data: npt.NDArray[np.uint8], offsets: Places, find: Find | None) -> Places:
    """Where in the texts anchors stand, ascending: what precedes a number that begins a text is the number.

    Args:
        data: UTF-8 of all texts.
        offsets: Where each text begins; the last one ends the last text.
        find: From `anchor_loop`; None asks RE2.
    """
    places = None if find is None else _compiled_anchors(data, offsets, find)
    return _anchors_by_re2(data, offsets) if places is None else places


def _anchors_by_re2(data: npt.NDArray[np.uint8], offsets: Places) -> Places:
    """The reference: wherever `GATE` matches in the texts as lines, whose ends keep it from reaching into the next."""
    content = data.data
    lines = b"".join(part for start, end in pairwise(offsets.tolist()) for part in (content[start:end], b"\n"))
    found: list[int] = []
    at = GATE.first(lines, 0, len(lines))
    while at >= 0:
        found.append(at)
        at = GATE.first(lines, at + 1, len(lines))
    places = np.array(found, dtype=np.int64)
    starts = offsets - offsets[0] + np.arange(len(offsets))
    line = np.searchsorted(starts, places, side="right") - 1
    line += places == starts[line + 1] - 1  # at the end of the line above it
    return distinct(offsets[line] + np.maximum(places - starts[line], 0))


def _compiled_anchors(data: npt.NDArray[np.uint8], offsets: Places, find: Find) -> Places | None:
    from forge_pipeline.dataset_audit.anchor_tables import anchor_tables

    tables, seen, hits = anchor_tables(), np.zeros(5, dtype=np.int64), np.empty(4097, dtype=np.int64)
    places = np.empty(int(offsets[-1] - offsets[0]) // _ONE_IN + 16, dtype=np.int64)
    count = find(data, offsets, tables, seen, hits, places)
    if count > len(places):
        places = np.empty(count, dtype=np.int64)
        find(data, offsets, tables, seen, hits, places)
    return None if count < 0 else distinct(places[:count])
