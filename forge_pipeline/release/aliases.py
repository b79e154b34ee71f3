"""Aliases that people move, and stages that say what a model may be used for. Nothing here deletes a file.

    alias                           moved by
    released, and any other that    `promote` (gates, digests, approvals), `rollback` to a model that was released
    a release ever moved
    champion                        `set_alias`, to released models
    any other name                  `set_alias`, to models that are neither quarantined nor archived

Each change is announced in the line's log, made, and logged as done (`journal`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.audit_log import AuditLogger, Entry, read_entries
from forge_pipeline.errors import ConfigError, IntegrityError, StoreError
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.registry import AliasOperation, AliasRow, ModelRow, Registry
from forge_pipeline.release.journal import announce, changing, complete, log_stage, released_aliases
from forge_pipeline.release.recovery import recover_locked
from forge_pipeline.release.standing import problem_with_reason

RELEASED, CHAMPION = "released", "champion"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_UNUSABLE = ("quarantined", "archived")


@dataclass(frozen=True)
class Reverted:
    """A model that failed a gate.

    Attributes:
        subject: The model, quarantined now.
        reason: The gate's words.
        aliases: Alias -> the model that it means again; None where there was none to go back to.
    """

    subject: Digest
    reason: str
    aliases: dict[str, Digest | None]


def set_alias(registry: Registry, line: str, alias: str, uid: Digest, *, reason: str, log: AuditLogger) -> AliasRow:
    """Make a free alias of `line` mean the model `uid`.

    Raises:
        ConfigError: The name is none, or one that a release alone moves; no reason; the model's stage forbids it.
        StoreError: No model of that line has that digest.
        IntegrityError: Its files are not those of its digest.
        EvidenceError: The change could not be logged; nothing was changed.
    """
    _check_reason(reason)
    if not _NAME.fullmatch(alias):
        raise ConfigError(f"alias {alias!r}: expected lower-case letters, digits, '.', '_' and '-', at most 64")
    with changing(log):
        recover_locked(registry, log)
        if alias in {RELEASED, *released_aliases(read_entries(log.log_path))}:
            raise ConfigError(
                f"alias {alias!r} of line {line!r} moves by a release alone, or back by: forge models rollback"
            )
        model = _model_of(registry, line, uid)
        if model.stage in _UNUSABLE or (alias == CHAMPION and model.stage != "released"):
            wanted = "released" if alias == CHAMPION else "neither quarantined nor archived"
            raise ConfigError(f"model {uid} is {model.stage}; alias {alias!r} takes models that are {wanted}")
        _check_bytes(model)
        return _move(registry, line, alias, uid, "set", reason, log)


def rollback(
    registry: Registry,
    line: str,
    alias: str = RELEASED,
    *,
    reason: str,
    log: AuditLogger,
    to: Digest | None = None,
    away_from: Digest | None = None,
    quarantine: bool = False,
) -> AliasRow:
    """Make an alias mean the model that it meant before, at once: no gate and no approval is asked again.

    What was rolled away from keeps its files, its evidence and its place in the history. A second rollback
    goes one model further back. Quarantined and archived models are passed over.

    Args:
        to: Go back to this one of the models that the alias meant; None: to the last that may be used.
        away_from: What the alias means now, as the caller saw it; if it means another by now, nothing happens.
        quarantine: Quarantine the model that is rolled away from.

    Raises:
        ConfigError: No reason, or `to` is not among them.
        StoreError: There is nothing to go back to, or the alias does not mean `away_from`.
        IntegrityError: The files of the model to go back to are not those of its digest.
        EvidenceError: The change could not be logged; nothing was changed.
    """
    _check_reason(reason)
    with changing(log):
        recover_locked(registry, log)
        return _rollback(registry, line, alias, reason, log, to, away_from, quarantine)


def archive(registry: Registry, line: str, uid: Digest, *, reason: str, log: AuditLogger) -> None:
    """Mark a model as not to be used any more. Its files and its evidence stay.

    Raises:
        ConfigError: No reason, or an alias means it.
        StoreError: No model of that line has that digest.
    """
    _check_reason(reason)
    with changing(log):
        recover_locked(registry, log)
        _model_of(registry, line, uid)
        meant = [row.alias for row in registry.aliases(line) if row.model_uid == uid]
        if meant:
            raise ConfigError(f"model {uid} is what {', '.join(meant)} of line {line!r} means; move the alias first")
        log_stage(registry, log, uid, "archived", reason.strip())


def quarantine(registry: Registry, line: str, uid: Digest, *, reason: str, log: AuditLogger) -> None:
    """Mark a model as failed. Its files stay; an alias that means it is rolled back by `rollback`, not here.

    Raises:
        ConfigError: No reason.
        StoreError: No model of that line has that digest.
    """
    _check_reason(reason)
    with changing(log):
        recover_locked(registry, log)
        _model_of(registry, line, uid)
        log_stage(registry, log, uid, "quarantined", reason.strip())


def revert_failed(registry: Registry, line: str, log: AuditLogger, *, auto_revert: bool) -> tuple[Reverted, ...]:
    """Act on gates that failed, as the line's log holds them: the last word of each gate about each model.

    A candidate is quarantined. With `auto_revert` a released model that failed a gate after its release is
    quarantined too, and every alias that means it goes back to the last model that may be used.
    """
    done = []
    with changing(log):
        recover_locked(registry, log)
        for uid, reason in _failed_models(read_entries(log.log_path), after_release=auto_revert).items():
            model = registry.find_model(uid)
            if model is None or model.line != line or model.stage == "archived":
                continue
            meant = [row.alias for row in registry.aliases(line) if row.model_uid == uid]
            if model.stage == "quarantined" and not (meant and auto_revert):
                continue
            aliases = {alias: _previous(registry, line, alias) for alias in meant}
            if model.stage != "quarantined":
                log_stage(registry, log, uid, "quarantined", reason)
                log.log_event("model.reverted", subject=uid, reason=reason)
            elif not any(aliases.values()):
                continue
            for alias, previous in aliases.items():
                if previous is not None:
                    _rollback(registry, line, alias, f"{uid} failed: {reason}", log, previous, uid, False)
            done.append(Reverted(uid, reason, aliases))
    return tuple(done)


def _failed_models(entries: list[Entry], *, after_release: bool) -> dict[Digest, str]:
    """Model -> the words of the gates whose last decision about it failed.

    Args:
        after_release: Count those that failed after the model was released too; a release that came later than
            a failed gate was made in the light of it.
    """
    last: dict[tuple[str, str], Entry] = {}
    released: dict[str, int] = {}
    for entry in entries:
        if entry.event == "gate.decided":
            last[(str(entry.data["subject"]), str(entry.data["gate"]))] = entry
        elif entry.event == "model.released":
            released[str(entry.data["subject"])] = entry.seq
    found: dict[Digest, str] = {}
    for (subject, gate), entry in last.items():
        is_new = entry.seq > released.get(subject, -1) and (after_release or subject not in released)
        if entry.data["verdict"] == "failed" and is_new:
            words = f"{gate}: {entry.data['reason']}"
            found[Digest(subject)] = "; ".join(filter(None, [found.get(Digest(subject)), words]))
    return found


def _rollback(
    registry: Registry,
    line: str,
    alias: str,
    reason: str,
    log: AuditLogger,
    to: Digest | None,
    away_from: Digest | None,
    also_quarantine: bool,
) -> AliasRow:
    meanings = registry.alias_meanings(line, alias)
    if not meanings:
        raise StoreError(f"line {line!r} has no alias {alias!r}")
    if away_from is not None and meanings[-1] != away_from:
        raise StoreError(f"alias {alias!r} of line {line!r} means {meanings[-1]} by now, not {away_from}; look again")
    if to is not None and to not in meanings[:-1]:
        raise ConfigError(f"alias {alias!r} of line {line!r} did not mean {to} before; its history: forge models show")
    target = to or _previous(registry, line, alias)
    if target is None:
        raise StoreError(
            f"alias {alias!r} of line {line!r} has no earlier model that may be used; nothing to go back to"
        )
    model = _model_of(registry, line, target)
    if model.stage in _UNUSABLE:
        raise ConfigError(f"model {target} is {model.stage}; an alias does not go back to it")
    _check_bytes(model)
    if also_quarantine:  # first, so that a crash in between leaves it known as failed
        log_stage(registry, log, meanings[-1], "quarantined", reason.strip())
    return _move(registry, line, alias, target, "rollback", reason, log)


def _previous(registry: Registry, line: str, alias: str) -> Digest | None:
    """The last model before the present one that the alias may go back to."""
    for uid in reversed(registry.alias_meanings(line, alias)[:-1]):
        model = registry.find_model(uid)
        if model is not None and model.stage not in _UNUSABLE:
            return uid
    return None


def _move(
    registry: Registry, line: str, alias: str, uid: Digest, operation: AliasOperation, reason: str, log: AuditLogger
) -> AliasRow:
    current = registry.resolve_alias(line, alias)
    if current is not None and current.uid == uid:
        raise ConfigError(f"alias {alias!r} of line {line!r} means {uid} already")
    about = {
        "line": line,
        "alias": alias,
        "subject": uid,
        "previous": current.uid if current else None,
        "operation": operation,
        "reason": reason.strip(),
    }
    intent = announce(log, "alias.started", about)
    row = registry.move_alias(
        line, alias, uid, operation=operation, intent=intent.hash, set_by=intent.operator, reason=reason.strip()
    )
    assert row is not None
    complete(log, intent)
    return row


def _model_of(registry: Registry, line: str, uid: Digest) -> ModelRow:
    model = registry.find_model(uid)
    if model is None or model.line != line:
        raise StoreError(f"line {line!r} has no model {uid}; see: forge models list")
    return model


def _check_bytes(model: ModelRow) -> None:
    path = Path(model.path)
    if not path.is_dir():
        raise IntegrityError(f"model {model.uid} should lie in {path}, where there is no directory; restore it first")
    if (found := Manifest.of_directory(path).digest) != model.uid:
        raise IntegrityError(f"{path} is {found} now; expected {model.uid}. The alias was not moved")


def _check_reason(reason: str) -> None:
    if problem := problem_with_reason(reason, 1):
        raise ConfigError(problem)
