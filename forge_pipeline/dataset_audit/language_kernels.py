"""Language identification at compiled speed: the same answers as `language`'s reference, to the bit.

What a word adds to its row is looked up under the word's bytes, up to 32 of them, so that no
two words are ever confused; what is forgotten is computed again, so answers do not depend on
what was met before. Imports numba: import it only where that is wanted.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from forge_pipeline.dataset_audit import utf8
from forge_pipeline.dataset_audit.fasttext_model import FRACTION_BITS, FastTextModel
from forge_pipeline.dataset_audit.text_kernels import (
    TEXT,
    code_block_end,
    code_point,
    compiled,
    load8,
    visible_bytes,
)

DIMENSIONS = 16
REMEMBERED = 1 << 18
"""Words whose inputs are kept; about 37 MB. Web text brings a new word in about twenty."""

_NOT_PROSE, _UNKNOWN = np.int32(-1), np.int32(-2)
_MIX0, _MIX1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_MIX2, _MIX3 = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_SCALE = float(1 << FRACTION_BITS)
_SCRATCH = 2048  # bytes; lower case makes a word at most half as long again


class Tables(NamedTuple):
    """What compiled code knows of a model. See `FastTextModel`.

    Attributes:
        slots: Open-addressed by the FNV hash of a word; its row, or -1.
        word_bytes, word_offsets: The words of the vocabulary, by row.
        code_bytes: Whether an ASCII character makes a word code.
        edges: Whether it is taken off a word's ends.
    """

    slots: npt.NDArray[np.int32]
    word_bytes: npt.NDArray[np.uint8]
    word_offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    ngram_rows: npt.NDArray[np.uint16]
    nodes: npt.NDArray[np.float64]
    children: npt.NDArray[np.int32]
    end_of_line: npt.NDArray[np.int64]
    ngram_sizes: npt.NDArray[np.int64]
    classes: npt.NDArray[np.uint8]
    lower_case: npt.NDArray[np.uint32]
    code_bytes: npt.NDArray[np.bool_]
    edges: npt.NDArray[np.bool_]
    limits: npt.NDArray[np.int64]


class Memory(NamedTuple):
    """Words met before. It is emptied between two texts once it is full.

    Attributes:
        keys: Open-addressed: the bytes of a word of less than 32, zeros after them; all zeros where nothing is.
        ids: Of the word in each slot, or -1 if it is not prose.
        sums, counts: Of each id, the sum of the word's inputs and their number.
        used: Slots, and ids, in use.
    """

    keys: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]


def tables(
    model: FastTextModel,
    *,
    code: frozenset[str],
    edges: str,
    prose_bytes: int,
    longest: int,
    first_bytes: int,
    confident: float,
) -> Tables:
    """The model and the rules for words, as arrays."""
    words = sorted(model.vocabulary, key=model.vocabulary.__getitem__)
    slots = np.full(1 << (2 * len(words)).bit_length(), -1, dtype=np.int32)
    for row, word in enumerate(words):
        place = _fnv(word) & (len(slots) - 1)
        while slots[place] >= 0:
            place = (place + 1) & (len(slots) - 1)
        slots[place] = row
    return Tables(
        slots=slots,
        word_bytes=np.frombuffer(b"".join(words), dtype=np.uint8).copy(),
        word_offsets=np.cumsum([0, *map(len, words)], dtype=np.int64),
        rows=model.rows,
        ngram_rows=model.ngram_rows,
        nodes=model.nodes,
        children=model.children,
        end_of_line=model.end_of_line,
        ngram_sizes=np.array([model.shortest, model.longest], dtype=np.int64),
        classes=utf8.classes(),
        lower_case=utf8.lower_case(),
        code_bytes=np.array([chr(byte) in code for byte in range(128)]),
        edges=np.array([chr(byte) in edges for byte in range(128)]),
        limits=np.array([prose_bytes, longest, first_bytes, round(1000 * confident)], dtype=np.int64),
    )


def memory() -> Memory:
    """An empty one. Threads must not share it."""
    room = REMEMBERED + 1024  # for the words of one more text
    return Memory(
        keys=np.zeros((2 * REMEMBERED, 4), dtype=np.uint64),
        ids=np.zeros(2 * REMEMBERED, dtype=np.int32),
        sums=np.zeros((room, DIMENSIONS), dtype=np.int32),
        counts=np.zeros(room, dtype=np.int32),
        used=np.zeros(2, dtype=np.int64),
    )


def _fnv(word: bytes) -> int:
    """fastText's hash: FNV-1a over signed bytes."""
    value = 2166136261
    for byte in word:
        value = ((value ^ (byte | (0xFFFFFF00 if byte > 127 else 0))) * 16777619) & 0xFFFFFFFF
    return value


@compiled
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


@compiled
def _word_inputs(data, start, end, tables, scratch, inputs, sums):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Set `sums` to the sum of a word's inputs, and return how many they are; -1 if it is not prose."""
    length = _clean(data, start, end, tables, scratch)
    if length == 0:
        return _NOT_PROSE
    slots, words, offsets = tables.slots, tables.word_bytes, tables.word_offsets
    ngram_rows, rows = tables.ngram_rows, tables.rows
    count = 0
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
            inputs[0], count = slots[slot], 1
        slot = (slot + 1) & (len(slots) - 1)
    buckets, shortest, longest = np.uint32(len(ngram_rows)), tables.ngram_sizes[0], tables.ngram_sizes[1]
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
                row = ngram_rows[value % buckets]
                if row != 0xFFFF:
                    inputs[count] = row
                    count += 1
    for dimension in range(0, DIMENSIONS, 4):
        a = b = c = d = np.int64(0)
        for number in range(count):
            row = inputs[number]
            a += rows[row, dimension]
            b += rows[row, dimension + 1]
            c += rows[row, dimension + 2]
            d += rows[row, dimension + 3]
        sums[dimension], sums[dimension + 1], sums[dimension + 2], sums[dimension + 3] = a, b, c, d
    return np.int32(count)


@compiled
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
        types.int32[::1], types.uint8[::1], types.int64[::1], types.int32[:, ::1], types.uint16[::1],
        types.float64[:, ::1], types.int32[:, ::1], types.int64[::1], types.int64[::1], types.uint8[::1],
        types.uint32[::1], types.boolean[::1], types.boolean[::1], types.int64[::1],
    ),
    Tables,
)  # fmt: skip
_MEMORY = types.NamedTuple(  # type: ignore[no-untyped-call]
    (types.uint64[:, ::1], types.int32[::1], types.int32[:, ::1], types.int32[::1], types.int64[::1]), Memory
)


@numba.njit(
    types.void(TEXT, types.int64[::1], _TABLES, _MEMORY, types.int64[::1], types.float64[::1]), nogil=True, cache=True
)
def classify(data, offsets, tables, memory, labels, shares):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Best label and its probability of each text; probability 0 where no word was prose.

    At least `utf8.PADDING` bytes must follow the last text.
    """
    # Arrays are taken out of their tuples, and loops over words call nothing that takes one: that counts references.
    keys, ids, sums, counts, used = memory
    nodes, children, end_of_line = tables.nodes, tables.children, tables.end_of_line
    prose_bytes, first_bytes, confident = tables.limits[0], tables.limits[2], tables.limits[3] / 1000.0
    mask = np.uint64(len(ids) - 1)
    scratch = np.empty(_SCRATCH, dtype=np.uint8)
    total = np.empty(DIMENSIONS, dtype=np.int64)
    word_rows = np.empty(4 * _SCRATCH, dtype=np.int64)
    word_sums = np.empty(DIMENSIONS, dtype=np.int64)
    found = np.empty(prose_bytes + 1, dtype=np.int64)
    hidden = np.empty(DIMENSIONS, dtype=np.float64)
    stack = np.empty(2 * len(children) + 4, dtype=np.int64)
    stack_shares = np.empty(2 * len(children) + 4, dtype=np.float64)
    for text in range(len(offsets) - 1):
        if max(used[0], used[1]) > REMEMBERED:
            keys[:] = 0
            used[:] = 0
        for dimension in range(DIMENSIONS):
            total[dimension] = end_of_line[dimension]
        begin, end = offsets[text], offsets[text + 1]
        words, inputs, taken, at = np.int64(0), np.int64(0), np.int64(0), begin
        labels[text], shares[text] = 0, 0.0
        for wanted in (first_bytes, prose_bytes):
            while at < end and taken < wanted:
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
                word = _UNKNOWN
                slot = np.int64(0)
                if size < 32:
                    value = (key0 * _MIX0) ^ (key1 * _MIX1) ^ (key2 * _MIX2) ^ (key3 * _MIX3)
                    place = ((value * _MIX1) >> np.uint64(32)) & mask
                    slot = np.int64(place)
                    while keys[slot, 0] != 0:
                        if (
                            keys[slot, 0] == key0
                            and keys[slot, 1] == key1
                            and keys[slot, 2] == key2
                            and keys[slot, 3] == key3
                        ):
                            word = ids[slot]
                            break
                        place = (place + np.uint64(1)) & mask
                        slot = np.int64(place)
                else:
                    while at < end and data[at] > 32:
                        at += 1
                    size = min(at - start, prose_bytes)
                if word == _UNKNOWN:
                    count = _word_inputs(data, start, start + size, tables, scratch, word_rows, word_sums)
                    word = _NOT_PROSE
                    if count != _NOT_PROSE and size >= 32:  # seldom met again
                        inputs += count
                        taken += size
                        for dimension in range(DIMENSIONS):
                            total[dimension] += word_sums[dimension]
                    elif count != _NOT_PROSE:
                        word = np.int32(used[1])
                        used[1] += 1
                        counts[word] = count
                        for dimension in range(DIMENSIONS):
                            sums[word, dimension] = word_sums[dimension]
                    if size < 32 and used[0] <= REMEMBERED:
                        used[0] += 1
                        keys[slot, 0], keys[slot, 1], keys[slot, 2], keys[slot, 3] = key0, key1, key2, key3
                        ids[slot] = word
                if word != _NOT_PROSE:
                    found[words] = word
                    words += 1
                    inputs += counts[word]
                    taken += size
            if inputs == 0:
                continue
            weight = (inputs + 1) * _SCALE
            for dimension in range(0, DIMENSIONS, 4):
                a, b = total[dimension], total[dimension + 1]
                c, d = total[dimension + 2], total[dimension + 3]
                for number in range(words):
                    word = found[number]
                    a += sums[word, dimension]
                    b += sums[word, dimension + 1]
                    c += sums[word, dimension + 2]
                    d += sums[word, dimension + 3]
                hidden[dimension], hidden[dimension + 1] = a / weight, b / weight
                hidden[dimension + 2], hidden[dimension + 3] = c / weight, d / weight
            labels[text], shares[text] = _best_label(hidden, nodes, children, stack, stack_shares)
            if shares[text] >= confident:
                break
