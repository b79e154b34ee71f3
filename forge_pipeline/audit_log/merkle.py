"""Merkle trees as RFC 9162 section 2.1 (and RFC 6962 before it) defines them, over SHA-256.

Names follow the RFC: a tree head is the root over the first n leaves, an inclusion
proof shows that a leaf stands in it, a consistency proof shows that a later tree
only appended to an earlier one. Hashes are 32 raw bytes here; callers present them.
`CompactRange` holds the roots of the perfect subtrees, largest first, so that an
append costs O(1) amortized and a root O(log n), without keeping the leaves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class CompactRange:
    """A tree over `size` leaves, kept as the roots of its perfect subtrees, largest first."""

    size: int = 0
    subtrees: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> "CompactRange":
        """The tree with one more leaf hash."""
        builder = RangeBuilder(self)
        builder.append(leaf)
        return builder.freeze()

    @property
    def root(self) -> bytes:
        return _fold(self.subtrees)


class RangeBuilder:
    """A compact range that grows in place, for walks over many leaves."""

    def __init__(self, start: CompactRange = CompactRange()) -> None:
        self.size = start.size
        self._subtrees = list(start.subtrees)

    def append(self, leaf: bytes) -> None:
        size, node = self.size, leaf
        while size & 1:  # two perfect subtrees of equal size become one
            node = node_hash(self._subtrees.pop(), node)
            size >>= 1
        self._subtrees.append(node)
        self.size += 1

    @property
    def root(self) -> bytes:
        return _fold(self._subtrees)

    def freeze(self) -> CompactRange:
        return CompactRange(self.size, tuple(self._subtrees))


def _fold(subtrees: Sequence[bytes]) -> bytes:
    if not subtrees:
        return EMPTY_ROOT
    node = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        node = node_hash(left, node)
    return node


def tree_head(leaves: Sequence[bytes]) -> bytes:
    """Root over `leaves` (leaf hashes)."""
    builder = RangeBuilder()
    for leaf in leaves:
        builder.append(leaf)
    return builder.root


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 9162 2.1.3.1: the audit path of `leaves[index]` in the tree over all of `leaves`."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), tree_head(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), tree_head(leaves[:split])]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 2.1.3.2."""
    if not 0 <= index < size:
        return False
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and node == root


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """RFC 9162 2.1.4.1: that the tree over `leaves` extends the one over its first `old_size`."""
    if not 0 < old_size <= len(leaves):
        raise ValueError(f"no proof from a tree of {old_size} to one of {len(leaves)}")
    return _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [tree_head(leaves)]
    split = _split(len(leaves))
    if old_size <= split:
        return [*_subproof(leaves[:split], old_size, whole=whole), tree_head(leaves[split:])]
    return [*_subproof(leaves[split:], old_size - split, whole=False), tree_head(leaves[:split])]


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 2.1.4.2."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_node = node_hash(new_node, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old_node == old_root and new_node == new_root


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (RFC 9162's k)."""
    return 1 << (size - 1).bit_length() - 1
