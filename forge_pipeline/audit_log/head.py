"""Where a log ends: what an append has to know, and how it is read back from the file.

Reading back hashes every line up to the checkpoint and compares the root, so a log
that was changed or shortened is refused, not extended. What a crash can leave after
the checkpoint is one whole entry, or part of one; nothing else is taken for that.
"""

from dataclasses import dataclass, replace
from typing import BinaryIO

from forge_pipeline.audit_log import events, merkle
from forge_pipeline.audit_log.chain import Anchor, as_digest
from forge_pipeline.audit_log.checkpoint import Checkpoint
from forge_pipeline.audit_log.entry import MAX_LINE_BYTES, Entry
from forge_pipeline.audit_log.keys import Fingerprints, LogKeys
from forge_pipeline.errors import EvidenceError

_MARKED = tuple(b'"event":"%s"' % name.encode() for name in (events.RUN_CLOSED, events.KEYS_ADDED))


@dataclass(frozen=True)
class Head:
    """The state of a log after its last entry.

    Attributes:
        end: Bytes up to and including the last line feed.
        tree: The Merkle tree over all entries.
        last: Hash of the last entry, 32 raw bytes.
        log_id: The log's UUID.
        keys: Fingerprints of the keys in force.
        closed_runs: Run ids that were closed.
    """

    end: int
    tree: merkle.CompactRange
    last: bytes
    log_id: str
    keys: Fingerprints
    closed_runs: frozenset[str] = frozenset()

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.log_id, self.tree.size, as_digest(self.tree.root))

    @classmethod
    def of_genesis(cls, line: bytes) -> "Head":
        """The state after a log's first line (with its line feed).

        Raises:
            ValueError: The line does not begin a log.
        """
        entry = Entry.parse(line[:-1])
        if entry.event != events.GENESIS or entry.seq != 0:
            raise ValueError(f"the first entry is {entry.event!r} number {entry.seq}, not {events.GENESIS!r} number 0")
        leaf = merkle.leaf_hash(line[:-1])
        keys = Fingerprints.from_json(entry.data.get("keys"))
        return cls(len(line), merkle.CompactRange().append(leaf), leaf, entry.log_id, keys)

    def then(self, line: bytes, entry: Entry) -> "Head":
        """The state after one more line (with its line feed), which holds `entry`."""
        leaf = merkle.leaf_hash(line[:-1])
        after = replace(self, end=self.end + len(line), tree=self.tree.append(leaf), last=leaf)
        return after._marked(entry)

    def _marked(self, entry: Entry) -> "Head":
        if entry.event == events.RUN_CLOSED:
            return replace(self, closed_runs=self.closed_runs | {entry.run_id})
        if entry.event == events.KEYS_ADDED:
            return replace(self, keys=Fingerprints.from_json(entry.data.get("keys")))
        return self

    def keys_for(self, entry: Entry) -> Fingerprints:
        """Fingerprints of the keys that `entry`, if it is the next, must be authenticated with."""
        return self._marked(entry).keys

    def is_followed_by(self, line: bytes, keys: LogKeys) -> bool:
        """Whether `line` (no line feed) is a whole entry that this log's writer made next."""
        try:
            entry = Entry.parse(line)
            in_force = self.keys_for(entry)
        except ValueError:
            return False
        return (
            entry.log_id == self.log_id
            and entry.seq == self.tree.size
            and entry.prev_hash == as_digest(self.last)
            and keys.problem_with(entry, in_force) is None
        )


def read_head(file: BinaryIO, checkpoint: Checkpoint, acknowledged: Head | None, *, only_grew: bool) -> Head:
    """Read `file` up to the end that `checkpoint` names.

    Args:
        file: The log, opened for reading.
        checkpoint: What stands beside it.
        acknowledged: The state that this writer last saw on the disk; the log must go on from there.
        only_grew: Whether `file` is the file of that state, grown since; the old part is then not read again.

    Raises:
        EvidenceError: The log is not what the checkpoint says; it is refused as it is.
    """
    if acknowledged is not None and checkpoint.anchor.size < acknowledged.tree.size:
        raise _refusal(f"it went back from {acknowledged.tree.size} entries to {checkpoint.anchor.size}")
    head = acknowledged if acknowledged is not None and only_grew else _genesis(file, checkpoint)
    file.seek(head.end)
    tree, end, last = merkle.RangeBuilder(head.tree), head.end, head.last
    while True:
        if acknowledged is not None and tree.size == acknowledged.tree.size and tree.root != acknowledged.tree.root:
            raise _refusal(f"its first {tree.size} entries are not those that were there before")
        if tree.size >= checkpoint.anchor.size:
            break
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            raise _refusal(f"it holds {tree.size} entries where its checkpoint says {checkpoint.anchor.size}")
        last = merkle.leaf_hash(line[:-1])
        tree.append(last)
        end += len(line)
        if any(mark in line for mark in _MARKED):
            head = _marked(head, line, tree.size)
    head = replace(head, tree=tree.freeze(), end=end, last=last)
    if head.anchor != checkpoint.anchor:
        raise _refusal(f"its first {tree.size} entries are not those that its checkpoint was made over")
    return head


def _genesis(file: BinaryIO, checkpoint: Checkpoint) -> Head:
    file.seek(0)
    try:
        head = Head.of_genesis(file.readline(MAX_LINE_BYTES + 1))
    except ValueError as error:
        raise _refusal(f"its first line does not begin a log: {error}") from error
    if checkpoint.anchor.size < 1 or checkpoint.anchor.log_id != head.log_id:
        raise _refusal("its checkpoint is of another log")
    return head


def _marked(head: Head, line: bytes, number: int) -> Head:
    try:
        return head._marked(Entry.parse(line[:-1]))
    except ValueError as error:
        raise _refusal(f"line {number} is not an entry: {error}") from error


def _refusal(reason: str) -> EvidenceError:
    return EvidenceError(
        f"the audit log was changed outside this program: {reason}. Nothing was appended. Look at it with "
        "`forge verify log`, restore the log and its checkpoint from a copy, or move both aside to begin a new log"
    )
