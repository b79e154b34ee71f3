"""Which of some texts say the same, exactly or nearly: for whoever must not tear them apart."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forge_pipeline.dataset_audit.groups import IntArray, components
from forge_pipeline.dataset_audit.near_duplicates import SignedRows, Tables, find_pairs, unit_of
from forge_pipeline.dataset_audit.signatures import sign

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

_BLOCK_ROWS = 8192
_MANY = 20_000  # texts that are worth loading the compiled loops


def near_duplicate_groups(
    texts: Sequence[str] | pa.StringArray, *, jaccard: float = 0.85, num_perm: int = 128
) -> IntArray:
    """The group of each text: the smallest index of a text that it is connected with; shape (texts,).

    Two texts are connected when the Jaccard similarity of their sets of words is at least `jaccard`: pairs are found
    by MinHash (99 of 100 exactly at the threshold, practically all above it) and verified; groups are what pairs
    connect. A text without words stands with texts equal to it, character by character, and else alone. The same
    texts in another order are grouped the same way.

    Args:
        texts: No nulls. Halves of surrogate pairs count as question marks.
        jaccard: Smallest similarity, 0 to 1.
        num_perm: Length of a MinHash signature.

    Raises:
        OptionalDependencyError: datasketch is not installed.
    """
    column = _as_column(texts)
    compiled = len(column) >= _MANY
    rows = SignedRows.of(
        [sign(block, num_perm=num_perm, jaccard=jaccard, compiled=compiled) for block in _blocks(column)]
    )
    unit = unit_of(rows.tokens)
    units = np.flatnonzero(unit == np.arange(len(unit)))
    pairs = find_pairs(rows, units, Tables.of(rows, units, hamming=None, jaccard=jaccard))
    wordless = np.flatnonzero(unit < 0)
    first: dict[str, int] = {}
    equal = [first.setdefault(column[row].as_py(), row) for row in wordless.tolist()]
    worded = np.flatnonzero(unit >= 0)
    left = np.concatenate([unit[worded], np.array(equal, dtype=np.int64), pairs.left])
    return components(len(unit), left, np.concatenate([worded, wordless, pairs.right]))


def _as_column(texts: Sequence[str] | pa.StringArray) -> pa.StringArray | pa.LargeStringArray:
    if isinstance(texts, pa.Array):
        return texts
    return pa.array([text.encode(errors="replace").decode() for text in texts], pa.large_string())


def _blocks(texts: pa.StringArray | pa.LargeStringArray) -> Iterator[pa.LargeStringArray]:
    for first in range(0, len(texts), _BLOCK_ROWS):
        yield texts.slice(first, _BLOCK_ROWS).cast(pa.large_string())


def row_grouping(config: "ForgeConfig") -> Callable[[pa.LargeStringArray], IntArray]:
    """`near_duplicate_groups` with the recipe's threshold, as `data.ingest` takes it."""
    section = config.data.audit
    return partial(near_duplicate_groups, jaccard=section.minhash_jaccard, num_perm=section.minhash_num_perm)
