"""Where runs of words from a given set stand in many texts.

A word is a token of `tokens.tokens_of`. Its hash is FNV-1a over the UTF-8 of the
lower-cased token; the hash of a run is the polynomial of its words' hashes, so that
every run of a text costs one multiplication. The kernel reads ASCII texts as they lie in
Arrow's buffers; texts with other characters go through Python, which says what a word is.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from forge_pipeline.dataset_audit.tokens import IntArray, tokens_of

UIntArray = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_OFFSET, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a, 64 bits (RFC 9923)
_BASE = 0x9E3779B97F4A7C15
_BITMAP_BITS = 22
_WORTH_A_KERNEL = 2_000_000  # characters: compiling or loading the kernel costs what Python needs for about these


def hash_of_run(words: Sequence[str]) -> int:
    """The hash of a run of tokens."""
    value = 0
    for word in words:
        value = (value * _BASE + _word_hash(word)) & _MASK
    return value


def runs_in(texts: pa.StringArray, lengths: Sequence[int], wanted: UIntArray) -> tuple[IntArray, UIntArray]:
    """Find the runs whose hashes are in `wanted`.

    Args:
        texts: Any texts, none of them null.
        lengths: Lengths in words of the runs.
        wanted: Their hashes, sorted.

    Returns:
        Index of the text and hash of the run, for each place; by text and place.
    """
    ascii_only = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    kernel = _kernel() if _characters(texts) >= _WORTH_A_KERNEL else None
    by_kernel = ascii_only if kernel else np.zeros(len(texts), dtype=bool)
    places, runs = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.uint64)]
    if kernel and by_kernel.any():
        found = _by_kernel(kernel, texts, by_kernel, lengths, wanted)
        places.append(found[0])
        runs.append(found[1])
    others = np.flatnonzero(~by_kernel)
    set_of_wanted = set(wanted.tolist())
    for index, text in zip(others.tolist(), texts.take(pa.array(others)).to_pylist(), strict=True):
        of_text = _by_python(text, lengths, set_of_wanted)
        places.append(np.full(len(of_text), index, dtype=np.int64))
        runs.append(np.array(of_text, dtype=np.uint64))
    place, run = np.concatenate(places), np.concatenate(runs)
    order = np.argsort(place, kind="stable")
    return place[order], run[order]


def _characters(texts: pa.StringArray) -> int:
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


def _word_hash(word: str) -> int:
    value = _OFFSET
    for byte in word.encode(errors="replace"):
        value = ((value ^ byte) * _PRIME) & _MASK
    return value


def _by_python(text: str, lengths: Sequence[int], wanted: set[int]) -> list[int]:
    prefix = [0]
    for word in tokens_of(text):
        prefix.append((prefix[-1] * _BASE + _word_hash(word)) & _MASK)
    found = []
    for end in range(1, len(prefix)):
        for length in lengths:
            if length <= end:
                run = (prefix[end] - prefix[end - length] * pow(_BASE, length, 1 << 64)) & _MASK
                if run in wanted:
                    found.append(run)
    return found


def _by_kernel(
    kernel: Any, texts: pa.StringArray, chosen: npt.NDArray[np.bool_], lengths: Sequence[int], wanted: UIntArray
) -> tuple[IntArray, UIntArray]:
    _, offsets, data = texts.cast(pa.large_string()).buffers()
    ends = np.frombuffer(offsets, dtype=np.int64, count=len(texts) + 1 + texts.offset)[texts.offset :]
    characters = np.frombuffer(data, dtype=np.uint8) if data else np.zeros(0, dtype=np.uint8)
    bitmap = np.zeros(1 << (_BITMAP_BITS - 3), dtype=np.uint8)
    slots = wanted >> np.uint64(64 - _BITMAP_BITS)
    np.bitwise_or.at(bitmap, slots >> np.uint64(3), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8))
    sizes = np.array(lengths, dtype=np.int64)
    powers = np.array([pow(_BASE, length, 1 << 64) for length in lengths], dtype=np.uint64)
    longest = int(np.max(np.diff(ends), initial=0)) // 2 + 2
    prefix = np.zeros(longest, dtype=np.uint64)
    room = 1 << 12
    while True:
        places, runs = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.uint64)
        count = kernel(characters, ends, chosen, sizes, powers, bitmap, wanted, prefix, places, runs)
        if count <= room:
            return places[:count], runs[:count]
        room = int(count)


@cache
def _kernel() -> Any:
    """The compiled search, or None where numba is not installed."""
    try:
        import numba
    except ImportError:
        return None

    base, offset, prime = np.uint64(_BASE), np.uint64(_OFFSET), np.uint64(_PRIME)
    shift, three, seven = np.uint64(64 - _BITMAP_BITS), np.uint64(3), np.uint64(7)

    @numba.njit(nogil=True, cache=True)
    def find(characters, ends, chosen, sizes, powers, bitmap, wanted, prefix, places, runs):  # type: ignore[no-untyped-def]  # pragma: no cover
        count = 0
        for row in range(len(ends) - 1):
            if not chosen[row]:
                continue
            words = 0
            value = offset
            inside = False
            for at in range(ends[row], ends[row + 1] + 1):
                char = characters[at] if at < ends[row + 1] else np.uint8(32)
                if 65 <= char <= 90:
                    char = np.uint8(char + 32)
                if 97 <= char <= 122 or 48 <= char <= 57 or char == 95:
                    value = (value ^ np.uint64(char)) * prime
                    inside = True
                elif inside:
                    words += 1
                    prefix[words] = prefix[words - 1] * base + value
                    value = offset
                    inside = False
                    for index in range(len(sizes)):
                        size = sizes[index]
                        if size > words:
                            continue
                        run = prefix[words] - prefix[words - size] * powers[index]
                        slot = run >> shift
                        if not bitmap[slot >> three] >> (slot & seven) & 1:
                            continue
                        position = np.searchsorted(wanted, run)
                        if position < len(wanted) and wanted[position] == run:
                            if count < len(places):
                                places[count] = row
                                runs[count] = run
                            count += 1
        return count

    return find
