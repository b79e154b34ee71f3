"""Arrays that are made once and kept in a file: making those of a language model takes a tenth of a second."""

import hashlib
import json
import sys
import unicodedata
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit.kept_files import read_kept, write_kept

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

_HERE = Path(__file__).parent
_ALIGNED = 64  # bytes


def kept_tables(name: str, sources: tuple[str, ...], make: Callable[[], Arrays], *, data: bytes = b"") -> Arrays:
    """The arrays that `make` gives, from a file where it was called before.

    Args:
        name: What they are of.
        sources: Modules of this package that decide what they are, beside Python's own tables of characters.
        make: Makes them; its errors are raised as they are, and nothing is kept.
        data: What they are made of beside that.
    """
    digest = hashlib.sha256(hashlib.sha256(data).digest())
    for module in ("kept_tables", *sources):
        digest.update((_HERE / f"{module}.py").read_bytes())
    digest.update(repr((sys.version_info[:3], unicodedata.unidata_version, np.__version__, sys.byteorder)).encode())
    file = f"{name}-{digest.hexdigest()[:24]}.tables"
    body = read_kept(file)
    if body is not None:
        return _parsed(body)
    arrays = make()
    write_kept(file, _written(arrays))
    return arrays


def _written(arrays: Arrays) -> bytes:
    """A line of JSON (names, types, shapes), and the arrays, each at a multiple of 64 bytes behind it."""
    head = json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode() + b"\n"
    parts = [head, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    return b"".join(part.ljust(-(-len(part) // _ALIGNED) * _ALIGNED, b"\0") for part in parts)


def _parsed(body: npt.NDArray[np.uint8]) -> Arrays:
    end = int(np.argmax(body == ord("\n"))) + 1
    arrays, at = {}, -(-end // _ALIGNED) * _ALIGNED
    for name, kind, shape in json.loads(body[:end].tobytes()):
        dtype = np.dtype(kind)
        size = prod(shape) * dtype.itemsize
        arrays[name] = body[at : at + size].view(dtype).reshape(shape)
        at += -(-size // _ALIGNED) * _ALIGNED
    return arrays
