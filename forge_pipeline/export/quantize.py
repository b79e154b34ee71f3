"""Which type each tensor gets, and how float32 rows become it.

A GGUF label is a policy over tensors, not a type: ``q4_k_m`` gives half of the value and down
projections six bits, and rows whose length is not a multiple of 256 fall back to types of 32-element
blocks. So the report counts types (`gguf_verify.tensor_types`) instead of trusting the label. The
rules follow llama.cpp's quantizer (``llama_tensor_get_type``) for the architectures in `architectures`,
without importance matrices; norms and biases stay float32.

f32, f16, bf16 and q8_0 come from the ``gguf`` package in numpy. K-quants are computed by ggml itself,
called through the shared library inside ``xllamacpp``: `ggml_quantize_chunk` is a pure function over rows.
"""

import ctypes
import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ExportError, OptionalDependencyError
from forge_pipeline.export.checkpoint import widen
from forge_pipeline.export.gguf_reader import TENSOR_TYPES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TYPE_IDS: Final = {tensor_type.name: number for number, tensor_type in TENSOR_TYPES.items()}
_NUMPY_TYPES: Final = ("F32", "F16", "BF16", "Q8_0")

# llama.h, enum llama_ftype: what general.file_type calls each quantization.
FILE_TYPES: Final[Mapping[Quantization, int]] = {
    "f32": 0, "f16": 1, "q8_0": 7, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip

_MAIN_TYPE: Final[Mapping[Quantization, str]] = {
    "f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0",
    "q6_k": "Q6_K", "q5_k_m": "Q5_K", "q4_k_m": "Q4_K", "q3_k_m": "Q3_K",
}  # fmt: skip

# For rows that are not whole blocks of 256: the 32-element type of about the same size.
_NARROW: Final = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True)
class TypePolicy:
    """Chooses the type of every tensor of one model at one quantization.

    Attributes:
        blocks: Number of decoder blocks, of which some get more bits.
        tied: Whether ``token_embd`` is also the output matrix.
        experts: Experts of a block; 0 without a mixture.
    """

    quantization: Quantization
    blocks: int
    tied: bool
    experts: int = 0

    def type_of(self, name: str, dims: tuple[int, ...]) -> str:
        """ggml type of the tensor `name` with `dims` (row length first)."""
        main = _MAIN_TYPE[self.quantization]
        if len(dims) == 1 or main == "F32" or name.endswith(".ffn_gate_inp.weight"):
            return "F32"
        wanted = main if main in _NUMPY_TYPES else self._k_type(name, main)
        if dims[0] % TENSOR_TYPES[TYPE_IDS[wanted]].block == 0:
            return wanted
        narrow = _NARROW.get(wanted, "F16")
        return narrow if dims[0] % TENSOR_TYPES[TYPE_IDS[narrow]].block == 0 else "F16"

    def _k_type(self, name: str, main: str) -> str:
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return "Q6_K"
        if not name.startswith("blk."):
            return main
        _, number, part, _ = name.split(".")
        block = int(number)
        if self.experts == 8 and part in ("attn_k", "attn_v"):
            return "Q8_0"  # small beside eight experts
        if self.experts == 8 and part == "attn_output":
            return max("Q5_K", main)
        if part == "attn_qkv":
            return {"Q3_K": "Q4_K", "Q4_K": "Q5_K"}.get(main, "Q6_K")
        is_down = part in ("ffn_down", "ffn_down_exps")
        if (is_down or part == "attn_v") and main in ("Q4_K", "Q5_K"):
            return "Q6_K" if self._gets_more_bits(block) else main
        if main == "Q3_K":
            if part == "attn_v":
                return "Q5_K" if block < 2 else "Q4_K"
            if is_down:
                return "Q5_K" if block < self.blocks // 16 else "Q4_K"
            if part == "attn_output":
                return "Q4_K"
        return main

    def _gets_more_bits(self, block: int) -> bool:
        """The first and last eighth of the blocks, and every third between."""
        eighth = self.blocks // 8
        return block < eighth or block >= 7 * self.blocks // 8 or (block - eighth) % 3 == 2


def needs_native_library(quantization: Quantization) -> bool:
    """Whether `quantization` needs ``xllamacpp`` beside ``gguf``."""
    return _MAIN_TYPE[quantization] not in _NUMPY_TYPES


def encode_rows(stored: "npt.NDArray[Any]", kind: str, type_name: str) -> "npt.NDArray[Any]":
    """Encode values of a checkpoint, without the way over float32 where 16 bits stay 16 bits.

    Args:
        stored: As `checkpoint.Checkpoint.stored` gives them, of that `kind`.
        type_name: As for `quantize_rows`, whose bytes and errors these are.
    """
    import numpy as np

    if stored.ndim > 1 and kind in ("F16", "BF16") and type_name in ("F16", "BF16"):
        bits: npt.NDArray[np.uint16] = stored.view(np.uint16)
        encoded = bits if kind == type_name else _half_of_bfloat16().take(bits) if kind == "BF16" else None
        exponent = np.uint16({"F16": 0x7C00, "BF16": 0x7F80}[type_name])
        # All ones in the exponent are infinity or NaN; the way over float32 says which, and why.
        if encoded is not None and int((encoded & np.uint16(0x7FFF)).max()) < exponent:
            return encoded.view(np.float16 if type_name == "F16" else np.uint8)
    return quantize_rows(widen(stored, kind), type_name)


@cache
def _half_of_bfloat16() -> "npt.NDArray[np.uint16]":
    """The float16 nearest to each of the 65536 bfloat16 numbers, by its bits."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return widen(np.arange(1 << 16, dtype=np.uint16), "BF16").astype(np.float16).view(np.uint16)


def quantize_rows(tensor: "npt.NDArray[np.float32]", type_name: str, *, threads: int = 0) -> "npt.NDArray[Any]":
    """Encode a tensor.

    Args:
        tensor: Finite float32 values, (rows, row length) or (row length,).
        type_name: A ggml type whose block divides the row length.
        threads: Threads for K-quants; 0 takes one for each core. The bytes do not depend on it.

    Returns:
        float32 or float16 values of the same shape, or bytes of shape (rows, bytes of a row).

    Raises:
        ExportError: The tensor holds NaN or infinite values, or values that float16 cannot hold.
        OptionalDependencyError: A K-quant was asked for and ``xllamacpp`` is not installed.
    """
    import numpy as np

    if not np.isfinite(tensor).all():
        raise ExportError("it holds NaN or infinite values; a model that diverged cannot be exported")
    if type_name in _NUMPY_TYPES:
        from gguf import GGMLQuantizationType, quants

        with np.errstate(over="ignore"):
            encoded: npt.NDArray[Any] = quants.quantize(tensor, GGMLQuantizationType[type_name])
        if type_name == "F16" and not np.isfinite(encoded).all():
            largest = float(np.abs(tensor).max())
            raise ExportError(f"its largest value {largest:g} exceeds float16's 65504; export bf16 or f32 instead")
        return encoded
    return _quantize_natively(np.ascontiguousarray(tensor), type_name, threads or os.cpu_count() or 1)


def _quantize_natively(tensor: "npt.NDArray[np.float32]", type_name: str, threads: int) -> "npt.NDArray[np.uint8]":
    import numpy as np

    kind = TENSOR_TYPES[TYPE_IDS[type_name]]
    length = tensor.shape[-1]
    tensor = tensor.reshape(-1, length)
    rows = len(tensor)
    encoded = np.empty((rows, length // kind.block * kind.size), np.uint8)
    library = _ggml()

    def encode(start: int, stop: int) -> int:
        part, target = tensor[start:stop], encoded[start:stop]
        written: int = library.ggml_quantize_chunk(
            TYPE_IDS[type_name], part.ctypes.data, target.ctypes.data, 0, stop - start, length, None
        )
        return written

    bounds = [rows * index // threads for index in range(threads + 1)]
    run = map if threads == 1 else _threads(threads).map  # ctypes releases the interpreter lock
    written = sum(run(encode, bounds[:-1], bounds[1:]))
    if written != encoded.nbytes:
        raise ExportError(f"ggml wrote {written} bytes of {type_name} where {encoded.nbytes} were expected")
    return encoded


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


def native_library() -> Path:
    """The shared library inside the installed ``xllamacpp``; the package itself is not imported.

    Raises:
        OptionalDependencyError: ``xllamacpp`` is not installed.
    """
    spec = importlib.util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for pattern in ("xllamacpp*.so", "xllamacpp*.pyd", "xllamacpp*.dylib"):
            for library in sorted(Path(folder).glob(pattern)):
                return library
    raise OptionalDependencyError(
        "K-quants and fidelity checks need the module 'xllamacpp', which is not installed. "
        "Install it with: pip install 'forge-pipeline[export]'"
    )


@cache
def _ggml() -> ctypes.CDLL:
    library = ctypes.CDLL(str(native_library()))
    # size_t ggml_quantize_chunk(type, const float * src, void * dst, start, nrows, n_per_row, const float * imatrix)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library
