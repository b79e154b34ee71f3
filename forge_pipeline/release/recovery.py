"""`recover`: after a crash, registry and log say the same again. `check_alias`: whether they do."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forge_pipeline.audit_log import LOG_FILE, AuditLogger, Entry, read_entries
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.release.approvals import enter_missing, missing_entries
from forge_pipeline.release.journal import COMPLETIONS, ENDS, STAGE_OF, changing, unfinished


@dataclass(frozen=True)
class Recovery:
    """One thing that `recover` put right.

    Attributes:
        what: ``finished`` and ``taken back`` are changes of an alias; ``entered`` is what the log held and the
            registry did not.
        event: The log's entry that it was about.
        subject: The model.
    """

    what: Literal["finished", "taken back", "entered"]
    event: str
    subject: Digest


def recover(registry: Registry, log: AuditLogger | Path) -> tuple[Recovery, ...]:
    """Make registry and log agree again after a crash; nothing is written where they do.

    Args:
        log: The line's log, or its directory.

    Raises:
        EvidenceError: Something is to be put right and the log cannot be written.
        IntegrityError: A line of the log is not an entry.
    """
    path = log.log_path if isinstance(log, AuditLogger) else log / LOG_FILE
    if not path.is_file() or not _is_unsettled(registry, read_entries(path)):
        return ()
    logger = log if isinstance(log, AuditLogger) else AuditLogger(str(log), f"recovery-{uuid.uuid4().hex[:12]}")
    with changing(logger):
        return recover_locked(registry, logger)


def recover_locked(registry: Registry, log: AuditLogger) -> tuple[Recovery, ...]:
    """`recover` for whoever is `changing` already."""
    entries = read_entries(log.log_path)
    done = []
    for entry in unfinished(entries):
        finished, abandoned = ENDS[entry.event]
        about, subject = dict(entry.data), Digest(str(entry.data["subject"]))
        if _is_done(registry, entry):
            log.append(finished, {**about, "intent": entry.hash, "recovered": True})
            done.append(Recovery("finished", entry.event, subject))
        else:
            log.append(abandoned, {**about, "intent": entry.hash})
            done.append(Recovery("taken back", entry.event, subject))
    for entry in _not_entered(registry, entries):
        stage = STAGE_OF[entry.event]
        registry.set_stage(Digest(entry.data["subject"]), stage, reason=str(entry.data["reason"]))
        done.append(Recovery("entered", entry.event, Digest(entry.data["subject"])))
    entered = enter_missing(registry, entries, str(log.log_path.parent.resolve()))
    done += [Recovery("entered", entry.event, Digest(entry.data["subject"])) for entry in entered]
    return tuple(done)


def check_alias(registry: Registry, log_path: Path, line: str, alias: str) -> None:
    """Hold what an alias means in the registry against what the log says that it was moved to.

    Raises:
        IntegrityError: They differ, or a change was begun and neither finished nor taken back.
    """
    entries = read_entries(log_path)
    begun = [entry for entry in unfinished(entries) if entry.data.get("alias") == alias]
    if begun:
        raise IntegrityError(
            f"alias {alias!r} of line {line!r}: a change of it was begun and not finished; run recover"
        )
    moved = [entry for entry in entries if entry.event in COMPLETIONS and entry.data.get("alias") == alias]
    row = registry.resolve_alias(line, alias)
    found, expected = row.uid if row else None, moved[-1].data["subject"] if moved else None
    if found != expected:
        raise IntegrityError(
            f"alias {alias!r} of line {line!r} means {found or 'nothing'} in the registry, and {expected or 'nothing'} "
            f"by the log {log_path}; somebody changed one of the two"
        )


def _is_done(registry: Registry, opening: Entry) -> bool:
    line, alias = str(opening.data.get("line", "")), str(opening.data["alias"])
    return any(row.intent == opening.hash for row in registry.alias_history(line, alias))


def _not_entered(registry: Registry, entries: Sequence[Entry]) -> list[Entry]:
    """The last word of the log about a model's stage, where the registry has another."""
    last: dict[str, Entry] = {}
    for entry in entries:
        if entry.event in STAGE_OF or entry.event in COMPLETIONS:
            last[str(entry.data["subject"])] = entry
    missing = []
    for subject, entry in last.items():
        row = registry.find_model(Digest(subject)) if entry.event in STAGE_OF else None
        if row is not None and row.stage != STAGE_OF[entry.event]:
            missing.append(entry)
    return missing


def _is_unsettled(registry: Registry, entries: Sequence[Entry]) -> bool:
    return bool(unfinished(entries) or _not_entered(registry, entries) or missing_entries(registry, entries))
