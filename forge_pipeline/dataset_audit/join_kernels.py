"""The inner loops of the near-duplicate join, compiled by numba, which is imported with this module.

Each has its reference in `near_duplicates`; both give the same bits. See `machine_code`.
"""

import numpy as np
from numba import types

from forge_pipeline.dataset_audit.groups import MIX
from forge_pipeline.dataset_audit.machine_code import loop

one, two, four, byte = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
m1, m2, m4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
ones = np.uint64(0x0101010101010101)

_LONGS, _KEYS = types.Array(types.int64, 1, "C", readonly=True), types.Array(types.uint64, 2, "C", readonly=True)
_VALUES, _MASKS = types.Array(types.uint32, 1, "C", readonly=True), types.Array(types.uint64, 1, "C", readonly=True)


@loop(types.int64(_MASKS, types.int64, types.uint64[::1], types.uint64[::1], types.int64[::1]))
def met_again(keys, bits, once, twice, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    down, six, low = np.uint64(64 - bits), np.uint64(6), np.uint64(63)
    for place in range(len(keys)):
        bit = (keys[place] * MIX) >> down
        mark = one << (bit & low)
        twice[bit >> six] |= once[bit >> six] & mark
        once[bit >> six] |= mark
    count = np.uint64(0)
    for place in range(len(keys)):
        bit = (keys[place] * MIX) >> down
        out[count] = place
        count += (twice[bit >> six] >> (bit & low)) & one
    return np.int64(count)


@loop(types.void(_LONGS, _LONGS, _LONGS, _VALUES, types.float64, types.int64[::1]))
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


@loop(types.void(_LONGS, _LONGS, _KEYS, types.int64, types.boolean[::1]))
def in_earlier_band(left, right, keys, table, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for pair in range(len(left)):
        found = False
        for band in range(table):
            if keys[left[pair], band] == keys[right[pair], band]:
                found = True
                break
        out[pair] = found


@loop(types.void(_LONGS, _LONGS, _KEYS, _MASKS, types.int64, types.int64, types.boolean[::1]))
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
