"""Arrow arrays from NumPy's and from strings, by their buffers.

``pa.array`` and ``pa.scalar``, and compute functions that are given Python values, ask pandas
whether the value is one of its own, and import it where it is installed: a quarter of a
second, more than most audits take. What is built here asks nobody.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def number_array(values: npt.NDArray[Any]) -> pa.Array:
    """Numbers as an array of their own type, without nulls. Nothing is copied where they lie next to each other."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def boolean_array(values: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """Booleans, without nulls."""
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def string_array(values: Sequence[str], kind: pa.DataType | None = None) -> pa.Array:
    """Strings, without nulls, as `pa.string` unless `kind` says `pa.large_string`.

    Raises:
        UnicodeEncodeError: A string holds half a character (a lone surrogate).
    """
    encoded = [value.encode() for value in values]
    large = kind is not None and pa.types.is_large_string(kind)
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    offsets = ends if large else ends.astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(encoded), buffers)


@lru_cache(maxsize=256)
def text_scalar(value: str, kind: pa.DataType) -> pa.Scalar:
    """One string as a scalar of type `kind`, `pa.string` or `pa.large_string`."""
    return string_array([value], kind)[0]


@lru_cache(maxsize=256)
def null_scalar(kind: pa.DataType) -> pa.Scalar:
    """The null of type `kind`."""
    return pa.nulls(1, kind)[0]


@lru_cache(maxsize=256)
def number_scalar(value: int, kind: pa.DataType) -> pa.Scalar:
    """One whole number as a scalar of type `kind`."""
    return number_array(np.array([value], dtype=kind.to_pandas_dtype()))[0]


def numpy_of(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers or booleans without nulls as NumPy has them; numbers of one array are not copied, and read-only."""
    if isinstance(array, pa.ChunkedArray):
        chunks = [numpy_of(chunk) for chunk in array.chunks]
        if len(chunks) == 1:
            return chunks[0]
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype=array.type.to_pandas_dtype())
    assert not array.null_count
    data = array.buffers()[1]
    stop = array.offset + len(array)
    if pa.types.is_boolean(array.type):
        bits = np.frombuffer(data or b"", dtype=np.uint8)
        return np.unpackbits(bits, count=stop if len(bits) else 0, bitorder="little")[array.offset :].astype(np.bool_)
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(data or b"", dtype=dtype, count=stop if data else 0)[array.offset :]
