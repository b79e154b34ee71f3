"""MinHash: signatures whose share of equal entries estimates the Jaccard similarity of two token sets.

Bit for bit those of datasketch's scheme ``affine32`` (seed 1, hash ``sha1_hash32``), the
default since datasketch 2.0; whole blocks of rows are signed at once.
"""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from forge_pipeline import _optional
from forge_pipeline.dataset_audit.kept_tables import kept_tables
from forge_pipeline.dataset_audit.simhash import filled_chunks
from forge_pipeline.dataset_audit.tokens import TokenRows, tokens_of
from forge_pipeline.errors import OptionalDependencyError

if TYPE_CHECKING:
    from datasketch import MinHash

SCHEME = "affine32"
_SEED = 1  # datasketch's default
_RECALL = 0.99  # of pairs exactly at the threshold
_EMPTY = np.uint32(0xFFFFFFFF)
_CHUNK_ROWS = 1 << 14


def compute_minhash(text: str, *, num_perm: int = 128) -> "MinHash | None":
    """MinHash of one text's set of tokens, scheme ``affine32``; None where datasketch is not installed."""
    try:
        datasketch = _require_datasketch()
    except OptionalDependencyError:
        return None
    signature = datasketch.MinHash(num_perm=num_perm, scheme=SCHEME)
    signature.update_batch([token.encode(errors="replace") for token in dict.fromkeys(tokens_of(text))])
    return signature


def permutations(num_perm: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """datasketch's multipliers and addends; shape (num_perm,) each. Drawn here: importing datasketch takes long.

    Raises:
        OptionalDependencyError: datasketch is not installed.
    """
    if find_spec("datasketch") is None:
        _require_datasketch()
    return _permutations(num_perm)


@cache
def _permutations(num_perm: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Drawn once and kept: importing `numpy.random` takes as long as signing ten thousand rows."""
    kept = kept_tables("permutations", ("minhash",), lambda: _drawn(num_perm), data=str(num_perm).encode())
    return kept["multipliers"], kept["addends"]


def _drawn(num_perm: int) -> dict[str, npt.NDArray[np.uint32]]:
    draw = np.random.RandomState(_SEED)
    multipliers = draw.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return {"multipliers": multipliers, "addends": draw.randint(0, 1 << 32, num_perm, dtype=np.uint32)}


def _require_datasketch() -> Any:
    return _optional.require("datasketch", extra="dedup", purpose="MinHash signatures")


def minhash_rows(
    rows: TokenRows, multipliers: npt.NDArray[np.uint32], addends: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """MinHash of each row; shape (rows, num_perm). A row without tokens has all bits set."""
    signatures = np.full((len(rows.offsets) - 1, len(multipliers)), _EMPTY, dtype=np.uint32)
    hashes = _mixed((rows.vocabulary & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    for used, part, starts in filled_chunks(rows):
        values = hashes[rows.indices[part]]
        for column, (multiplier, addend) in enumerate(zip(multipliers, addends, strict=True)):
            signatures[used, column] = np.minimum.reduceat(values * multiplier + addend, starts)  # modulo 2**32
    return signatures


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's finalizer, which ``affine32`` applies before its permutations."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Number of bands and rows in each, so that a pair at `threshold` is a candidate with probability 0.99.

    >>> bands(0.85, 128)
    (16, 8)
    """
    for rows in range(num_perm, 1, -1):
        count = num_perm // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    return num_perm, 1


def band_multipliers(width: int) -> npt.NDArray[np.uint64]:
    """Odd numbers that `band_keys` multiplies the entries of a band by; shape (width,)."""
    return (np.arange(1, 2 * width, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


def band_keys(signatures: npt.NDArray[np.uint32], threshold: float) -> npt.NDArray[np.uint64]:
    """One 64-bit key a band; equal entries give equal keys; shape (rows, bands)."""
    count, width = bands(threshold, signatures.shape[1])
    odd = band_multipliers(width)
    keys = np.empty((len(signatures), count), dtype=np.uint64)
    for first in range(0, len(signatures), _CHUNK_ROWS):
        part = signatures[first : first + _CHUNK_ROWS, : count * width].astype(np.uint64)
        part = (part + np.uint64(0x632BE59BD9B4E019)).reshape(len(part), count, width) * odd
        keys[first : first + _CHUNK_ROWS] = part.sum(axis=2, dtype=np.uint64)
    keys ^= keys >> np.uint64(31)
    return keys * np.uint64(0xBF58476D1CE4E5B9)
