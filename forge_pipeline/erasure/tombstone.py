"""What stays of an artefact that was taken out of the store: ``erased.json`` in its place, digests and counts only.

The store can then say why an artefact is gone, and the same bytes, published again from a backup, are refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forge_pipeline.integrity import Digest, read_report, write_report

TOMBSTONE_FILE = "erased.json"


@dataclass(frozen=True)
class Tombstone:
    """Why an artefact is gone.

    Attributes:
        artifact: Its digest; None for a folder that had none in the store.
        reason: ``erasure``: a person's rows were in it, or it was made from them; ``retention``: its time was over.
        removed_at: ISO 8601, UTC.
        log_id, seq: The entry of the audit log that says so (`seq` from 0).
        rows_removed: Rows of the person in it.
        successor: The artefact with the other rows; None: it has to be made again.
        request: Digest of the erasure request.
    """

    artifact: Digest | None
    reason: Literal["erasure", "retention"]
    removed_at: str
    log_id: str
    seq: int
    rows_removed: int = 0
    successor: Digest | None = None
    request: Digest | None = None

    @property
    def words(self) -> str:
        """A sentence for whoever asked for the artefact."""
        verb = "erased" if self.reason == "erasure" else "removed, its retention period being over,"
        after = (
            f"; without the erased rows it is {self.successor}" if self.successor else "; materialize the asset again"
        )
        return f"was {verb} on {self.removed_at[:10]}, see entry {self.seq} of log {self.log_id}{after}"


def write_tombstone(directory: Path, tombstone: Tombstone) -> None:
    """Put a tombstone into a folder."""
    write_report(directory / TOMBSTONE_FILE, tombstone)


def read_tombstone(directory: Path) -> Tombstone | None:
    """The tombstone that a folder of the store holds in place of an artefact; None: it holds the artefact.

    Raises:
        IntegrityError: There is a file of that name and nothing else, and it is no tombstone.
    """
    path = directory / TOMBSTONE_FILE
    if not path.is_file() or any(entry.name != TOMBSTONE_FILE for entry in directory.iterdir()):
        return None
    return read_report(path, Tombstone)
