"""The scan's inner loops, compiled by numba: row texts in, tokens and signatures out, no Python object between.

`sign_rows` gives bit for bit what `tokens`, `minhash` and `simhash` give with NumPy; the
tests hold one against the other. It works on UTF-8 bytes: lower-case and mark the word
characters (ASCII by arithmetic, the rest by a table that Python's own ``lower()`` and
``\\w`` filled), cut at the marks, look the word up in a cache of SHA-1 values, sort, drop
repeats, sign.

The cache holds words of up to 24 bytes with their whole bytes as the key. It has a fixed
size and forgets; what it has forgotten, and longer words, are hashed again. So it bounds
memory and never changes a result.

numba is imported with this module, and this module only to compile what is in it: others ask
`machine_code` for its loops.
"""

# numba infers the types of these loops; NumPy's stubs know other rules than its compiler.
# mypy: disable-error-code="assignment, call-arg, import-untyped, no-any-return, return-value"

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from forge_pipeline.dataset_audit import tokens
from forge_pipeline.dataset_audit.machine_code import inner, loop
from forge_pipeline.dataset_audit.signing import CACHE_BITS, FEW, PAD, Scratch

U8, U32, U64, I64 = np.uint8, np.uint32, np.uint64, np.int64

LOWER, WORD, CASED = U32(tokens.LOWER), U32(tokens.WORD), U32(tokens.CASED)
IGNORABLE, SIGMA, DOTTED_I = U32(tokens.IGNORABLE), U32(tokens.SIGMA), U32(tokens.DOTTED_I)
EMOJI_START, EMOJI_STOP = tokens.EMOJI_START, tokens.EMOJI_STOP

_bytes = types.Array(types.uint8, 1, "C", readonly=True)
_offsets = types.Array(types.int64, 1, "C", readonly=True)
_longs = types.Array(types.uint64, 1, "C", readonly=True)
_ints = types.Array(types.uint32, 1, "C", readonly=True)


@intrinsic
def load64(typing_context: Any, address: Any) -> Any:
    """Eight bytes at an address, aligned or not, little endian."""
    from llvmlite import ir

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.intp), emit


@intrinsic
def trailing_zeros(typing_context: Any, value: Any) -> Any:
    """Number of zero bits below the lowest set bit of a number that is not 0."""
    from llvmlite import ir

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


@intrinsic
def _swapped(typing_context: Any, value: Any) -> Any:
    """A 64-bit number with its bytes in reverse."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), emit


@intrinsic
def _prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, soon to be read and written."""
    from llvmlite import ir

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        )
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(function, [pointer, *(ir.Constant(integer, value) for value in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@inner
def _fill(array: Any, count: Any, value: Any) -> None:
    """``array[:count] = value``, which takes numba seconds to compile."""
    for index in range(count):
        array[index] = value


# -- text hash ---------------------------------------------------------------------------------------------------------


@inner
def _mix(value: Any) -> Any:
    value = (value ^ (value >> U64(33))) * U64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> U64(33))) * U64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> U64(33))


@loop(types.void(_bytes, _offsets, types.uint64[::1]))
def hash_texts(data: Any, offsets: Any, out: Any) -> None:  # pragma: no cover
    """`tokens.text_hashes`, compiled."""
    address = data.ctypes.data
    size = len(data)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        length = stop - start
        whole = length >> 3
        total = U64(length) * U64(0x9E3779B97F4A7C15)
        place = U64(0x632BE59BD9B4E019)
        for index in range(whole):
            total += _mix(load64(address + start + 8 * index) ^ place)
            place += U64(0x9E3779B97F4A7C15)
        rest = length & 7
        if rest:
            at = start + 8 * whole
            if at + 8 <= size:
                word = load64(address + at) & ((U64(1) << U64(8 * rest)) - U64(1))
            else:
                word = U64(0)
                for index in range(rest):
                    word |= U64(data[at + index]) << U64(8 * index)
            total += _mix(word ^ place)
        out[row] = _mix(total)


@loop(types.void(_bytes, _offsets, types.int32[::1]))
def count_characters(data: Any, offsets: Any, out: Any) -> None:  # pragma: no cover
    """How many code points each text has: bytes that begin one."""
    for row in range(len(offsets) - 1):
        count = I64(0)
        for index in range(U64(offsets[row]), U64(offsets[row + 1])):
            count += (data[index] & U8(0xC0)) != U8(0x80)
        out[row] = count


# -- words -------------------------------------------------------------------------------------------------------------


@inner
def _mark_ascii(data: Any, start: Any, length: Any, text: Any, marks: Any) -> bool:
    """Lower-case into `text`, word characters as 1 into `marks`; False if a byte is not ASCII: it has the mark 0."""
    seen = U8(0)
    for index in range(length):
        char = data[U64(start + index)]
        seen |= char
        lower = U8(char | U8(U8(U8(char - U8(65)) < U8(26)) << U8(5)))
        text[index] = lower
        is_letter = U8(lower - U8(97)) < U8(26)
        is_digit = U8(char - U8(48)) < U8(10)
        marks[index] = U8(is_letter) | U8(is_digit) | U8(char == U8(95))
    return seen < U8(128)


@inner
def _decode(data: Any, at: Any, stop: Any) -> Any:
    """The code point at `at` and its length in bytes; bytes that are no UTF-8 count as U+FFFD, one each."""
    lead = I64(data[at])
    if lead < 0x80:
        return lead, 1
    if 0xC2 <= lead < 0xE0 and at + 1 < stop:
        return (lead & 0x1F) << 6 | I64(data[at + 1]) & 0x3F, 2
    if 0xE0 <= lead < 0xF0 and at + 2 < stop:
        return (lead & 0x0F) << 12 | (I64(data[at + 1]) & 0x3F) << 6 | I64(data[at + 2]) & 0x3F, 3
    if 0xF0 <= lead < 0xF5 and at + 3 < stop:
        return (
            (lead & 0x07) << 18
            | (I64(data[at + 1]) & 0x3F) << 12
            | (I64(data[at + 2]) & 0x3F) << 6
            | I64(data[at + 3]) & 0x3F
        ), 4
    return 0xFFFD, 1


@inner
def _character(table: Any, code: Any) -> Any:
    """Entry of the table; of code points that it does not cover, as of no word character."""
    if code < 0x10000:
        return table[code]
    if EMOJI_START <= code < EMOJI_STOP:
        return table[code - EMOJI_START + 0x10000]
    return U32(code)


@inner
def _sigma_is_final(data: Any, at: Any, stop: Any, table: Any) -> bool:
    """Whether no cased letter follows, characters that case ignores left aside (Unicode, SpecialCasing)."""
    while at < stop:
        code, size = _decode(data, at, stop)
        entry = _character(table, code)
        if not entry & IGNORABLE:
            return not entry & CASED
        at += size
    return True


@inner
def _mark_others(data: Any, start: Any, length: Any, table: Any, text: Any, marks: Any) -> bool:
    """After `_mark_ascii`: the characters beyond ASCII; False if one changes its length or needs its neighbors."""
    address = data.ctypes.data + start
    index = 0
    while index < length:
        if index + 8 <= length:
            beyond = load64(address + index) & U64(0x8080808080808080)
            if not beyond:
                index += 8
                continue
            index += I64(trailing_zeros(beyond)) >> 3
        elif data[start + index] < 0x80:
            index += 1
            continue
        code, size = _decode(data, start + index, start + length)
        entry = _character(table, code)
        lower = I64(entry & LOWER)
        mark = U8(entry >> U32(31))
        if entry & (SIGMA | DOTTED_I):
            return False
        if size == 2:
            if lower < 0x80 or lower >= 0x800:
                return False
            text[index], marks[index] = U8(0xC0 | lower >> 6), mark
            text[index + 1], marks[index + 1] = U8(0x80 | lower & 0x3F), mark
        elif size == 3:
            if lower < 0x800 or lower >= 0x10000:
                return False
            text[index], marks[index] = U8(0xE0 | lower >> 12), mark
            text[index + 1], marks[index + 1] = U8(0x80 | lower >> 6 & 0x3F), mark
            text[index + 2], marks[index + 2] = U8(0x80 | lower & 0x3F), mark
        elif lower != code:
            return False
        # Four bytes, or no UTF-8: the bytes stand there already, and their marks are 0 unless:
        elif mark:
            for byte in range(size):
                marks[index + byte] = mark
        index += size
    return True


@inner
def _mark_unicode(data: Any, start: Any, stop: Any, table: Any, text: Any, marks: Any) -> int:
    """As `_mark_ascii`, for any text; returns the length of the lower-cased text in bytes."""
    at, out = start, 0
    after_cased = False
    while at < stop:
        code, size = _decode(data, at, stop)
        at += size
        entry = _character(table, code)
        lower = I64(entry & LOWER)
        mark = U8(entry >> U32(31))
        if entry & (SIGMA | DOTTED_I):
            if entry & DOTTED_I:  # i, and a combining dot, which is no word character
                text[out], marks[out] = U8(0x69), U8(1)
                text[out + 1], marks[out + 1] = U8(0xCC), U8(0)
                text[out + 2], marks[out + 2] = U8(0x87), U8(0)
                out += 3
                after_cased = True
                continue
            lower = 0x3C2 if after_cased and _sigma_is_final(data, at, stop, table) else 0x3C3
        if not entry & IGNORABLE:
            after_cased = (entry & CASED) != 0
        if lower < 0x80:
            text[out], marks[out] = U8(lower), mark
            out += 1
        elif lower < 0x800:
            text[out], marks[out] = U8(0xC0 | lower >> 6), mark
            text[out + 1], marks[out + 1] = U8(0x80 | lower & 0x3F), mark
            out += 2
        elif lower < 0x10000:
            text[out], marks[out] = U8(0xE0 | lower >> 12), mark
            text[out + 1], marks[out + 1] = U8(0x80 | lower >> 6 & 0x3F), mark
            text[out + 2], marks[out + 2] = U8(0x80 | lower & 0x3F), mark
            out += 3
        else:
            text[out], marks[out] = U8(0xF0 | lower >> 18), mark
            text[out + 1], marks[out + 1] = U8(0x80 | lower >> 12 & 0x3F), mark
            text[out + 2], marks[out + 2] = U8(0x80 | lower >> 6 & 0x3F), mark
            text[out + 3], marks[out + 3] = U8(0x80 | lower & 0x3F), mark
            out += 4
    return out


@inner
def _find_edges(marks: Any, length: Any, edges: Any) -> int:
    """Where words begin and end, in turn; returns how many edges there are (an even number).

    `marks` must be 0 for 64 bytes behind `length`.
    """
    address = marks.ctypes.data
    count = 0
    inside = U64(0)
    for start in range(0, length + 1, 64):
        bits = U64(0)
        for byte in range(8):  # 64 marks of one byte to 64 bits
            bits |= ((load64(address + start + 8 * byte) * U64(0x0102040810204080)) >> U64(56)) << U64(8 * byte)
        changes = bits ^ ((bits << U64(1)) | inside)
        inside = bits >> U64(63)
        while changes:
            edges[count] = start + I64(trailing_zeros(changes))
            count += 1
            changes &= changes - U64(1)
    return count


# -- SHA-1 (FIPS 180-4) ------------------------------------------------------------------------------------------------


@inner
def _rotated(value: Any, bits: Any) -> Any:
    return U32(U32(value << U32(bits)) | U32(value >> U32(32 - bits)))


@inner
def _add_block(state: Any, block: Any) -> None:
    """One step of SHA-1: the first 16 words of `block` (room for 80) into the five words of `state`."""
    for index in range(16, 80):
        block[index] = _rotated(block[index - 3] ^ block[index - 8] ^ block[index - 14] ^ block[index - 16], 1)
    a, b, c, d, e = state[0], state[1], state[2], state[3], state[4]
    for index in range(20):
        turned = U32(_rotated(a, 5) + ((b & c) | (~b & d)) + e + U32(0x5A827999) + block[index])
        a, b, c, d, e = turned, a, _rotated(b, 30), c, d
    for index in range(20, 40):
        turned = U32(_rotated(a, 5) + (b ^ c ^ d) + e + U32(0x6ED9EBA1) + block[index])
        a, b, c, d, e = turned, a, _rotated(b, 30), c, d
    for index in range(40, 60):
        turned = U32(_rotated(a, 5) + ((b & c) | (b & d) | (c & d)) + e + U32(0x8F1BBCDC) + block[index])
        a, b, c, d, e = turned, a, _rotated(b, 30), c, d
    for index in range(60, 80):
        turned = U32(_rotated(a, 5) + (b ^ c ^ d) + e + U32(0xCA62C1D6) + block[index])
        a, b, c, d, e = turned, a, _rotated(b, 30), c, d
    state[0], state[1], state[2] = U32(state[0] + a), U32(state[1] + b), U32(state[2] + c)
    state[3], state[4] = U32(state[3] + d), U32(state[4] + e)


@inner
def _token_hash(text: Any, start: Any, stop: Any, low: Any, state: Any, block: Any) -> Any:
    """`tokens.token_hash` of text[start:stop], behind which there must be eight bytes more."""
    state[0], state[1], state[2] = U32(0x67452301), U32(0xEFCDAB89), U32(0x98BADCFE)
    state[3], state[4] = U32(0x10325476), U32(0xC3D2E1F0)
    address = text.ctypes.data
    length = stop - start
    blocks = (length + 8) // 64 + 1
    for number in range(blocks):
        for pair in range(8):
            at = number * 64 + pair * 8
            word = U64(0)
            if at < length:
                word = load64(address + start + at) & low[min(length - at, 8)]
            if at <= length < at + 8:
                word |= U64(0x80) << U64(8 * (length - at))
            word = _swapped(word)
            block[2 * pair], block[2 * pair + 1] = U32(word >> U64(32)), U32(word)
        if number == blocks - 1:
            block[14], block[15] = U32((length * 8) >> 32), U32(length * 8)
        _add_block(state, block)
    return _swapped(U64(state[0]) << U64(32) | U64(state[1]))


# -- tokens ------------------------------------------------------------------------------------------------------------


@inner
def _look_up(text: Any, edges: Any, count: Any, cache: Any, low: Any, words: Any) -> None:
    """Bytes of each word (zeros behind its end) and its place in the cache, of which the memory is asked for.

    `words` has four numbers for each word: three of its bytes, and the place; for a word of more than 24 bytes the
    place is that of its first 24.
    """
    address, places = text.ctypes.data, cache.ctypes.data
    for index in range(count):
        start = edges[U64(2 * index)]
        length = edges[U64(2 * index + 1)] - start
        first = load64(address + start) & low[min(length, 8)]
        second = load64(address + start + 8) & low[min(max(length - 8, 0), 8)]
        third = load64(address + start + 16) & low[min(max(length - 16, 0), 8)]
        key = first * U64(0x9E3779B97F4A7C15) ^ second * U64(0xC2B2AE3D27D4EB4F) ^ third * U64(0x165667B19E3779F9)
        key = (key ^ (key >> U64(32))) * U64(0xFF51AFD7ED558CCD)
        slot = (key >> U64(65 - CACHE_BITS)) << U64(3)  # two places of four numbers each
        _prefetch(places + I64(slot << U64(3)))
        at = U64(4 * index)
        words[at], words[at + U64(1)], words[at + U64(2)], words[at + U64(3)] = first, second, third, slot


@inner
def _hash_words(
    text: Any, edges: Any, edge_count: Any, cache: Any, low: Any, state: Any, block: Any, words: Any, hashes: Any
) -> int:
    """The token hash of each word, in order; returns how many there are. `low[i]` has the lowest `i` bytes set."""
    count = edge_count >> 1
    _look_up(text, edges, count, cache, low, words)
    for index in range(count):
        at = U64(4 * index)
        first, second, third, slot = words[at], words[at + U64(1)], words[at + U64(2)], words[at + U64(3)]
        start, stop = edges[U64(2 * index)], edges[U64(2 * index + 1)]
        is_short = stop - start <= 24
        if is_short and cache[slot] == first and cache[slot + U64(1)] == second and cache[slot + U64(2)] == third:
            hashes[index] = cache[slot + U64(3)]
            continue
        other = slot + U64(4)
        if is_short and cache[other] == first and cache[other + U64(1)] == second and cache[other + U64(2)] == third:
            value = cache[other + U64(3)]
        else:
            value = _token_hash(text, start, stop, low, state, block)
        hashes[index] = value
        if is_short:  # the word used last stands first, the one before it second
            for part in range(4):
                cache[other + U64(part)] = cache[slot + U64(part)]
            cache[slot], cache[slot + U64(1)] = first, second
            cache[slot + U64(2)], cache[slot + U64(3)] = third, value
    return count


@inner
def _sort(keys: Any, count: Any, spare: Any, tally: Any) -> None:
    """Sort the first `count` of `keys`, which are all but evenly spread."""
    if count <= FEW:
        bits = 6
        while (1 << bits) < count:
            bits += 1
        shift = U64(32 - bits)
        buckets = 1 << bits
        _fill(tally, buckets + 1, I64(0))
        for index in range(count):
            tally[(U64(keys[index]) >> shift) + U64(1)] += 1
        for bucket in range(buckets):
            tally[bucket + 1] += tally[bucket]
        for index in range(count):
            key = keys[index]
            bucket = U64(key) >> shift
            spare[U64(tally[bucket])] = key
            tally[bucket] += 1
        keys[0] = spare[0]
        for index in range(1, count):  # at most a few neighbors are out of order
            value = spare[index]
            at = U64(index)
            while at > U64(0) and keys[at - U64(1)] > value:
                keys[at] = keys[at - U64(1)]
                at -= U64(1)
            keys[at] = value
        return
    for digit in range(4):
        shift = U64(8 * digit)
        _fill(tally, 257, I64(0))
        for index in range(count):
            tally[((U64(keys[index]) >> shift) & U64(255)) + U64(1)] += 1
        for bucket in range(256):
            tally[bucket + 1] += tally[bucket]
        for index in range(count):
            bucket = (U64(keys[index]) >> shift) & U64(255)
            spare[U64(tally[bucket])] = keys[index]
            tally[bucket] += 1
        for index in range(count):
            keys[index] = spare[index]


@inner
def _simhash(hashes: Any, count: Any, planes: Any) -> Any:
    """64 votes at once: bit `i` of plane `p` is bit `p` of the number of tokens that have bit `i` set."""
    used = 0
    for index in range(count):
        carry = hashes[index]
        plane = 0
        while carry:
            if plane == used:
                planes[used] = U64(0)
                used += 1
            held = planes[plane]
            planes[plane] = held ^ carry
            carry &= held
            plane += 1
    half = U64(count >> 1)
    above, equal = U64(0), ~U64(0)
    if half >> U64(used):
        return U64(0)
    for plane in range(used - 1, -1, -1):
        if (half >> U64(plane)) & U64(1):
            equal &= planes[plane]
        else:
            above |= equal & planes[plane]
            equal &= ~planes[plane]
    return above


@inner
def _minhash(values: Any, first: Any, last: Any, multipliers: Any, addends: Any, mixed: Any, signature: Any) -> None:
    """MinHash of values[first:last], at least one. `mixed` has room for eight numbers more."""
    count = last - first
    for index in range(count):
        value = values[first + index]
        value = U32(value ^ U32(value >> U32(16))) * U32(0x85EBCA6B)
        value = U32(value)
        value = U32(U32(value ^ U32(value >> U32(13))) * U32(0xC2B2AE35))
        mixed[index] = U32(value ^ U32(value >> U32(16)))
    whole = (count + 7) & ~7
    for index in range(count, whole):  # a repeated token changes no minimum
        mixed[index] = mixed[count - 1]
    _fill(signature, len(signature), U32(0xFFFFFFFF))
    for index in range(0, whole, 8):
        m0, m1, m2, m3 = mixed[index], mixed[index + 1], mixed[index + 2], mixed[index + 3]
        m4, m5, m6, m7 = mixed[index + 4], mixed[index + 5], mixed[index + 6], mixed[index + 7]
        for place in range(len(signature)):
            a, b = multipliers[place], addends[place]
            low = min(min(U32(a * m0 + b), U32(a * m1 + b)), min(U32(a * m2 + b), U32(a * m3 + b)))
            high = min(min(U32(a * m4 + b), U32(a * m5 + b)), min(U32(a * m6 + b), U32(a * m7 + b)))
            signature[place] = min(signature[place], min(low, high))


@inner
def _band_keys(signature: Any, width: Any, odd: Any, keys: Any, row: Any) -> None:
    """`minhash.band_keys` of one signature, into the column of its row."""
    for band in range(len(keys)):
        total = U64(0)
        for place in range(width):
            total += (U64(signature[band * width + place]) + U64(0x632BE59BD9B4E019)) * odd[place]
        total ^= total >> U64(31)
        keys[band, row] = total * U64(0xBF58476D1CE4E5B9)


_scratch = types.NamedTuple(  # type: ignore[no-untyped-call]
    (
        types.uint8[::1], types.uint8[::1], types.int64[::1], types.uint64[::1], types.uint64[::1], types.uint32[::1],
        types.uint32[::1], types.uint32[::1], types.int64[::1], types.uint32[::1], types.uint32[::1],
        types.uint64[::1], types.uint32[::1], types.uint64[::1],
    ),
    Scratch,
)  # fmt: skip


@loop(
    types.int64(
        _bytes,
        _offsets,
        _offsets,
        _longs,
        _ints,
        types.uint64[::1],
        _ints,
        _ints,
        types.int64,
        _longs,
        types.uint64[::1],
        types.uint64[:, ::1],
        types.int64[::1],
        types.uint32[::1],
        _scratch,
    )
)
def sign_rows(
    data: Any,
    offsets: Any,
    given_offsets: Any,
    given: Any,
    table: Any,
    cache: Any,
    multipliers: Any,
    addends: Any,
    width: Any,
    odd: Any,
    sums: Any,
    keys: Any,
    token_offsets: Any,
    values: Any,
    scratch: Any,
) -> int:  # pragma: no cover
    """Tokenize and sign rows; returns the number of `values` written.

    Args:
        data, offsets: UTF-8 of all texts, and where each begins; the last offset ends the last text.
        given_offsets, given: Token hashes of texts that the table of characters cannot do, by row; a row that is
            given none is tokenized here.
        table: `tokens.character_table`; may be empty where all bytes are ASCII.
        cache: Word cache, 4 numbers for each of 2**CACHE_BITS places.
        multipliers, addends: MinHash permutations; none asks for SimHash.
        width, odd: Registers of a band, and what they are multiplied by; as in `minhash.band_keys`.
        sums: Out: order-free hash of each row's values (SimHash: of all its tokens); 0 for none.
        keys: Out: band keys (bands, rows), or the SimHash (1, rows).
        token_offsets: Out: where each row's values begin; rows + 1.
        values: Out: distinct token hashes of each row, ascending; room for half as many as there are bytes, and one a
            row.
        scratch: Room for the longest row, from `signing.scratch`.
    """
    text, marks, edges, hashes, words, halves, spare, mixed, tally, state, block, planes, signature, low = scratch
    for index in range(8):
        low[index] = (U64(1) << U64(8 * index)) - U64(1)
    low[8] = ~U64(0)
    by_bag = len(multipliers) == 0
    written = 0
    token_offsets[0] = 0
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        count = given_offsets[row + 1] - given_offsets[row]
        if count:
            for index in range(count):
                hashes[index] = given[given_offsets[row] + index]
        else:
            length = stop - start
            is_ascii = _mark_ascii(data, start, length, text, marks)
            if not is_ascii and not _mark_others(data, start, length, table, text, marks):
                length = _mark_unicode(data, start, stop, table, text, marks)
            for index in range(PAD):
                marks[length + index] = 0
            edge_count = _find_edges(marks, length, edges)
            count = _hash_words(text, edges, edge_count, cache, low, state, block, words, hashes)
        if not count:
            sums[row] = U64(0)
            token_offsets[row + 1] = written
            if by_bag:
                keys[0, row] = U64(0)
            else:
                _fill(signature, len(signature), U32(0xFFFFFFFF))
                _band_keys(signature, width, odd, keys, row)
            continue
        for index in range(count):
            halves[index] = U32(hashes[index])
        _sort(halves, count, spare, tally)
        first = written
        values[U64(written)] = halves[0]
        for index in range(1, count):  # written over again until it changes
            written += halves[index] != halves[index - 1]
            values[U64(written)] = halves[index]
        written += 1
        total = U64(0)
        if by_bag:
            keys[0, row] = _simhash(hashes, count, planes)
            for index in range(count):
                total += hashes[index]
        else:
            for index in range(first, written):
                total += _mix(U64(values[U64(index)]))
        sums[row] = max(total, U64(1))
        token_offsets[row + 1] = written
        if not by_bag:
            _minhash(values, first, written, multipliers, addends, mixed, signature)
            _band_keys(signature, width, odd, keys, row)
    return written
