"""What `language_kernels` works on: the model as arrays, and words met before."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forge_pipeline.dataset_audit import utf8
from forge_pipeline.dataset_audit.fasttext_model import PRUNED, FastTextModel

DIMENSIONS = 16
REMEMBERED = 1 << 18
"""Words whose inputs are kept, at 128 bytes each. Web text brings a new word in about twenty."""

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
    """Words met before. It is emptied between two texts once it is full.

    Attributes:
        slots: Open-addressed: the upper half of a word's hash, and one more than its number in the lower half; or 0.
        keys: By number, the bytes of a word of less than 32, zeros after them, in the first 4 of 16; in the fifth the
            number of its inputs, or -1 if it is not prose; in the last 8 the sum of its inputs, two dimensions each.
        sums: The same memory, in which the sum begins at 16.
        used: Words that are remembered.
        begins, sizes, batch: Of the words that are looked up together: where they begin, their bytes; their keys (4),
            hash and place in `slots`.
        scratch: A word as it is classified.
        total, word_sums: Sums of inputs: of a text, and of one word.
        word_rows: The inputs of one word.
        hidden: What the labels are decided by.
        stack, stack_shares: Branches of the label tree.
    """

    slots: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint64]
    sums: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]
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
    room = REMEMBERED + 1024  # for the words of one more text
    words = np.zeros(16 * room + 16, dtype=np.uint64)
    first = -(words.ctypes.data // 8) % 16  # a word's numbers fill two lines of the processor's cache
    keys = words[first : first + 16 * room].reshape(room, 16)
    return Memory(
        slots=np.zeros(2 * REMEMBERED, dtype=np.uint64),
        keys=keys,
        sums=keys.view(np.int32),
        used=np.zeros(1, dtype=np.int64),
        begins=np.empty(BATCH, dtype=np.int64),
        sizes=np.empty(BATCH, dtype=np.int64),
        batch=np.empty((BATCH, 6), dtype=np.uint64),
        scratch=np.empty(_SCRATCH, dtype=np.uint8),
        total=np.empty(DIMENSIONS, dtype=np.int64),
        word_sums=np.empty(DIMENSIONS, dtype=np.int64),
        word_rows=np.empty(4 * _SCRATCH, dtype=np.int64),
        hidden=np.empty(DIMENSIONS, dtype=np.float64),
        stack=np.empty(2 * len(tables.children) + 4, dtype=np.int64),
        stack_shares=np.empty(2 * len(tables.children) + 4, dtype=np.float64),
    )


def _fnv(word: bytes) -> int:
    """fastText's hash: FNV-1a over signed bytes."""
    value = 2166136261
    for byte in word:
        value = ((value ^ (byte | (0xFFFFFF00 if byte > 127 else 0))) * 16777619) & 0xFFFFFFFF
    return value
