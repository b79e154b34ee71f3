"""A quantized fastText classifier, read from its ``.ftz`` file and kept as plain arrays.

fastText (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification", arXiv
1607.01759; "FastText.zip", arXiv 1612.03651) classifies a line by the mean of the vectors of
its inputs: every known word, and every character n-gram of every word. So the inputs of a
word can be added up once and used wherever the word stands. The layout of the file and the
way words become inputs follow fastText's own source (format version 12: `fasttext.cc`,
`dictionary.cc`, `quantmatrix.cc`, `productquantizer.cc`, `loss.cc`).

Vectors are kept in fixed point, because sums of integers are the same in any order: what is
added up word by word, row by row, with or without compiled code, gives the same bits.

Only what ``lid.176.ftz`` uses is read: a supervised model with hierarchical softmax, pruned
and product-quantized input, dense output, no word n-grams. Anything else is refused.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from forge_pipeline.errors import DataError

FRACTION_BITS = 20
"""Vectors are integers, in units of 2**-20. A word of 32 bytes adds up to less than 2**31 of them."""

_MAGIC, _VERSION = 793712314, 12
_SUPERVISED, _HIERARCHICAL_SOFTMAX = 3, 1
_END_OF_LINE = b"</s>"  # fastText reads a line's end as this word
_CENTROIDS = 256
_FNV_OFFSET, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
_SMOOTHING = 1e-5  # fastText adds it to every probability before its logarithm
PRUNED = 0xFFFF
"""In place of the row of an n-gram that was pruned."""


@dataclass(frozen=True)
class FastTextModel:
    """What decides the label of a line. D is the vectors' length, N the number of labels.

    Attributes:
        labels: Without the prefix ``__label__``, the most frequent first.
        vocabulary: Row of each known word.
        rows: Vectors of words and n-grams in fixed point; shape (words + n-grams, D).
        ngram_rows: Row of the n-gram with this hash modulo the table's length; 65535 where it was pruned.
        shortest, longest: Characters of an n-gram.
        nodes: Output vectors of the inner nodes of the label tree, the root last; shape (N - 1, D).
        children: Left and right child of each inner node: a label below N, or N plus an inner node; shape (N - 1, 2).
    """

    labels: tuple[str, ...]
    vocabulary: dict[bytes, int]
    rows: npt.NDArray[np.int32]
    ngram_rows: npt.NDArray[np.uint16]
    shortest: int
    longest: int
    nodes: npt.NDArray[np.float64]
    children: npt.NDArray[np.int32]

    @cached_property
    def end_of_line(self) -> npt.NDArray[np.int64]:
        """Vector of the input that every line ends with."""
        vector: npt.NDArray[np.int64] = self.rows[self.vocabulary[_END_OF_LINE]].astype(np.int64)
        return vector

    @cached_property
    def _children(self) -> list[list[int]]:
        children: list[list[int]] = self.children.tolist()
        return children

    def word_inputs(self, words: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The sum of each word's input vectors, shape (words, D), and the number of its inputs, shape (words,)."""
        known = [self.vocabulary.get(word) for word in words]
        owners = [np.array([place for place, row in enumerate(known) if row is not None], dtype=np.int64)]
        inputs = [np.array([row for row in known if row is not None], dtype=np.int64)]
        for word, rows in self._ngrams(words):
            owners.append(word)
            inputs.append(rows)
        owner, row = np.concatenate(owners), np.concatenate(inputs)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(words)).astype(np.int64)
        total = np.zeros((len(row) + 1, self.rows.shape[1]), dtype=np.int64)
        np.cumsum(self.rows[row[order]], axis=0, dtype=np.int64, out=total[1:])
        ends = np.cumsum(counts)
        return total[ends] - total[ends - counts], counts

    def _ngrams(self, words: Sequence[bytes]) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """For each n: the word, and the row, of every n-gram that was not pruned."""
        text = np.frombuffer(b"".join(b"<" + word + b">" for word in words), dtype=np.int8)
        starts = np.flatnonzero((text & np.int8(-64)) != np.int8(-128))  # of characters: no UTF-8 continuation bytes
        word_of = np.repeat(np.arange(len(words)), [len(word) + 2 for word in words])[starts]
        bounds = np.append(starts, len(text))
        signed = text.astype(np.uint32)  # fastText hashes signed bytes
        found = []
        for n in range(self.shortest, self.longest + 1):
            first = np.flatnonzero(word_of[: len(starts) - n + 1] == word_of[n - 1 :])
            begin, length = bounds[first], bounds[first + n] - bounds[first]
            hashes = np.full(len(first), _FNV_OFFSET)
            for offset in range(int(length.max(initial=0))):
                inside = offset < length
                hashes[inside] = (hashes[inside] ^ signed[begin[inside] + offset]) * _FNV_PRIME
            rows = self.ngram_rows[hashes % np.uint32(len(self.ngram_rows))].astype(np.int64)
            kept = rows != PRUNED
            found.append((word_of[first][kept], rows[kept]))
        return found

    def predict(
        self, sums: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The most probable label of each line, and its probability.

        Args:
            sums: Of the lines' input vectors, the end of the line left out; shape (lines, D).
            counts: Number of inputs, likewise.
        """
        hidden = (sums + self.end_of_line) / ((counts + 1)[:, None] * float(1 << FRACTION_BITS))
        parts = [np.zeros((len(sums), len(self.nodes))) for _ in range(4)]
        for dimension in range(self.nodes.shape[1]):  # in this order, so that compiled code can round alike
            parts[dimension % 4] += hidden[:, dimension, None] * self.nodes[None, :, dimension]
        scores = (parts[0] + parts[1]) + (parts[2] + parts[3])
        best = [self._descend(row) for row in scores.tolist()]
        return np.array([label for label, _ in best], dtype=np.int64), np.array([share for _, share in best])

    def _descend(self, scores: list[float]) -> tuple[int, float]:
        """The best leaf of the label tree: depth first, the likelier child first, hopeless branches left out."""
        label, best = 0, 0.0
        stack = [(len(self.labels) + len(self.nodes) - 1, 1.0)]
        while stack:
            node, share = stack.pop()
            if share < best:
                continue
            if node < len(self.labels):
                label, best = node, share
                continue
            left, right = self._children[node - len(self.labels)]
            towards_right = 1.0 / (1.0 + exp(-scores[node - len(self.labels)]))
            to_left, to_right = share * (1.0 - towards_right + _SMOOTHING), share * (towards_right + _SMOOTHING)
            pair = [(left, to_left), (right, to_right)]
            stack += pair if to_right >= to_left else pair[::-1]
        return label, best


def load_fasttext(path: Path) -> FastTextModel:
    """Read a quantized, supervised fastText model.

    Raises:
        DataError: The file is not one, is cut short, or uses what this reader does not know.
        OSError: It cannot be read.
    """
    reader = _Reader(path)
    if reader.numbers("<ii") != (_MAGIC, _VERSION):
        reader.refuse(f"expected a fastText model of format version {_VERSION}")
    dimensions, _, _, _, _, word_ngrams, loss, kind, buckets, shortest, longest, _, _ = reader.numbers("<12id")
    if (kind, loss, word_ngrams) != (_SUPERVISED, _HIERARCHICAL_SOFTMAX, 1) or shortest < 2 or dimensions % 4:
        reader.refuse("expected a supervised model with hierarchical softmax and n-grams of two characters or more")
    words, counts = _dictionary(reader)
    rows = _quantized(reader, dimensions)
    if reader.numbers("<?") != (False,):
        reader.refuse("expected a dense output matrix")
    nodes, width = reader.numbers("<qq")
    output = reader.array(np.dtype("<f4"), nodes * width).reshape(nodes, width)
    labels = [word for word, is_label in words if is_label]
    vocabulary = {word: place for place, (word, is_label) in enumerate(words) if not is_label}
    pruned = reader.pruned
    if nodes != len(labels) or width != dimensions or _END_OF_LINE not in vocabulary or len(rows) >= PRUNED:
        reader.refuse("its tables do not fit each other")
    ngram_rows = np.full(buckets, PRUNED, dtype=np.uint16)
    ngram_rows[pruned[:, 0]] = pruned[:, 1] + len(vocabulary)
    return FastTextModel(
        labels=tuple(label.decode().removeprefix("__label__") for label in labels),
        vocabulary=vocabulary,
        rows=np.rint(rows * float(1 << FRACTION_BITS)).astype(np.int32),
        ngram_rows=ngram_rows,
        shortest=shortest,
        longest=longest,
        nodes=np.ascontiguousarray(output[: len(labels) - 1], dtype=np.float64),
        children=_label_tree(counts[-len(labels) :]),
    )


class _Reader:
    """Reads little-endian numbers one after the other, and says which file was at fault."""

    def __init__(self, path: Path) -> None:
        self._path, self._bytes, self._at = path, path.read_bytes(), 0
        self.pruned = np.empty((0, 2), dtype=np.int32)

    def numbers(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        return struct.unpack(layout, self.take(size))

    def array(self, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
        return np.frombuffer(self.take(length * dtype.itemsize), dtype=dtype)

    def text(self) -> bytes:
        end = self._bytes.find(b"\0", self._at)
        if end < 0:
            self.refuse("it is cut short")
        return self.take(end + 1 - self._at)[:-1]

    def take(self, size: int) -> bytes:
        if size < 0 or self._at + size > len(self._bytes):
            self.refuse("it is cut short")
        self._at += size
        return self._bytes[self._at - size : self._at]

    def refuse(self, reason: str) -> NoReturn:
        raise DataError(f"{self._path}: not a language model that can be used: {reason}")


def _dictionary(reader: _Reader) -> tuple[list[tuple[bytes, bool]], list[int]]:
    """Words and labels in order, with their counts; leaves the pruned n-grams with the reader."""
    size, _, _, _, pruned = reader.numbers("<iiiqq")
    words, counts = [], []
    for _ in range(size):
        word = reader.text()
        count, is_label = reader.numbers("<q?")
        words.append((word, is_label))
        counts.append(count)
    reader.pruned = reader.array(np.dtype("<i4"), 2 * max(0, pruned)).reshape(-1, 2)
    return words, counts


def _quantized(reader: _Reader, dimensions: int) -> npt.NDArray[np.float64]:
    """The input matrix: each row a norm times centroids, one for every few dimensions; shape (rows, dimensions)."""
    is_quantized, has_norms = reader.numbers("<??")
    rows, width, code_count = reader.numbers("<qqi")
    if not is_quantized or not has_norms or width != dimensions:
        reader.refuse("expected a quantized input matrix with norms")
    codes = reader.array(np.dtype(np.uint8), code_count).reshape(rows, -1)
    centroids = _centroids(reader)
    norm_codes = reader.array(np.dtype(np.uint8), rows)
    norms = _centroids(reader)[0, norm_codes, 0].astype(np.float64)
    parts = centroids[np.arange(codes.shape[1])[None, :], codes].reshape(rows, dimensions)
    vectors: npt.NDArray[np.float64] = parts * norms[:, None]
    return vectors


def _centroids(reader: _Reader) -> npt.NDArray[np.float32]:
    """Of one product quantizer; shape (parts, 256, dimensions of a part)."""
    dimensions, parts, size, last = reader.numbers("<iiii")
    if last != size:
        reader.refuse("expected parts of equal size in its quantizer")
    return reader.array(np.dtype("<f4"), dimensions * _CENTROIDS).reshape(parts, _CENTROIDS, size)


def _label_tree(counts: Sequence[int]) -> npt.NDArray[np.int32]:
    """Children of the inner nodes of the Huffman tree that fastText builds over its labels' counts."""
    size = len(counts)
    weights = [*counts, *[10**15] * (size - 1)]
    children = np.zeros((size - 1, 2), dtype=np.int32)
    leaf, node = size - 1, size
    for parent in range(size, 2 * size - 1):
        for side in (0, 1):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[parent - size, side], leaf = leaf, leaf - 1
            else:
                children[parent - size, side], node = node, node + 1
        weights[parent] = sum(weights[child] for child in children[parent - size])
    return children
