"""Vault: personal data that entries commit to, kept outside the log so that it can be erased.

An entry holds ``commit: {field: HMAC-SHA256(k, value)}``, with a fresh random 256-bit k for
each field of each entry. Value and k are an *opening*; it lies in ``vault.sqlite`` beside the
log, readable by its owner only, and nowhere else. While the opening is there, anybody who may
read it can check what the entry was about. To erase it is to shred it: the entry, its hash,
the root, the proofs and the signatures stay what they are, and without k the commitment is a
random number, which no search over names or addresses can open (GDPR 17; EDPB Guidelines
02/2025 ask for this form of what cannot be deleted).

The rules:

* An opening is on the disk before the line that commits to it is written. What a crash leaves
  behind is an opening without an entry, numbered where the log ends; the next append removes it.
* Shredding overwrites the opening with zeros (``secure_delete``) and rewrites the file
  (VACUUM), with nothing of it in temporary files; it is done when the directory is on the disk.
* A vault is not covered by the chain. That an opening is the one committed to is checked each
  time by the commitment; that none is missing cannot be, since that is what shredding is for.

Not undone here: copies of the vault elsewhere, and blocks that a copy-on-write file system or
a flash disk keeps after a file was overwritten.
"""

import dataclasses
import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import atomic

VAULT_FILE = "vault.sqlite"
KEY_BYTES = 32
MAX_VALUE_BYTES = 1 << 20
_WAIT = 60.0  # seconds for another process's transaction
# EXTRA waits for the directory too, so that no deleted journal comes back and undoes a shred.
_PRAGMAS = ("secure_delete = ON", "temp_store = MEMORY", "journal_mode = DELETE", "synchronous = EXTRA")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS openings (
    log_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    field TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (log_id, seq, field)
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True)
class Opening:
    """What opens the commitment of one field of one entry.

    Attributes:
        log_id, seq, field: The entry, and the field that its `commit` names.
        key: k, 32 random bytes.
        value: What was committed to.
    """

    log_id: str
    seq: int
    field: str
    key: bytes = dataclasses.field(repr=False)
    value: str = dataclasses.field(repr=False)

    @property
    def commitment(self) -> str:
        """HMAC-SHA256(k, value) in hex, as the entry's `commit` has it."""
        return hmac.new(self.key, self.value.encode(), hashlib.sha256).hexdigest()

    def opens(self, commitment: str) -> bool:
        return hmac.compare_digest(self.commitment, commitment)

    @classmethod
    def draw(cls, log_id: str, seq: int, field: str, value: str) -> "Opening":
        """An opening of `value` with a fresh key.

        Raises:
            ValueError: The value is not text, is not encodable, or is too long.
        """
        if not isinstance(value, str):
            raise ValueError(f"personal field {field!r} is {type(value).__name__}; expected a string")
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"personal field {field!r} is not valid Unicode text") from error
        if size > MAX_VALUE_BYTES:
            raise ValueError(f"personal field {field!r} has {size} bytes, more than {MAX_VALUE_BYTES}")
        return cls(log_id, seq, field, secrets.token_bytes(KEY_BYTES), value)


class Vault:
    """The openings in one file, which need not exist: then there are none.

    Threads and processes may share the file. Each call is one transaction.

    Args:
        path: ``vault.sqlite`` in a log's directory.

    Raises (all methods):
        EvidenceError: (an OSError) the file cannot be read or written, or is not a vault.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def opening(self, log_id: str, seq: int, field: str) -> Opening | None:
        """The opening of one field, or None: shredded, or never there."""
        rows = self._select("WHERE log_id = ? AND seq = ? AND field = ?", log_id, seq, field)
        return rows[0] if rows else None

    def openings(self, log_id: str | None = None) -> list[Opening]:
        """All openings of a log (None: of all logs), by log, entry and field."""
        order = "ORDER BY log_id, seq, field"
        return self._select(order) if log_id is None else self._select(f"WHERE log_id = ? {order}", log_id)

    def find(self, value: str) -> list[tuple[str, int, str]]:
        """(log id, seq, field) of each opening of exactly `value`."""
        found = self._select("WHERE value = ? ORDER BY log_id, seq, field", value.encode())
        return [(opening.log_id, opening.seq, opening.field) for opening in found]

    def shred(self, log_id: str, seq: int, field: str) -> bool:
        """Destroy one opening; whether there was one."""
        return self._delete("log_id = ? AND seq = ? AND field = ?", log_id, seq, field) > 0

    def shred_value(self, value: str) -> int:
        """Destroy each opening of exactly `value`; how many there were."""
        return self._delete("value = ?", value.encode())

    def remove_unwritten(self, log_id: str, size: int) -> int:
        """Destroy the openings of entries that the log of `size` entries does not hold; how many there were."""
        return self._delete("log_id = ? AND seq >= ?", log_id, size, vacuum=False)

    def add(self, openings: list[Opening]) -> None:
        """Store openings; on return they are on the disk."""
        rows = [(each.log_id, each.seq, each.field, each.key, each.value.encode()) for each in openings]
        with self._transaction() as database:
            database.executemany("INSERT INTO openings VALUES (?, ?, ?, ?, ?)", rows)

    @property
    def version(self) -> bytes | None:
        """What changes with each transaction on the file, or None where there is none; cheap to ask for."""
        try:
            with self.path.open("rb", buffering=0) as file:
                return file.read(28)[24:]  # SQLite's file change counter
        except FileNotFoundError:
            return None

    def _select(self, where: str, *arguments: object) -> list[Opening]:
        if not self.path.exists():
            return []
        with _as_evidence_error(self.path), closing(Session(self.path)) as session:
            return session.select(where, *arguments)

    def _delete(self, where: str, *arguments: object, vacuum: bool = True) -> int:
        if not self.path.exists():
            return 0
        with self._transaction() as database:
            count: int = database.execute(f"DELETE FROM openings WHERE {where}", arguments).rowcount
            database.commit()
            if vacuum or count:  # a shred that was cut short before its VACUUM is finished by the next
                database.execute("VACUUM")
            return count

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _as_evidence_error(self.path):
            self._make()
            database = sqlite3.connect(self.path, timeout=_WAIT)
            try:
                for pragma in _PRAGMAS:
                    database.execute(f"PRAGMA {pragma}")
                database.execute(_SCHEMA)
                with database:
                    yield database
            finally:
                database.close()

    def _make(self) -> None:
        """Make the file before SQLite does, so that it is nobody else's to read for no moment."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if os.name == "posix" and self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
        else:
            os.close(fd)
            atomic.fsync_directory(self.path.parent)


class Session:
    """A vault that is open for reading; nothing is written. Its methods raise `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)
        try:
            tables = self._database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'openings'")
            self._is_made: bool = tables.fetchone()[0] == 1  # a crash can leave a vault without its table
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def select(self, where: str, *arguments: object) -> list[Opening]:
        if not self._is_made:
            return []
        query = f"SELECT log_id, seq, field, key, value FROM openings {where}"
        return [_opening(row) for row in self._database.execute(query, arguments)]

    def of_entry(self, log_id: str, seq: int) -> dict[str, Opening]:
        """The openings of one entry, by field."""
        return {each.field: each for each in self.select("WHERE log_id = ? AND seq = ?", log_id, seq)}

    def count(self, log_id: str, size: int) -> int:
        """Openings of the log's first `size` entries."""
        if not self._is_made:
            return 0
        row = self._database.execute("SELECT count(*) FROM openings WHERE log_id = ? AND seq < ?", (log_id, size))
        return int(row.fetchone()[0])


def _opening(row: tuple[object, ...]) -> Opening:
    match row:
        case (str(log_id), int(seq), str(field), bytes(key), bytes(value)) if len(key) == KEY_BYTES:
            with suppress(UnicodeDecodeError):
                return Opening(log_id, seq, field, key, value.decode())
    raise sqlite3.DatabaseError(f"the opening {row[:3]} is not one")


@contextmanager
def _as_evidence_error(path: Path) -> Iterator[None]:
    try:
        yield
    except EvidenceError:
        raise
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise EvidenceError(
            f"{path}: the vault of personal data could not be used: {error}. Is the disk full, was the file changed? "
            "Restore it from a copy, or move it aside: entries stay valid without it, but no longer say whom they name"
        ) from error
    except OSError as error:
        raise EvidenceError(error.errno, f"the vault of personal data: {error.strerror or error}", str(path)) from error


def commitments(openings: Mapping[str, Opening]) -> dict[str, str]:
    """An entry's `commit` for these openings, by field."""
    return {name: opening.commitment for name, opening in openings.items()}
