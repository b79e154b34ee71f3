"""Language identification at compiled speed: the same answers as `language`'s reference, to the bit.

What a word adds to its row is looked up under the word's bytes, up to 32 of them, so that no
two words are ever confused; what is forgotten is computed again, so answers do not depend on
what was met before. Imports numba; see `machine_code`.
"""

import numpy as np
from numba import types

from forge_pipeline.dataset_audit import utf8
from forge_pipeline.dataset_audit.fasttext_model import FRACTION_BITS
from forge_pipeline.dataset_audit.language_tables import BATCH, DIMENSIONS, PLACES_BITS, Memory, Tables
from forge_pipeline.dataset_audit.machine_code import inner, loop
from forge_pipeline.dataset_audit.text_kernels import (
    TEXT,
    code_block_end,
    code_point,
    load8,
    ones,
    prefetch,
    visible_bytes,
)

_NOT_PROSE = np.int32(-1)
_MIX0, _MIX1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_MIX2, _MIX3 = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_SCALE = float(1 << FRACTION_BITS)
_BYTES, _LAST, _NO_INPUTS = np.uint64((1 << 56) - 1), np.uint64(1 << 63), np.uint64(127)


@inner
def _clean(data, start, end, tables, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write ``<word>``, the word in lower case and without its edges, to `scratch`; its length, or 0 if not prose."""
    classes, lower_case, edges, code_bytes = tables.classes, tables.lower_case, tables.edges, tables.code_bytes
    scratch[0] = 60
    length, kept, letters, foreign = np.int64(1), np.int64(1), False, False
    at = start
    while at < end:
        point, size = np.int64(data[at]), 1
        if point >= 0x80:
            point, size = code_point(data, at, end)
        at += size
        if point >= 0x110000 or point == 0x10FFFF:
            continue
        if point < utf8.CODE_POINTS:
            point = np.int64(lower_case[point])
            letters |= (classes[point] & utf8.LETTER) != 0
        if point < 0x80:
            edge = edges[point]
            if edge and length == 1:
                continue
            scratch[length] = point
            length += 1
            if not edge:
                kept = length
            continue
        foreign = True
        if point < 0x800:
            scratch[length] = 0xC0 | (point >> 6)
            length += 1
        else:
            if point < 0x10000:
                scratch[length] = 0xE0 | (point >> 12)
                length += 1
            else:
                scratch[length] = 0xF0 | (point >> 18)
                scratch[length + 1] = 0x80 | ((point >> 12) & 0x3F)
                length += 2
            scratch[length] = 0x80 | ((point >> 6) & 0x3F)
            length += 1
        scratch[length] = 0x80 | (point & 0x3F)
        length += 1
        kept = length
    if not letters:
        return np.int64(0)
    if not foreign:
        if kept - 1 > tables.limits[1]:
            return np.int64(0)
        www = kept > 4 and scratch[4] == 46
        for place in range(1, kept):
            if code_bytes[scratch[place]]:
                return np.int64(0)
            if place < 4 and scratch[place] != 119:
                www = False
            if place + 1 < kept:
                after = scratch[place + 1]
                if scratch[place] == 40 and after == 41:  # ()
                    return np.int64(0)
                if scratch[place] == 58 and after == 47 and place + 2 < kept and scratch[place + 2] == 47:  # ://
                    return np.int64(0)
        if www:
            return np.int64(0)
    scratch[kept] = 62
    return kept + 1


@inner
def _word_inputs(data, start, end, tables, scratch, inputs, sums):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Set `sums` to the sum of a word's inputs, and return how many they are; -1 if it is not prose."""
    length = _clean(data, start, end, tables, scratch)
    if length == 0:
        return _NOT_PROSE
    slots, words, offsets = tables.slots, tables.word_bytes, tables.word_offsets
    ngrams, ngram_rows, rows = tables.ngrams, tables.ngram_rows, tables.rows
    last = np.uint64(len(ngram_rows) - 1)
    count = np.int64(0)
    value = np.uint32(2166136261)
    for place in range(1, length - 1):
        value = np.uint32((value ^ np.uint32(np.int8(scratch[place]))) * np.uint32(16777619))
    slot = np.int64(value) & (len(slots) - 1)
    while slots[slot] >= 0 and count == 0:
        begin = offsets[slots[slot]]
        same = offsets[slots[slot] + 1] - begin == length - 2
        place = 0
        while same and place < length - 2:
            same = words[begin + place] == scratch[1 + place]
            place += 1
        if same:
            inputs[0], count = slots[slot], np.int64(1)
        slot = (slot + 1) & (len(slots) - 1)
    buckets, shortest, longest = np.uint32(tables.limits[2]), tables.ngram_sizes[0], tables.ngram_sizes[1]
    for first in range(length):
        if (scratch[first] & 0xC0) == 0x80:
            continue
        value = np.uint32(2166136261)
        characters, place = 0, first
        while place < length and characters < longest:
            value = np.uint32((value ^ np.uint32(np.int8(scratch[place]))) * np.uint32(16777619))
            place += 1
            if place < length and (scratch[place] & 0xC0) == 0x80:
                continue
            characters += 1
            if characters >= shortest:
                bucket = np.uint64(value % buckets)
                held, bit = ngrams[bucket >> np.uint64(6), 0], np.uint64(1) << (bucket & np.uint64(63))
                before = ngrams[bucket >> np.uint64(6), 1] + ones(held & (bit - np.uint64(1)))
                inputs[count] = ngram_rows[min(before, last)]
                count += np.int64(held & bit != 0)
    # Eight numbers in registers at a time: in an array each would be read and written for every input.
    for first in (0, 8):
        a = b = c = d = e = f = g = h = np.int32(0)
        for number in range(count):
            row = inputs[number]
            a = np.int32(a + rows[row, first + 0])
            b = np.int32(b + rows[row, first + 1])
            c = np.int32(c + rows[row, first + 2])
            d = np.int32(d + rows[row, first + 3])
            e = np.int32(e + rows[row, first + 4])
            f = np.int32(f + rows[row, first + 5])
            g = np.int32(g + rows[row, first + 6])
            h = np.int32(h + rows[row, first + 7])
        sums[first], sums[first + 1], sums[first + 2], sums[first + 3] = a, b, c, d
        sums[first + 4], sums[first + 5], sums[first + 6], sums[first + 7] = e, f, g, h
    return np.int32(count)


@inner
def _best_label(hidden, nodes, children, stack, shares):  # type: ignore[no-untyped-def]  # pragma: no cover
    """As `FastTextModel.predict`, for one line."""
    labels = len(children) + 1
    label, best = np.int64(0), 0.0
    stack[0], shares[0], size = labels + len(children) - 1, 1.0, 1
    while size:
        size -= 1
        node, share = stack[size], shares[size]
        if share < best:
            continue
        if node < labels:
            label, best = node, share
            continue
        node -= labels
        a = b = c = d = 0.0
        for dimension in range(0, DIMENSIONS, 4):
            a += hidden[dimension] * nodes[node, dimension]
            b += hidden[dimension + 1] * nodes[node, dimension + 1]
            c += hidden[dimension + 2] * nodes[node, dimension + 2]
            d += hidden[dimension + 3] * nodes[node, dimension + 3]
        right = 1.0 / (1.0 + np.exp(-((a + b) + (c + d))))
        to_left, to_right = share * (1.0 - right + 1e-5), share * (right + 1e-5)
        likelier = np.int64(to_right >= to_left)
        stack[size], stack[size + 1] = children[node, 1 - likelier], children[node, likelier]
        shares[size], shares[size + 1] = (to_left, to_right) if likelier else (to_right, to_left)
        size += 2
    return label, best


_TABLES = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        types.int32[::1], types.uint8[::1], types.int64[::1], types.int32[:, ::1], types.uint64[:, ::1],
        types.uint16[::1], types.float64[:, ::1], types.int32[:, ::1], types.int64[::1], types.int64[::1],
        types.uint8[::1], types.uint32[::1], types.boolean[::1], types.boolean[::1], types.int64[::1],
        types.float64[:, ::1],
    ),
    Tables,
)  # fmt: skip
_MEMORY = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        types.uint64[:, ::1], types.int32[:, ::1], types.int64[::1], types.int64[::1], types.uint64[:, ::1],
        types.uint8[::1], types.int64[::1], types.int64[::1], types.int64[::1],
        types.float64[::1], types.int64[::1], types.float64[::1],
    ),
    Memory,
)  # fmt: skip


@loop(types.void(TEXT, types.int64[::1], _TABLES, _MEMORY, types.int64[::1], types.float64[::1]))
def classify(data, offsets, tables, memory, labels, shares):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Best label and its probability of each text; probability 0 where no word was prose.

    At least `utf8.PADDING` bytes must follow the last text.
    """
    # Arrays are taken out of their tuples, and loops over words call nothing that takes one: that counts references.
    keys, sums = memory.keys, memory.sums
    begins, sizes, batch = memory.begins, memory.sizes, memory.batch
    scratch, total, word_sums, word_rows = memory.scratch, memory.total, memory.word_sums, memory.word_rows
    hidden, stack, stack_shares = memory.hidden, memory.stack, memory.stack_shares
    nodes, children, end_of_line = tables.nodes, tables.children, tables.end_of_line
    prose_bytes, steps = tables.limits[0], tables.steps
    key_bytes, sum_bytes = keys.ctypes.data, sums.ctypes.data
    for text in range(len(offsets) - 1):
        for dimension in range(DIMENSIONS):
            total[dimension] = end_of_line[dimension]
        begin, end = offsets[text], offsets[text + 1]
        inputs, taken, at = np.int64(0), np.int64(0), begin
        labels[text], shares[text] = 0, 0.0
        for step in range(len(steps)):
            wanted = np.int64(steps[step, 0])
            while at < end and taken < wanted:
                # The next words. If all of them are prose, no more than these are wanted.
                count, ahead = np.int64(0), taken
                while at < end and ahead < wanted and count < BATCH:
                    if data[at] <= 32:
                        at += 1
                        continue
                    if (data[at] == 96 or data[at] == 126) and (at == begin or data[at - 1] == 10):
                        after = code_block_end(data, at, end)
                        if after >= 0:
                            at = after
                            continue
                    start, left = at, end - at
                    key0, key1, key2, key3 = load8(data, at), np.uint64(0), np.uint64(0), np.uint64(0)
                    size = min(visible_bytes(key0), left)
                    if size < 8:
                        key0 &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
                    else:
                        key1 = load8(data, at + 8)
                        size = min(8 + visible_bytes(key1), left)
                        if size < 16:
                            key1 &= (np.uint64(1) << np.uint64(8 * (size - 8))) - np.uint64(1)
                        else:
                            key2 = load8(data, at + 16)
                            size = min(16 + visible_bytes(key2), left)
                            if size < 24:
                                key2 &= (np.uint64(1) << np.uint64(8 * (size - 16))) - np.uint64(1)
                            else:
                                key3 = load8(data, at + 24)
                                size = min(24 + visible_bytes(key3), left)
                                if size < 32:
                                    key3 &= (np.uint64(1) << np.uint64(8 * (size - 24))) - np.uint64(1)
                    at += size
                    begins[count] = start
                    if size < 32:
                        value = (key0 * _MIX0) ^ (key1 * _MIX1) ^ (key2 * _MIX2) ^ (key3 * _MIX3)
                        value = (value ^ (value >> np.uint64(32))) * _MIX1
                        place = value >> np.uint64(64 - PLACES_BITS)
                        batch[count, 0], batch[count, 1], batch[count, 2], batch[count, 3] = key0, key1, key2, key3
                        batch[count, 4] = place
                        prefetch(key_bytes + np.int64(place << np.uint64(6)))
                        sizes[count] = size
                    else:
                        while at < end and data[at] > 32:
                            at += 1
                        sizes[count] = min(at - start, prose_bytes)
                    ahead += sizes[count]
                    count += 1
                for index in range(count):
                    if sizes[index] < 32:
                        place = batch[index, 4]
                        probably = place << np.uint64(1) | np.uint64(keys[place, 4] == batch[index, 0])
                        prefetch(sum_bytes + np.int64(probably << np.uint64(6)))
                for index in range(count):
                    size = sizes[index]
                    if size >= 32:  # seldom met again
                        found = _word_inputs(
                            data, begins[index], begins[index] + size, tables, scratch, word_rows, word_sums
                        )
                        if found != _NOT_PROSE:
                            inputs += found
                            taken += size
                            for dimension in range(DIMENSIONS):
                                total[dimension] += word_sums[dimension]
                        continue
                    key0, key1, key2, key3 = batch[index, 0], batch[index, 1], batch[index, 2], batch[index, 3]
                    place = batch[index, 4]
                    last = keys[place, 3] >> np.uint64(63)
                    if (
                        keys[place, 0] == key0
                        and keys[place, 1] == key1
                        and keys[place, 2] == key2
                        and keys[place, 3] & _BYTES == key3
                    ):
                        word = np.uint64(0)
                        keys[place, 3] &= ~_LAST
                    elif (
                        keys[place, 4] == key0
                        and keys[place, 5] == key1
                        and keys[place, 6] == key2
                        and keys[place, 7] & _BYTES == key3
                    ):
                        word = np.uint64(1)
                        keys[place, 3] |= _LAST
                    else:
                        found = _word_inputs(
                            data, begins[index], begins[index] + size, tables, scratch, word_rows, word_sums
                        )
                        word = np.uint64(1) - last
                        at_word = word << np.uint64(2)
                        number = np.uint64(_NO_INPUTS if found == _NOT_PROSE else found)
                        keys[place, at_word], keys[place, at_word + np.uint64(1)] = key0, key1
                        keys[place, at_word + np.uint64(2)] = key2
                        keys[place, at_word + np.uint64(3)] = key3 | number << np.uint64(56)
                        keys[place, 3] |= last << np.uint64(63)
                        for dimension in range(DIMENSIONS):
                            sums[place << np.uint64(1) | word, dimension] = word_sums[dimension]
                    number = keys[place, (word << np.uint64(2)) + np.uint64(3)] >> np.uint64(56) & _NO_INPUTS
                    if number != _NO_INPUTS:
                        inputs += np.int64(number)
                        taken += size
                        for dimension in range(DIMENSIONS):
                            total[dimension] += sums[place << np.uint64(1) | word, dimension]
            if inputs == 0:
                continue
            weight = (inputs + 1) * _SCALE
            for dimension in range(DIMENSIONS):
                hidden[dimension] = total[dimension] / weight
            labels[text], shares[text] = _best_label(hidden, nodes, children, stack, stack_shares)
            if shares[text] >= steps[step, 1]:
                break
