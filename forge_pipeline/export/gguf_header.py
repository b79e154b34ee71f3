"""What stands before a GGUF file's tensor data, as bytes.

The counterpart of `gguf_reader`, from the same specification (ggml/docs/gguf.md, version 3). The package
``gguf`` has a writer too; packing a tokenizer's 100 000 strings one by one is a quarter of its export.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from forge_pipeline.export.gguf_reader import DEFAULT_ALIGNMENT

Entry = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
"""Written as string, bool, u32 and f32, or as an array of strings, i32 or f32, which is what llama.cpp reads."""

_VERSION: Final = 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf.h, enum gguf_type


@dataclass(frozen=True)
class TensorRow:
    """One row of the tensor table.

    Attributes:
        dims: Row length first.
        type_id: ggml's number of the type.
        size: Of the data, in bytes.
    """

    name: str
    dims: tuple[int, ...]
    type_id: int
    size: int


def padding(size: int) -> bytes:
    """What follows so many bytes, up to the alignment."""
    return b"\0" * (-size % DEFAULT_ALIGNMENT)


def pack_header(metadata: Mapping[str, Entry], tensors: Sequence[TensorRow]) -> bytes:
    """Magic, counts, metadata and tensor table, padded; the data of `tensors` follow in their order, each padded.

    Raises:
        struct.error: An integer is outside u32, or in a list outside i32.
    """
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for row in tensors:
        dims = struct.pack(f"<I{len(row.dims)}Q", len(row.dims), *row.dims)
        parts += [_string(row.name), dims, struct.pack("<IQ", row.type_id, offset)]
        offset += row.size + len(padding(row.size))
    header = b"".join(parts)
    return header + padding(len(header))


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _value(value: Entry) -> bytes:
    match value:
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
    first = value[0] if value else ""
    if isinstance(first, str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + _strings(map(str, value))
    kind, code = (_F32, "f") if isinstance(first, float) else (_I32, "i")
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + struct.pack(f"<{len(value)}{code}", *value)


def _strings(texts: Iterable[str]) -> bytes:
    return b"".join([_string(text) for text in texts])
