"""Weights of a Hugging Face directory as float32 arrays, one at a time, without torch.

Reads ``model.safetensors`` or the shards that ``model.safetensors.index.json`` names. The file is
mapped, so a model larger than memory can be read; numpy has no bfloat16, so those values are
widened by shifting (a bfloat16 is the upper half of a float32).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format


@dataclass(frozen=True)
class _Entry:
    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of one directory, by their transformers names.

    Raises:
        ExportError: There are no safetensors files, or one of them is malformed.
    """

    def __init__(self, directory: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        for file in _shards(directory):
            for name, entry in _read_header(file):
                self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def read(self, name: str) -> "npt.NDArray[np.float32]":
        """A tensor, widened or narrowed to float32, of `shape(name)`."""
        import numpy as np

        entry = self._entries[name]
        dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}[entry.kind]
        stored = np.memmap(entry.file, dtype, "r", entry.offset, entry.shape)
        if entry.kind == "BF16":
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.array(stored, np.float32)


def _shards(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [directory / Path(name).name for name in names]
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    raise ExportError(f"{directory} holds no model.safetensors; export needs a merged model in safetensors files")


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
        count = 1
        for dim in shape:
            count *= dim
        if end - start != count * _WIDTHS[kind] or 8 + length + end > size:
            raise ExportError(f"{file}: tensor {name} does not lie where its header says; the file is damaged")
        yield name, _Entry(file, kind, shape, 8 + length + start)
