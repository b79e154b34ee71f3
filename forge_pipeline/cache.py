"""What lies under ``$FORGE_HOME/cache``: how large it is, what uses it, and what of it goes.

Everything here can be made again from what is kept elsewhere, so deleting costs time and no evidence. What a
running process holds (`integrity.in_use`) stays, and so does what somebody is making at this moment.

    kind           an entry is
    base_models    a GGUF base model, expanded for training
    tokenized      a tokenized dataset
    benchmarks     what a base model answered in a benchmark; told together
    unfinished     what a process that was killed had not finished
    kept_tables    of the dataset audit: machine code and tables; shared by all homes, so only `clear` deletes them
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forge_pipeline.errors import ConfigError, ForgeError
from forge_pipeline.integrity.in_use import is_held, unused, use_file

KEPT_TABLES, UNFINISHED = "kept_tables", "unfinished"
_AN_HOUR = 3600.0


@dataclass(frozen=True)
class CacheEntry:
    """One thing that can be made again.

    Attributes:
        size: Bytes of its files.
        last_used: When it was last taken, or made where nobody notes that.
        in_use: A running process holds it.
        used_by: Lines whose latest model or tokens were made with it.
    """

    kind: str
    path: Path
    size: int
    last_used: datetime
    in_use: bool
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cleared:
    """What went, and what would have gone if no process used it."""

    freed: tuple[CacheEntry, ...]
    kept: tuple[CacheEntry, ...]

    @property
    def bytes_freed(self) -> int:
        return sum(entry.size for entry in self.freed)


def list_cache(home: Path) -> tuple[CacheEntry, ...]:
    """Every entry, by kind and then largest first.

    Args:
        home: FORGE_HOME; it need not exist.
    """
    users = _users(home)
    found = [*_entries(home / "cache", users), *_kept_tables()]
    return tuple(sorted(found, key=lambda entry: (entry.kind, -entry.size, entry.path)))


def prune(
    home: Path,
    *,
    older_than: timedelta | None = None,
    max_size: int | None = None,
    now: datetime | None = None,
    dry_run: bool = False,
) -> Cleared:
    """Delete what was not used for `older_than`, then the longest unused until `max_size` bytes are left.

    Raises:
        ConfigError: Neither is given.
        OSError: Something cannot be deleted; what went before stays deleted.
    """
    if older_than is None and max_size is None:
        raise ConfigError("prune needs --older-than or --max-size; to delete everything of a kind: forge cache clear")
    entries = [entry for entry in list_cache(home) if entry.kind != KEPT_TABLES]
    entries.sort(key=lambda entry: (entry.last_used, entry.path))
    left, wanted = sum(entry.size for entry in entries), []
    oldest = None if older_than is None else (now or datetime.now(UTC)) - older_than
    for entry in entries:
        too_old = oldest is not None and entry.last_used < oldest
        if too_old or (max_size is not None and left > max_size):
            wanted.append(entry)
            left -= 0 if entry.in_use else entry.size
    return _delete(wanted, dry_run)


def clear(home: Path, kind: str, *, dry_run: bool = False) -> Cleared:
    """Delete every entry of one kind, or of all kinds but the kept tables for ``all``.

    Raises:
        ConfigError: There is no such kind.
        OSError: Something cannot be deleted.
    """
    entries = list_cache(home)
    kinds = {"base_models", "tokenized", "benchmarks", UNFINISHED, KEPT_TABLES, *(entry.kind for entry in entries)}
    if kind not in kinds | {"all"}:
        raise ConfigError(f"cache kind {kind!r}: expected all or one of {', '.join(sorted(kinds))}")
    chosen = kinds - {KEPT_TABLES} if kind == "all" else {kind}
    return _delete([entry for entry in entries if entry.kind in chosen], dry_run)


def _delete(entries: Sequence[CacheEntry], dry_run: bool) -> Cleared:
    freed: list[CacheEntry] = []
    kept: list[CacheEntry] = []
    for entry in entries:
        gone = not entry.in_use if dry_run else _is_deleted(entry)
        (freed if gone else kept).append(entry)
    return Cleared(tuple(freed), tuple(kept))


def _is_deleted(entry: CacheEntry) -> bool:
    """Delete it unless it is in use by now."""
    if entry.kind == UNFINISHED and entry.in_use:
        return False
    if entry.path.is_file() and not entry.path.is_symlink():  # read whole into memory: deleting disturbs nobody
        entry.path.unlink(missing_ok=True)
        return True
    with unused(entry.path) as free:
        if free:
            # Out of sight in one step: who looks now finds it whole or not at all.
            aside = Path(tempfile.mkdtemp(prefix=f".{entry.path.name}.", dir=entry.path.parent))
            entry.path.rename(aside / "deleted")
            entry.path.with_name(f"{entry.path.name}.digest").unlink(missing_ok=True)
            shutil.rmtree(aside)
    return free  # folders stay, also empty ones: a stage may be about to write into them


def _entries(cache: Path, users: dict[str, set[str]]) -> Iterator[CacheEntry]:
    for kind in sorted(path for path in _children(cache) if path.is_dir() and not path.is_symlink()):
        for path in _children(kind):
            if path.is_dir() and len(path.name) == 2:  # spread over folders by the first byte of the key
                yield from (_entry(kind.name, each, users) for each in _children(path) if not _is_note(each))
            elif not _is_note(path):
                yield _entry(kind.name, path, users)


def _is_note(path: Path) -> bool:
    """A lock, or the digest of the entry beside it."""
    return path.suffix in (".lock", ".use", ".digest")


def _entry(kind: str, path: Path, users: dict[str, set[str]]) -> CacheEntry:
    size, newest = _measured(path)
    if path.name.startswith("."):
        # Aside of an atomic write. While its process works its files change; a lock of its own it has not.
        return CacheEntry(UNFINISHED, path, size, _moment(newest), time.time() - newest < _AN_HOUR)
    note = use_file(path)
    used = note.stat().st_mtime if note.is_file() else newest
    lines = users.get(_recorded_digest(path), set())
    return CacheEntry(kind, path, size, _moment(max(used, newest)), is_held(path), tuple(sorted(lines)))


def _measured(path: Path) -> tuple[int, float]:
    """Bytes, and the newest time of any file; a file that goes meanwhile counts nothing."""
    size, newest = 0, 0.0
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        try:
            stat = each.lstat()
        except FileNotFoundError:
            continue
        newest = max(newest, stat.st_mtime)
        size += 0 if each.is_dir() else stat.st_size
    return size, newest


def _recorded_digest(path: Path) -> str:
    """The digest that an entry had when it was made: beside it, or in it."""
    for file in (path.with_name(f"{path.name}.digest"), path / "digest"):
        if file.is_file():
            return file.read_text(encoding="ascii", errors="replace").strip()
    return ""


def _users(home: Path) -> dict[str, set[str]]:
    """Digest -> lines whose latest artefacts were made with it, as the links under ``latest`` say."""
    from forge_pipeline.models import ModelDirectory

    found: dict[str, set[str]] = {}
    for link in sorted((home / "latest").glob("**/*")) if (home / "latest").is_dir() else ():
        if not link.is_symlink() or link.name not in ("fine_tuned_model", "tokenized_dataset"):
            continue
        line = link.relative_to(home / "latest").parts[0]
        found.setdefault(f"sha256:{link.readlink().name}", set()).add(line)
        if link.name == "fine_tuned_model":
            try:
                base = ModelDirectory.open(link).record.base_model.digest
            except (ForgeError, OSError):  # a link whose artefact was erased says nothing any more
                continue
            found.setdefault(str(base), set()).add(line)
    return found


def _kept_tables() -> Iterator[CacheEntry]:
    from forge_pipeline.dataset_audit.kept_files import kept_files

    for path in kept_files():
        size, newest = _measured(path)
        yield CacheEntry(KEPT_TABLES, path, size, _moment(newest), False)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
