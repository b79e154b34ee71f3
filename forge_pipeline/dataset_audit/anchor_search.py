"""The anchors of `secret_scan` and `pii` in a buffer of texts: by RE2, or where there are many texts, compiled.

What is an anchor RE2 says (`Gate`). `anchor_kernels` finds the same places in less time, and without the tenths of a
second in which RE2's automaton grows.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import pii, secret_scan
from forge_pipeline.dataset_audit.anchor_tables import KIND_BITS, PERSONAL, SECRET, anchor_tables
from forge_pipeline.dataset_audit.anchors import Gate
from forge_pipeline.dataset_audit.groups import distinct
from forge_pipeline.dataset_audit.machine_code import loops

Places: TypeAlias = npt.NDArray[np.int64]
Find: TypeAlias = Callable[..., Any]

GATES = {SECRET: Gate(secret_scan.GATE), PERSONAL: Gate(f"{pii.GATE}|{pii.FOLD_GATE}")}
"""By kind: what matches at every place where something of that kind has its anchor."""

_SOURCES = ("anchor_tables", "kernels", "text_kernels")
_ONE_IN = 64  # bytes there are, about, for each anchor, at the least


@cache
def anchor_loop() -> Find | None:
    """The compiled search; None where numba is not installed."""
    compiled = None if find_spec("numba") is None else loops("anchor_kernels", *_SOURCES)
    return None if compiled is None else compiled["find_anchors"]


def anchors_of(data: npt.NDArray[np.uint8], offsets: Places, find: Find | None) -> tuple[Places, Places]:
    """Where in the texts anchors stand, ascending, and of which kinds they are.

    What precedes a number that begins a text is the number.

    Args:
        data: UTF-8 of all texts.
        offsets: Where each text begins; the last one ends the last text.
        find: From `anchor_loop`; None asks RE2.
    """
    found = None if find is None else _compiled_anchors(data, offsets, find)
    anchors = distinct(_anchors_by_re2(data, offsets) if found is None else found)
    places = anchors >> KIND_BITS
    new = np.flatnonzero(np.diff(places, prepend=-1))
    kinds = anchors & (SECRET | PERSONAL)
    return places[new], np.bitwise_or.reduceat(kinds, new) if len(new) else kinds


def _anchors_by_re2(data: npt.NDArray[np.uint8], offsets: Places) -> Places:
    """The reference: wherever `GATES` match in the texts as lines, whose ends keep them from reaching into the next."""
    content = data.data
    lines = b"".join(part for start, end in pairwise(offsets.tolist()) for part in (content[start:end], b"\n"))
    starts = offsets - offsets[0] + np.arange(len(offsets))
    anchors = [np.zeros(0, dtype=np.int64)]
    for kind, gate in GATES.items():
        places = np.fromiter(_matches(gate, lines), dtype=np.int64)
        line = np.searchsorted(starts, places, side="right") - 1
        line += places == starts[line + 1] - 1  # at the end of the line above it
        anchors.append(offsets[line] + np.maximum(places - starts[line], 0) << KIND_BITS | kind)
    return np.concatenate(anchors)


def _matches(gate: Gate, lines: bytes) -> Iterator[int]:
    at = gate.first(lines, 0, len(lines))
    while at >= 0:
        yield at
        at = gate.first(lines, at + 1, len(lines))


def _compiled_anchors(data: npt.NDArray[np.uint8], offsets: Places, find: Find) -> Places | None:
    tables, seen, hits = anchor_tables(), np.zeros(5, dtype=np.int64), np.empty(4097, dtype=np.int64)
    anchors = np.empty(int(offsets[-1] - offsets[0]) // _ONE_IN + 16, dtype=np.int64)
    count = find(data, offsets, tables, seen, hits, anchors)
    if count > len(anchors):
        anchors = np.empty(count, dtype=np.int64)
        find(data, offsets, tables, seen, hits, anchors)
    return None if count < 0 else anchors[:count]
