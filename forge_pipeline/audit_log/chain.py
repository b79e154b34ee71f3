"""How entries are linked: pure functions of bytes.

An entry's hash is the RFC 9162 leaf hash of its line without the line feed, written
``sha256:<hex>``. The next entry names it as `prev_hash`, which says *where* a log was
changed; the Merkle root over the same hashes says *whether* it was, in 32 bytes that
can be kept elsewhere. One hash serves both.
"""

from dataclasses import dataclass

from forge_pipeline.audit_log import merkle
from forge_pipeline.integrity import Digest


def entry_hash(line: bytes) -> Digest:
    """Hash of one entry's canonical bytes (no line feed)."""
    return as_digest(merkle.leaf_hash(line))


def as_digest(raw: bytes) -> Digest:
    """32 raw bytes in the form that the log and its readers write."""
    return Digest(f"sha256:{raw.hex()}")


def as_bytes(digest: Digest) -> bytes:
    """The 32 raw bytes of a digest."""
    return bytes.fromhex(digest.hex)


@dataclass(frozen=True)
class Anchor:
    """What a log was at one moment, small enough to be kept anywhere else.

    Attributes:
        log_id: The log's UUID.
        size: Entries it held.
        root: RFC 9162 tree head over them.
    """

    log_id: str
    size: int
    root: Digest


@dataclass(frozen=True)
class Receipt:
    """What an append gives back once the entry is durable.

    Attributes:
        seq: The entry's number, from 0.
        entry_hash: Hash of its line.
        anchor: The log with this entry as its last.
    """

    seq: int
    entry_hash: Digest
    anchor: Anchor
