"""Changes of the registry that a crash leaves either done or not done, and the log agreeing with it.

    log: <what is about to happen>  ->  registry: one transaction  ->  log: <it happened>, naming the first entry

The first entry's hash stands in the registry's row, so that whoever comes after a crash sees which
of the two happened. `recovery.recover` finishes what the registry holds and takes back what it does not:

    killed after                 the registry    `recover` appends
    the first entry              unchanged       release.abandoned, alias.abandoned
    the transaction              changed         model.released, alias.moved
    the last entry               changed         nothing

A decision, a quarantine or an archived model needs one entry only, which is the authority: `recover`
enters in the registry what the log holds.

All of it happens under one lock beside the log, which the operating system drops when its holder dies:
an entry without an end, seen under the lock, belongs to nobody alive.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forge_pipeline.audit_log import AuditLogger, Entry, Receipt, read_entries
from forge_pipeline.audit_log.locking import exclusive
from forge_pipeline.errors import StoreError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import ModelStage, Registry

LOCK_FILE = "release.lock"

# What opens a change: (what completes it, what takes it back).
ENDS = {
    "release.started": ("model.released", "release.abandoned"),
    "alias.started": ("alias.moved", "alias.abandoned"),
}
COMPLETIONS = tuple(finished for finished, _ in ENDS.values())
STAGE_OF: Mapping[str, ModelStage] = {"model.quarantined": "quarantined", "model.archived": "archived"}


@contextmanager
def changing(log: AuditLogger) -> Iterator[None]:
    """Hold the line's releases, aliases and decisions against everybody else. Not to be nested."""
    with exclusive(log.log_path.parent / LOCK_FILE):
        yield


@dataclass(frozen=True)
class Intent:
    """A change that the log has announced: `event`, its fields, the entry's hash, and who it names."""

    event: str
    about: Mapping[str, Any]
    hash: Digest
    operator: str


def announce(log: AuditLogger, event: str, about: Mapping[str, Any]) -> Intent:
    """Log what is about to happen."""
    receipt = log.append(event, about)
    return Intent(event, about, receipt.entry_hash, read_entries(log.log_path)[receipt.seq].operator)


def complete(log: AuditLogger, intent: Intent, **more: Any) -> Receipt:
    """Log that it happened; returns the receipt."""
    return log.append(ENDS[intent.event][0], {**intent.about, **more, "intent": intent.hash})


def released_aliases(entries: Iterable[Entry]) -> set[str]:
    """Aliases that a release moved at least once."""
    return {str(entry.data.get("alias")) for entry in entries if entry.event == "model.released"}


def unfinished(entries: Iterable[Entry]) -> list[Entry]:
    """Entries that opened a change which no later entry ends, oldest first."""
    opened: list[Entry] = []
    for entry in entries:
        if entry.event in ENDS:
            opened.append(entry)
        elif opened and any(entry.event in ends for ends in ENDS.values()):
            opened = [each for each in opened if not _ends(entry, each)]
    return opened


def _ends(entry: Entry, opening: Entry) -> bool:
    if entry.event not in ENDS[opening.event]:
        return False
    if "intent" in entry.data:
        return bool(entry.data["intent"] == opening.hash)
    same = ("subject", "alias")  # an entry of an earlier version names no intent
    return all(entry.data.get(name) == opening.data.get(name) for name in same)


def log_stage(registry: Registry, log: AuditLogger, uid: Digest, stage: ModelStage, reason: str) -> None:
    """Log that a model is quarantined or archived, then enter it.

    Raises:
        StoreError: The registry knows no such model; nothing was logged.
    """
    if registry.find_model(uid) is None:
        raise StoreError(f"the registry knows no model {uid}; register it first")
    event = next(event for event, meant in STAGE_OF.items() if meant == stage)
    log.log_event(event, subject=uid, reason=reason)
    registry.set_stage(uid, stage, reason=reason)
