"""Words of a text as numbers: what the near-duplicate search compares.

A token is a maximal run of ``\\w`` characters of the lower-cased text. Its hash is the
first eight bytes of the SHA-1 of its UTF-8, little endian: the same on every machine, and
its low 32 bits are the hash that datasketch takes of it.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forge_pipeline.dataset_audit import arrow_functions as pc
from forge_pipeline.dataset_audit.arrow_arrays import numpy_of
from forge_pipeline.dataset_audit.groups import distinct
from forge_pipeline.dataset_audit.kept_tables import kept_tables

IntArray = npt.NDArray[np.int64]

_WORD = re.compile(r"\w+")
_PIECE = 1 << 16  # bytes that are looked through at once
_REMEMBERED = 1 << 19  # white-space-separated words whose tokens are kept

# What `character_table` says of a character.
LOWER = 0x1FFFFF
"""Mask of the lower-case code point."""
WORD, CASED, IGNORABLE, SIGMA, DOTTED_I = (1 << bit for bit in (31, 30, 29, 28, 27))
EMOJI_START, EMOJI_STOP = 0x1F000, 0x20000
"""The stretch beyond the first plane that the table covers, behind the first plane."""


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
        word = numpy_of(encoded.indices)
        word_rows = numpy_of(pc.list_parent_indices(words))
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


@cache
def character_table() -> npt.NDArray[np.uint32]:
    """What Python's ``lower()`` and ``\\w`` make of each character of the first plane and of the emoji.

    An entry holds the lower-case code point (`LOWER`) and flags: `WORD` of the lower-case character; `CASED` and
    `IGNORABLE` (Unicode's Cased and Case_Ignorable, a character being at most one of the two here), which decide
    whether the capital `SIGMA` becomes a final one; `DOTTED_I`, the one character that becomes two.

    Asked of Python once, and kept: read-only.
    """
    table = kept_tables("characters", ("tokens",), lambda: {"characters": _character_table()})["characters"]
    table.flags.writeable = False
    return table


def _character_table() -> npt.NDArray[np.uint32]:
    codes = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x10000), np.arange(EMOJI_START, EMOJI_STOP)])
    codes = codes[codes != 0x130]
    characters = [chr(code) for code in codes.tolist()]
    # Each before a sigma, with and without a cased letter before it; a line feed parts them and is neither.
    alone = _code_points("".join(f"{char}Σ\n" for char in characters).lower()).reshape(-1, 3)
    after_letter = _code_points("".join(f"A{char}Σ\n" for char in characters).lower()).reshape(-1, 4)
    cased = alone[:, 1] == ord("ς")
    ignorable = (after_letter[:, 2] == ord("ς")) & ~cased
    lower = alone[:, 0]
    word = np.array([char == "_" or char.isalnum() for char in lower.astype("<u4").tobytes().decode("utf-32-le")])
    table = np.full(0x10000 + EMOJI_STOP - EMOJI_START, 0xFFFD, dtype=np.uint32)
    places = np.where(codes < 0x10000, codes, codes - EMOJI_START + 0x10000)
    table[places] = lower
    for flag, holds in ((WORD, word), (CASED, cased), (IGNORABLE, ignorable)):
        table[places[holds]] |= np.uint32(flag)
    table[ord("Σ")] |= np.uint32(SIGMA)
    table[0x130] = ord("i") | DOTTED_I | CASED | WORD
    return table


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def beyond_table(data: npt.NDArray[np.uint8], offsets: IntArray) -> IntArray:
    """Texts that hold a character which `character_table` does not cover: beyond the first plane, and no emoji.

    Args:
        data: UTF-8 of all texts.
        offsets: Where each begins; the last one ends the last text.
    """
    found = [np.zeros(0, dtype=np.int64)]
    for first in range(0, int(offsets[-1]), _PIECE):  # most pieces hold none, and need no array of answers
        piece = data[first : min(first + _PIECE, int(offsets[-1]))]
        if piece.max() >= 0xF0:
            found.append(np.flatnonzero(piece >= 0xF0) + first)
    places = np.concatenate(found)
    places = places[(data[places] != 0xF0) | (data[np.minimum(places + 1, len(data) - 1)] != 0x9F)]
    rows = distinct(np.searchsorted(offsets, places, side="right") - 1)
    return rows[rows >= 0].astype(np.int64)


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """The concatenation of ``arange(start, start + length)`` for each pair."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    spread: IntArray = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return spread
