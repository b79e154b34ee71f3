"""Groups of equal keys, and groups of things that pairs connect; sorted arrays, no Python objects a row.

Both depend on the values alone: not on the machine's sorting instructions, nor on the order of the pairs.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]
_Number = TypeVar("_Number", np.int64, np.uint64)

MIX = np.uint64(0x9E3779B97F4A7C15)


def mixed(keys: KeyArray) -> KeyArray:
    """Keys whose upper bits depend on all of theirs; equal only where they are equal."""
    return keys * MIX


def distinct(*numbers: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """The numbers of all arrays, each once, ascending: `np.unique`, which imports `numpy.ma` for 20 milliseconds."""
    ordered = np.concatenate(numbers)
    ordered.sort()
    new = np.empty(len(ordered), dtype=bool)
    new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def equal_groups(keys: KeyArray) -> tuple[IntArray, IntArray]:
    """Positions of keys that occur more than once, group by group.

    The upper bits of a key and its position share one 64-bit word, so that one sort of plain numbers
    puts equal keys beside each other in the order of their positions.

    Returns:
        The positions, ascending inside each group, and the group boundaries: group `g` is
        `positions[bounds[g]:bounds[g + 1]]`.
    """
    count = len(keys)
    low = np.uint64((1 << max(1, (count - 1).bit_length())) - 1)
    packed = mixed(keys)
    packed &= ~low
    packed |= np.arange(count, dtype=np.uint64)
    packed.sort()
    beside = (packed[1:] ^ packed[:-1]) <= low
    repeated = np.zeros(count, dtype=bool)
    repeated[1:] = beside
    repeated[:-1] |= beside
    packed = packed[repeated]
    positions = (packed & low).astype(np.int64)
    own = keys[positions]
    if np.any((own[1:] != own[:-1]) & ((packed[1:] ^ packed[:-1]) <= low)):  # upper bits agree and keys differ
        order = np.lexsort((positions, own))
        positions, own = positions[order], own[order]
    first = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]])) if len(own) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.append(first, len(own)))
    kept = np.repeat(sizes > 1, sizes)
    bounds = np.concatenate([[0], np.cumsum(sizes[sizes > 1])]).astype(np.int64)
    return positions[kept], bounds


def first_equal(keys: KeyArray) -> IntArray:
    """For each key, the position of the first one that is equal to it; shape (len(keys),)."""
    first = np.arange(len(keys), dtype=np.int64)
    positions, bounds = equal_groups(keys)
    first[positions] = np.repeat(positions[bounds[:-1]], np.diff(bounds))
    return first


def components(count: int, left: IntArray, right: IntArray) -> IntArray:
    """The smallest member of each thing's connected component; shape (count,).

    Roots hook onto the smallest root beside them and paths are halved, again and again
    (Shiloach and Vishkin, 1982): a handful of passes over arrays.

    Args:
        count: Number of things, 0 to count - 1.
        left, right: The pairs that connect them; shape (pairs,) each.
    """
    label = np.arange(count, dtype=np.int64)
    while len(left):
        one, other = label[left], label[right]
        apart = one != other
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        np.minimum.at(label, one, other)
        np.minimum.at(label, other, one)
        while not np.array_equal(label, above := label[label]):
            label = above
    return label
