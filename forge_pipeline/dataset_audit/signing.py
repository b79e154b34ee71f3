"""Room that `kernels.sign_rows` works in. Compiled loops make no arrays: see `machine_code`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CACHE_BITS = 18
"""The word cache has 2**18 places of 32 bytes: 8 MiB."""

PAD = 64  # bytes that may be read and written behind a text
FEW = 512  # up to so many tokens are sorted by buckets and insertion, more by radix


class Scratch(NamedTuple):
    """What is known of one row while it is tokenized and signed. Threads must not share it.

    Attributes:
        text, marks: The text in lower case, and which bytes of it are of words.
        edges: Where words begin and end.
        hashes: Of the words, in order.
        words: Their bytes and places in the cache, four numbers each.
        halves, spare, mixed: Lower halves of the hashes, in several states.
        tally: Of buckets, for sorting.
        state, block: Of SHA-1.
        planes: Of SimHash votes.
        signature: MinHash.
        low: Numbers whose lowest 0 to 8 bytes are set.
    """

    text: npt.NDArray[np.uint8]
    marks: npt.NDArray[np.uint8]
    edges: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    words: npt.NDArray[np.uint64]
    halves: npt.NDArray[np.uint32]
    spare: npt.NDArray[np.uint32]
    mixed: npt.NDArray[np.uint32]
    tally: npt.NDArray[np.int64]
    state: npt.NDArray[np.uint32]
    block: npt.NDArray[np.uint32]
    planes: npt.NDArray[np.uint64]
    signature: npt.NDArray[np.uint32]
    low: npt.NDArray[np.uint64]


def scratch(longest: int, registers: int) -> Scratch:
    """Room for texts of up to `longest` bytes and signatures of `registers`."""
    room = longest * 3 // 2 + 2 * PAD  # lower-casing makes two bytes three in the worst case
    words = room // 2 + 16
    return Scratch(
        text=np.empty(room, np.uint8),
        marks=np.empty(room, np.uint8),
        edges=np.empty(room + 2, np.int64),
        hashes=np.empty(words, np.uint64),
        words=np.empty(4 * words, np.uint64),
        halves=np.empty(words, np.uint32),
        spare=np.empty(words, np.uint32),
        mixed=np.empty(words, np.uint32),
        tally=np.empty(2 * FEW + 2, np.int64),
        state=np.empty(5, np.uint32),
        block=np.empty(80, np.uint32),
        planes=np.empty(64, np.uint64),
        signature=np.empty(registers, np.uint32),
        low=np.empty(9, np.uint64),
    )
