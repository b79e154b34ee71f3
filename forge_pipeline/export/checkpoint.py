"""Weights of a Hugging Face directory as numpy arrays, some rows at a time, without torch.

Reads ``model.safetensors`` or the shards that ``model.safetensors.index.json`` names, so a model larger than
memory can be read. Rows are read, not mapped: mapped pages would count as this process's memory. numpy has no
bfloat16; those values come as uint16, and a bfloat16 is the upper half of a float32.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format


@dataclass(frozen=True)
class _Entry:
    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of one directory, by their transformers names.

    Args:
        names: What the weight files are called before ``.safetensors``: ``model``, or ``adapter_model``.

    Raises:
        ExportError: There are no safetensors files, or one of them is malformed.
    """

    def __init__(self, directory: Path, names: str = "model") -> None:
        self._entries: dict[str, _Entry] = {}
        for file in _shards(directory, names):
            for name, entry in _read_header(file):
                self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def kind(self, name: str) -> str:
        """How its values are stored: ``F32``, ``F16``, ``BF16`` or ``F64``."""
        return self._entries[name].kind

    def stored(self, name: str, start: int = 0, stop: int | None = None) -> "npt.NDArray[Any]":
        """Rows `start` to `stop` of a tensor (values of a vector) as they are stored; BF16 as uint16."""
        import numpy as np

        entry = self._entries[name]
        rows = entry.shape[0] if entry.shape else 1
        stop = rows if stop is None else min(stop, rows)
        length = math.prod(entry.shape[1:])
        offset = entry.offset + start * length * _WIDTHS[entry.kind]
        values = np.fromfile(entry.file, _DTYPES[entry.kind], (stop - start) * length, offset=offset)
        return values.reshape(stop - start, *entry.shape[1:]) if entry.shape else values.reshape(())


def widen(stored: "npt.NDArray[Any]", kind: str) -> "npt.NDArray[np.float32]":
    """What `Checkpoint.stored` gave of the `kind`, as float32 of the same shape."""
    import numpy as np

    if kind == "BF16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _shards(directory: Path, names: str) -> list[Path]:
    index = directory / f"{names}.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [directory / Path(name).name for name in files]
    if (directory / f"{names}.safetensors").is_file():
        return [directory / f"{names}.safetensors"]
    raise ExportError(f"{directory} holds no {names}.safetensors; export needs weights in safetensors files")


def _read_header(file: Path) -> Iterator[tuple[str, _Entry]]:
    """The table at a safetensors file's start: u64 length, then JSON of that length, then data."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise ExportError(f"{file}: its header claims {length} bytes; the file has {size}")
        header: dict[str, Any] = json.loads(stream.read(length))
    for name, row in header.items():
        if name == "__metadata__":
            continue
        kind, shape, (start, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
        if kind not in _WIDTHS:
            raise ExportError(f"{file}: tensor {name} is {kind}; expected one of {', '.join(_WIDTHS)}")
        if end - start != math.prod(shape) * _WIDTHS[kind] or 8 + length + end > size:
            raise ExportError(f"{file}: tensor {name} does not lie where its header says; the file is damaged")
        yield name, _Entry(file, kind, shape, 8 + length + start)
