"""The inner loops of the near-duplicate join, compiled where numba is installed and pairs are many.

Each has its reference beside the caller in `near_duplicates`; both give the same bits. The
loops hold no lock, so threads run side by side.
"""

from functools import cache
from typing import Any, NamedTuple


class JoinKernels(NamedTuple):
    """Compiled loops over pairs of rows.

    Attributes:
        common: ``(left, right, offsets, values, threshold, out)``: `out[i]` becomes the number of values that the
            sorted runs of `left[i]` and `right[i]` share, or -1 as soon as their Jaccard similarity must be below
            `threshold`.
        in_earlier_band: ``(left, right, keys, table, out)``: whether a column before `table` of `keys` is equal.
        in_earlier_mask: ``(left, right, signatures, masks, table, hamming, out)``: whether the signatures are equal
            under a mask before `table`, or more than `hamming` bits apart.
    """

    common: Any
    in_earlier_band: Any
    in_earlier_mask: Any


@cache
def join_kernels() -> JoinKernels | None:
    """The compiled loops, or None where numba is not installed. Loading takes a tenth of a second."""
    try:
        import numba
        import numpy as np
    except ImportError:
        return None

    one, two, four, byte = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
    m1, m2, m4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    ones = np.uint64(0x0101010101010101)

    def compiled(function: Any) -> Any:
        try:
            return numba.njit(function, nogil=True, cache=True)
        except RuntimeError:  # numba found no directory to keep machine code in
            return numba.njit(function, nogil=True)

    @compiled
    def common(left, right, offsets, values, threshold, out):  # type: ignore[no-untyped-def]  # pragma: no cover
        for pair in range(len(left)):
            a, a_end = offsets[left[pair]], offsets[left[pair] + 1]
            b, b_end = offsets[right[pair]], offsets[right[pair] + 1]
            total = (a_end - a) + (b_end - b)
            # Sharing c of them gives c / (total - c); what is not shared may be at most this.
            spare = total - 2 * np.int64(np.ceil((threshold - 1e-9) * total / (1.0 + threshold)))
            shared = 0
            if abs((a_end - a) - (b_end - b)) > spare:
                out[pair] = -1
                continue
            while a < a_end and b < b_end:
                x, y = values[a], values[b]
                a += x <= y
                b += y <= x
                if x == y:
                    shared += 1
                else:
                    spare -= 1
                    if spare < 0:
                        break
            out[pair] = shared if spare >= 0 else -1

    @compiled
    def in_earlier_band(left, right, keys, table, out):  # type: ignore[no-untyped-def]  # pragma: no cover
        for pair in range(len(left)):
            found = False
            for band in range(table):
                if keys[left[pair], band] == keys[right[pair], band]:
                    found = True
                    break
            out[pair] = found

    @compiled
    def in_earlier_mask(left, right, signatures, masks, table, hamming, out):  # type: ignore[no-untyped-def]  # pragma: no cover
        for pair in range(len(left)):
            apart = signatures[left[pair], 0] ^ signatures[right[pair], 0]
            bits = apart - ((apart >> one) & m1)
            bits = (bits & m2) + ((bits >> two) & m2)
            bits = (((bits + (bits >> four)) & m4) * ones) >> byte
            found = np.int64(bits) > hamming
            for mask in range(table):
                if found:
                    break
                found = apart & masks[mask] == 0
            out[pair] = found

    return JoinKernels(common, in_earlier_band, in_earlier_mask)
