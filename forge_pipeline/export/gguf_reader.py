"""GGUF files, read only, and never trusted.

Written from the specification (ggml/docs/gguf.md, version 3; version 2 has the same
layout). All integers are little-endian. A file is

    magic b"GGUF" | version u32 | tensor count u64 | metadata count u64
    metadata:  key string | type u32 | value                    (a string is u64 length + UTF-8 bytes)
    tensors:   name string | dims u32 | dims * u64 | type u32 | offset u64
    padding to the alignment | tensor data, each tensor padded to the alignment

Rules kept here, each a named error with the byte offset where it broke:
- every count and length is held against the bytes that remain before anything is allocated;
- keys and tensor names are unique, names are at most 63 bytes, text is UTF-8;
- the alignment is a power of two; tensors are aligned, contiguous in table order, without gap or
  overlap, and the file ends where the last one (padded or not) does;
- nothing nests: arrays of arrays, which the specification allows and no model uses, are refused.

What the values mean (architecture, tokenizer) is `gguf_verify`'s subject. Big-endian files and
version 1 are refused. The caps below are ours, above any known model; together they keep what a
hostile header can make us hold near 100 MB, and the time for it under a second.
"""

import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_TENSORS: Final = 1 << 16
MAX_METADATA: Final = 1 << 16
MAX_STRINGS: Final = 3 << 18  # strings and booleans in all arrays together; 200 000 tokens have some 450 000 merges
MAX_TEXT_BYTES: Final = 1 << 24  # all strings together; those of the largest known vocabularies take 8 MB
MAX_ARRAY_BYTES: Final = 1 << 24  # numeric arrays together
MAX_KEY: Final = 65535  # bytes; gguf.md
MAX_NAME: Final = 63  # ggml.h: GGML_MAX_NAME 64 with its terminating zero
DEFAULT_ALIGNMENT: Final = 32

_FIRST_WINDOW: Final = 1 << 22  # bytes; more is read if the header is longer

Scalar = int | float | bool | str
Value = Scalar | list[str] | list[bool] | array  # type: ignore[type-arg]


@dataclass(frozen=True)
class TensorType:
    """One ggml type: `block` elements lie in `size` bytes; f16 scales of a block at byte offsets `scales`."""

    name: str
    block: int
    size: int
    scales: tuple[int, ...] = ()


# ggml.h, enum ggml_type, and the block structs of ggml-common.h. Gaps are types that llama.cpp removed.
TENSOR_TYPES: Final[Mapping[int, TensorType]] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18, (0,)),
    3: TensorType("Q4_1", 32, 20, (0, 2)),
    6: TensorType("Q5_0", 32, 22, (0,)),
    7: TensorType("Q5_1", 32, 24, (0, 2)),
    8: TensorType("Q8_0", 32, 34, (0,)),
    9: TensorType("Q8_1", 32, 36, (0, 2)),
    10: TensorType("Q2_K", 256, 84, (80, 82)),
    11: TensorType("Q3_K", 256, 110, (108,)),
    12: TensorType("Q4_K", 256, 144, (0, 2)),
    13: TensorType("Q5_K", 256, 176, (0, 2)),
    14: TensorType("Q6_K", 256, 210, (208,)),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66, (0,)),
    17: TensorType("IQ2_XS", 256, 74, (0,)),
    18: TensorType("IQ3_XXS", 256, 98, (0,)),
    19: TensorType("IQ1_S", 256, 50, (0,)),
    20: TensorType("IQ4_NL", 32, 18, (0,)),
    21: TensorType("IQ3_S", 256, 110, (0,)),
    22: TensorType("IQ2_S", 256, 82, (0,)),
    23: TensorType("IQ4_XS", 256, 136, (0,)),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54, (52,)),
    35: TensorType("TQ2_0", 256, 66, (64,)),
    39: TensorType("MXFP4", 32, 17),
}

_BOOL, _STRING, _ARRAY = 7, 8, 9
_ROWS: Final = {count: struct.Struct(f"<{count}QIQ") for count in range(1, 5)}  # dimensions, type, offset
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}


class GgufFormatError(ValueError):
    """The bytes are not a well-formed GGUF file. The message ends with the byte offset of the fault."""


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table.

    Attributes:
        dims: As stored: the fastest-varying (row length) first, so ``dims[::-1]`` is numpy's shape.
        offset: Of its first byte, from the start of the file.
        size: Bytes of data, without padding.
    """

    name: str
    dims: tuple[int, ...]
    type: TensorType
    offset: int
    size: int

    @property
    def elements(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count


@dataclass(frozen=True)
class GgufHeader:
    """Everything of a GGUF file but the tensors' data.

    Attributes:
        metadata: Key to value. Numeric arrays are `array.array`, so that they cost no more than in the file.
        data_offset: Where tensor data begins, in bytes from the start of the file.
    """

    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_size: int


def read_gguf(path: Path) -> GgufHeader:
    """Parse the header of the file at `path`; of the tensors' data only the padding is read.

    Raises:
        OSError: The file cannot be read.
        GgufFormatError: It is not a well-formed GGUF file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise GgufFormatError("the file is empty (at byte 0)")

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        # Read, not mapped: a mapped file that shrinks, or a disk that fails, would kill the process.
        window = _FIRST_WINDOW
        while True:
            try:
                return _Parser(read(0, min(window, size)), size, read).parse()
            except _BeyondWindowError as beyond:
                window = max(4 * window, beyond.end)


def parse_gguf(data: bytes) -> GgufHeader:
    """Parse a whole file given as bytes.

    Raises:
        GgufFormatError: It is not a well-formed GGUF file.
    """
    return _Parser(data, len(data), lambda at, count: data[at : at + count]).parse()


class _BeyondWindowError(Exception):
    """The header goes on after the bytes at hand; `end` of them are needed at least."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class _Parser:
    """A cursor over the file's first bytes; each method reads one production of the grammar above.

    Args:
        data: The beginning of the file.
        size: Bytes in the whole file.
        read: Gives `count` bytes from anywhere in it.
    """

    def __init__(self, data: bytes, size: int, read: Callable[[int, int], bytes]) -> None:
        self._data = data
        self._size = size
        self._read = read
        self._at = 0
        self._strings_left = MAX_STRINGS
        self._array_bytes_left = MAX_ARRAY_BYTES
        self._text_left = MAX_TEXT_BYTES

    def parse(self) -> GgufHeader:
        version, tensor_count, metadata_count = self._preamble()
        metadata = self._metadata(metadata_count)
        alignment = self._alignment(metadata)
        table = [self._tensor_row() for _ in range(tensor_count)]
        data_offset = self._padded(self._at, alignment)
        tensors = self._place(table, data_offset, alignment)
        return GgufHeader(version, alignment, metadata, tensors, data_offset, self._size)

    def _preamble(self) -> tuple[int, int, int]:
        if self._bytes(4, "magic") != b"GGUF":
            raise GgufFormatError(f"expected the magic b'GGUF', found {bytes(self._data[:4])!r} (at byte 0)")
        version = self._u32("version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = f"big-endian version {swapped}" if swapped in (2, 3) else f"version {version}"
            raise self._error(f"{what} is not supported; expected little-endian version 2 or 3", 4)
        tensor_count, metadata_count = self._u64("tensor count"), self._u64("metadata count")
        # The shortest tensor row is 32 bytes (empty name, one dimension), the shortest metadata pair 13.
        self._bounded(tensor_count, 32, MAX_TENSORS, "tensors", 8)
        self._bounded(metadata_count, 13, MAX_METADATA, "metadata pairs", 16)
        return version, tensor_count, metadata_count

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            start = self._at
            key = self._string("metadata key", MAX_KEY)
            if not key or key in metadata:
                raise self._error(f"metadata key {_shown(key)} is {'empty' if not key else 'there twice'}", start)
            metadata[key] = self._value(key)
        return metadata

    def _value(self, key: str) -> Value:
        start, name = self._at, _shown(key)
        kind = self._u32(f"type of {name}")
        if kind == _ARRAY:
            return self._array(name)
        if kind == _STRING:
            return self._string(name)
        if kind == _BOOL:
            return self._bools(1, name)[0]
        if kind in _SCALARS:
            scalar: int | float = self._unpack(_SCALARS[kind], name)
            return scalar
        raise self._error(f"{name} has unknown type {kind}", start)

    def _array(self, name: str) -> Value:
        start = self._at
        kind, count = self._u32(f"element type of {name}"), self._u64(f"length of {name}")
        if kind == _STRING:
            self._bounded(count, 8, self._strings_left, f"strings in {name}", start)
            self._strings_left -= count
            return self._strings(count, name)
        if kind == _BOOL:
            self._bounded(count, 1, self._strings_left, f"booleans in {name}", start)
            self._strings_left -= count
            return self._bools(count, name)
        if kind in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[kind])
            self._bounded(count, width, self._array_bytes_left // width, f"numbers in {name}", start)
            self._array_bytes_left -= count * width
            numbers = array(_SCALARS[kind])
            numbers.frombytes(self._bytes(count * width, name))
            if sys.byteorder == "big":
                numbers.byteswap()
            return numbers
        what = "is an array of arrays" if kind == _ARRAY else f"has elements of unknown type {kind}"
        raise self._error(f"{name} {what}", start)

    def _strings(self, count: int, name: str) -> list[str]:
        # The one hot loop: 49 152 tokens and 48 900 merges of a small model come through here.
        data, at = self._data, self._at
        text_end = at + 8 * count + self._text_left  # beyond it they would hold more text than we take
        stop = min(len(data), text_end)
        length_at = struct.Struct("<Q").unpack_from
        strings: list[str] = []
        append = strings.append
        for _ in range(count):
            if at + 8 > stop:
                raise self._string_fault(name, at, at + 8, text_end)
            end = at + 8 + length_at(data, at)[0]
            if end > stop:
                raise self._string_fault(name, at, end, text_end)
            try:
                append(str(data[at + 8 : end], "utf-8"))
            except UnicodeDecodeError:
                raise self._error(f"a string in {name} is not UTF-8", at + 8) from None
            at = end
        self._text_left -= at - self._at - 8 * count
        self._at = at
        return strings

    def _string_fault(self, name: str, at: int, end: int, text_end: int) -> Exception:
        """Why a string of an array, which would lie from `at` to `end`, was not read."""
        if end > self._size:
            return self._error(f"a string in {name} is longer than what remains of the file", at)
        if end > text_end:
            return self._error(f"the strings up to {name} hold more text than this reader takes", at)
        return _BeyondWindowError(end)

    def _tensor_row(self) -> tuple[str, tuple[int, ...], TensorType, int, int]:
        start = self._at
        name = self._string("tensor name")
        if not 0 < len(name.encode()) <= MAX_NAME:
            raise self._error(f"tensor name {name[:80]!r} is not 1 to {MAX_NAME} bytes long", start)
        count = self._u32("the tensor table")
        if not 1 <= count <= 4:
            raise self._error(f"tensor {name!r} has {count} dimensions; expected 1 to 4", start)
        *dims, kind, offset = _ROWS[count].unpack(self._bytes(_ROWS[count].size, "the tensor table"))
        if kind not in TENSOR_TYPES:
            raise self._error(f"tensor {name!r} has unknown ggml type {kind}", start)
        if any(not 0 < dim < 1 << 48 for dim in dims):
            raise self._error(f"tensor {name!r} has impossible dimensions {tuple(dims)}", start)
        if dims[0] % TENSOR_TYPES[kind].block:
            tensor_type = TENSOR_TYPES[kind]
            raise self._error(f"tensor {name!r}: rows of {dims[0]} are not whole {tensor_type.name} blocks", start)
        return name, tuple(dims), TENSOR_TYPES[kind], offset, start

    def _place(
        self, table: list[tuple[str, tuple[int, ...], TensorType, int, int]], data_offset: int, alignment: int
    ) -> tuple[Tensor, ...]:
        """Turn relative offsets into absolute ones, holding the layout to its rules."""
        names: set[str] = set()
        tensors = []
        expected = 0  # offset, relative to the data section, where the next tensor must begin
        for name, dims, tensor_type, offset, row in table:
            if name in names:
                raise self._error(f"tensor {name!r} is there twice", row)
            names.add(name)
            if offset != expected:
                fault = "overlaps its predecessor or is out of order" if offset < expected else "leaves a gap"
                raise self._error(f"tensor {name!r} lies at {offset}, expected {expected}: it {fault}", row)
            tensor = Tensor(name, dims, tensor_type, data_offset + offset, 0)
            size = tensor.elements // tensor_type.block * tensor_type.size
            if tensor.offset + size > self._size:
                end = tensor.offset + size
                raise self._error(f"tensor {name!r} ends at byte {end}, the file at {self._size}", row)
            tensors.append(Tensor(name, dims, tensor_type, data_offset + offset, size))
            expected = self._padded(offset + size, alignment)
        # Writers differ in whether the last tensor is padded; with no tensor the header may go unpadded.
        last = tensors[-1].offset + tensors[-1].size if tensors else self._at
        end = self._padded(last, alignment)
        if not last <= self._size <= end:
            raise self._error(f"{self._size - end} bytes follow the last tensor", end)
        if tensors:
            self._check_padding(self._at, data_offset, "the header")
        for tensor in tensors[:-1]:
            at = tensor.offset + tensor.size
            self._check_padding(at, self._padded(at, alignment), f"tensor {tensor.name!r}")
        self._check_padding(last, self._size, "the last tensor")
        return tuple(tensors)

    def _check_padding(self, start: int, end: int, after: str) -> None:
        """Nothing is hidden between the parts."""
        if end > start and self._read(start, end - start).strip(b"\0"):
            raise self._error(f"the padding after {after} is not zero", start)

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            found = alignment if type(alignment) is int else type(alignment).__name__
            raise self._error(f"general.alignment is {found}; expected a power of two up to 65536", self._at)
        return alignment

    def _string(self, what: str, cap: int | None = None) -> str:
        start = self._at
        length = self._u64(f"length of {what}")
        if length > self._size - self._at:
            raise self._error(f"{what} claims {length} bytes, {self._size - self._at} remain", start)
        most = self._text_left if cap is None else min(cap, self._text_left)
        if length > most:
            raise self._error(f"{what} has {length} bytes, more than this reader takes ({most})", start)
        self._text_left -= length
        try:
            return str(self._bytes(length, what), "utf-8")
        except UnicodeDecodeError:
            raise self._error(f"{what} is not UTF-8", start + 8) from None

    def _bools(self, count: int, name: str) -> list[bool]:
        start = self._at
        data = self._bytes(count, name)
        if strange := data.translate(None, b"\0\1"):
            raise self._error(f"{name} is a boolean of value {strange[0]}", start)
        return [byte == 1 for byte in data]

    def _u32(self, what: str) -> int:
        number: int = self._unpack("I", what)
        return number

    def _u64(self, what: str) -> int:
        number: int = self._unpack("Q", what)
        return number

    def _unpack(self, code: str, what: str) -> Any:
        form = "<" + code
        return struct.unpack(form, self._bytes(struct.calcsize(form), what))[0]

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._size - self._at:
            raise self._error(f"the file ends inside {what}", self._at)
        if self._at + count > len(self._data):
            raise _BeyondWindowError(self._at + count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _bounded(self, count: int, smallest: int, cap: int, what: str, offset: int) -> None:
        if count * smallest > self._size - self._at:
            raise self._error(f"{count} {what} do not fit into the {self._size - self._at} bytes that remain", offset)
        if count > cap:
            raise self._error(f"{count} {what} are more than this reader takes ({cap})", offset)

    def _padded(self, offset: int, alignment: int) -> int:
        return (offset + alignment - 1) // alignment * alignment

    def _error(self, message: str, offset: int) -> GgufFormatError:
        return GgufFormatError(f"{message} (at byte {offset})")


def _shown(key: str) -> str:
    """A key as messages show it: quoted, and not longer than a line."""
    return repr(key if len(key) <= 80 else key[:77] + "...")
