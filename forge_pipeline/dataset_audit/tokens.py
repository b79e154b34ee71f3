"""Words of a text as numbers: what the near-duplicate search compares.

A token is a maximal run of ``\\w`` characters of the lower-cased text. Its hash is the
first eight bytes of the SHA-1 of its UTF-8, little endian: the same on every machine, and
its low 32 bits are the hash that datasketch takes of it.
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]

_WORD = re.compile(r"\w+")
_REMEMBERED = 1 << 19  # white-space-separated words whose tokens are kept


@dataclass(frozen=True)
class TokenRows:
    """The distinct tokens of some rows, by row.

    Attributes:
        offsets: Row `i` has the tokens from `offsets[i]` up to `offsets[i + 1]`; length rows + 1.
        indices: Of each token, its place in `vocabulary`.
        counts: How often it stands in its row.
        vocabulary: Hashes of all distinct tokens, sorted.
    """

    offsets: IntArray
    indices: IntArray
    counts: IntArray
    vocabulary: npt.NDArray[np.uint64]

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Hash of each token, in the order of `indices`."""
        hashes: npt.NDArray[np.uint64] = self.vocabulary[self.indices]
        return hashes


def tokens_of(text: str) -> list[str]:
    """The tokens of one text, in order."""
    return _WORD.findall(text.lower())


def token_hash(token: str) -> int:
    """64-bit hash of a token. Its low 32 bits are datasketch's ``sha1_hash32``."""
    digest = hashlib.sha1(token.encode(errors="replace"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "little")


class Tokenizer:
    """Tokenizes blocks of texts, remembering the words that it has met. Holds no state that changes a result."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, ...]] = {}

    def tokenize(self, texts: pa.StringArray) -> TokenRows:
        """The distinct tokens of each text.

        A token never spans white space, so the texts are cut there at Arrow's speed, and only distinct words go
        through Python.
        """
        words = pc.ascii_split_whitespace(texts)
        encoded = pc.list_flatten(words).dictionary_encode()
        per_word = [self._hashes(word) for word in encoded.dictionary.to_pylist()]
        lengths = np.array([len(hashes) for hashes in per_word], dtype=np.int64)
        flat = np.array([value for hashes in per_word for value in hashes], dtype=np.uint64)
        vocabulary, places = np.unique(flat, return_inverse=True)
        word = encoded.indices.to_numpy(zero_copy_only=False)
        word_rows = pc.list_parent_indices(words).to_numpy(zero_copy_only=False)
        rows = np.repeat(word_rows, lengths[word]).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        indices = places[ranges(starts[word], lengths[word])]
        keys, counts = np.unique(rows * max(1, len(vocabulary)) + indices, return_counts=True)
        token_rows, token_indices = np.divmod(keys, max(1, len(vocabulary)))
        offsets = np.searchsorted(token_rows, np.arange(len(texts) + 1))
        return TokenRows(offsets.astype(np.int64), token_indices, counts.astype(np.int64), vocabulary)

    def _hashes(self, word: str) -> tuple[int, ...]:
        hashes = self._known.get(word)
        if hashes is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            hashes = self._known[word] = tuple(token_hash(token) for token in tokens_of(word))
        return hashes


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """The concatenation of ``arange(start, start + length)`` for each pair."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    spread: IntArray = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return spread
