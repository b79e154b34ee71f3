"""What an audit log says was made: the digests in those of its events that state "this was stored"."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from forge_pipeline.audit_log import VerifyResult, iter_entries, verify_audit_log
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest

# Event -> the fields that hold the digest of what was made. A refusal or a question also names a digest, and vouches
# for nothing.
_STATED: Final[Mapping[str, tuple[str, ...]]] = {
    "artifact.materialized": ("digest", "files"),
    "training.completed": ("subject",),
    "model.released": ("subject",),
    "compliance.bundle_written": ("digest",),
}


@dataclass(frozen=True)
class RecordedArtifacts:
    """A log, verified, and the artefacts that it names.

    Attributes:
        log: What `verify_audit_log` found. When it is not valid, `entries` is empty.
        entries: Digest of an artefact, or of one of its files -> `seq` of the newest entry that states it.
    """

    log: VerifyResult
    entries: Mapping[Digest, int]

    @classmethod
    def read(cls, path: Path, **question: Any) -> "RecordedArtifacts":
        """Verify the log at `path` and gather what it names.

        Args:
            question: As `verify_audit_log` takes it: keys, checkpoints kept elsewhere, the log that is meant.

        Raises:
            OSError: The log cannot be read.
        """
        result = verify_audit_log(path, **question)
        found: dict[Digest, int] = {}
        if result.valid:
            try:
                for entry in islice(iter_entries(path), result.entries_count):
                    for field in _STATED.get(entry.event, ()):
                        found.update(dict.fromkeys(_digests(entry.data.get(field)), entry.seq))
            except IntegrityError:  # it changed after it was verified
                return cls(verify_audit_log(path, **question), {})
        return cls(result, found)


def _digests(value: Any) -> list[Digest]:
    """A digest, or those of a mapping from file name to digest; anything else names nothing."""
    if isinstance(value, Mapping):
        return [digest for each in value.values() for digest in _digests(each)]
    try:
        return [Digest(value)] if isinstance(value, str) else []
    except ValueError:
        return []
