"""Compiled steps that every loop over UTF-8 text needs. Imports numba: import it only where that is wanted.

All of them stay within the bounds they are given, whatever the bytes.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from forge_pipeline.dataset_audit.machine_code import inner

compiled = numba.njit(nogil=True, cache=True)  # for loops that numba itself keeps

TEXT = types.Array(types.uint8, 1, "C", readonly=True)  # what Arrow hands out

_LOW_BITS = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)
_VISIBLE = np.uint64(0x2121212121212121)  # the first byte that is not white space or a control character


@intrinsic
def _load8(typing_context: Any, array: Any, index: Any) -> tuple[Signature, Any]:
    """The eight bytes from `index` on, the first one lowest; the caller sees to it that they exist."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(array, types.intp), generate


@intrinsic
def _trailing_zeros(typing_context: Any, number: Any) -> tuple[Signature, Any]:
    """Number of 0 bits below the lowest 1 bit of a 64-bit number; 64 for 0."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _ones(typing_context: Any, number: Any) -> tuple[Signature, Any]:
    """Number of 1 bits of a 64-bit number."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def _prefetch(typing_context: Any, address: Any) -> tuple[Signature, Any]:
    """Ask for the cache line at an address, soon to be read."""

    def generate(context: Any, builder: Any, signature: Signature, arguments: Any) -> Any:
        integer, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        )
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(function, [pointer, *(ir.Constant(integer, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate


# To numba they are functions without the typing context.
load8: Any = _load8
trailing_zeros: Any = _trailing_zeros
ones: Any = _ones
prefetch: Any = _prefetch


@inner
def visible_bytes(word):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How many of the eight bytes of `word`, from the lowest on, are neither white space nor control characters."""
    low = (word - _VISIBLE) & ~word & _HIGH_BITS  # the lowest bit set is right, and no other is asked for
    return np.int64(trailing_zeros(low) >> np.uint64(3))


@inner
def code_block_end(data, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Where the code block that opens at `at`, the beginning of a line, ends; -1 if none opens there.

    As `prose.without_code` sees it: a fence of three or more, a line feed somewhere after it, then all up to the end of
    the next line that begins with the same fence, or the end of the text.
    """
    mark = data[at] if at < end else np.uint8(0)
    if mark != 96 and mark != 126:  # ` and ~
        return np.int64(-1)
    width = np.int64(0)
    while at + width < end and data[at + width] == mark:
        width += 1
    if width < 3:
        return np.int64(-1)
    line = at + width
    while line < end and data[line] != 10:
        line += 1
    if line == end:
        return np.int64(-1)
    while line < end:
        line += 1  # past the line feed
        run = np.int64(0)
        while run < width and line + run < end and data[line + run] == mark:
            run += 1
        line += run
        while line < end and data[line] != 10:
            line += 1
        if run == width:
            return line
    return end


@inner
def code_point(data, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The code point at `at`, and the number of its bytes; 0x10FFFF and what is left, where they are cut off."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, np.int64(1)
    size = np.int64(2) + np.int64(first >= 0xE0) + np.int64(first >= 0xF0)
    if at + size > end:
        return np.int64(0x10FFFF), end - at
    point = first & (0xFF >> (size + 1))
    for place in range(at + 1, at + size):
        point = (point << 6) | np.int64(data[place] & 0x3F)
    return point, size
