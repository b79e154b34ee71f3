"""Right of access (GDPR 15): where a person's data lies. The log gets counts only."""

import hashlib
import hmac
import secrets
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow.parquet as pq

from forge_pipeline.audit_log import AuditLogger, Vault
from forge_pipeline.data.compression import opened
from forge_pipeline.erasure.identifier import Subject
from forge_pipeline.erasure.lineage import Lineage, read_lineage
from forge_pipeline.erasure.places import ERASURE, Located, Place, Places
from forge_pipeline.erasure.rows import cells, is_readable, records
from forge_pipeline.errors import DataError, OptionalDependencyError
from forge_pipeline.integrity import Digest

_BLOCK = 4 << 20  # bytes
_OVERLAP = 4096  # bytes: longer than any spelling of an identifier
_ARCHIVES = (".zip", ".docx", ".epub")
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Found:
    """The subject named in one cell, or one place, of a file.

    Attributes:
        index: The record, from 0, as `rows.write_without` counts; None: not in a record that could be taken out.
        row: Its line from 1 (Parquet, Arrow: row from 1; a log, a database: the entry or row); None: the file at large.
        column: Where in the record; None as above.
        count: How often.
        exact: Whether in the very spelling that was given.
    """

    index: int | None
    row: int | None
    column: str | None
    count: int
    exact: bool


@dataclass(frozen=True)
class Hit:
    """One place where the subject was found; nothing in it repeats the identifier.

    Attributes:
        path: The file, from FORGE_HOME on where it lies there.
        digest: Of the artefact that the file belongs to, else of the file.
        asset_key: Of the artefact, where records or logs know it.
        split: For a dataset's file.
        row, column, count, exact: As in `Found`.
    """

    place: Place
    path: str
    digest: Digest | None
    asset_key: str | None
    split: str | None
    row: int | None
    column: str | None
    count: int
    exact: bool


@dataclass(frozen=True)
class SubjectReport:
    """The answer to one search.

    Attributes:
        query_tag: HMAC-SHA256 of the identifier under a key that only the vault of the erasure log holds.
        hits: By path and row.
        files, bytes: What was looked through.
        not_searched: What was not, with the reason: weights, datasets elsewhere, files that cannot be read.
    """

    asked_at: str
    kind: str
    query_tag: str
    hits: tuple[Hit, ...]
    files: int
    bytes: int
    not_searched: tuple[tuple[str, str], ...] = field(default=())

    @property
    def match_count(self) -> int:
        return sum(hit.count for hit in self.hits)


class Wanted(Protocol):
    """What is looked for."""

    def in_text(self, text: str) -> tuple[int, bool]:
        """How often `text` names it, and whether exactly so somewhere."""

    def in_record(self, values: Any) -> Iterator[tuple[str, int, bool]]:
        """The columns of a record that name it, how often, and whether exactly so."""

    @property
    def byte_forms(self) -> tuple[bytes, ...]:
        """What bytes that are no text may hold of it."""


@dataclass(frozen=True)
class SubjectWanted:
    """A person, by identifier."""

    subject: Subject

    @property
    def byte_forms(self) -> tuple[bytes, ...]:
        return self.subject.byte_forms

    def in_text(self, text: str) -> tuple[int, bool]:
        spelled = list(self.subject.spans(text))
        return len(spelled) + self.subject.encoded_in(text), any(exact for _, exact in spelled)

    def in_record(self, values: Any) -> Iterator[tuple[str, int, bool]]:
        found: Counter[str] = Counter()
        exactly = set()
        for column, text in cells(values):
            count, exact = self.in_text(text)
            if count:
                found[column] += count
                exactly |= {column} if exact else set()
        for column, count in found.items():
            yield self.subject.masked(column, "(column)"), count, column in exactly


def find_subject(
    identifier: str | Subject,
    *,
    home: Path | None = None,
    places: Places | None = None,
    log: AuditLogger | None = None,
    at: datetime | None = None,
) -> SubjectReport:
    """Look for a person everywhere, and log that somebody did.

    Args:
        identifier: An e-mail address, phone number, IBAN or name; see `erasure.identifier` for what counts as the same.
        home: FORGE_HOME, where only that is to be looked through.
        places: What is to be looked through.
        log: Where the search is logged; None: the erasure log of FORGE_HOME.
        at: Now, unless given.

    Raises:
        ConfigError: The identifier cannot mean one person.
        EvidenceError: The search could not be logged; there is no answer then.
    """
    if (home is None) == (places is None):
        raise ValueError("give either home or places")
    where = places or Places.of(home)  # type: ignore[arg-type]
    subject = identifier if isinstance(identifier, Subject) else Subject.parse(identifier)
    wanted = SubjectWanted(subject)
    moment = (at or datetime.now(UTC)).isoformat(timespec="seconds")
    tag, key = keyed_tag(subject.normal)
    survey = Survey.of(where, wanted, read_lineage(where))
    report = SubjectReport(
        moment, subject.kind, tag, survey.hits(subject), survey.files, survey.bytes, survey.not_searched(subject)
    )
    writer = log or erasure_log(where.home)
    writer.log_event(
        "data.access_request_query",
        personal={"query_key": key},
        match_count=report.match_count,
        query_tag=tag,
        query_kind=subject.kind,
        files=report.files,
        digests=sorted({hit.digest for hit in report.hits if hit.digest}),
        not_searched=len(report.not_searched),
    )
    return report


def erasure_log(home: Path) -> AuditLogger:
    """The audit log of access and erasure, which belongs to no line."""
    return AuditLogger(home / ERASURE)


def keyed_tag(normal: str) -> tuple[str, str]:
    """A tag of an identifier under a fresh key, and the key in hex.

    Who has the key and the identifier can show that a request was about this person; without the key the tag is a
    random number. The key lies in the vault and can be shredded.
    """
    key = secrets.token_bytes(32)
    return hmac.new(key, normal.encode(), hashlib.sha256).hexdigest(), key.hex()


@dataclass(frozen=True)
class Survey:
    """Everything that a search came upon."""

    places: Places
    lineage: Lineage
    found: tuple[tuple[Located, tuple[Found, ...]], ...]
    files: int
    bytes: int
    unread: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, places: Places, wanted: Wanted, lineage: Lineage) -> "Survey":
        """Look through all places."""
        found: list[tuple[Located, tuple[Found, ...]]] = []
        unread: list[tuple[str, str]] = [*places.elsewhere, *((words, "lineage") for words in lineage.problems)]
        files = size = 0
        for located in places.files():
            shown = places.shown(located.path)
            if located.holds_weights:
                unread.append((shown, "weights: follow the lineage instead"))
                continue
            try:
                hits = tuple(scan(located, wanted))
                size += located.path.stat().st_size
            except FileNotFoundError:  # scratch of a run that ended just now
                continue
            except (DataError, OptionalDependencyError, OSError) as error:
                unread.append((shown, f"{type(error).__name__}: cannot be read"))
                continue
            files += 1
            if hits:
                found.append((located, hits))
        return cls(places, lineage, tuple(found), files, size, tuple(unread))

    def hits(self, subject: Subject) -> tuple[Hit, ...]:
        """What was found, in words that do not repeat the identifier."""
        hits: list[Hit] = []
        for located, found in self.found:
            # Of a log, a vault or scratch, which change from one moment to the next, a digest says nothing.
            digest = located.artifact or (_digest(located.path) if located.place in ("corpus", "run") else None)
            known = self.lineage.of(located.artifact) if located.artifact else ()
            for each in found:
                hits.append(
                    Hit(
                        place=located.place,
                        path=subject.masked(self.places.shown(located.path), "(name)"),
                        digest=digest,
                        asset_key=known[-1].asset_key if known else None,
                        split=located.path.stem if located.unit and located.path.suffix == ".parquet" else None,
                        row=each.row,
                        column=each.column,
                        count=each.count,
                        exact=each.exact,
                    )
                )
        return tuple(hits)

    def not_searched(self, subject: Subject) -> tuple[tuple[str, str], ...]:
        """What was not looked through, without the identifier."""
        return tuple((subject.masked(name, "(name)"), reason) for name, reason in self.unread)


def _digest(path: Path) -> Digest | None:
    try:
        return Digest.of_file(path)
    except OSError:
        return None


def scan(located: Located, wanted: Wanted) -> Iterator[Found]:
    """Look through one file, its name included.

    Raises:
        DataError: It cannot be read as what it is.
        OSError: It cannot be read.
    """
    path = located.path
    count, exact = wanted.in_text(path.name)
    if count:
        yield Found(None, None, "(file name)", count, exact)
    if located.place == "vault":
        yield from _in_vault(path, wanted)
        return
    if is_readable(path):
        try:
            found = list(_in_records(path, wanted))
        except DataError:  # broken as a whole: its bytes can still be looked through
            yield from _in_bytes(path, wanted)
        else:
            yield from found
        return
    with path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    if is_database:
        yield from _in_database(path, wanted)
    elif path.suffix in _ARCHIVES and zipfile.is_zipfile(path):
        yield from _in_archive(path, wanted)
    elif path.suffix == ".pdf":
        yield from _in_document(path, wanted)
    else:
        yield from _in_bytes(path, wanted)


def _in_records(path: Path, wanted: Wanted) -> Iterator[Found]:
    for record in records(path):
        for column, count, exact in wanted.in_record(record.values):
            yield Found(None if record.is_header else record.index, record.line, column or None, count, exact)
    if path.suffix == ".parquet":
        for key, value in (pq.read_schema(path).metadata or {}).items():
            count, exact = wanted.in_text(f"{key!r} {value.decode('utf-8', 'replace')}")
            if count:
                yield Found(None, None, "(schema)", count, exact)


def _in_vault(path: Path, wanted: Wanted) -> Iterator[Found]:
    for opening in Vault(path).openings():
        count, exact = wanted.in_text(opening.value)
        if count:
            yield Found(None, opening.seq, opening.field, count, exact)


def _in_database(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Text of every table of an SQLite file. What lies in free pages is not seen; a VACUUM removes it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as database:
            database.text_factory = lambda raw: raw.decode("utf-8", "replace")
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                quoted = table.replace('"', '""')
                rows = database.execute(f'SELECT * FROM "{quoted}"')
                columns = [each[0] for each in rows.description]
                for number, row in enumerate(rows, start=1):
                    for column, count, exact in wanted.in_record(dict(zip(columns, row, strict=True))):
                        yield Found(None, number, f"{table}.{column}", count, exact)
    except sqlite3.Error as error:
        raise DataError(f"{path}: not readable as a database: {error}") from error


def _in_archive(path: Path, wanted: Wanted) -> Iterator[Found]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    count, exact = _in_stream(file, wanted)
                named, same = wanted.in_text(member.filename)
                if count + named:
                    yield Found(None, None, "(member)", count + named, exact or same)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path}: not readable as an archive: {error}") from error


def _in_document(path: Path, wanted: Wanted) -> Iterator[Found]:
    from forge_pipeline.data.reading import ReadRow, read_rows

    for row in read_rows(path):
        if isinstance(row, ReadRow):
            for column, count, exact in wanted.in_record(row.values):
                yield Found(None, row.line, column, count, exact)


def _in_bytes(path: Path, wanted: Wanted) -> Iterator[Found]:
    with opened(path) as file:
        count, exact = _in_stream(file, wanted)
    if count:
        yield Found(None, None, None, count, exact)


def _in_stream(file: IO[bytes], wanted: Wanted) -> tuple[int, bool]:
    """Occurrences in a stream of any size, as text and in the forms that bytes take."""
    total, exactly = 0, False
    kept = b""
    while block := file.read(_BLOCK):
        window = kept + block
        count, exact = _in_window(window, wanted)
        again, _ = _in_window(kept, wanted) if kept else (0, False)
        total += max(0, count - again)
        exactly |= exact
        kept = window[-_OVERLAP:]
    return total, exactly


def _in_window(window: bytes, wanted: Wanted) -> tuple[int, bool]:
    count, exact = wanted.in_text(window.decode("utf-8", "replace"))
    # One passage in UTF-16 looks like UTF-16 in the other order from one byte on, so the most frequent form counts.
    return count + max((window.count(form) for form in wanted.byte_forms), default=0), exact
