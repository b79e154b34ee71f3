"""Safetensors shards, read and written one tensor at a time.

Neither side ever holds more than the tensor at hand: a reader maps one tensor and lets go of it, a
writer knows every shape beforehand, writes the header, and then the values in the header's order. For
equal values the bytes are those of ``save_pretrained`` (one shard: header and order of safetensors' own
writer).
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
_CHUNK = 1 << 22  # elements that are cast and written at a time
_KINDS = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TensorShape:
    """A tensor that will be written: `dtype` as torch calls it."""

    name: str
    shape: tuple[int, ...]
    dtype: "torch.dtype"

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


class ShardedTensors:
    """The tensors of one or more safetensors files, by name.

    Args:
        files: Tensor names may stand in one of them only.

    Raises:
        ModelError: A file is damaged.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._file: dict[str, Path] = {}
        self._shape: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _opened(file) as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    self._file[name] = file
                    self._shape[name] = tuple(opened.get_slice(name).get_shape())

    @classmethod
    def of_directory(cls, directory: Path) -> "ShardedTensors | None":
        """Of ``model.safetensors``, or of the shards that its index names; None where there is neither."""
        if (directory / INDEX).is_file():
            return cls(indexed_files(directory / INDEX))
        return cls([directory / WEIGHTS]) if (directory / WEIGHTS).is_file() else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape[name]

    def read(self, name: str) -> "torch.Tensor":
        """The tensor as it is stored; its memory is a mapping of the file that goes when the tensor goes."""
        with _opened(self._file[name]) as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor


def indexed_files(index: Path) -> list[Path]:
    """The shards that an index names, beside it.

    Raises:
        ModelError: It is not an index, or a shard is missing.
    """
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of shards: {error}") from error
    files = [index.parent / Path(name).name for name in names]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{index} names {file.name}, which is not there; fetch the model again")
    return files


def write_shards(
    directory: Path,
    tensors: Iterable[TensorShape],
    values: Callable[[str], "torch.Tensor"],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write tensors as ``model.safetensors``, or as shards with an index where they do not fit one.

    Args:
        tensors: In any order; written by size of their elements, then by name.
        values: Asked once for each name, in the order of writing; cast to the dtype that was announced.
        max_shard_bytes: Of a shard's tensors; one that is larger gets a shard of its own.

    Raises:
        ModelError: A value has another shape than announced.
    """
    shards = _split(sorted(tensors, key=lambda each: (-each.dtype.itemsize, each.name)), max_shard_bytes)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        _write_index(directory / INDEX, dict(zip(names, shards, strict=True)))
    for name, shard in zip(names, shards, strict=True):
        _write(directory / name, shard, values)
    return [directory / name for name in names]


def _split(tensors: list[TensorShape], limit: int) -> list[list[TensorShape]]:
    shards: list[list[TensorShape]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    return shards


def _write_index(path: Path, shards: Mapping[str, list[TensorShape]]) -> None:
    every = [tensor for shard in shards.values() for tensor in shard]
    sizes = {
        "total_parameters": sum(tensor.size // tensor.dtype.itemsize for tensor in every),
        "total_size": sum(tensor.size for tensor in every),
    }
    where = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    text = json.dumps({"metadata": sizes, "weight_map": where}, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _write(path: Path, shard: list[TensorShape], values: Callable[[str], "torch.Tensor"]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in shard:
        header[tensor.name] = {
            "dtype": _KINDS[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.size],
        }
        at += tensor.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in shard:
            value = values(tensor.name)
            if tuple(value.shape) != tensor.shape:
                raise ModelError(f"{tensor.name}: expected the shape {tensor.shape}, found {tuple(value.shape)}")
            flat = value.reshape(-1)
            for start in range(0, flat.numel(), _CHUNK):
                file.write(_bytes(flat[start : start + _CHUNK], tensor.dtype))
            del value, flat  # before the next one is made


def _bytes(values: "torch.Tensor", dtype: "torch.dtype") -> Any:
    import torch

    return values.to("cpu", dtype).contiguous().view(torch.uint8).numpy()


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a whole safetensors file: {error}") from error
