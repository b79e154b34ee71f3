"""SimHash: 64 bits that differ in few places where texts differ in few words.

Each token votes on each bit with the bits of its hash (see `tokens`), as often as it
stands in the text; a bit is set where the vote is above 0. The order of words does not
count. A text without tokens has the signature 0.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb, log2

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit.tokens import Tokenizer, TokenRows

BITS = 64
_CHUNK_TOKENS = 1 << 17
_MOST_TABLES = 64


def compute_simhash(text: str) -> int:
    """64-bit SimHash of one text; 0 where it has no tokens."""
    rows = Tokenizer().tokenize(pa.array([text.encode(errors="replace").decode()], pa.string()))
    return int(simhash_rows(rows)[0])


def simhash_rows(rows: TokenRows) -> npt.NDArray[np.uint64]:
    """SimHash of each row; shape (rows,)."""
    count = len(rows.offsets) - 1
    set_bits = np.unpackbits(rows.vocabulary.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    votes = set_bits.astype(np.int32) * 2 - 1  # (V, 64)
    signatures = np.zeros(count, dtype=np.uint64)
    for first, last in chunks(rows.offsets):
        used = np.flatnonzero(rows.offsets[first + 1 : last + 1] > rows.offsets[first:last]) + first
        if not len(used):
            continue
        part = slice(rows.offsets[first], rows.offsets[last])
        weighted = votes[rows.indices[part]] * rows.counts[part, None].astype(np.int32)  # (T, 64)
        sums = np.add.reduceat(weighted, rows.offsets[used] - rows.offsets[first], axis=0)
        packed = np.packbits(sums > 0, axis=1, bitorder="little")
        signatures[used] = packed.view("<u8").ravel()
    return signatures


def chunks(offsets: npt.NDArray[np.int64], size: int = _CHUNK_TOKENS) -> Iterator[tuple[int, int]]:
    """Cut rows into runs (first, last) of about `size` tokens, so that temporary arrays stay small."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def table_masks(threshold: int, count: int) -> list[int]:
    """Masks such that two signatures within `threshold` bits are equal under at least one of them.

    The 64 bits are cut into threshold + k blocks; differing bits leave k blocks untouched, so every choice of k
    blocks is one mask (Manku et al., 2007). k grows with `count` signatures, to keep buckets small.
    """
    k = 1
    while comb(threshold + k + 1, k + 1) <= _MOST_TABLES and BITS * k / (threshold + k) < log2(max(count, 2)) + 4:
        k += 1
    edges = np.linspace(0, BITS, threshold + k + 1).astype(int)
    blocks = [((1 << int(stop)) - 1) & ~((1 << int(start)) - 1) for start, stop in zip(edges, edges[1:], strict=False)]
    return [sum(chosen) for chosen in combinations(blocks, k)]
