"""Reading a log: entries, and Merkle proofs about them.

`entries` only parses. Whether the entries are those that were written is what
`verify.verify_audit_log` answers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.audit_log import merkle
from forge_pipeline.audit_log.chain import Anchor, as_bytes, as_digest
from forge_pipeline.audit_log.entry import MAX_LINE_BYTES, Entry
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest


def iter_entries(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Each entry of the log at `path`, in order, one in memory at a time.

    Raises:
        OSError: The file cannot be read.
        IntegrityError: A line is not a whole entry; the line is named.
    """
    for number, line in enumerate(_lines(Path(path)), start=1):
        try:
            yield Entry.parse(line)
        except ValueError as error:
            raise IntegrityError(f"{path}: line {number} is not an entry: {error}") from error


def read_entries(path: str | os.PathLike[str]) -> list[Entry]:
    """All entries of the log at `path`; raises as `iter_entries`."""
    return list(iter_entries(path))


@dataclass(frozen=True)
class InclusionProof:
    """That one entry stands in the log that `anchor` names; RFC 9162 2.1.3.

    Attributes:
        seq: The entry's number, from 0.
        entry_hash: Hash of its line.
        anchor: The log's id, size and root.
        path: Hashes from the entry up to the root.
    """

    seq: int
    entry_hash: Digest
    anchor: Anchor
    path: tuple[Digest, ...]

    def holds(self) -> bool:
        """Whether the path leads from the entry to the anchor's root. Whose anchor it is, the caller must know."""
        leaf, root = as_bytes(self.entry_hash), as_bytes(self.anchor.root)
        return merkle.verify_inclusion(leaf, self.seq, self.anchor.size, [as_bytes(d) for d in self.path], root)


@dataclass(frozen=True)
class ConsistencyProof:
    """That the log of `new` only appended to the log of `old`; RFC 9162 2.1.4."""

    old: Anchor
    new: Anchor
    path: tuple[Digest, ...]

    def holds(self) -> bool:
        """Whether the path leads from the old root to the new one."""
        old, new = as_bytes(self.old.root), as_bytes(self.new.root)
        path = [as_bytes(digest) for digest in self.path]
        same_log = self.old.log_id == self.new.log_id
        return same_log and merkle.verify_consistency(self.old.size, self.new.size, old, new, path)


def prove_inclusion(path: str | os.PathLike[str], seq: int, *, size: int | None = None) -> InclusionProof:
    """Prove that entry `seq` stands in the log's first `size` entries (default: all).

    Raises:
        OSError: The file cannot be read.
        IntegrityError: A line is torn or the first is not an entry.
        ValueError: There are not so many entries.
    """
    log_id, leaves = _leaves(path, size)
    proof = merkle.inclusion_proof(leaves, seq)
    anchor = Anchor(log_id, len(leaves), as_digest(merkle.tree_head(leaves)))
    return InclusionProof(seq, as_digest(leaves[seq]), anchor, tuple(map(as_digest, proof)))


def prove_consistency(path: str | os.PathLike[str], old_size: int, *, new_size: int | None = None) -> ConsistencyProof:
    """Prove that the log's first `new_size` entries (default: all) extend its first `old_size`; raises as above."""
    log_id, leaves = _leaves(path, new_size)
    proof = merkle.consistency_proof(leaves, old_size)
    old = Anchor(log_id, old_size, as_digest(merkle.tree_head(leaves[:old_size])))
    new = Anchor(log_id, len(leaves), as_digest(merkle.tree_head(leaves)))
    return ConsistencyProof(old, new, tuple(map(as_digest, proof)))


def _leaves(path: str | os.PathLike[str], size: int | None) -> tuple[str, list[bytes]]:
    log_id = next(iter_entries(path)).log_id
    leaves = [merkle.leaf_hash(line) for line in _lines(Path(path))]
    if size is not None and not 0 < size <= len(leaves):
        raise ValueError(f"{path} holds {len(leaves)} entries, not {size}")
    return log_id, leaves[:size]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not line.endswith(b"\n"):
                raise IntegrityError(f"{path}: line {number} is torn or too long; it ends without a line feed")
            yield line[:-1]
