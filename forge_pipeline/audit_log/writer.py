"""AuditLogger: appends events to a log that only grows.

The rules, in the order in which an append keeps them:

* One writer at a time: a mutex between threads, a file lock between processes. A
  forked child must make its own logger, and is told so.
* The head is read again under the lock. What others appended is taken up; a log that
  was changed or shortened is refused.
* A torn tail, which was never acknowledged, is moved to ``.torn-<digest>`` and an
  ``audit.recovered`` entry names its digest.
* One ``write(2)`` for the whole line, fsync, then the checkpoint beside it is replaced
  and fsynced. If any of it fails the line is taken back, and OSError is raised; the
  next append starts from a whole log. Returning normally means: it is on the disk.
* What is personal goes into the vault beside the log, and is on the disk there before the line
  that commits to it (see `vault`).
* A new log appears whole: first its checkpoint, then the file with its first entry,
  so a log without a checkpoint is never the work of a crash.
"""

import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, Self

from forge_pipeline.audit_log import events
from forge_pipeline.audit_log.chain import Anchor, Receipt, as_digest
from forge_pipeline.audit_log.checkpoint import CHECKPOINT_SUFFIX, Checkpoint
from forge_pipeline.audit_log.entry import MAX_LINE_BYTES, Entry, timestamp
from forge_pipeline.audit_log.head import Head, read_head
from forge_pipeline.audit_log.keys import LogKeys
from forge_pipeline.audit_log.locking import exclusive
from forge_pipeline.audit_log.settings import SECRET_VARIABLE, SIGNING_KEY_VARIABLE, AuditSettings
from forge_pipeline.audit_log.vault import VAULT_FILE, Opening, Vault, commitments
from forge_pipeline.errors import EvidenceError
from forge_pipeline.integrity import Digest, atomic

LOG_FILE = "audit_log.jsonl"
LOCK_SUFFIX = ".lock"
FORMAT_NAME = "forge-pipeline audit log v1"
NOTHING: Mapping[str, str] = MappingProxyType({})
_O_BINARY: int = getattr(os, "O_BINARY", 0)


class AuditLogger:
    """The audit log of one output directory, open for appending.

    Making one begins the log if there is none, and recovers it if a crash left a torn tail.
    Keys and operator come from the environment (see `AuditSettings.from_environment`).
    Threads may share an instance; processes may share the directory.

    Args:
        output_dir: Where ``audit_log.jsonl`` lies; made if absent.
        run_id: Named in every entry; drawn at random when None.

    Raises:
        ConfigError: The signing key named by the environment cannot be used.
        EvidenceError: The log cannot be written, was changed, or needs keys that are not there.
    """

    def __init__(self, output_dir: str | os.PathLike[str], run_id: str | None = None) -> None:
        self._open(output_dir, AuditSettings.from_environment(), run_id, {})

    @classmethod
    def with_settings(
        cls,
        output_dir: str | os.PathLike[str],
        settings: AuditSettings,
        *,
        run_id: str | None = None,
        run: Mapping[str, str] | None = None,
    ) -> Self:
        """A logger that takes nothing from the environment.

        Args:
            output_dir, run_id: As for the class.
            settings: Operator, keys, clock.
            run: What else names the run: asset_key, partition, step, code_version.
        """
        logger = cls.__new__(cls)
        logger._open(output_dir, settings, run_id, run or {})
        return logger

    def _open(
        self, output_dir: str | os.PathLike[str], settings: AuditSettings, run_id: str | None, run: Mapping[str, str]
    ) -> None:
        directory = Path(output_dir)
        self._log_path = directory / LOG_FILE
        self._checkpoint_path = directory / (LOG_FILE + CHECKPOINT_SUFFIX)
        self._lock_path = directory / (LOG_FILE + LOCK_SUFFIX)
        self._vault = Vault(directory / VAULT_FILE)
        self._vault_version: bytes | None = None  # the vault as it was last tidied
        self._settings = settings
        self._run = {**run, "run_id": run_id or f"run-{uuid.uuid4().hex[:12]}"}
        if not all(isinstance(value, str) and value for value in self._run.values()):
            raise ValueError(f"run names must be strings that are not empty; found {self._run}")
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._head: Head | None = None  # the last state that is known to be on the disk
        self._file: os.stat_result | None = None  # the file in that state
        self._log_keys: tuple[str, LogKeys] | None = None  # keys are derived once per log
        try:
            _make_directory(directory)
        except OSError as error:
            _raise_evidence_error(error, "cannot make the audit log's directory", directory)
        with self._exclusively():
            self._remove_leftovers()
            self._tidy_vault(self._current_head())

    @property
    def log_path(self) -> Path:
        return self._log_path

    @property
    def run_id(self) -> str:
        return self._run["run_id"]

    @property
    def vault(self) -> Vault:
        """Where the personal values lie that entries commit to."""
        return self._vault

    def log_event(self, event: str, *, personal: Mapping[str, str] | None = None, **fields: Any) -> None:
        """Append an event; on return it is on the disk.

        Args:
            event: A name of the catalogue (`events.CATALOGUE`), or a dotted name of your own.
            personal: Fields about a person: the entry commits to their values, which are kept in the
                vault beside the log and can be erased there.
            fields: JSON values; the catalogue's required fields must be there.

        Raises:
            ValueError: The event may not be appended as it is; nothing was written.
            EvidenceError: (an OSError) it could not be written; the log is as it was.
        """
        self.append(event, fields, personal=personal)

    def append(self, event: str, fields: Mapping[str, Any], *, personal: Mapping[str, str] | None = None) -> Receipt:
        """`log_event`, giving the entry's number and hash and the log's state with it as last entry."""
        events.check_event(event, fields, personal or {})
        with self._exclusively():
            head = self._current_head()
            if self.run_id in head.closed_runs:
                raise ValueError(
                    f"run {self.run_id!r} was closed in {self._log_path}; log further events under another run"
                )
            after = self._append(head, event, fields, personal or {})
        return Receipt(after.tree.size - 1, as_digest(after.last), after.anchor)

    def anchor(self) -> Anchor:
        """The log as it is now: its id, size and root, to be kept elsewhere."""
        with self._exclusively():
            return self._current_head().anchor

    def checkpoint(self) -> str:
        """The log as it is now, as a C2SP checkpoint, signed if there is a key."""
        with self._exclusively():
            self._current_head()
            return self._checkpoint_path.read_text(encoding="utf-8")

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if os.getpid() != self._pid:
            raise EvidenceError(
                f"this AuditLogger was made in process {self._pid} and is used in its fork {os.getpid()}; "
                f"make a new AuditLogger({str(self._log_path.parent)!r}) in the child"
            )
        with self._mutex, exclusive(self._lock_path):
            try:
                yield
            except EvidenceError:
                raise
            except OSError as error:
                _raise_evidence_error(error, "the audit log could not be written", self._log_path)

    def _current_head(self) -> Head:
        """The head under the lock, with the log begun, recovered and keyed as needed."""
        if self._head is None and not self._log_path.exists():
            return self._begin()
        checkpoint = self._read_checkpoint()
        with self._log_path.open("rb") as file:
            stat = os.fstat(file.fileno())
            known = self._head
            if known and self._is_untouched(stat) and known.anchor == checkpoint.anchor:
                return known
            head = read_head(file, checkpoint, known, only_grew=self._only_grew(stat))
            self._check_keys(head, checkpoint)
            tail = file.read(MAX_LINE_BYTES + 2)
        self._remember(head)
        if tail:
            head = self._recover(head, tail, stat.st_size)
        wanted = self._keys(head.log_id).fingerprints
        return head if wanted == head.keys else self._append(head, events.KEYS_ADDED, {"keys": wanted.to_json()})

    def _read_checkpoint(self) -> Checkpoint:
        try:
            return Checkpoint.parse(self._checkpoint_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise EvidenceError(
                f"{self._log_path} has no usable checkpoint beside it ({error}), so entries may have been cut from its "
                f"end. Restore {self._checkpoint_path.name}, or move the log aside to begin a new one"
            ) from error

    def _begin(self) -> Head:
        if self._checkpoint_path.exists() and (size := self._read_checkpoint().anchor.size) > 1:
            raise EvidenceError(
                f"{self._log_path} is gone, but its checkpoint says that it held {size} entries. "
                f"Restore it, or move {self._checkpoint_path.name} aside to begin a new log"
            )
        log_id = str(uuid.uuid4())
        keys = self._keys(log_id)
        data = {
            "format": FORMAT_NAME,
            "code_version": self._settings.code_version,
            "keys": keys.fingerprints.to_json(),
            "binds": dict(self._settings.binds),
        }
        line = keys.authenticate(self._entry(log_id, 0, None, events.GENESIS, data)).to_bytes() + b"\n"
        head = Head.of_genesis(line)
        atomic.write_file(self._checkpoint_path, Checkpoint.make(head.anchor, keys).text.encode())
        atomic.write_file(self._log_path, line)
        self._remember(head)
        return head

    def _recover(self, head: Head, tail: bytes, size: int) -> Head:
        """Take up the one entry, or move aside the part of one, that a crash left after the checkpoint."""
        line, line_feed, beyond = tail.partition(b"\n")
        if line_feed and head.is_followed_by(line, self._keys(head.log_id)) and not beyond:
            head = head.then(line + b"\n", Entry.parse(line))
            self._write_checkpoint(head)
            self._remember(head)
            return head
        if beyond or len(tail) > MAX_LINE_BYTES + 1:
            raise EvidenceError(
                f"{self._log_path} goes on for {size - head.end} bytes after its checkpoint, which is more than the "
                "one entry that a crash can leave. Nothing was appended; look at it with `forge verify log`"
            )
        digest = Digest.of(tail)
        torn = self._log_path.with_name(f"{LOG_FILE}.torn-{digest.short}")
        atomic.write_file(torn, tail)
        self._truncate(head.end)
        fields = {"torn_bytes": len(tail), "torn_digest": digest, "torn_file": torn.name}
        return self._append(head, events.RECOVERED, fields)

    def _append(self, head: Head, event: str, fields: Mapping[str, Any], personal: Mapping[str, str] = NOTHING) -> Head:
        seq = head.tree.size
        openings = {name: Opening.draw(head.log_id, seq, name, value) for name, value in personal.items()}
        draft = self._entry(head.log_id, seq, as_digest(head.last), event, fields)
        draft = replace(draft, commit=commitments(openings))
        # Read back, so that what is signed cannot change under us and what is written can be read.
        entry = Entry.parse(draft.to_bytes())
        # A key that is still to be added must not sign what is written before: the note of a recovery.
        entry = self._keys(head.log_id).authenticate(entry, head.keys_for(entry))
        line = entry.to_bytes() + b"\n"
        after = head.then(line, entry)
        self._tidy_vault(head)
        try:
            if openings:
                self._vault.add(list(openings.values()))
            self._write_line(head, line)
            try:
                self._write_checkpoint(after)
            except BaseException:
                self._take_back(head, after)
                raise
        except BaseException:
            if openings:
                self._take_back_openings(head)
            raise
        self._remember(after)
        if openings:
            self._vault_version = self._vault.version
        return after

    def _tidy_vault(self, head: Head) -> None:
        """Remove the openings of entries that were never written, if anybody was at the vault since the last time."""
        version = self._vault.version
        if version != self._vault_version:
            self._vault.remove_unwritten(head.log_id, head.tree.size)
            self._vault_version = self._vault.version

    def _take_back_openings(self, head: Head) -> None:
        """Remove openings whose line is not there. Where that is not sure, the next append does it."""
        self._vault_version = None
        with suppress(OSError, ValueError):
            checkpoint = Checkpoint.parse(self._checkpoint_path.read_text(encoding="utf-8"))
            if checkpoint.anchor == head.anchor and self._log_path.stat().st_size == head.end:
                self._vault.remove_unwritten(head.log_id, head.tree.size)

    def _entry(self, log_id: str, seq: int, prev: Digest | None, event: str, fields: Mapping[str, Any]) -> Entry:
        moment, actor = timestamp(self._settings.clock()), {"operator": self._settings.operator}
        return Entry(log_id, seq, moment, event, actor, self._run, fields, prev)

    def _write_line(self, head: Head, line: bytes) -> None:
        fd = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | _O_BINARY)
        try:
            written = os.write(fd, line)
            if written != len(line):
                raise EvidenceError(
                    f"{self._log_path}: only {written} of {len(line)} bytes could be written; is the disk full?"
                )
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):  # what stays is a torn tail, which the next append moves aside
                os.ftruncate(fd, head.end)
                os.fsync(fd)
            raise
        finally:
            with suppress(OSError):  # fsync has said what there is to say
                os.close(fd)

    def _write_checkpoint(self, head: Head) -> None:
        text = Checkpoint.make(head.anchor, self._keys(head.log_id)).text
        atomic.write_file(self._checkpoint_path, text.encode())

    def _take_back(self, head: Head, after: Head) -> None:
        """Undo a written line whose checkpoint failed, unless the new checkpoint is already in place."""
        with suppress(OSError, ValueError):
            if Checkpoint.parse(self._checkpoint_path.read_text(encoding="utf-8")).anchor != after.anchor:
                self._truncate(head.end)

    def _truncate(self, size: int) -> None:
        fd = os.open(self._log_path, os.O_WRONLY | _O_BINARY)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            with suppress(OSError):
                os.close(fd)

    def _remember(self, head: Head) -> None:
        self._head, self._file = head, self._log_path.stat()

    def _is_untouched(self, stat: os.stat_result) -> bool:
        seen = self._file
        return seen is not None and all(
            getattr(stat, name) == getattr(seen, name) for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
        )

    def _only_grew(self, stat: os.stat_result) -> bool:
        """Whether other writers may have appended, and as far as can be seen from outside, no more than that."""
        seen = self._file
        return (
            seen is not None
            and (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino)
            and (stat.st_size > seen.st_size)
        )

    def _keys(self, log_id: str) -> LogKeys:
        if self._log_keys is None or self._log_keys[0] != log_id:
            keys = LogKeys.of(log_id, secret=self._settings.hmac_secret, private=self._settings.signing_key)
            self._log_keys = (log_id, keys)
        return self._log_keys[1]

    def _check_keys(self, head: Head, checkpoint: Checkpoint) -> None:
        """Refuse to go on without the keys that the log has named, or from a checkpoint that they did not sign."""
        keys = self._keys(head.log_id)
        mine = keys.fingerprints
        named = ((SECRET_VARIABLE, head.keys.hmac, mine.hmac), (SIGNING_KEY_VARIABLE, head.keys.ed25519, mine.ed25519))
        variables = [variable for variable, theirs, ours in named if theirs not in (None, ours)]
        if variables:
            raise EvidenceError(
                f"{self._log_path} carries tags or signatures of keys that are not at hand. "
                f"Set {' and '.join(variables)} to what the log was written with, or use another output directory"
            )
        problem = checkpoint.problem_with_signatures(keys, head.keys)
        if problem is not None:
            raise EvidenceError(
                f"{self._checkpoint_path}: {problem}, so it was not written by this program and entries may have been "
                "cut from the log's end. Nothing was appended; restore both files from a copy"
            )

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left of its atomic writes; under the lock nobody is writing one."""
        for path in self._log_path.parent.glob(f".{LOG_FILE}.*"):
            with suppress(OSError):
                path.unlink()


def _make_directory(directory: Path) -> None:
    """Make `directory` and what is missing above it, durably."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        atomic.fsync_directory(path.parent)


def _raise_evidence_error(error: OSError, what: str, path: Path) -> NoReturn:
    raise EvidenceError(error.errno, f"{what}: {error.strerror or error}", str(path)) from error
