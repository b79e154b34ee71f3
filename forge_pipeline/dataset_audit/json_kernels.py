"""The loop of `json_lines`, compiled by numba, which is imported with this module; see `machine_code`."""

# numba infers the types of these loops; NumPy's stubs know other rules than its compiler.
# mypy: disable-error-code="assignment, call-arg, import-untyped, no-any-return, return-value, var-annotated"

from typing import Any

from numba import types
from numba.extending import intrinsic

from forge_pipeline.dataset_audit.json_lines import STRING
from forge_pipeline.dataset_audit.kernels import I64, U8, U64, load64, trailing_zeros
from forge_pipeline.dataset_audit.machine_code import inner, loop

_QUOTE, _BACKSLASH, _COMMA, _COLON, _SPACE, _FEED = U8(0x22), U8(0x5C), U8(0x2C), U8(0x3A), U8(0x20), U8(0x0A)
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = U8(0x7B), U8(0x7D), U8(0x5B), U8(0x5D)

_bytes = types.Array(types.uint8, 1, "C", readonly=True)


@intrinsic
def _store64(typing_context: Any, address: Any, value: Any) -> Any:
    """Write eight bytes to an address, aligned or not."""
    from llvmlite import ir

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), emit


@inner
def _after_space(data: Any, at: Any) -> Any:
    while at < len(data) and data[U64(at)] == _SPACE:
        at += 1
    return at


@inner
def _after(data: Any, at: Any, char: Any) -> Any:
    """The place behind `char`, which must stand at `at` but for spaces, and behind the spaces after it; else -1."""
    at = _after_space(data, at)
    if at >= len(data) or data[U64(at)] != char:
        return I64(-1)
    return _after_space(data, at + 1)


@inner
def _after_key(data: Any, at: Any, names: Any, start: Any, stop: Any) -> Any:
    """The place behind a key, its quotes and the colon; -1 if another key stands there."""
    at = _after_space(data, at)
    size = stop - start
    if at + size + 2 >= len(data) or data[U64(at)] != _QUOTE or data[U64(at + 1 + size)] != _QUOTE:
        return I64(-1)
    for index in range(size):
        if data[U64(at + 1 + index)] != names[U64(start + index)]:
            return I64(-1)
    return _after(data, at + size + 2, _COLON)


@inner
def _hexadecimal(data: Any, at: Any) -> Any:
    """The number that four hexadecimal digits stand for; -1 if they are none."""
    if at + 4 > len(data):
        return I64(-1)
    value = I64(0)
    for index in range(4):
        char = I64(data[U64(at + index)])
        if 48 <= char <= 57:
            digit = char - 48
        elif 97 <= (char | 0x20) <= 102:
            digit = (char | 0x20) - 87
        else:
            return I64(-1)
        value = value * 16 + digit
    return value


@inner
def _copy_string(data: Any, at: Any, text: Any, out: Any) -> Any:
    """Copy the string whose quote stands at `at` to text[out:], without escapes.

    Returns:
        The place behind its closing quote, or -1 if it is none; and the end of what was written.
    """
    if at >= len(data) or data[U64(at)] != _QUOTE:
        return I64(-1), out
    at += 1
    size = len(data)
    source, target = data.ctypes.data, text.ctypes.data
    while True:
        while at + 8 <= size:
            word = load64(source + at)
            _store64(target + out, word)
            quote, slash = word ^ U64(0x2222222222222222), word ^ U64(0x5C5C5C5C5C5C5C5C)
            special = (quote - U64(0x0101010101010101)) & ~quote
            special |= (slash - U64(0x0101010101010101)) & ~slash
            special |= (word - U64(0x2020202020202020)) & ~word
            special &= U64(0x8080808080808080)
            if special:
                plain = I64(trailing_zeros(special) >> U64(3))
                at += plain
                out += plain
                break
            at += 8
            out += 8
        if at >= size:
            return I64(-1), out
        char = data[U64(at)]
        if char == _QUOTE:
            return at + 1, out
        if char < _SPACE:
            return I64(-1), out
        if char != _BACKSLASH:  # among the last seven bytes of the data
            text[U64(out)] = char
            at += 1
            out += 1
            continue
        if at + 2 > size:
            return I64(-1), out
        escape = data[U64(at + 1)]
        at += 2
        if escape != U8(0x75):
            if escape in (_QUOTE, _BACKSLASH, U8(0x2F)):
                char = escape
            elif escape == U8(0x6E):
                char = U8(0x0A)
            elif escape == U8(0x74):
                char = U8(0x09)
            elif escape == U8(0x72):
                char = U8(0x0D)
            elif escape == U8(0x62):
                char = U8(0x08)
            elif escape == U8(0x66):
                char = U8(0x0C)
            else:
                return I64(-1), out
            text[U64(out)] = char
            out += 1
            continue
        code = _hexadecimal(data, at)
        at += 4
        if 0xD800 <= code < 0xE000:  # two escapes of a surrogate pair, or nothing
            if code >= 0xDC00 or at + 6 > size or data[U64(at)] != _BACKSLASH or data[U64(at + 1)] != U8(0x75):
                return I64(-1), out
            second = _hexadecimal(data, at + 2)
            if second < 0xDC00 or second >= 0xE000:
                return I64(-1), out
            at += 6
            code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00)
        if code < 0:
            return I64(-1), out
        if code < 0x80:
            text[U64(out)] = U8(code)
            out += 1
        elif code < 0x800:
            text[U64(out)] = U8(0xC0 | code >> 6)
            text[U64(out + 1)] = U8(0x80 | code & 0x3F)
            out += 2
        elif code < 0x10000:
            text[U64(out)] = U8(0xE0 | code >> 12)
            text[U64(out + 1)] = U8(0x80 | code >> 6 & 0x3F)
            text[U64(out + 2)] = U8(0x80 | code & 0x3F)
            out += 3
        else:
            text[U64(out)] = U8(0xF0 | code >> 18)
            text[U64(out + 1)] = U8(0x80 | code >> 12 & 0x3F)
            text[U64(out + 2)] = U8(0x80 | code >> 6 & 0x3F)
            text[U64(out + 3)] = U8(0x80 | code & 0x3F)
            out += 4


@inner
def _add_string(data: Any, at: Any, texts: Any, ends: Any, counts: Any, leaf: Any) -> Any:
    """Copy the string at `at` behind the others of its leaf; the place behind it, or -1."""
    count = counts[leaf]
    at, out = _copy_string(data, at, texts[leaf], I64(ends[leaf, count]))
    ends[leaf, count + 1] = out
    counts[leaf] = count + 1
    return at


@inner
def _add_objects(
    data: Any,
    at: Any,
    names: Any,
    name_ends: Any,
    key: Any,
    last_key: Any,
    leaf: Any,
    texts: Any,
    ends: Any,
    counts: Any,
) -> Any:
    """Read a list of strings, or of objects of strings if there are keys; the place behind it, or -1."""
    at = _after(data, at, _OPEN_LIST)
    if at < 0:
        return at
    if at < len(data) and data[U64(at)] == _CLOSE_LIST:
        return at + 1
    while True:
        if key == last_key:
            at = _add_string(data, at, texts, ends, counts, leaf)
        else:
            at = _after(data, at, _OPEN)
            for own in range(key, last_key):
                if at >= 0:
                    at = _after_key(data, at, names, name_ends[own], name_ends[own + 1])
                if at >= 0:
                    at = _add_string(data, at, texts, ends, counts, leaf + own - key)
                if at >= 0:
                    at = _after(data, at, _COMMA if own + 1 < last_key else _CLOSE)
        if at < 0:
            return at
        at = _after_space(data, at)
        if at < len(data) and data[U64(at)] == _CLOSE_LIST:
            return at + 1
        at = _after(data, at, _COMMA)
        if at < 0:
            return at


@loop(
    types.int64(
        _bytes,
        _bytes,
        types.int64[::1],
        types.int64[::1],
        types.int64[::1],
        types.int64[::1],
        types.uint8[:, ::1],
        types.int32[:, ::1],
        types.int64[::1],
        types.int32[:, ::1],
    )
)
def parse_lines(
    data: Any,
    names: Any,
    name_ends: Any,
    kinds: Any,
    first_key: Any,
    first_leaf: Any,
    texts: Any,
    ends: Any,
    counts: Any,
    lists: Any,
) -> int:  # pragma: no cover
    """Read all lines; the number of rows, or -1 if one is not of the shape.

    Args:
        data: The lines.
        names, name_ends: Names of the columns, then keys of the first column's objects, and so on.
        kinds: Of each column.
        first_key: The number of each column's first key among the names; and behind the last column.
        first_leaf: The number of each column's first leaf; and behind the last column.
        texts: Out: the bytes of each leaf's strings; eight more than there are of `data`.
        ends: Out: where each string ends, behind a 0.
        counts: Out: strings of each leaf; given as 0.
        lists: Out: where each row's list ends, behind a 0.
    """
    at, row = I64(0), I64(0)
    columns = len(kinds)
    while at < len(data):
        at = _after(data, at, _OPEN)
        for column in range(columns):
            if at >= 0:
                at = _after_key(data, at, names, name_ends[column], name_ends[column + 1])
            if at >= 0:
                leaf = first_leaf[column]
                if kinds[column] == STRING:
                    at = _add_string(data, at, texts, ends, counts, leaf)
                else:
                    key, last_key = first_key[column], first_key[column + 1]
                    at = _add_objects(data, at, names, name_ends, key, last_key, leaf, texts, ends, counts)
                    lists[column, row + 1] = counts[leaf]
            if at >= 0:
                at = _after(data, at, _COMMA if column + 1 < columns else _CLOSE)
        if at < 0:
            return I64(-1)
        if at < len(data) and data[U64(at)] == U8(0x0D):
            at += 1
        if at < len(data):
            if data[U64(at)] != _FEED:
                return I64(-1)
            at += 1
        row += 1
    return row
