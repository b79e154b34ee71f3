"""Right to erasure (GDPR 17): rows go, openings are shredded, models made from them are named; logs stay as they are.

The steps, each on the disk before the next begins:

(1) The plan is worked out and written to ``FORGE_HOME/erasure/requests/`` (`planning`: no identifier in it).
(2) ``data.erasure_requested`` is logged.
(3) The datasets and the models made from them are put into the register, so that none is released from now on, and
    ``model.trained_on_erased_data`` is logged in the log of each model's line.
(4) Corpora are rewritten, artefacts of the store replaced by tombstones and their successors published, folders of
    runs and files of scratch removed, openings shredded.
(5) ``data.erasure_completed`` is logged, and the plan is cut down to its digest.

A crash between any two leaves a plan that `resume` finishes, and that the next `erase` finishes first. An error is
logged as ``data.erasure_failed`` and leaves the same. What this does not reach: backups (declared, and named in the
log), copies elsewhere, weights, free blocks of the disk.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forge_pipeline.audit_log import LOG_FILE, AuditLogger, Vault, iter_entries
from forge_pipeline.audit_log.locking import exclusive
from forge_pipeline.data.artifacts import DatasetProvenance
from forge_pipeline.erasure.identifier import Subject
from forge_pipeline.erasure.lineage import Made, read_lineage
from forge_pipeline.erasure.places import ERASURE, Places
from forge_pipeline.erasure.planning import EqualRows, Plan, RowIds, Step, plan, rows_of_ids
from forge_pipeline.erasure.register import ErasedData, add_to_register
from forge_pipeline.erasure.rows import write_without
from forge_pipeline.erasure.search import Hit, SubjectWanted, Survey, erasure_log, keyed_tag
from forge_pipeline.erasure.tombstone import Tombstone, read_tombstone, write_tombstone
from forge_pipeline.errors import ConfigError, DataError, ForgeError, IntegrityError
from forge_pipeline.integrity import (
    Digest,
    Manifest,
    atomic,
    canonical_json,
    json_digest,
    loads_strict,
    read_report,
    write_report,
)

REQUESTS = "requests"
At = Callable[[str], None]
"""Told which point of an erasure is reached; what a test raises here is a crash at that point."""


@dataclass(frozen=True)
class CorpusChange:
    """A rewritten corpus: its digests and how many rows are gone."""

    path: str
    before: Digest
    after: Digest | None
    rows: int


@dataclass(frozen=True)
class Removal:
    """An artefact, a folder or a file that is gone; `successor` holds its other rows."""

    path: str
    digest: Digest | None
    asset_key: str | None
    rows: int
    successor: Digest | None


@dataclass(frozen=True)
class Affected:
    """Something made from the erased rows."""

    asset_key: str
    digest: Digest
    kind: str
    run_id: str
    is_model: bool


@dataclass(frozen=True)
class ErasureResult:
    """What was done, or with `dry_run` what would be.

    Attributes:
        request: Digest of the request, which every trace of it names.
        remaining: Where the person is found still, in places that are never changed: logs, models, bundles, corpora
            that were not named. Not known (empty) of requests that were resumed without the identifier.
        backups_pending: As declared.
    """

    request: Digest
    dry_run: bool
    corpora: tuple[CorpusChange, ...]
    removed: tuple[Removal, ...]
    openings_shredded: int
    affected: tuple[Affected, ...]
    remaining: tuple[Hit, ...] = ()
    backups_pending: tuple[str, ...] = ()
    not_searched: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing remains where this command looks."""
        return not self.remaining

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.corpora) + sum(each.rows for each in self.removed)


@dataclass(frozen=True)
class _Request:
    """A plan on its way; what lies in ``requests/``."""

    request: Digest
    request_id: str
    requested_at: str
    target_kind: str
    subject_tag: str
    steps: tuple[Step, ...]
    datasets: tuple[Digest, ...]
    affected: tuple[Affected, ...]
    marks: tuple[tuple[str, str, Digest], ...]  # log directory, asset key, model
    backups_pending: tuple[str, ...]
    store: str
    results: dict[str, Digest] = field(default_factory=dict)  # step number -> digest of what took the place


def erase(
    identifier: str | Subject | None = None,
    *,
    places: Places,
    corpora: Iterable[Path] = (),
    row_ids: Sequence[str] = (),
    backups_pending: Sequence[str] = (),
    justification: str | None = None,
    dry_run: bool = False,
    at: datetime | None = None,
    reached: At = lambda point: None,
) -> ErasureResult:
    """Erase a person's rows.

    Args:
        identifier: The person; or
        row_ids: values of the column ``id`` or ``row_id`` of rows in `corpora`. What was made from `corpora` loses
            the same rows.
        places: What is looked through.
        corpora: The data files that are rewritten. Rows in other corpora stay and are reported.
        backups_pending: Copies that somebody has to deal with, in words that name nobody.
        justification: Kept in the vault only.
        dry_run: Say what would be done. Nothing is written, not even to the log.
        at: Now, unless given.
        reached: For tests.

    Raises:
        ConfigError: Neither or both of identifier and row ids, or an identifier that cannot mean one person.
        DataError: A corpus is missing, or cannot be rewritten.
        EvidenceError: The log could not be written; nothing was erased after that point.
    """
    named = tuple(dict.fromkeys(path.resolve() for path in corpora))
    missing = next((path for path in named if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}: there is no such corpus; name a data file")
    where = replace(places, corpora=tuple(dict.fromkeys((*named, *places.corpora))))
    wanted, kind, normal, subject = _wanted(identifier, row_ids, named)
    folder = where.home / ERASURE
    if dry_run:
        return _result(_draft(wanted, where, named, kind, normal, backups_pending, at)[0], where, subject, dry_run=True)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock"):
        _resume_all(where.home, reached)
        request, key = _draft(wanted, where, named, kind, normal, backups_pending, at)
        _save(where.home, request)
        reached("planned")
        personal = {"query_key": key}
        if justification:
            personal["justification"] = subject.masked(justification) if subject else justification
        done = _carry_out(where.home, request, personal, reached)
    return _after(done, where, wanted, subject)


def resume(home: Path, *, reached: At = lambda point: None) -> tuple[ErasureResult, ...]:
    """Finish what a crash or an error interrupted; nobody needs to say whom it was about.

    Raises:
        IntegrityError: A file is neither what it was when the plan was made nor what the plan makes of it.
        EvidenceError: The log could not be written.
    """
    if not (home / ERASURE / REQUESTS).is_dir():
        return ()
    with exclusive(home / ERASURE / ".lock"):
        return tuple(_result(request, None, None, dry_run=False) for request in _resume_all(home, reached))


def _resume_all(home: Path, reached: At) -> list[_Request]:
    folder = home / ERASURE / REQUESTS
    return [_carry_out(home, _load(path), {}, reached) for path in sorted(folder.glob("*.json"))]


def _wanted(
    identifier: str | Subject | None, row_ids: Sequence[str], corpora: tuple[Path, ...]
) -> tuple[SubjectWanted | tuple[RowIds, EqualRows], str, str, Subject | None]:
    if (identifier is None) == (not row_ids):
        raise ConfigError("name the person, or the ids of rows; one of the two")
    if identifier is None:
        if not corpora:
            raise ConfigError("row ids are looked up in corpora; name the files with --corpus")
        ids = RowIds(frozenset(row_ids))
        return (ids, rows_of_ids(corpora, ids)), "row_id", canonical_json(sorted(ids.ids)).decode(), None
    subject = identifier if isinstance(identifier, Subject) else Subject.parse(identifier)
    return SubjectWanted(subject), subject.kind, subject.normal, subject


def _survey(wanted: SubjectWanted | tuple[RowIds, EqualRows], places: Places, corpora: tuple[Path, ...]) -> Survey:
    lineage = read_lineage(places)
    if isinstance(wanted, SubjectWanted):
        return Survey.of(places, wanted, lineage)
    ids, rows = wanted
    # An id means a row in the corpora that were named; elsewhere the same number may be anybody's.
    nowhere = replace(places, home=places.home / ERASURE / "nothing", store=places.home / ERASURE / "nothing", runs=())
    sources = Survey.of(replace(nowhere, corpora=corpora), ids, lineage)
    made = Survey.of(replace(places, corpora=()), rows, lineage)
    elsewhere = (each for each in made.found if each[0].path not in corpora)
    return replace(made, found=(*sources.found, *elsewhere))


def _draft(
    wanted: SubjectWanted | tuple[RowIds, EqualRows],
    places: Places,
    corpora: tuple[Path, ...],
    kind: str,
    normal: str,
    backups: Sequence[str],
    at: datetime | None,
) -> tuple[_Request, str]:
    found: Plan = plan(_survey(wanted, places, corpora), corpora)
    tag, key = keyed_tag(normal)
    moment = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    request_id = uuid.uuid4().hex
    identity = {
        "request_id": request_id,
        "requested_at": moment,
        "target_kind": kind,
        "subject_tag": tag,
        "steps": [[step.action, step.before, step.removed] for step in found.steps],
    }
    request = _Request(
        request=json_digest(identity),
        request_id=request_id,
        requested_at=moment,
        target_kind=kind,
        subject_tag=tag,
        steps=found.steps,
        datasets=found.datasets,
        affected=tuple(_affected(made) for made in found.affected),
        marks=tuple(
            sorted(
                {(str(made.log), made.asset_key, made.digest) for made in found.affected if made.is_model and made.log}
            )
        ),
        backups_pending=tuple(backups),
        store=str(places.store),
    )
    return request, key


def _affected(made: Made) -> Affected:
    return Affected(made.asset_key, made.digest, made.kind, made.run_id, made.is_model)


# --- carrying out -------------------------------------------------------------------------------------------------


def _carry_out(home: Path, request: _Request, personal: Mapping[str, str], reached: At) -> _Request:
    log = erasure_log(home)
    try:
        log_id, seq = _requested(log, request, personal)
        reached("requested")
        _register(home, request, log_id, seq)
        reached("registered")
        for directory, key, digest in request.marks:
            _mark(Path(directory), key, digest, request)
            reached(f"marked {key}")
        for number, step in enumerate(request.steps):
            request = _do(home, request, number, step, (log_id, seq), reached)
            reached(f"{step.action} {number} done")
        _point_nowhere_else(home)
        _completed(log, request)
        reached("completed")
    except (ForgeError, OSError) as error:
        # The message may hold a path that names the person; the class does not.
        log.log_event("data.erasure_failed", error=type(error).__name__, request=request.request)
        raise
    (home / ERASURE / REQUESTS / f"{request.request_id}.json").unlink(missing_ok=True)
    atomic.fsync_directory(home / ERASURE / REQUESTS)
    return request


def _requested(log: AuditLogger, request: _Request, personal: Mapping[str, str]) -> tuple[str, int]:
    """Log the intent, once; the log's id and the entry's number."""
    for entry in iter_entries(log.log_path):
        if entry.event == "data.erasure_requested" and entry.data.get("request") == request.request:
            return entry.log_id, entry.seq
    fields = {
        "target_kind": request.target_kind,
        "request": request.request,
        "requested_at": request.requested_at,
        "subject_tag": request.subject_tag,
        "steps": len(request.steps),
        "corpora": sorted({step.before for step in request.steps if step.action == "rewrite" and step.before}),
        "artifacts": sorted({step.before for step in request.steps if step.action == "artifact" and step.before}),
    }
    receipt = log.append("data.erasure_requested", fields, personal=personal)
    return receipt.anchor.log_id, receipt.seq


def _register(home: Path, request: _Request, log_id: str, seq: int) -> None:
    if request.datasets:
        models = tuple(sorted({each.digest for each in request.affected if each.is_model}))
        add_to_register(home, ErasedData(request.request, request.requested_at, log_id, seq, request.datasets, models))


def _mark(directory: Path, key: str, digest: Digest, request: _Request) -> None:
    """Say in the log of the model's line, once, that it was trained on data erased since."""
    event = "model.trained_on_erased_data"
    for entry in iter_entries(directory / LOG_FILE):
        about = (entry.event, entry.data.get("subject"), entry.data.get("request"))
        if about == (event, digest, request.request):
            return
    AuditLogger(directory).log_event(event, subject=digest, asset_key=key, request=request.request)


def _completed(log: AuditLogger, request: _Request) -> None:
    for entry in iter_entries(log.log_path):
        if entry.event == "data.erasure_completed" and entry.data.get("request") == request.request:
            return
    steps = list(enumerate(request.steps))
    results = request.results
    log.log_event(
        "data.erasure_completed",
        target_kind=request.target_kind,
        request=request.request,
        subject_tag=request.subject_tag,
        corpora=[
            {"before": step.before, "after": results.get(str(number)), "rows_removed": step.removed}
            for number, step in steps
            if step.action == "rewrite"
        ],
        artifacts=[
            {"digest": step.before, "successor": results.get(str(number)), "rows_removed": step.removed}
            for number, step in steps
            if step.action in ("artifact", "folder")
        ],
        files_removed=sum(step.action == "file" for _, step in steps),
        openings_shredded=sum(step.action == "shred" for _, step in steps),
        affected=[{"asset_key": e.asset_key, "digest": e.digest, "run_id": e.run_id} for e in request.affected],
        backups_pending=list(request.backups_pending),
    )


def _do(home: Path, request: _Request, number: int, step: Step, entry: tuple[str, int], reached: At) -> _Request:
    path = Path(step.path)
    if step.action == "rewrite":
        return _rewrite(home, request, number, step, reached)
    if step.action in ("artifact", "folder"):
        return _replace_by_tombstone(home, request, number, step, entry, reached)
    if step.action == "shred":
        assert step.opening is not None
        Vault(path).shred(*step.opening)
    else:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            atomic.fsync_directory(path.parent)
    return request


def _rewrite(home: Path, request: _Request, number: int, step: Step, reached: At) -> _Request:
    """Write the corpus aside, note its digest, put it in place: each of the two states can be told after a crash."""
    path = Path(step.path)
    aside = path.with_name(f".{path.name}.erasing-{request.request_id[:12]}{_ending(path)}")
    after = request.results.get(str(number))
    present = Digest.of_file(path)
    if after is not None and present == after:
        aside.unlink(missing_ok=True)
        return request
    if present != step.before:
        raise IntegrityError(
            f"{path} was changed while it was being erased from: expected {step.before}, found {present}. Put the file "
            f"back as it was, or remove {request.request_id}.json from {REQUESTS} and ask for the erasure again"
        )
    (rows,) = step.rows.values()
    write_without(path, rows, aside)
    shutil.copymode(path, aside)
    _fsync(aside)
    request = replace(request, results={**request.results, str(number): Digest.of_file(aside)})
    _save(home, request)
    reached(f"rewrite {number} aside")
    os.replace(aside, path)
    atomic.fsync_directory(path.parent)
    return request


def _ending(path: Path) -> str:
    """The part of a file's name that says how it is read."""
    return "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst", ".bz2", ".xz") else path.suffix


def _replace_by_tombstone(
    home: Path, request: _Request, number: int, step: Step, entry: tuple[str, int], reached: At
) -> _Request:
    unit = Path(step.path)
    gone = unit.with_name(f".{unit.name}.erasing")
    if unit.is_dir() and read_tombstone(unit) is None:
        if step.rows and str(number) not in request.results:
            successor = _publish_successor(unit, step, request)
            request = replace(request, results={**request.results, str(number): successor})
            _save(home, request)
            reached(f"{step.action} {number} successor")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(unit, gone)
        atomic.fsync_directory(unit.parent)
        reached(f"{step.action} {number} aside")
    if not unit.is_dir():
        staging = unit.with_name(f".{unit.name}.tombstone")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        tombstone = Tombstone(
            artifact=step.before,
            reason="erasure",
            removed_at=request.requested_at,
            log_id=entry[0],
            seq=entry[1],
            rows_removed=step.removed,
            successor=request.results.get(str(number)),
            request=request.request,
        )
        write_tombstone(staging, tombstone)
        atomic.publish_directory(staging, unit)
        reached(f"{step.action} {number} tombstone")
    if gone.exists():
        shutil.rmtree(gone)
        atomic.fsync_directory(unit.parent)
    return request


def _publish_successor(unit: Path, step: Step, request: _Request) -> Digest:
    """Put an artefact without the rows into the store, as any other artefact, and return its digest."""
    store = Path(request.store)
    staging = store / f".erasing-{request.request_id[:12]}-{unit.name[:12]}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for source in sorted(unit.iterdir()):
        dropped = step.rows.get(source.name, ())
        if dropped:
            write_without(source, dropped, staging / source.name)
        else:
            shutil.copyfile(source, staging / source.name)
    _account(staging, {Path(name).stem: len(rows) for name, rows in step.rows.items()}, request)
    digest = Manifest.of_directory(staging).digest
    destination = store / "sha256" / digest.hex[:2] / digest.hex
    if destination.exists():
        shutil.rmtree(staging)
    else:
        destination.parent.mkdir(parents=True, exist_ok=True)
        atomic.publish_directory(staging, destination)
    return digest


def _account(directory: Path, removed: Mapping[str, int], request: _Request) -> None:
    """Bring the facts beside the rows up to date."""
    provenance = directory / "provenance.json"
    if provenance.is_file():
        facts = loads_strict(provenance.read_bytes())
        before = sum(facts["rows"].values())
        facts["rows"] = {split: count - removed.get(split, 0) for split, count in facts["rows"].items()}
        step = {"name": "erasure", "rows_in": before, "rows_out": sum(facts["rows"].values()), "rows_by_source": []}
        facts["transformations"] = [*facts["transformations"], step]
        note = (
            f"{sum(removed.values())} rows were erased (request {request.request.short}); rows_taken still counts them"
        )
        facts["notes"] = [*facts.get("notes", []), note]
        atomic.write_file(provenance, canonical_json(facts))
        write_report(provenance, read_report(provenance, DatasetProvenance))  # what cannot be read is not stored
    rows = directory / "rows.jsonl"
    report = directory / "report.json"
    if rows.is_file() and report.is_file():
        facts = loads_strict(report.read_bytes())
        facts |= {"rows": facts["rows"] - removed.get("rows", 0), "rows_digest": Digest.of_file(rows)}
        atomic.write_file(report, canonical_json(facts))


def _point_nowhere_else(home: Path) -> None:
    """Remove the links for people that lead to a tombstone now."""
    for path in sorted((home / "latest").rglob("*")):
        if path.is_symlink() and (not path.exists() or (path.is_dir() and read_tombstone(path) is not None)):
            path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- the plan on the disk -----------------------------------------------------------------------------------------


def _save(home: Path, request: _Request) -> None:
    path = home / ERASURE / REQUESTS / f"{request.request_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "posix":
        path.parent.chmod(0o700)  # paths in a plan may name somebody
    atomic.write_file(path, canonical_json(_plain(asdict(request))))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _load(path: Path) -> _Request:
    return read_report(path, _Request)


# --- results ------------------------------------------------------------------------------------------------------


def _after(
    request: _Request, places: Places, wanted: SubjectWanted | tuple[RowIds, EqualRows], subject: Subject | None
) -> ErasureResult:
    """The result, with what a second search finds still."""
    result = _result(request, places, subject, dry_run=False)
    if subject is None:
        return result
    survey = _survey(wanted, places, places.corpora)
    return replace(result, remaining=survey.hits(subject), not_searched=survey.not_searched(subject))


def _result(request: _Request, places: Places | None, subject: Subject | None, *, dry_run: bool) -> ErasureResult:
    def shown(path: str) -> str:
        text = places.shown(Path(path)) if places else path
        return subject.masked(text, "(name)") if subject else text

    steps = list(enumerate(request.steps))
    results = request.results
    return ErasureResult(
        request=request.request,
        dry_run=dry_run,
        corpora=tuple(
            CorpusChange(shown(step.path), step.before, results.get(str(number)), step.removed)
            for number, step in steps
            if step.action == "rewrite" and step.before
        ),
        removed=tuple(
            Removal(shown(step.path), step.before, step.asset_key, step.removed, results.get(str(number)))
            for number, step in steps
            if step.action in ("artifact", "folder", "file")
        ),
        openings_shredded=sum(step.action == "shred" for _, step in steps),
        affected=request.affected,
        backups_pending=request.backups_pending,
    )
