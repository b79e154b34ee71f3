"""What the near-duplicate search keeps of each row: hashes of its text and tokens, its bucket keys, its token set.

Few rows are signed with NumPy, many by compiled loops (`kernels`); both give the same
bits, so shards of one audit may be signed either way.

State: 24 + 8 k bytes a row and 4 bytes a distinct token, k being 16 bands for MinHash at
the default threshold, or 1 for SimHash: 450 bytes for a row of 74 distinct tokens.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit import small_pages
from forge_pipeline.dataset_audit.arrow_arrays import number_array, numpy_of
from forge_pipeline.dataset_audit.groups import distinct
from forge_pipeline.dataset_audit.machine_code import loops
from forge_pipeline.dataset_audit.minhash import band_keys, band_multipliers, bands, minhash_rows, permutations
from forge_pipeline.dataset_audit.signing import CACHE_BITS, scratch
from forge_pipeline.dataset_audit.simhash import simhash_rows
from forge_pipeline.dataset_audit.texts import mixed, text_bytes, text_hashes
from forge_pipeline.dataset_audit.tokens import (
    IntArray,
    Tokenizer,
    TokenRows,
    beyond_table,
    character_table,
    token_hash,
    tokens_of,
)

KeyArray = npt.NDArray[np.uint64]
ValueArray = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class RowSignatures:
    """Of the rows of one shard, in reading order; n rows, m tokens.

    Attributes:
        text: Hash of each row's text; equal texts have equal hashes; shape (n,).
        tokens: Hash of each row's set of tokens (SimHash: of its bag), whatever their order; 0 means no tokens;
            shape (n,).
        keys: MinHash band keys (`minhash.bands` says how many), or the SimHash; shape (n, k). Each column lies in one
            piece, since the join looks at them one by one.
        offsets: Row `i` has the values from `offsets[i]` up to `offsets[i + 1]`; shape (n + 1,).
        values: Low 32 bits of the hashes of each row's distinct tokens, ascending in a row; shape (m,).
    """

    text: KeyArray
    tokens: KeyArray
    keys: KeyArray
    offsets: IntArray
    values: ValueArray

    @classmethod
    def concatenated(cls, parts: "list[RowSignatures]") -> "RowSignatures":
        """Rows of several blocks as those of one. There must be at least one block."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.values) for part in parts)])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([part.text for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.keys.T for part in parts], axis=1).T,
            np.concatenate([*offsets, starts[-1:]]),
            np.concatenate([part.values for part in parts]),
        )

    def write(self, path: Path) -> None:
        """Write one Arrow file, uncompressed, aside and renamed: one row, whose lists are the arrays.

        It is an intermediate that a run can make again, so it is not forced to the disk.
        """
        arrays = {
            "text": self.text,
            "tokens": self.tokens,
            "keys": np.ascontiguousarray(self.keys.T).reshape(-1),
            "width": np.array(self.keys.shape[1:]),
            "offsets": self.offsets,
            "values": self.values,
        }
        lists = [
            pa.LargeListArray.from_arrays(number_array(np.array([0, len(array)])), number_array(array))
            for array in arrays.values()
        ]
        batch = pa.record_batch(lists, names=list(arrays))
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: Path) -> "RowSignatures":
        """Map what `write` wrote into memory: its arrays are read from the file as they are touched, and read-only."""
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        text, tokens, keys, width, offsets, values = (numpy_of(column.values) for column in batch.columns)
        return cls(text, tokens, keys.reshape(int(width[0]), len(text)).T, offsets, values)


@cache
def kernels() -> Mapping[str, Any] | None:
    """The compiled loops of `kernels`; None where numba is not installed."""
    return None if find_spec("numba") is None else loops("kernels", "signing", "tokens")


def text_lengths(texts: pa.LargeStringArray, *, compiled: bool) -> npt.NDArray[np.int32]:
    """Characters of each text, none of them null; shape (texts,)."""
    found = kernels() if compiled else None
    if found is None:
        return numpy_of(pc.utf8_length(texts)).astype(np.int32)
    lengths = np.empty(len(texts), dtype=np.int32)
    found["count_characters"](*text_bytes(texts), lengths)
    return lengths


def sign(texts: pa.LargeStringArray, *, num_perm: int | None, jaccard: float, compiled: bool) -> RowSignatures:
    """Sign the texts of some rows.

    Args:
        texts: None of them null.
        num_perm: Length of a MinHash signature; None asks for SimHash.
        jaccard: The threshold that MinHash bands are made for.
        compiled: Whether to use `kernels`, where numba is installed.
    """
    found = kernels() if compiled else None
    return (
        _sign_with_numpy(texts, num_perm, jaccard)
        if found is None
        else _sign_with_kernels(texts, num_perm, jaccard, found)
    )


def _sign_with_numpy(texts: pa.LargeStringArray, num_perm: int | None, jaccard: float) -> RowSignatures:
    rows = Tokenizer().tokenize(texts)
    offsets, values = _value_sets(rows)
    if num_perm is None:
        keys = simhash_rows(rows)[:, None]
        sums = _sums(rows.hashes * rows.counts.astype(np.uint64), rows.offsets)
    else:
        keys = band_keys(minhash_rows(rows, *permutations(num_perm)), jaccard)
        sums = _sums(mixed(values.astype(np.uint64)), offsets)
    return RowSignatures(text_hashes(texts), sums, keys, offsets, values)


def _sums(numbers: KeyArray, offsets: IntArray) -> KeyArray:
    """The sum of each row's numbers modulo 2**64, in whatever order they stand; at least 1, or 0 for no numbers."""
    sums = np.zeros(len(numbers) + 1, dtype=np.uint64)
    np.cumsum(numbers, out=sums[1:])
    totals: KeyArray = sums[offsets[1:]] - sums[offsets[:-1]]
    return np.where(np.diff(offsets) > 0, np.maximum(totals, np.uint64(1)), np.uint64(0))


def _value_sets(rows: TokenRows) -> tuple[IntArray, ValueArray]:
    count = len(rows.offsets) - 1
    row = np.repeat(np.arange(count, dtype=np.uint64), np.diff(rows.offsets))
    keyed = distinct(row << np.uint64(32) | rows.hashes & np.uint64(0xFFFFFFFF))
    offsets = np.searchsorted(keyed >> np.uint64(32), np.arange(count + 1, dtype=np.uint64))
    return offsets.astype(np.int64), keyed.astype(np.uint32)


_of_thread = small_pages.of_thread()
_VALUES = 8 << 20  # values that a thread's room begins with: what is not touched of them costs nothing
_KNOWN_TO = 3  # the tuple, a name and the call know the room where nobody has a part of it


def _word_cache(size: int) -> KeyArray:
    """Each thread's own; what is in it changes how fast words are hashed and nothing else."""
    found: KeyArray | None = getattr(_of_thread, "words", None)
    if found is None:
        found = _of_thread.words = small_pages.zeros(size, np.uint64, all_used=True)
    return found


def _room_for_values(most: int) -> tuple[ValueArray, Callable[[int], ValueArray]]:
    """Room for so many values, and what takes the part of it that was written.

    Each thread takes parts of one array, one after the other, and begins anew with it once nobody has a part of it:
    memory that was never touched costs more than to write it, and only a fifth of the room is ever written.
    """
    found: tuple[ValueArray, int] | None = getattr(_of_thread, "values", None)
    room, first = found or (np.empty(0, dtype=np.uint32), 0)
    if sys.getrefcount(room) <= _KNOWN_TO:
        first = 0
    if len(room) - first < most:
        room, first = small_pages.zeros(max(most, _VALUES), np.uint32), 0

    def take(written: int) -> ValueArray:
        _of_thread.values = room, first + written
        return room[first : first + written]

    return room[first:], take


def _sign_with_kernels(
    texts: pa.LargeStringArray, num_perm: int | None, jaccard: float, compiled: Mapping[str, Any]
) -> RowSignatures:
    count = len(texts)
    data, offsets = text_bytes(texts)
    highest = int(data.max(initial=0))
    given_offsets, given = _given(texts, data, offsets) if highest >= 0xF0 else _none_given(count)
    multipliers, addends = permutations(num_perm) if num_perm else (np.zeros(0, np.uint32), np.zeros(0, np.uint32))
    band_count, width = bands(jaccard, num_perm) if num_perm else (1, 0)
    text, tokens = np.empty(count, np.uint64), np.empty(count, np.uint64)
    keys = np.empty((band_count, count), np.uint64)
    value_offsets = np.empty(count + 1, np.int64)
    values, take = _room_for_values(int(offsets[-1] - offsets[0]) // 2 + int(given_offsets[-1]) + count + 1)
    longest = max(int(np.diff(offsets).max(initial=0)), 2 * int(np.diff(given_offsets).max(initial=0)))
    compiled["hash_texts"](data, offsets, text)
    written = compiled["sign_rows"](
        data,
        offsets,
        given_offsets,
        given,
        character_table() if highest >= 0x80 else np.zeros(0, np.uint32),
        _word_cache(4 << CACHE_BITS),
        multipliers,
        addends,
        width,
        band_multipliers(width),
        tokens,
        keys,
        value_offsets,
        values,
        scratch(longest, len(multipliers)),
    )
    return RowSignatures(text, tokens, keys.T, value_offsets, take(written))


def _none_given(count: int) -> tuple[IntArray, KeyArray]:
    return np.zeros(count + 1, dtype=np.int64), np.zeros(0, dtype=np.uint64)


def _given(texts: pa.LargeStringArray, data: npt.NDArray[np.uint8], offsets: IntArray) -> tuple[IntArray, KeyArray]:
    """Token hashes of the texts that hold characters beyond the kernels' table, made here; by row, 0 for the others."""
    counts = np.zeros(len(texts) + 1, dtype=np.int64)
    hashes: list[int] = []
    for row in beyond_table(data, offsets).tolist():
        found = [token_hash(token) for token in tokens_of(texts[row].as_py())]
        counts[row + 1] = len(found)
        hashes += found
    return np.cumsum(counts), np.array(hashes, dtype=np.uint64)
