"""SimHash: 64 bits that differ in few places where texts differ in few words.

Each token votes on each bit with the bits of its hash (see `tokens`), as often as it
stands in the text; a bit is set where the vote is above 0. The order of words does not
count. A text without tokens has the signature 0.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb, log2

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit.tokens import IntArray, Tokenizer, TokenRows

BITS = 64
_CHUNK_TOKENS = 1 << 16
_MOST_TABLES = 64


def compute_simhash(text: str) -> int:
    """64-bit SimHash of one text; 0 where it has no tokens."""
    rows = Tokenizer().tokenize(pa.array([text.encode(errors="replace").decode()], pa.string()))
    return int(simhash_rows(rows)[0])


def simhash_rows(rows: TokenRows) -> npt.NDArray[np.uint64]:
    """SimHash of each row; shape (rows,).

    The votes for all 64 bits are added at once: a token's bits lie in lanes of 8, 16 or 32 bits, wide enough for
    the longest row, several lanes to a 64-bit word.
    """
    set_bits = np.unpackbits(rows.vocabulary.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    signatures = np.zeros(len(rows.offsets) - 1, dtype=np.uint64)
    for used, part, starts in filled_chunks(rows):
        totals = np.add.reduceat(rows.counts[part], starts)
        lane = next(kind for kind in ("<u1", "<u2", "<u4") if totals.max() <= np.iinfo(kind).max)
        lanes = set_bits[rows.indices[part]].astype(lane).view("<u8")  # (T, 64 lanes in 8, 16 or 32 words)
        lanes = lanes * rows.counts[part, None].astype(np.uint64)
        votes = np.add.reduceat(lanes, starts, axis=0).view(lane)  # (rows, 64)
        majority = votes.astype(np.int64) * 2 > totals[:, None]
        signatures[used] = np.packbits(majority, axis=1, bitorder="little").view("<u8").ravel()
    return signatures


def filled_chunks(rows: TokenRows) -> Iterator[tuple[IntArray, slice, IntArray]]:
    """Runs of rows of about 65,536 tokens, so that temporary arrays stay small.

    Yields:
        The rows that have tokens, the slice of tokens of the run, and where in it each of those rows starts.
    """
    first, count = 0, len(rows.offsets) - 1
    while first < count:
        last = int(np.searchsorted(rows.offsets, rows.offsets[first] + _CHUNK_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), count)
        used = np.flatnonzero(np.diff(rows.offsets[first : last + 1])) + first
        if len(used):
            base = int(rows.offsets[first])
            yield used, slice(base, int(rows.offsets[last])), rows.offsets[used] - base
        first = last


def table_masks(threshold: int, count: int) -> list[int]:
    """Masks such that two signatures within `threshold` bits are equal under at least one of them.

    The 64 bits are cut into threshold + k blocks; differing bits leave k blocks untouched, so every choice of k
    blocks is one mask (Manku et al., 2007). k grows with `count` signatures, to keep buckets small.
    """
    k = 1
    while comb(threshold + k + 1, k + 1) <= _MOST_TABLES and BITS * k / (threshold + k) < log2(max(count, 2)) + 12:
        k += 1
    edges = np.linspace(0, BITS, threshold + k + 1).astype(int)
    blocks = [((1 << int(stop)) - 1) & ~((1 << int(start)) - 1) for start, stop in pairwise(edges)]
    return [sum(chosen) for chosen in combinations(blocks, k)]
