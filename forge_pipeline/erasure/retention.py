"""Retention acted on: what is past its period, what is kept in spite of that and why, and how the rest goes.

==========  =================================  ===================================================================
kind        setting of `retention`             what it is
==========  =================================  ===================================================================
work        staging_ttl_days                   scratch of runs: ``FORGE_HOME/work/<run>``
staging     staging_ttl_days                   models that wait for approval in run folders: ``<name>.staging``
cache       ephemeral_artefact_retention_days  ``FORGE_HOME/cache`` and ``FORGE_HOME/progress``: made again at need
raw         raw_documents_retention_days       datasets as they were read, in the store
artifact    ephemeral_artefact_retention_days  every other artefact of the line in the store
opening     audit_log_retention_days           personal values in vaults; the logs themselves are never shortened
==========  =================================  ===================================================================

Never deleted: what the latest materializations of any line are or were made from; and what documents a model that was
ever released, for ten years from the day it was placed on the market (AI Act Art. 18(1)), or without end where nobody
has declared that day. Deleted artefacts leave a tombstone.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from forge_pipeline.audit_log import VAULT_FILE, Vault, iter_entries
from forge_pipeline.erasure.lineage import Lineage, read_lineage
from forge_pipeline.erasure.places import Places, as_digest, plain_files
from forge_pipeline.erasure.search import erasure_log
from forge_pipeline.erasure.tombstone import Tombstone, read_tombstone, write_tombstone
from forge_pipeline.errors import GateFailedError
from forge_pipeline.integrity import Digest, atomic

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig

Kind = Literal["work", "staging", "cache", "raw", "artifact", "opening"]
Enforcement = Literal["log_only", "warn_on_excess", "block_on_excess"]
DOCUMENTATION_YEARS = 10  # AI Act Art. 18(1)


@dataclass(frozen=True)
class Item:
    """Something past its period.

    Attributes:
        path: The folder or file, from FORGE_HOME on where it lies there; of an opening its vault.
        digest: Of an artefact.
        count: Openings; else 1.
        size: Bytes.
        age_days, limit_days: How old it is and how old it may be.
        kept_because: Why it stays all the same; None: it is due.
        openings: Of a vault: log id, entry and field.
    """

    kind: Kind
    path: str
    digest: Digest | None
    count: int
    size: int
    age_days: int
    limit_days: int
    kept_because: str | None = None
    openings: tuple[tuple[str, int, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RetentionReport:
    """What is past its period; `purged` says whether the due part of it was deleted."""

    line: str
    enforce: Enforcement
    due: tuple[Item, ...]
    kept: tuple[Item, ...]
    purged: bool = False

    @property
    def blocks(self) -> bool:
        """Whether a run of the line is refused until this is purged."""
        return self.enforce == "block_on_excess" and bool(self.due) and not self.purged


def review(
    config: "ForgeConfig",
    places: Places,
    *,
    placed_on: date | None = None,
    released: Collection[Digest] = (),
    at: datetime | None = None,
) -> RetentionReport:
    """What of a line is past its period. Nothing is changed.

    Args:
        config: The recipe; without a `retention` section its defaults count.
        places: Where the deployment keeps its things.
        placed_on: The day on which models of this line were placed on the market or put into service, as declared.
        released: Models that were released, beside those that the line's log names.
        at: Now, unless given.
    """
    from forge_pipeline.config.compliance import RetentionSection

    section = config.retention or RetentionSection()
    now = (at or datetime.now(UTC)).astimezone(UTC)
    lineage = read_lineage(places)
    kept = _protected(lineage, {*released, *_released_in_logs(places)}, config.name, placed_on, now)
    days = section.staging_ttl_days, section.ephemeral_artefact_retention_days
    items = [
        *_folders("work", places, _children(places.home / "work"), days[0], now),
        *_folders("staging", places, _staging(places), days[0], now),
        *_folders("cache", places, _cached(places.home), days[1], now),
        *_artifacts(places, lineage, config.name, section.raw_documents_retention_days, days[1], kept, now),
        *_openings(places, section.audit_log_retention_days, now),
    ]
    return RetentionReport(
        config.name,
        section.enforce,
        tuple(item for item in items if item.kept_because is None),
        tuple(item for item in items if item.kept_because is not None),
    )


def purge(report: RetentionReport, places: Places, *, at: datetime | None = None) -> RetentionReport:
    """Delete what is due. What is deleted is logged first; what a crash leaves is due again.

    Raises:
        EvidenceError: It could not be logged; nothing more was deleted.
    """
    moment = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    log = erasure_log(places.home)
    for kind in dict.fromkeys(item.kind for item in report.due):
        items = [item for item in report.due if item.kind == kind]
        fields = {
            "target_kind": kind,
            "count": sum(item.count for item in items),
            "line": report.line,
            "digests": sorted(item.digest for item in items if item.digest),
            "bytes": sum(item.size for item in items),
            "limit_days": items[0].limit_days,
        }
        receipt = log.append("retention.purged", fields)
        for item in items:
            _delete(item, places, moment, receipt.anchor.log_id, receipt.seq)
    return RetentionReport(report.line, report.enforce, report.due, report.kept, purged=True)


def check_retention(report: RetentionReport) -> None:
    """Refuse to go on where the recipe says that excess blocks.

    Raises:
        GateFailedError: Saying how much is due, and what to type.
    """
    if report.blocks:
        raise GateFailedError(
            f"retention.enforce: block_on_excess: {sum(item.count for item in report.due)} things of line "
            f"{report.line!r} are past their retention period; look at them with `forge retention RECIPE`, delete them "
            "with `forge retention RECIPE --apply`"
        )


# --- what there is ------------------------------------------------------------------------------------------------


def _folders(kind: Kind, places: Places, paths: Iterable[Path], limit: int, now: datetime) -> Iterator[Item]:
    for path in paths:
        newest, size = _measure(path)
        age = (now - datetime.fromtimestamp(newest, UTC)).days
        if age > limit:
            yield Item(kind, places.shown(path), None, 1, size, age, limit)


def _measure(path: Path) -> tuple[float, int]:
    """When something in it was last changed, and its bytes."""
    files = [path] if path.is_file() else list(plain_files(path))
    stats = [file.stat() for file in files]
    return max((stat.st_mtime for stat in stats), default=path.stat().st_mtime), sum(stat.st_size for stat in stats)


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() else []


def _staging(places: Places) -> Iterator[Path]:
    for run in places.runs:
        yield from (path for path in sorted(run.glob("run-*/*.staging")) if path.is_dir())


def _cached(home: Path) -> Iterator[Path]:
    for path in _children(home / "cache"):
        if path.name == "tokenized":
            yield from (entry for shard in _children(path) if shard.is_dir() for entry in _children(shard))
        else:
            yield path
    yield from _children(home / "progress")


def _artifacts(
    places: Places,
    lineage: Lineage,
    line: str,
    raw_days: int,
    other_days: int,
    kept: dict[Digest, str],
    now: datetime,
) -> Iterator[Item]:
    for path in sorted(places.store.glob("sha256/*/*")):
        digest = as_digest(path.name)
        if digest is None or not path.is_dir() or read_tombstone(path) is not None:
            continue
        made = lineage.of(digest)
        if all(each.asset_key.split("/")[0] != line for each in made):  # of another line, or of none that is known
            continue
        is_raw = (path / "provenance.json").is_file() and not (path / "cleaning.json").is_file()
        limit = raw_days if is_raw else other_days
        times = [datetime.fromisoformat(each.recorded_at) for each in made if each.recorded_at]
        newest, size = _measure(path)
        age = (now - (max(times) if times else datetime.fromtimestamp(newest, UTC))).days
        if age > limit:
            kind: Kind = "raw" if is_raw else "artifact"
            yield Item(kind, places.shown(path), digest, 1, size, age, limit, kept.get(digest))


def _openings(places: Places, limit: int, now: datetime) -> Iterator[Item]:
    """Openings of entries older than the limit, by vault."""
    ends = now - timedelta(days=limit)
    for log in places.logs():
        vault = log.with_name(VAULT_FILE)
        openings = Vault(vault).openings()
        if not openings:
            continue
        times = {(entry.log_id, entry.seq): entry.time for entry in iter_entries(log)}
        old = [each for each in openings if times.get((each.log_id, each.seq), now) < ends]
        if old:
            oldest = min(times[each.log_id, each.seq] for each in old)
            keys = tuple((each.log_id, each.seq, each.field) for each in old)
            yield Item("opening", places.shown(vault), None, len(old), 0, (now - oldest).days, limit, openings=keys)


# --- what stays ---------------------------------------------------------------------------------------------------


def _protected(
    lineage: Lineage, released: set[Digest], line: str, placed_on: date | None, now: datetime
) -> dict[Digest, str]:
    """Artefacts that stay, each with the reason."""
    newest: dict[str, tuple[str, Digest]] = {}
    for each in lineage.made:
        newest[each.asset_key] = max(newest.get(each.asset_key, ("", each.digest)), (each.recorded_at, each.digest))
    latest = lineage.upstream(digest for _, digest in newest.values())
    kept = dict.fromkeys(latest, "the latest of a line was made from it")
    ends = _years_after(placed_on) if placed_on else None
    ours = {made.digest for made in lineage.made if made.asset_key.split("/")[0] == line}
    for model in sorted(released):
        if model in ours and ends is not None and now.date() >= ends:
            continue
        # A model's documentation: what it was made from, and what was measured and written about it.
        documents = lineage.upstream([model, *(made.digest for made in lineage.downstream([model]))])
        until = f"until {ends}" if ends and model in ours else "without end: nobody has declared when it was placed"
        kept |= dict.fromkeys(documents, f"documents the released model {model.short} (Art. 18(1)), {until}")
    return kept


def _years_after(day: date) -> date:
    try:
        return day.replace(year=day.year + DOCUMENTATION_YEARS)
    except ValueError:  # 29 February
        return date(day.year + DOCUMENTATION_YEARS, 3, 1)


def _released_in_logs(places: Places) -> Iterator[Digest]:
    for log in places.logs():
        for entry in iter_entries(log):
            if entry.event == "model.released":
                yield Digest(str(entry.data["subject"]))


# --- how it goes --------------------------------------------------------------------------------------------------


def _delete(item: Item, places: Places, moment: str, log_id: str, seq: int) -> None:
    path = places.home / item.path  # an absolute path stays what it is
    if item.kind == "opening":
        for opening in item.openings:
            Vault(path).shred(*opening)
    elif item.kind in ("raw", "artifact"):
        tombstone = Tombstone(item.digest, "retention", moment, log_id, seq)
        gone, staging = path.with_name(f".{path.name}.erasing"), path.with_name(f".{path.name}.tombstone")
        for leftover in (gone, staging):
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir()
        write_tombstone(staging, tombstone)
        os.replace(path, gone)
        atomic.publish_directory(staging, path)
        shutil.rmtree(gone)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
