"""The measures of `quality` at compiled speed: the same numbers, in one pass over the characters.

Words, lines and paragraphs are told apart by their bytes, and n-grams by the n-grams and
words they consist of, never by a hash alone. Imports numba: import it only where that is
wanted. Numba keeps compiled code until this very file changes: after a change to
`text_kernels`, touch it.
"""

# mypy: disable-error-code="assignment"
# (numba gives a variable the type of all that it is assigned)

from collections.abc import Sequence

import numba
import numpy as np
from numba import types

from forge_pipeline.dataset_audit import utf8
from forge_pipeline.dataset_audit.quality import (
    BULLETS,
    C4_ENDINGS,
    C4_WORDS,
    DUPLICATE_NGRAMS,
    LONGEST_C4_WORD,
    SHORT_LINE,
    STOP_WORDS,
    TOP_NGRAMS,
    Measures,
)
from forge_pipeline.dataset_audit.text_kernels import (
    TEXT,
    code_block_end,
    code_point,
    compiled,
    load8,
    ones,
    visible_bytes,
)

_FIELDS = len(Measures._fields)
(
    _CHARACTERS, _NEWLINES, _VISIBLE, _LETTERS, _LINES, _ENDED, _TERMINAL, _C4, _BULLET, _ELLIPSIS, _SHORT, _JAVASCRIPT,
    _SENTENCES, _PARAGRAPHS, _SHORT_PARAGRAPHS, _WORDS, _ALPHA, _NAMED, _NAMED_CHARACTERS, _STOP, _HASHES, _ELLIPSES,
    _CURLY, _LOREM, _FREQUENT, _AGAIN_LINES, _AGAIN_LINE_CHARACTERS, _AGAIN_PARAGRAPHS, _AGAIN_PARAGRAPH_CHARACTERS,
    _TOP, _, _, _AGAIN, _, _, _, _, _,
) = range(_FIELDS)  # fmt: skip
_FIRST_TOP, _LAST_TOP = min(TOP_NGRAMS), max(TOP_NGRAMS)
_FIRST_AGAIN, _LAST_AGAIN = min(DUPLICATE_NGRAMS), max(DUPLICATE_NGRAMS)

_STOP_KEYS = np.array([int.from_bytes(word.encode(), "little") for word in STOP_WORDS], dtype=np.uint64)
_C4_MARKS = np.array([ord(mark) for mark in C4_ENDINGS], dtype=np.int64)
_BULLET_MARKS = np.array([ord(mark) for mark in BULLETS], dtype=np.int64)
_JAVASCRIPT_BYTES = np.frombuffer(b"javascript", dtype=np.uint8).copy()
_LOREM_BYTES = np.frombuffer(b"lorem ipsum", dtype=np.uint8).copy()

_PLAIN = np.full(256, -1, dtype=np.int64)
"""What a byte adds to its word: 1 as a letter, 2**32 as a letter or digit; -1 if it ends, or needs a closer look."""
for _byte in range(33, 127):
    if chr(_byte) not in utf8.SPECIALS:
        _PLAIN[_byte] = chr(_byte).isalpha() + (chr(_byte).isalnum() << 32)

_ONES, _HIGH_BITS, _SPACES = (np.uint64(byte * 0x0101010101010101) for byte in (0x01, 0x80, 0x20))
_BELOW_A, _ABOVE_Z = (np.uint64(byte * 0x0101010101010101) for byte in (0x80 - ord("a"), 0x7F - ord("z")))
_ZEROS, _ABOVE_9, _JS = (np.uint64(byte * 0x0101010101010101) for byte in (ord("0"), 0x80 - 10, ord("j")))
_MIX0, _MIX1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_WORD_COLUMNS, _PART_COLUMNS = 3, 3  # begin, end (bytes), characters


def measured(texts: utf8.Strings, families: Sequence[str]) -> Measures:
    """The measures of each text; those of n-grams only if a family needs them."""
    data, offsets = utf8.buffers(texts)
    longest = int(np.diff(offsets).max(initial=0)) + utf8.PADDING
    out = np.zeros((_FIELDS, len(texts)), dtype=np.int64)
    words = longest // 2 + 2
    table = 1 << int(2 * words).bit_length()
    measure(
        data,
        offsets,
        utf8.classes(),
        "gopher_repetition" in families,
        np.empty(longest + utf8.PADDING, dtype=np.uint8),
        np.empty((words, _WORD_COLUMNS), dtype=np.int64),
        np.empty((2, words, _PART_COLUMNS), dtype=np.int64),
        np.empty(table, dtype=np.int32),
        np.empty((6, words), dtype=np.int64),
        out,
    )
    return Measures(*out)


@compiled
def _copy_prose(data, begin, end, text):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy a text without its code blocks to `text`, with zeros after it; the number of bytes copied."""
    size = end - begin
    marks = 0
    for place in range(size):
        byte = data[begin + place]
        text[place] = byte
        marks += np.int64((byte == 96) | (byte == 126))
    if marks >= 3:
        at, size = begin, 0
        at_line_start = True
        while at < end:
            after = np.int64(-1)
            if at_line_start and (data[at] == 96 or data[at] == 126):
                after = code_block_end(data, at, end)
            if after >= 0:
                at = after
                at_line_start = False
                continue
            at_line_start = data[at] == 10
            text[size] = data[at]
            size += 1
            at += 1
    for place in range(size, size + utf8.PADDING):
        text[place] = 0
    return size


@compiled
def _stands_at(text, at, phrase):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Whether the ASCII phrase stands there, in any case. There are bytes after the text."""
    for place in range(len(phrase)):
        byte = text[at + place]
        if 65 <= byte <= 90:
            byte |= 32
        if byte != phrase[place]:
            return False
    return True


@compiled
def _number_parts(text, parts, count, table, numbers, counts):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Give equal parts of the text the same number, counted from 0 in order of appearance; how many there are.

    Args:
        parts: Begin and end of each in bytes; shape (count or more, 2 or more).
        table: Room for twice as many numbers as parts, or more.
        numbers: Becomes the number of each part.
        counts: Becomes how often each number stands; and from `count` on backwards nothing else is kept there.
    """
    size = 1
    while size < 2 * count:
        size *= 2
    table[:size] = -1
    different = 0
    for part in range(count):
        begin, length = parts[part, 0], parts[part, 1] - parts[part, 0]
        value = np.uint64(length) * _MIX0
        at = 0
        while at + 8 <= length:
            value = (value ^ load8(text, begin + at)) * _MIX1
            value ^= value >> np.uint64(29)
            at += 8
        if at < length:
            rest = load8(text, begin + at) & ((np.uint64(1) << np.uint64(8 * (length - at))) - np.uint64(1))
            value = (value ^ rest) * _MIX1
            value ^= value >> np.uint64(29)
        slot = np.int64((value * _MIX0) >> np.uint64(32)) & (size - 1)
        while True:
            other = table[slot]
            if other < 0:
                table[slot] = part
                numbers[part] = different
                counts[different] = 1
                different += 1
                break
            start = parts[other, 0]
            same = parts[other, 1] - start == length
            at = 0
            while same and at + 8 <= length:
                same = load8(text, begin + at) == load8(text, start + at)
                at += 8
            if same and at < length:
                shift = np.uint64(64 - 8 * (length - at))
                same = (load8(text, begin + at) ^ load8(text, start + at)) << shift == 0
            if same:
                numbers[part] = numbers[other]
                counts[numbers[part]] += 1
                break
            slot = (slot + 1) & (size - 1)
    return different


@compiled
def _scan(text, size, classes, words, parts, totals):  # type: ignore[no-untyped-def]  # pragma: no cover
    """One pass over the characters: the counts, and where words, lines (`parts[0]`) and paragraphs (`parts[1]`) lie."""
    at = 0
    characters = newlines = letters = visible = 0
    word_count = line_count = paragraph_count = 0
    alpha = named = named_characters = stop = 0
    hashes = ellipses = curly = lorem = javascript = 0
    ended = terminal = c4 = bullet = ellipsis = short = sentences = short_paragraphs = 0
    # of the line and the paragraph that are open
    line_begin = paragraph_begin = -1
    line_end = line_first = line_last = line_first_word = paragraph_first_word = 0
    line_first_character = line_last_character = paragraph_first_character = paragraph_last_character = 0
    line_dots = line_sentences = line_long = line_javascript = 0
    sentence_open = 0
    gap_newlines = 0
    while at <= size:
        if line_begin >= 0 and text[at] == 32 and 32 < text[at + 1] < 127:  # one space within a line: nearly always
            characters += 1
            at += 1
        else:
            line_over = at == size
            while at < size:
                point, width = np.int64(text[at]), 1
                if point >= 0x80:
                    point, width = code_point(text, at, size)
                kind = classes[point] if point < utf8.CODE_POINTS else np.uint8(0)
                if not kind & utf8.SPACE:
                    break
                characters += 1
                at += width
                line_over |= (kind & utf8.LINE_BREAK) != 0
                if point == 10:
                    newlines += 1
                    gap_newlines += 1
            over = at >= size
            if (line_over or over) and line_begin >= 0:
                parts[0, line_count, 0], parts[0, line_count, 1] = line_begin, line_end
                length = line_last_character - line_first_character
                parts[0, line_count, 2] = length
                line_count += 1
                short += length <= SHORT_LINE
                last_kind = classes[line_last] if line_last < utf8.CODE_POINTS else np.uint8(0)
                ended += (last_kind & utf8.ENDING) != 0
                terminal += (last_kind & utf8.TERMINAL) != 0
                for number in range(len(_BULLET_MARKS)):
                    bullet += line_first == _BULLET_MARKS[number]
                ellipsis += line_dots >= 3 or line_last == 0x2026
                javascript += line_javascript
                wanted = False
                for number in range(len(_C4_MARKS)):
                    wanted |= line_last == _C4_MARKS[number]
                if wanted and line_dots < 3:
                    c4 += 1
                    if word_count - line_first_word >= C4_WORDS and not line_long and not line_javascript:
                        sentences += line_sentences + sentence_open
                line_begin = -1
            if (gap_newlines >= 2 or over) and paragraph_begin >= 0:
                parts[1, paragraph_count, 0], parts[1, paragraph_count, 1] = paragraph_begin, line_end
                parts[1, paragraph_count, 2] = paragraph_last_character - paragraph_first_character
                paragraph_count += 1
                short_paragraphs += word_count - paragraph_first_word < 5
                paragraph_begin = -1
            if over:
                break
        begin, first_character = at, characters
        if line_begin < 0:
            line_begin, line_first_word, line_first_character = at, word_count, characters
            line_sentences = line_long = line_javascript = sentence_open = 0
            line_first, _ = code_point(text, at, size)
        if paragraph_begin < 0:
            paragraph_begin, paragraph_first_word, paragraph_first_character = at, word_count, characters
        gap_newlines = 0
        if (text[at] | 32) == 105 and at >= 6 and text[at - 1] == 32 and (text[at - 2] | 32) == 109:  # "m i"
            lorem += _stands_at(text, at - 6, _LOREM_BYTES)
        # Most words are of ASCII letters and digits only: eight bytes are looked at at once.
        word_letters, simple = np.int64(0), True
        while True:
            eight = load8(text, at)
            count = visible_bytes(eight)
            inside = _HIGH_BITS if count == 8 else _HIGH_BITS & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
            lower = eight | _SPACES
            is_letter = (lower + _BELOW_A) & ~(lower + _ABOVE_Z) & inside
            is_digit = ~((eight ^ _ZEROS) + _ABOVE_9) & inside
            not_j = lower ^ _JS
            is_j = (not_j - _ONES) & ~not_j & inside
            if (eight & inside) | is_j | (inside ^ (is_letter | is_digit)):
                simple = False
                break
            word_letters += np.int64(ones(is_letter))
            at += count
            if count < 8:
                break
        simple &= at == size or (classes[text[at]] & utf8.SPACE) != 0  # and not before a control character
        length = at - begin
        core, core_begin, core_end_byte = length, begin, at
        dots, last, ends_sentence = 0, np.int64(text[at - 1]), np.uint8(0)
        if simple:
            characters += length
        else:
            # With punctuation, most are still of ASCII characters that nothing else depends on.
            at, plain = begin, np.int64(0)
            while True:
                weight = _PLAIN[text[at]]
                if weight < 0:
                    break
                plain += weight
                at += 1
            if at == size or classes[text[at]] & utf8.SPACE:
                length = at - begin
                word_letters, core = plain & 0xFFFFFFFF, plain >> 32
                core_begin, core_end_byte = begin, at
                last = np.int64(text[at - 1])
                if core < length:
                    if core:
                        while not classes[text[core_begin]] & utf8.WORD:
                            core_begin += 1
                        while not classes[text[core_end_byte - 1]] & utf8.WORD:
                            core_end_byte -= 1
                    core = core_end_byte - core_begin if core else 0
                    place = at - 1
                    while place > begin and classes[text[place]] & (utf8.CLOSING | utf8.TERMINAL) == utf8.CLOSING:
                        place -= 1
                    ends_sentence = np.uint8(classes[text[place]] & utf8.TERMINAL != 0)
                characters += length
            else:
                at = begin
                word_letters = lead = lead_bytes = core_end = core_end_byte = dots = 0
                ends_sentence = np.uint8(0)
                while at < size:
                    point, width = np.int64(text[at]), 1
                    if point >= 0x80:
                        point, width = code_point(text, at, size)
                    kind = classes[point] if point < utf8.CODE_POINTS else np.uint8(0)
                    if kind & utf8.SPACE:
                        break
                    word_letters += np.int64(kind & utf8.LETTER)
                    characters += 1
                    if kind & utf8.WORD:
                        core_end, core_end_byte = characters, at + width
                    elif core_end == 0:
                        lead += 1
                        lead_bytes += width
                    ends_sentence = ((kind >> np.uint8(5)) | (ends_sentence & (kind >> np.uint8(6)))) & np.uint8(1)
                    if point == 46:
                        dots += 1
                        ellipses += dots % 3 == 0
                    else:
                        dots = 0
                        if kind & utf8.SPECIAL:
                            ellipses += point == 0x2026
                            hashes += point == 35
                            curly += point == 123
                            if (point == 106 or point == 74) and _stands_at(text, at, _JAVASCRIPT_BYTES):
                                line_javascript = 1
                    last = point
                    at += width
                length = characters - first_character
                core = core_end - first_character - lead if core_end else 0
                core_begin = begin + lead_bytes
        words[word_count, 0], words[word_count, 1], words[word_count, 2] = begin, at, length
        word_count += 1
        visible += length
        letters += word_letters
        alpha += word_letters > 0
        line_last, line_dots, line_end = last, dots, at
        line_last_character = paragraph_last_character = characters
        line_long |= length > LONGEST_C4_WORD
        sentence_open = 1 - np.int64(ends_sentence)
        line_sentences += np.int64(ends_sentence)
        if core:
            named += 1
            named_characters += core
            if 2 <= core <= 4 and core_end_byte - core_begin == core:
                bits = (np.uint64(1) << np.uint64(8 * core)) - np.uint64(1)
                key = (load8(text, core_begin) | np.uint64(0x20202020)) & bits
                for number in range(len(_STOP_KEYS)):
                    stop |= np.int64(key == _STOP_KEYS[number]) << number
    totals[_CHARACTERS], totals[_NEWLINES], totals[_VISIBLE], totals[_LETTERS] = characters, newlines, visible, letters
    totals[_LINES], totals[_ENDED], totals[_TERMINAL], totals[_C4] = line_count, ended, terminal, c4
    totals[_BULLET], totals[_ELLIPSIS], totals[_SHORT], totals[_JAVASCRIPT] = bullet, ellipsis, short, javascript
    totals[_SENTENCES], totals[_PARAGRAPHS], totals[_SHORT_PARAGRAPHS] = sentences, paragraph_count, short_paragraphs
    totals[_WORDS], totals[_ALPHA], totals[_NAMED], totals[_NAMED_CHARACTERS] = (
        word_count,
        alpha,
        named,
        named_characters,
    )
    totals[_HASHES], totals[_ELLIPSES], totals[_CURLY], totals[_LOREM] = hashes, ellipses, curly, lorem
    while stop:
        totals[_STOP] += stop & 1
        stop >>= 1


@compiled
def _measure_lines(text, parts, table, room, totals):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Which lines and paragraphs stood before."""
    numbers, counts = room[0], room[1]
    for kind in range(2):
        count = totals[_PARAGRAPHS] if kind else totals[_LINES]
        different = _number_parts(text, parts[kind], count, table, numbers, counts) if count > 1 else count
        if different == count:
            continue
        again = characters = highest = 0
        for part in range(count):  # numbers grow in order of appearance
            if numbers[part] < highest:
                again += 1
                characters += parts[kind, part, 2]
            else:
                highest += 1
        if kind:
            totals[_AGAIN_PARAGRAPHS], totals[_AGAIN_PARAGRAPH_CHARACTERS] = again, characters
            continue
        totals[_AGAIN_LINES], totals[_AGAIN_LINE_CHARACTERS] = again, characters
        first = second = third = 0
        for number in range(different):
            often = counts[number]
            if often > first:
                first, second, third = often, first, second
            elif often > second:
                second, third = often, second
            elif often > third:
                third = often
        totals[_FREQUENT] = first * (first > 1) + second * (second > 1) + third * (third > 1)


@compiled
def _measure_ngrams(text, words, table, room, totals):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Characters in repeated n-grams.

    An n-gram is repeated only if the n-gram of one word less that it begins with is, and its last word: so of few of
    them a number is asked for, and in most texts none is left after three or four words.
    """
    count = totals[_WORDS]
    if count < 3:
        return  # two equal n-grams take three words: "a a a"
    numbers, counts, ends, places, grams, often = room[0], room[1], room[2], room[3], room[4], room[5]
    if _number_parts(text, words, count, table, numbers, counts) == count:
        return
    total = 0
    for word in range(count):
        total += words[word, 2]
        ends[word] = total
    left = 0
    for word in range(count - 1):
        if counts[numbers[word]] > 1 and counts[numbers[word + 1]] > 1:
            places[left], grams[left] = word, numbers[word]
            left += 1
    for n in range(2, _LAST_AGAIN + 1):
        size = 1
        while size < 2 * left:
            size *= 2
        table[:size] = -1
        different = 0
        for candidate in range(left):
            gram, last = grams[candidate], numbers[places[candidate] + n - 1]
            value = ((np.uint64(gram) << np.uint64(32)) | np.uint64(last)) * _MIX0
            slot = np.int64((value ^ (value >> np.uint64(29))) * _MIX1 >> np.uint64(32)) & (size - 1)
            while True:
                other = table[slot]
                if other < 0:
                    table[slot] = candidate
                    counts[candidate] = different
                    often[different] = 1
                    different += 1
                    break
                if grams[other] == gram and numbers[places[other] + n - 1] == last:
                    counts[candidate] = counts[other]
                    often[counts[other]] += 1
                    break
                slot = (slot + 1) & (size - 1)
        if different == left:
            return
        if n <= _LAST_TOP:
            top, characters = 1, 0
            for candidate in range(left):
                if often[counts[candidate]] > top:
                    top = often[counts[candidate]]
                    begin = places[candidate]
                    characters = ends[begin + n - 1] - (ends[begin - 1] if begin else 0) + n - 1
            totals[_TOP + n - _FIRST_TOP] = top * characters
        if n >= _FIRST_AGAIN:
            past, characters = 0, 0
            table[:different] = 0
            for candidate in range(left):
                begin = places[candidate]
                if begin < past:
                    continue
                if table[counts[candidate]]:
                    characters += ends[begin + n - 1] - ends[begin - 1]
                    past = begin + n
                table[counts[candidate]] = 1
            totals[_AGAIN + n - _FIRST_AGAIN] = characters
        kept = 0
        for candidate in range(left):
            if often[counts[candidate]] > 1 and places[candidate] + n < count:
                places[kept], grams[kept] = places[candidate], counts[candidate]
                kept += 1
        left = kept
        if not left:
            return


@numba.njit(
    types.void(
        TEXT, types.int64[::1], types.uint8[::1], types.boolean, types.uint8[::1], types.int64[:, ::1],
        types.int64[:, :, ::1], types.int32[::1], types.int64[:, ::1], types.int64[:, ::1],
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def measure(  # type: ignore[no-untyped-def]  # pragma: no cover
    data, offsets, classes, repetition, text, words, parts, table, room, out
):
    """Fill `out`, shape (fields of `Measures`, texts). The other arrays are room to work in."""
    totals = np.zeros(_FIELDS, dtype=np.int64)
    for row in range(len(offsets) - 1):
        size = _copy_prose(data, offsets[row], offsets[row + 1], text)
        totals[:] = 0
        _scan(text, size, classes, words, parts, totals)
        if totals[_LINES] == 0:
            continue
        _measure_lines(text, parts, table, room, totals)
        if repetition:
            _measure_ngrams(text, words, table, room, totals)
        for field in range(_FIELDS):
            out[field, row] = totals[field]
