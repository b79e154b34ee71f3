"""What `language_kernels` works on: the model as arrays, and words met before."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import small_pages, utf8
from forge_pipeline.dataset_audit.fasttext_model import PRUNED, FastTextModel

DIMENSIONS = 16
PLACES_BITS = 16
"""Of the number of places in the memory of words: two words each, 192 bytes. Half of the words that web text brings are
met once only, and what is met often stays."""

BATCH = 16
"""Words that are looked up together: the memory is asked for all of them before it is read."""

_SCRATCH = 2048  # bytes; lower case makes a word at most half as long again


class Tables(NamedTuple):
    """What compiled code knows of a model. See `FastTextModel`.

    Attributes:
        slots: Open-addressed by the FNV hash of a word; its row, or -1.
        word_bytes, word_offsets: The words of the vocabulary, by row.
        ngrams: For each 64 buckets of n-grams a bit for each one that has a row, and how many have one before them:
            the model keeps one in fifty, and so they stay in the processor's cache; shape (buckets / 64, 2).
        ngram_rows: Of the buckets that have a row, in order, the row.
        code_bytes: Whether an ASCII character makes a word code.
        edges: Whether it is taken off a word's ends.
        limits: Bytes of the longest text, and of the longest word, that are looked at; and the number of buckets.
        steps: Bytes of words to judge by, and how probable the best label must be then; shape (steps, 2).
    """

    slots: npt.NDArray[np.int32]
    word_bytes: npt.NDArray[np.uint8]
    word_offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    ngrams: npt.NDArray[np.uint64]
    ngram_rows: npt.NDArray[np.uint16]
    nodes: npt.NDArray[np.float64]
    children: npt.NDArray[np.int32]
    end_of_line: npt.NDArray[np.int64]
    ngram_sizes: npt.NDArray[np.int64]
    classes: npt.NDArray[np.uint8]
    lower_case: npt.NDArray[np.uint32]
    code_bytes: npt.NDArray[np.bool_]
    edges: npt.NDArray[np.bool_]
    limits: npt.NDArray[np.int64]
    steps: npt.NDArray[np.float64]


class Memory(NamedTuple):
    """Words met before, two in each place; a new one takes that of the two which was not met last.

    Attributes:
        keys: By place, the bytes of two words of less than 32, zeros after them, 4 numbers each. The upper byte of the
            fourth holds how many inputs the word has (7 bits; 127 if it is not prose), and that of the first word also
            which of the two was met last.
        sums: By place and word, the sum of its inputs.
        begins, sizes, batch: Of the words that are looked up together: where they begin, their bytes; their keys (4)
            and places.
        scratch: A word as it is classified.
        total, word_sums: Sums of inputs: of a text, and of one word.
        word_rows: The inputs of one word.
        hidden: What the labels are decided by.
        stack, stack_shares: Branches of the label tree.
    """

    keys: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.int32]
    begins: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    batch: npt.NDArray[np.uint64]
    scratch: npt.NDArray[np.uint8]
    total: npt.NDArray[np.int64]
    word_sums: npt.NDArray[np.int64]
    word_rows: npt.NDArray[np.int64]
    hidden: npt.NDArray[np.float64]
    stack: npt.NDArray[np.int64]
    stack_shares: npt.NDArray[np.float64]


def tables(
    model: FastTextModel,
    *,
    code: frozenset[str],
    edges: str,
    prose_bytes: int,
    longest: int,
    steps: Sequence[tuple[int, float]],
) -> Tables:
    """The model and the rules for words, as arrays."""
    words = sorted(model.vocabulary, key=model.vocabulary.__getitem__)
    slots = np.full(1 << (2 * len(words)).bit_length(), -1, dtype=np.int32)
    for row, word in enumerate(words):
        place = _fnv(word) & (len(slots) - 1)
        while slots[place] >= 0:
            place = (place + 1) & (len(slots) - 1)
        slots[place] = row
    kept = np.flatnonzero(model.ngram_rows != PRUNED)
    ngrams = np.zeros((len(model.ngram_rows) // 64 + 1, 2), dtype=np.uint64)
    np.bitwise_or.at(ngrams[:, 0], kept >> 6, np.uint64(1) << (kept & 63).astype(np.uint64))
    ngrams[1:, 1] = np.cumsum(np.bitwise_count(ngrams[:-1, 0]))
    return Tables(
        slots=slots,
        word_bytes=np.frombuffer(b"".join(words), dtype=np.uint8).copy(),
        word_offsets=np.cumsum([0, *map(len, words)], dtype=np.int64),
        rows=model.rows,
        ngrams=ngrams,
        ngram_rows=model.ngram_rows[kept],
        nodes=model.nodes,
        children=model.children,
        end_of_line=model.end_of_line,
        ngram_sizes=np.array([model.shortest, model.longest], dtype=np.int64),
        classes=utf8.classes(),
        lower_case=utf8.lower_case(),
        code_bytes=np.array([chr(byte) in code for byte in range(128)]),
        edges=np.array([chr(byte) in edges for byte in range(128)]),
        limits=np.array([prose_bytes, longest, len(model.ngram_rows)], dtype=np.int64),
        steps=np.array(steps, dtype=np.float64),
    )


def memory(tables: Tables) -> Memory:
    """An empty one. Threads must not share it."""
    places = 1 << PLACES_BITS
    return Memory(
        keys=_aligned(8 * places).reshape(places, 8),
        sums=_aligned(16 * places).view(np.int32).reshape(2 * places, 16),
        begins=np.empty(BATCH, dtype=np.int64),
        sizes=np.empty(BATCH, dtype=np.int64),
        batch=np.empty((BATCH, 5), dtype=np.uint64),
        scratch=np.empty(_SCRATCH, dtype=np.uint8),
        total=np.empty(DIMENSIONS, dtype=np.int64),
        word_sums=np.empty(DIMENSIONS, dtype=np.int64),
        word_rows=np.empty(4 * _SCRATCH, dtype=np.int64),
        hidden=np.empty(DIMENSIONS, dtype=np.float64),
        stack=np.empty(2 * len(tables.children) + 4, dtype=np.int64),
        stack_shares=np.empty(2 * len(tables.children) + 4, dtype=np.float64),
    )


def _aligned(count: int) -> npt.NDArray[np.uint64]:
    """Zeros that begin where a line of the processor's cache does: eight of them fill one."""
    whole = small_pages.zeros(count + 8, np.uint64, all_used=True)
    first = -(whole.ctypes.data // 8) % 8
    return whole[first : first + count]


def _fnv(word: bytes) -> int:
    """fastText's hash: FNV-1a over signed bytes."""
    value = 2166136261
    for byte in word:
        value = ((value ^ (byte | (0xFFFFFF00 if byte > 127 else 0))) * 16777619) & 0xFFFFFFFF
    return value
