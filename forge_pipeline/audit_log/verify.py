"""verify_audit_log: one walk over the file, numbered steps, memory for one line.

A result never says "valid" without saying what was not checked: `assurance` is the
strongest thing that was, `not_checked` names what somebody who can write the files
could still have done, and `checks` goes through the numbered steps, one outcome each.
"""

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from forge_pipeline.audit_log import events, merkle
from forge_pipeline.audit_log.chain import Anchor, as_digest
from forge_pipeline.audit_log.checkpoint import CHECKPOINT_SUFFIX, Checkpoint
from forge_pipeline.audit_log.entry import MAX_LINE_BYTES, Entry
from forge_pipeline.audit_log.keys import Fingerprints, LogKeys, load_public_key
from forge_pipeline.audit_log.locking import shared_if_possible
from forge_pipeline.audit_log.settings import SECRET_VARIABLE, secret_from
from forge_pipeline.audit_log.vault import VAULT_FILE, Session
from forge_pipeline.audit_log.writer import LOCK_SUFFIX
from forge_pipeline.integrity import Digest

Assurance = Literal["chain", "checkpoint", "signed", "anchored"]
Outcome = Literal["passed", "failed", "not_checked"]

_CHECKS = (
    "what was asked can be answered",
    "every line is one entry in canonical form",
    "one log, begun once, and the one that was meant",
    "numbers and links follow one another",
    "tags and signatures",
    "nothing follows the end of a run",
    "the checkpoint beside the log",
    "checkpoints kept elsewhere",
    "openings in the vault",
)
_LINE_BY_LINE = range(2, 7)  # the numbers of the checks that each line goes through


class FailureKind(StrEnum):
    """What is wrong, in one word; `VerifyResult.reason` has the sentence."""

    USAGE = "usage"
    """The question could not be asked: no secret, an unreadable key, text that is not a checkpoint."""
    EMPTY = "empty"
    MALFORMED = "malformed"
    """A line is not an entry in canonical form."""
    TAMPERED = "tampered"
    """An entry is not the one that its successor or the checkpoint names."""
    REORDERED = "reordered"
    """Entries were removed, added or moved."""
    TRUNCATED = "truncated"
    UNAUTHENTICATED = "unauthenticated"
    """A tag or signature is missing or does not match."""
    AFTER_SEAL = "after_seal"
    """A run has entries after it was closed."""
    OTHER_LOG = "other_log"
    DIVERGED = "diverged"
    """The log is not the one, nor an extension of the one, that an earlier checkpoint names."""
    OPENING = "opening"
    """The vault holds something that no entry committed to. The log itself is whole."""


@dataclass(frozen=True)
class Check:
    """One step of `verify_audit_log` and how it came out.

    Attributes:
        number: As in the function's docstring, from 1.
        name: What holds if it passed.
        outcome: not_checked where there was nothing to check it with, or the walk ended before.
        detail: What was compared, what was found, or why it was not checked.
    """

    number: int
    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_audit_log` found.

    Attributes:
        valid: Whether every check that was asked for held.
        entries_count: Entries read; when invalid, those before the first that failed.
        first_invalid_index: The failing entry's line, counted from 1; None when no one line is to blame.
        reason: What was found and expected, when invalid.
        failure: The same in one word.
        log_id: The log's UUID, once its first entry could be read.
        assurance: The strongest thing that held: the chain alone, the checkpoint beside the
            log, tags or signatures, an earlier checkpoint kept elsewhere. None when invalid.
        not_checked: What this result does not show, one sentence each.
        root: RFC 9162 tree head over the entries, when valid.
        chain_head: Hash of the last entry that was read.
        checks: The numbered steps, in order, with their outcomes.
        openings: Commitments to personal values whose opening is in the vault and matches; None without a vault.
        redacted_openings: Commitments whose opening is not in the vault: shredded, if the log says so.
    """

    valid: bool
    entries_count: int
    first_invalid_index: int | None = None
    reason: str | None = None
    failure: FailureKind | None = None
    log_id: str | None = None
    assurance: Assurance | None = None
    not_checked: tuple[str, ...] = ()
    root: Digest | None = None
    chain_head: Digest | None = None
    checks: tuple[Check, ...] = ()
    openings: int | None = None
    redacted_openings: int | None = None

    @property
    def entries_checked(self) -> int:
        return self.entries_count


def verify_audit_log(
    path: str | os.PathLike[str],
    *,
    hmac_secret: str | None = None,
    require_hmac: bool = False,
    public_key: Ed25519PublicKey | bytes | str | os.PathLike[str] | None = None,
    checkpoint: str | Anchor | Sequence[str | Anchor] | None = None,
    expected_log_id: str | None = None,
    vault: str | os.PathLike[str] | None = None,
) -> VerifyResult:
    """Verify a log. The steps:

    (1) What was asked can be answered: keys and earlier checkpoints are readable.
    (2) Every line is one entry in canonical form, and ends with a line feed.
    (3) The first entry begins the log, and is the only one that does; all share its log id,
        which is `expected_log_id` if that is given.
    (4) `seq` counts 0, 1, 2, ... and `prev_hash` names the line before.
    (5) From where the log names a key on, each entry carries its tag or signature; those
        whose key was given match. Keys are added, never dropped.
    (6) No run has entries after its ``run.closed``.
    (7) The checkpoint beside the log names the log's first entries, all but at most one: a
        crash can leave one. It is signed by the keys given.
    (8) Each earlier checkpoint names a beginning of this log.
    (9) Each opening in the vault opens the commitment of the entry that it is of.

    Args:
        path: The log; its checkpoint is looked for beside it.
        hmac_secret: Checks HMAC tags where the log carries them.
        require_hmac: Refuses a log without tags. Takes the secret from FORGE_AUDIT_SECRET
            if `hmac_secret` is None.
        public_key: Ed25519 key, PEM text, or path of a PEM file. Refuses a log that is not signed with it.
        checkpoint: Text of a checkpoint taken earlier and kept elsewhere, an `Anchor`, or several.
        expected_log_id: The log id that the bundle or the orchestrator recorded.
        vault: The openings of personal values; looked for beside the log if None.

    Raises:
        OSError: The log, a key file, or the vault that was given, cannot be read.
    """
    walk = _Walk(Path(path))
    try:
        walk.take_question(hmac_secret, require_hmac, public_key, checkpoint, expected_log_id)
        walk.open_vault(vault)
        walk.read()
        walk.check_end()
    except _Finding as finding:
        return walk.invalid(finding)
    finally:
        walk.close()
    return walk.valid()


class _Finding(Exception):
    """The first thing that is wrong; ends the walk."""

    def __init__(self, kind: FailureKind, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.line = kind, reason, line


class _Walk:
    """One verification: the question, and what has been seen so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_id: str | None = None
        self.tree = merkle.RangeBuilder()
        self.last: Digest | None = None
        self.in_force = Fingerprints()
        self.keyed_from: int | None = None  # line of the first entry under a key
        self.keys = LogKeys()
        self.closed: dict[str, int] = {}  # run id -> line that closed it
        self.beside: Checkpoint | None = None
        self.step = 1  # the check at work
        self.is_walked = False
        self.vault: Session | None = None
        self.vault_problem: str | None = None  # why it cannot be read, which is no finding about the log
        self.vault_finding: _Finding | None = None
        self.has_vault = False  # read to the end
        self.commitments = self.openings = 0
        self.earlier: list[Checkpoint] = []

    # (1)
    def take_question(
        self,
        secret: str | None,
        require_hmac: bool,
        public_key: Ed25519PublicKey | bytes | str | os.PathLike[str] | None,
        checkpoint: str | Anchor | Sequence[str | Anchor] | None,
        expected_log_id: str | None,
    ) -> None:
        if require_hmac and secret is None:
            secret = secret_from(os.environ)
        if secret == "" or (require_hmac and secret is None):
            raise _Finding(
                FailureKind.USAGE, f"HMAC tags are required but there is no secret; pass it or set {SECRET_VARIABLE}"
            )
        self.secret, self.require_hmac, self.expected_log_id = secret, require_hmac, expected_log_id
        try:
            self.public = None if public_key is None else load_public_key(public_key)
        except ValueError as error:
            raise _Finding(FailureKind.USAGE, f"the public key cannot be used: {error}") from error
        given = [checkpoint] if isinstance(checkpoint, str | Anchor) else checkpoint or []
        try:
            self.earlier = [Checkpoint(item) if isinstance(item, Anchor) else Checkpoint.parse(item) for item in given]
        except ValueError as error:
            raise _Finding(FailureKind.USAGE, f"checkpoint: {error}") from error
        self.roots: dict[int, Digest | None] = {item.anchor.size: None for item in self.earlier}

    # (9)
    def open_vault(self, given: str | os.PathLike[str] | None) -> None:
        path = self.path.with_name(VAULT_FILE) if given is None else Path(given)
        if given is None and not path.exists():
            return
        try:
            with path.open("rb"):
                self.vault = Session(path)
        except sqlite3.Error as error:
            self._note_vault_error(error)
        except OSError as error:
            if given is not None:
                raise
            self.vault_problem = f"the vault beside the log cannot be read: {error.strerror}"

    def _note_vault_error(self, error: sqlite3.Error) -> None:
        reason = f"the vault cannot be read: {error}"
        if isinstance(error, sqlite3.OperationalError):  # busy, or a crashed transaction to be rolled back by a writer
            self.vault_problem = reason
        else:
            self.vault_finding = _Finding(FailureKind.OPENING, reason)
        self.close()

    def close(self) -> None:
        if self.vault is not None:
            self.vault.close()
            self.vault = None

    def read(self) -> None:
        beside_path = self.path.with_name(self.path.name + CHECKPOINT_SUFFIX)
        with self.path.open("rb") as file:
            with shared_if_possible(self.path.with_name(self.path.name + LOCK_SUFFIX)):
                size = os.fstat(file.fileno()).st_size  # what is appended later is not this verification's
                text = beside_path.read_bytes() if beside_path.exists() else None
            if text is not None:
                self.beside = self._read_beside(text)
                self.roots[self.beside.anchor.size] = None
            self._read_lines(file, size)

    def _read_beside(self, text: bytes) -> Checkpoint:
        self.step = 7
        try:
            beside = Checkpoint.parse(text.decode("utf-8"))
            if beside.text.encode() != text:
                raise ValueError("it is not in the form that it is written in")
        except ValueError as error:
            raise _Finding(FailureKind.TAMPERED, f"the checkpoint beside the log cannot be read: {error}") from error
        return beside

    def _read_lines(self, file: BinaryIO, size: int) -> None:
        while size > 0:
            self.step = 2
            line = file.readline(min(size, MAX_LINE_BYTES + 1))
            size -= len(line)
            number = self.tree.size + 1
            if not line.endswith(b"\n"):
                if len(line) > MAX_LINE_BYTES:
                    raise _Finding(FailureKind.MALFORMED, f"line {number} is longer than an entry can be", number)
                raise _Finding(FailureKind.TRUNCATED, f"line {number} is torn: it ends without a line feed", number)
            self._check_line(line[:-1], number)
        self.step, self.is_walked = 2, True
        if self.tree.size == 0:
            raise _Finding(FailureKind.EMPTY, "the log is empty; a log holds at least the entry that begins it")

    def _check_line(self, line: bytes, number: int) -> None:
        # (2)
        try:
            entry = Entry.parse(line)
        except ValueError as error:
            raise _Finding(FailureKind.MALFORMED, f"line {number} is not an entry: {error}", number) from error
        self._check_log_id(entry, number)  # (3)
        self._check_link(entry, number)  # (4)
        self._check_keys(entry, number)  # (5)
        self._check_seal(entry, number)  # (6)
        if entry.commit:
            self._check_openings(entry, number)  # (9)
        leaf = merkle.leaf_hash(line)
        self.tree.append(leaf)
        self.last = as_digest(leaf)
        if number in self.roots:
            self.roots[number] = as_digest(self.tree.root)

    # (3)
    def _check_log_id(self, entry: Entry, number: int) -> None:
        self.step = 3
        if (entry.event == events.GENESIS) != (number == 1):
            found = (
                f"line {number} is a second beginning" if number > 1 else f"line 1 is {entry.event!r}, not a beginning"
            )
            raise _Finding(FailureKind.REORDERED, found, number)
        if number > 1 and entry.log_id != self.log_id:
            raise _Finding(
                FailureKind.OTHER_LOG, f"line {number} is of log {entry.log_id}, not of {self.log_id}", number
            )
        if number == 1:
            self.log_id = entry.log_id
            self.keys = LogKeys.of(entry.log_id, secret=self.secret, public=self.public)
            expected = {item.anchor.log_id for item in self.earlier} | {self.expected_log_id or entry.log_id}
            for other in sorted(expected - {entry.log_id}):
                raise _Finding(FailureKind.OTHER_LOG, f"this is log {entry.log_id}; expected log {other}", 1)

    # (4)
    def _check_link(self, entry: Entry, number: int) -> None:
        self.step = 4
        if entry.seq != number - 1:
            reason = (
                f"line {number} has number {entry.seq}, expected {number - 1}: entries were removed, added or moved"
            )
            raise _Finding(FailureKind.REORDERED, reason, number)
        if entry.prev_hash != self.last:
            # The chain says that one of the two lines differs from what was written; it was the earlier one,
            # unless somebody forged this entry.
            reason = f"line {number} follows an entry with hash {entry.prev_hash}, but the line before has {self.last}"
            raise _Finding(FailureKind.TAMPERED, reason, max(number - 1, 1))

    # (5)
    def _check_keys(self, entry: Entry, number: int) -> None:
        self.step = 5
        if entry.event in (events.GENESIS, events.KEYS_ADDED):
            try:
                named = Fingerprints.from_json(entry.data.get("keys"))
            except ValueError as error:
                raise _Finding(FailureKind.MALFORMED, f"line {number}: {error}", number) from error
            if not self.in_force.is_extended_by(named):
                raise _Finding(
                    FailureKind.UNAUTHENTICATED, f"line {number} drops or exchanges a key of the log", number
                )
            self.in_force = named
            self._check_fingerprints(number)
        if self.keyed_from is None and self._is_keyed():
            self.keyed_from = number
        problem = self.keys.problem_with(entry, self.in_force)
        if problem is not None:
            raise _Finding(FailureKind.UNAUTHENTICATED, f"line {number}: {problem}", number)

    def _check_fingerprints(self, number: int) -> None:
        mine = self.keys.fingerprints
        for what, named, given in (
            ("secret", self.in_force.hmac, mine.hmac),
            ("public key", self.in_force.ed25519, mine.ed25519),
        ):
            if named and given and named != given:
                reason = f"line {number} names a {what} with fingerprint {named}; the one given has {given}"
                raise _Finding(FailureKind.UNAUTHENTICATED, reason, number)

    def _is_keyed(self) -> bool:
        return bool((self.keys.hmac and self.in_force.hmac) or (self.keys.public and self.in_force.ed25519))

    # (6)
    def _check_seal(self, entry: Entry, number: int) -> None:
        self.step = 6
        if entry.event.startswith(events.OWN_PREFIX):  # about the log, whichever run happened to write it
            return
        if entry.run_id in self.closed:
            closed = self.closed[entry.run_id]
            reason = f"line {number} ({entry.event}) is of run {entry.run_id!r}, which line {closed} closed"
            raise _Finding(FailureKind.AFTER_SEAL, reason, number)
        if entry.event == events.RUN_CLOSED:
            self.closed[entry.run_id] = number

    # (9)
    def _check_openings(self, entry: Entry, number: int) -> None:
        """Compare, and go on: what is wrong with the vault is said after all that could be wrong with the log."""
        self.commitments += len(entry.commit)
        if self.vault is None or self.vault_finding is not None:
            return
        try:
            found = self.vault.of_entry(entry.log_id, entry.seq)
        except sqlite3.Error as error:
            self._note_vault_error(error)
            return
        for name, opening in found.items():
            if name not in entry.commit or not opening.opens(entry.commit[name]):
                reason = f"line {number}: the opening of {name!r} in the vault is not what the entry committed to"
                self.vault_finding = self.vault_finding or _Finding(FailureKind.OPENING, reason, number)
        self.openings += len(found)

    def check_end(self) -> None:
        self.step = 5
        if self.public is not None and self.in_force.ed25519 is None:
            raise _Finding(FailureKind.UNAUTHENTICATED, "a public key was given, but the log is not signed")
        if self.require_hmac and self.in_force.hmac is None:
            raise _Finding(FailureKind.UNAUTHENTICATED, "HMAC tags are required, but the log carries none")
        self._check_beside()  # (7)
        self._check_earlier()  # (8)
        self._check_vault()  # (9)

    # (7)
    def _check_beside(self) -> None:
        self.step = 7
        if self.beside is None:
            if self._is_keyed():
                reason = "there is no checkpoint beside the log, so entries may have been cut from its end"
                raise _Finding(FailureKind.TRUNCATED, reason)
            return
        anchor, count = self.beside.anchor, self.tree.size
        if anchor.log_id != self.log_id:
            raise _Finding(FailureKind.OTHER_LOG, f"the checkpoint beside the log is of log {anchor.log_id}")
        self._check_root(self.beside, "the checkpoint beside the log", FailureKind.TAMPERED)
        if count > anchor.size + 1:
            reason = (
                f"the checkpoint beside the log covers {anchor.size} of {count} entries; a crash can leave out one only"
            )
            raise _Finding(FailureKind.TAMPERED, reason, anchor.size + 1)
        problem = self.beside.problem_with_signatures(self.keys, self.in_force)
        if problem is not None:
            raise _Finding(FailureKind.UNAUTHENTICATED, f"the checkpoint beside the log: {problem}")

    # (8)
    def _check_earlier(self) -> None:
        self.step = 8
        for item in self.earlier:
            name = f"the checkpoint given, of size {item.anchor.size}"
            self._check_root(item, name, FailureKind.DIVERGED)

    # (9)
    def _check_vault(self) -> None:
        self.step = 9
        if self.vault is not None and self.vault_finding is None:
            assert self.log_id is not None
            try:
                strays = self.vault.count(self.log_id, self.tree.size) - self.openings
            except sqlite3.Error as error:
                self._note_vault_error(error)
            else:  # fewer: somebody shredded some since
                if strays > 0:
                    reason = f"the vault holds {strays} openings of entries that committed to nothing"
                    self.vault_finding = _Finding(FailureKind.OPENING, reason)
        if self.vault_finding is not None:
            raise self.vault_finding
        self.has_vault = self.vault is not None

    def _check_root(self, checkpoint: Checkpoint, name: str, kind: FailureKind) -> None:
        size, root = checkpoint.anchor.size, checkpoint.anchor.root
        if size > self.tree.size:
            reason = f"{name} covers {size} entries, the log holds {self.tree.size}: its end was cut off"
            raise _Finding(FailureKind.TRUNCATED, reason, self.tree.size + 1)
        found = as_digest(merkle.EMPTY_ROOT) if size == 0 else self.roots[size]
        if found != root:
            raise _Finding(kind, f"{name} has root {root}; the log's first {size} entries have {found}")

    def invalid(self, finding: _Finding) -> VerifyResult:
        return VerifyResult(
            valid=False,
            entries_count=self.tree.size if finding.line is None else min(self.tree.size, finding.line - 1),
            first_invalid_index=finding.line,
            reason=finding.reason,
            failure=finding.kind,
            log_id=self.log_id,
            not_checked=("everything after the first failure",),
            chain_head=self.last,
            checks=tuple(self._checks(finding)),
        )

    def valid(self) -> VerifyResult:
        assurance: Assurance = "chain"
        if self.beside is not None:
            assurance = "checkpoint"
        if self._is_keyed():
            assurance = "signed"
        if any(item.anchor.size for item in self.earlier):
            assurance = "anchored"
        return VerifyResult(
            valid=True,
            entries_count=self.tree.size,
            log_id=self.log_id,
            assurance=assurance,
            not_checked=tuple(self._not_checked()),
            root=as_digest(self.tree.root),
            chain_head=self.last,
            checks=tuple(self._checks(None)),
            openings=self.openings if self.has_vault else None,
            redacted_openings=self.commitments - self.openings if self.has_vault else None,
        )

    def _not_checked(self) -> list[str]:
        anchored = max((item.anchor.size for item in self.earlier), default=0)
        sentences = []
        if not self._is_keyed():
            since = f" after entry {anchored}" if anchored else ""
            sentences.append(
                f"who wrote the entries{since}: without a key, whoever can write the files could have rewritten them"
            )
            if self.in_force != Fingerprints():
                sentences.append("the tags or signatures that the log carries: pass hmac_secret or public_key")
        elif self.keyed_from is not None and self.keyed_from > 1:
            sentences.append(f"who wrote entries 1 to {self.keyed_from - 1}: the log's key was added after them")
        if self.secret is not None and self.in_force.hmac is None:
            sentences.append("the secret given: the log carries no HMAC tags (require_hmac=True refuses that)")
        if self.beside is None:
            sentences.append("whether entries were cut from the end: there is no checkpoint beside the log")
        if anchored == 0:
            sentences.append(
                "whether an older copy of the log and its checkpoint was put back: no earlier checkpoint was given"
            )
        elif anchored < self.tree.size:
            sentences.append(
                f"whether entries after {anchored} were cut off or put back: the checkpoint given ends there"
            )
        if self.expected_log_id is None and anchored == 0:
            sentences.append("whether this is the log that was meant: no expected log id was given")
        if self.commitments and not self.has_vault:
            why = self.vault_problem or "there is no vault"
            sentences.append(f"which personal values {self.commitments} fields of entries committed to: {why}")
        sentences.append("the times (the writer's clock), the operators' names, and the artefacts that digests name")
        return sentences

    def _checks(self, finding: _Finding | None) -> list[Check]:
        """The numbered checks: how far they came when `finding` ended the walk, or when nothing did."""
        failed = self.step if finding else len(_CHECKS) + 1
        checks = []
        for number, name in enumerate(_CHECKS, start=1):
            outcome: Outcome
            if finding is not None and number == failed:
                outcome, detail = "failed", finding.reason
            elif number in _LINE_BY_LINE and not self.is_walked:
                outcome, detail = "not_checked", f"it held up to line {self.tree.size}, where the walk ended"
            elif number > failed and not (number in _LINE_BY_LINE and self.is_walked):
                outcome, detail = "not_checked", f"check {failed} failed before"
            else:
                outcome, detail = self._outcome(number)
            checks.append(Check(number, name, outcome, detail))
        return checks

    def _outcome(self, number: int) -> tuple[Outcome, str]:
        """How a check came out that was carried to its end without a finding."""
        count = self.tree.size
        match number:
            case 2 | 4:
                return "passed", f"{count} lines"
            case 3 if self.expected_log_id is not None or self.earlier:
                return "passed", f"log {self.log_id}, as expected"
            case 3:
                return "passed", f"log {self.log_id}; no log id was given to compare it with"
            case 5:
                return self._outcome_of_keys()
            case 6:
                return "passed", f"{len(self.closed)} runs were closed"
            case 7 if self.beside is not None:
                return "passed", f"it covers {self.beside.anchor.size} of {count} entries"
            case 7:
                return "not_checked", "there is none"
            case 8 if self.earlier:
                return "passed", f"of sizes {', '.join(str(item.anchor.size) for item in self.earlier)}"
            case 8:
                return "not_checked", "none was given"
            case 9 if self.has_vault:
                redacted = self.commitments - self.openings
                return "passed", f"{self.openings} openings match; {redacted} commitments have none (redacted)"
            case 9:
                return "not_checked", self.vault_problem or "there is no vault"
        return "passed", "what was given could be read"

    def _outcome_of_keys(self) -> tuple[Outcome, str]:
        if self.in_force == Fingerprints():
            return "not_checked", "the log names no key"
        mine = (
            ("HMAC tags", self.in_force.hmac, self.keys.hmac),
            ("Ed25519 signatures", self.in_force.ed25519, self.keys.public),
        )
        matched = [what for what, named, given in mine if named and given]
        missing = [what for what, named, given in mine if named and not given]
        without = f"; no key was given for the {' and '.join(missing)}" if missing else ""
        if not matched:
            return "not_checked", f"they are where they should be{without}"
        return "passed", f"{' and '.join(matched)} match from line {self.keyed_from} on{without}"
