"""Personal values: committed to in the log, kept in the vault, erased there, and gone."""

import base64
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_pipeline.audit_log import (
    AuditLogger,
    AuditSettings,
    FailureKind,
    Opening,
    Vault,
    prove_consistency,
    prove_inclusion,
    read_entries,
    verify_audit_log,
)
from forge_pipeline.errors import EvidenceError

MEMORY = (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)  # SQLite waits for its disk, which is not what is tested
MAIL, NAME = "ada.lovelace@example.org", "Ada Lovelace, Grüße 世界"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def logger(tmp_path, settings_for) -> AuditLogger:
    return AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-1")


def traces(value: str) -> list[bytes]:
    """The forms in which a value could have been written down."""
    raw = value.encode()
    utf16 = [value.encode(f"utf-16-{order}") for order in ("le", "be")]
    encoded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 :].rstrip(b"=")[:-1] for shift in range(3)]
    escaped = value.encode("ascii", "backslashreplace")
    return [raw, *utf16, *encoded, raw.hex().encode(), raw.hex().upper().encode(), escaped]


def files_with(value: str, directory: Path) -> list[str]:
    forms = traces(value)
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted({path.name for path in files if any(form in path.read_bytes() for form in forms)})


def test_a_personal_value_is_in_the_vault_and_nowhere_else(logger, tmp_path) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL, "name": NAME}, count=1)
    entry = read_entries(logger.log_path)[-1]
    assert entry.data == {"count": 1}
    assert entry.commit.keys() == {"subject", "name"}
    opening = logger.vault.opening(entry.log_id, entry.seq, "subject")
    assert opening is not None
    assert (opening.value, opening.opens(entry.commit["subject"])) == (MAIL, True)
    assert files_with(MAIL, tmp_path) == files_with(NAME, tmp_path) == ["vault.sqlite"]
    assert MAIL not in repr(opening)
    if os.name == "posix":
        assert logger.vault.path.stat().st_mode & 0o777 == 0o600


def test_the_commitment_is_the_hmac_of_the_value_under_a_fresh_key(logger) -> None:
    import hmac

    for _ in range(2):
        logger.log_event("acme.asked", personal={"subject": MAIL})
    one, two = logger.vault.openings()
    assert one.key != two.key
    assert len(one.key) == 32
    commit = read_entries(logger.log_path)[1].commit["subject"]
    assert commit == hmac.new(one.key, MAIL.encode(), "sha256").hexdigest()
    assert commit != read_entries(logger.log_path)[2].commit["subject"]


def test_openings_are_found_by_value_and_shredded_by_place_or_value(logger, tmp_path) -> None:
    for subject in (MAIL, "someone@example.org", MAIL):
        logger.log_event("acme.asked", personal={"subject": subject})
    log_id, vault = logger.anchor().log_id, Vault(tmp_path / "vault.sqlite")
    assert vault.find(MAIL) == [(log_id, 1, "subject"), (log_id, 3, "subject")]
    assert vault.find(MAIL.upper()) == []
    assert [opening.seq for opening in vault.openings(log_id)] == [1, 2, 3]
    assert vault.openings("another log") == []
    assert [vault.shred(log_id, 1, "subject") for _ in range(2)] == [True, False]
    assert [vault.shred_value(MAIL) for _ in range(2)] == [1, 0]
    assert vault.opening(log_id, 1, "subject") is None
    assert files_with(MAIL, tmp_path) == []
    assert files_with("someone@example.org", tmp_path) == ["vault.sqlite"]


def test_a_vault_that_was_never_needed_does_not_exist(logger, tmp_path) -> None:
    logger.log_event("acme.asked", count=1)
    vault = Vault(tmp_path / "vault.sqlite")
    assert (vault.openings(), vault.find(MAIL), vault.shred_value(MAIL), vault.version) == ([], [], 0, None)
    assert not vault.path.exists()
    result = verify_audit_log(logger.log_path)
    assert (result.openings, result.redacted_openings) == (None, None)
    assert not any("personal" in sentence for sentence in result.not_checked)


# No two alike, none inside another, none by chance in a hash.
subjects = st.builds(
    lambda tag, name: f"{tag.hex()} {name}",
    st.binary(min_size=12, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    events=st.lists(
        st.tuples(subjects, st.integers(0, 2)), min_size=1, max_size=6, unique_by=lambda pair: pair[0][:24]
    ),
    erased=st.sets(st.integers(0, 5)),
    mode=st.sampled_from(["keyless", "signed", "hmac"]),
)
def test_after_any_erasures_nothing_of_the_erased_is_left_and_everything_still_holds(
    events, erased, mode, settings_for, public_pem
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        directory = Path(place)
        logger = AuditLogger.with_settings(directory, settings_for(mode), run_id="run-1")
        for number, (subject, extra) in enumerate(events):
            personal = {"subject": subject, **{f"copy_{n}": subject for n in range(extra)}}
            logger.log_event("acme.asked", personal=personal, number=number)
            logger.log_event("acme.counted", number=number)
        keys = {"signed": {"public_key": public_pem}, "hmac": {"hmac_secret": "correct horse battery staple"}}
        question = {"checkpoint": logger.checkpoint(), **keys.get(mode, {})}
        log, proof = logger.log_path.read_bytes(), prove_inclusion(logger.log_path, 1)
        growth = prove_consistency(logger.log_path, 2)

        gone = 0
        for index in erased & set(range(len(events))):
            subject, extra = events[index]
            assert logger.vault.shred_value(subject) == 1 + extra
            assert logger.vault.shred_value(subject) == 0
            gone += 1 + extra
            assert files_with(subject, directory) == []
        kept = [subject for index, (subject, _) in enumerate(events) if index not in erased]
        assert all(logger.vault.find(subject) for subject in kept)

        assert logger.log_path.read_bytes() == log
        result = verify_audit_log(logger.log_path, **question)
        total = sum(1 + extra for _, extra in events)
        assert (result.valid, result.openings, result.redacted_openings) == (True, total - gone, gone)
        assert proof.holds()
        assert growth.holds()
        assert prove_inclusion(logger.log_path, 1) == proof
        logger.log_event("data.erasure_completed", target_kind="subject", redacted=gone)
        assert verify_audit_log(logger.log_path, **question).assurance == "anchored"


REFUSED = {
    "a value that is not text": ({"subject": 7}, {}, "not a name for a string"),
    "a field that is in clear too": ({"subject": MAIL}, {"subject": "x"}, "is a field too"),
    "a name of the envelope": ({"operator": MAIL}, {}, "belong to the entry's envelope"),
    "a name that is empty": ({"": MAIL}, {}, "not a name"),
    "a lone surrogate": ({"subject": "\ud800"}, {}, "not valid Unicode"),
    "too much": ({"subject": "a" * (1 << 21)}, {}, "more than"),
}


@pytest.mark.parametrize(("personal", "fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_committed_to_is_refused_before_anything_is_written(personal, fields, message, logger) -> None:
    before = logger.log_path.read_bytes()
    with pytest.raises(ValueError, match=message):
        logger.log_event("acme.asked", personal=personal, **fields)
    assert logger.log_path.read_bytes() == before
    assert not logger.vault.path.exists()


def test_a_field_that_the_catalogue_calls_personal_is_refused_in_clear(logger) -> None:
    with pytest.raises(ValueError, match="'target_id' is about a person; pass it as personal="):
        logger.log_event("data.erasure_requested", target_kind="subject", target_id=MAIL)
    logger.log_event("data.erasure_requested", target_kind="subject", personal={"target_id": MAIL})
    assert verify_audit_log(logger.log_path).openings == 1


# What somebody does to the vault, and whether the verifier calls the evidence invalid for it.
def exchange(database: sqlite3.Connection) -> None:
    database.execute("UPDATE openings SET value = ? WHERE seq = 1", (b"mallory@example.org",))


def turn_key(database: sqlite3.Connection) -> None:
    database.execute("UPDATE openings SET key = ? WHERE seq = 1", (bytes(32),))


def add_stray(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO openings SELECT log_id, 0, 'subject', key, value FROM openings WHERE seq = 1")


def rename_field(database: sqlite3.Connection) -> None:
    database.execute("UPDATE openings SET field = 'approver' WHERE seq = 1")


def shorten_key(database: sqlite3.Connection) -> None:
    database.execute("UPDATE openings SET key = x'00' WHERE seq = 1")


def spoil_text(database: sqlite3.Connection) -> None:
    database.execute("UPDATE openings SET value = x'ff' WHERE seq = 1")


SPOILED = {
    "another value": (exchange, 2),
    "another key": (turn_key, 2),
    "an opening of an entry that committed to nothing": (add_stray, None),
    "another field": (rename_field, 2),
    "a short key": (shorten_key, None),
    "a value that is not text": (spoil_text, None),
}


@pytest.mark.parametrize(("spoil", "line"), SPOILED.values(), ids=SPOILED.keys())
def test_an_opening_that_is_not_what_was_committed_to_is_a_finding(spoil, line, logger) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    logger.log_event("acme.asked", personal={"subject": NAME})
    with closing(sqlite3.connect(logger.vault.path)) as database, database:
        spoil(database)
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.failure, result.first_invalid_index) == (False, FailureKind.OPENING, line)
    assert MAIL not in str(result)
    assert [check.outcome for check in result.checks[1:4]] == ["passed"] * 3
    assert (result.checks[8].outcome, result.checks[8].detail) == ("failed", result.reason)


def test_a_finding_about_the_log_comes_before_one_about_the_vault(logger) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    logger.log_event("acme.counted", number=1)
    logger.vault.path.write_bytes(b"not a database, but long enough to look at" * 100)
    assert verify_audit_log(logger.log_path).failure == FailureKind.OPENING
    lines = logger.log_path.read_bytes().splitlines(keepends=True)
    logger.log_path.write_bytes(b"".join([lines[0], lines[2]]))
    assert verify_audit_log(logger.log_path).failure == FailureKind.REORDERED


def test_a_log_without_its_vault_is_valid_and_says_what_it_no_longer_shows(logger, tmp_path) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    elsewhere = tmp_path / "elsewhere.sqlite"
    logger.vault.path.rename(elsewhere)
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings) == (True, None)
    assert any("which personal values 1 fields" in sentence for sentence in result.not_checked)
    assert verify_audit_log(logger.log_path, vault=elsewhere).openings == 1
    with pytest.raises(OSError, match="none"):
        verify_audit_log(logger.log_path, vault=tmp_path / "none.sqlite")
    logger.log_event("acme.asked", personal={"subject": NAME})
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings, result.redacted_openings) == (True, 1, 1)


def test_a_verifier_changes_nothing_and_waits_for_no_writer(logger) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    before = logger.vault.path.read_bytes(), logger.vault.path.stat().st_mtime_ns
    with closing(sqlite3.connect(logger.vault.path)) as database:
        database.execute("BEGIN IMMEDIATE")  # a writer between two statements
        assert verify_audit_log(logger.log_path).openings == 1
    assert (logger.vault.path.read_bytes(), logger.vault.path.stat().st_mtime_ns) == before


# --- crashes ----------------------------------------------------------------------------------------------------

CRASHING = """
import os, sys
from forge_pipeline.audit_log import AuditLogger, AuditSettings, writer
logger = AuditLogger.with_settings(sys.argv[1], AuditSettings("worker"), run_id="run-2")
setattr(AuditLogger, sys.argv[2], lambda *arguments: os._exit(9))
logger.log_event("acme.asked", personal={"subject": sys.argv[3]})
"""


def crash_at(method: str, directory: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASHING, str(directory), method, MAIL], check=False)
    assert done.returncode == 9


def test_an_opening_whose_line_a_crash_prevented_is_reported_as_nothing_and_removed_by_the_next_append(
    logger, tmp_path
) -> None:
    logger.log_event("acme.asked", personal={"subject": NAME})
    crash_at("_write_line", tmp_path)
    assert files_with(MAIL, tmp_path) == ["vault.sqlite"]
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings, result.redacted_openings) == (True, 1, 0)
    logger.log_event("acme.counted", number=1)  # by a logger that was there before the crash, without a personal field
    assert files_with(MAIL, tmp_path) == []
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings, result.redacted_openings) == (True, 1, 0)


def test_an_opening_whose_line_a_crash_prevented_is_removed_when_the_log_is_opened(
    logger, tmp_path, settings_for
) -> None:
    crash_at("_write_line", tmp_path)
    AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    assert files_with(MAIL, tmp_path) == []


def test_an_opening_whose_line_is_whole_but_unacknowledged_is_kept(logger, tmp_path) -> None:
    crash_at("_write_checkpoint", tmp_path)
    logger.log_event("acme.counted", number=1)
    assert [entry.event for entry in read_entries(logger.log_path)][1:] == ["acme.asked", "acme.counted"]
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings, result.redacted_openings) == (True, 1, 0)


def test_an_opening_whose_line_was_torn_is_removed_before_its_number_is_given_again(logger, tmp_path) -> None:
    crash_at("_write_checkpoint", tmp_path)
    logger.log_path.write_bytes(logger.log_path.read_bytes()[:-20])
    logger.log_event("acme.counted", number=1)
    assert [entry.event for entry in read_entries(logger.log_path)][1:] == ["audit.recovered", "acme.counted"]
    assert files_with(MAIL, tmp_path) == []
    assert verify_audit_log(logger.log_path).valid


def test_a_line_that_cannot_be_written_leaves_no_opening(logger, tmp_path, monkeypatch) -> None:
    logger.log_event("acme.asked", personal={"subject": NAME})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(EvidenceError):
            logger.log_event("acme.asked", personal={"subject": MAIL})
    assert files_with(MAIL, tmp_path) == []
    assert verify_audit_log(logger.log_path).openings == 1


def test_a_vault_that_cannot_be_written_leaves_the_log_as_it_is(logger, tmp_path) -> None:
    before = logger.log_path.read_bytes()
    logger.vault.path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(EvidenceError, match="vault"):
        logger.log_event("acme.asked", personal={"subject": MAIL})
    assert logger.log_path.read_bytes() == before
    logger.vault.path.unlink()
    logger.log_event("acme.asked", personal={"subject": MAIL})
    assert verify_audit_log(logger.log_path).openings == 1


def test_a_vault_on_a_full_disk_gives_a_clean_error_and_goes_on_when_there_is_room(
    logger, tmp_path, monkeypatch
) -> None:
    import forge_pipeline.audit_log.vault as module

    logger.log_event("acme.asked", personal={"subject": NAME})
    before = logger.log_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_PRAGMAS", (*module._PRAGMAS, "max_page_count = 2"))  # SQLite's own "disk is full"
        with pytest.raises(EvidenceError, match="full"):
            logger.log_event("acme.asked", personal={"subject": MAIL + "x" * 20_000})
    assert logger.log_path.read_bytes() == before
    logger.log_event("acme.asked", personal={"subject": MAIL + "x" * 20_000})
    assert verify_audit_log(logger.log_path).openings == 2


SHRED_AND_DIE = """
import os, sys
from forge_pipeline.audit_log import Vault
import forge_pipeline.audit_log.vault as module
real = module.sqlite3.connect
class Dying:
    def __init__(self, database): self._database = database
    def __getattr__(self, name): return getattr(self._database, name)
    def __enter__(self): return self._database.__enter__() and self
    def __exit__(self, *exception): return self._database.__exit__(*exception)
    def execute(self, statement, *arguments):
        if statement.startswith(sys.argv[3]):
            if sys.argv[3] == "DELETE":
                self._database.execute(statement, *arguments)
            os._exit(9)
        return self._database.execute(statement, *arguments)
module.sqlite3.connect = lambda *arguments, **more: Dying(real(*arguments, **more))
Vault(sys.argv[1]).shred_value(sys.argv[2])
"""


@pytest.mark.parametrize("statement", ["DELETE", "VACUUM"])
def test_a_shred_that_a_crash_cut_short_is_finished_by_the_next(statement, logger, tmp_path) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    logger.log_event("acme.asked", personal={"subject": NAME})
    arguments = [sys.executable, "-c", SHRED_AND_DIE, str(logger.vault.path), MAIL, statement]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert verify_audit_log(logger.log_path).valid
    logger.vault.shred_value(MAIL)
    assert files_with(MAIL, tmp_path) == []
    result = verify_audit_log(logger.log_path)
    assert (result.valid, result.openings, result.redacted_openings) == (True, 1, 1)


def test_a_log_begun_anew_beside_an_old_vault_takes_nothing_from_it(logger, tmp_path, settings_for) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    old = logger.anchor().log_id
    for path in (logger.log_path, logger._checkpoint_path):
        path.unlink()
    fresh = AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    fresh.log_event("acme.asked", personal={"subject": NAME})
    assert [opening.log_id for opening in fresh.vault.openings()].count(old) == 1
    assert verify_audit_log(fresh.log_path).openings == 1


def test_processes_share_a_vault(tmp_path) -> None:
    script = """
import sys
from forge_pipeline.audit_log import AuditLogger, AuditSettings
logger = AuditLogger.with_settings(sys.argv[1], AuditSettings("worker"), run_id=sys.argv[2])
for number in range(10):
    logger.log_event("acme.asked", personal={"subject": f"{sys.argv[2]}-{number}"})
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in ("one", "two", "three")
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    result = verify_audit_log(tmp_path / "audit_log.jsonl")
    assert (result.valid, result.openings, result.redacted_openings) == (True, 30, 0)


def test_an_opening_opens_only_what_it_was_drawn_for() -> None:
    opening = Opening.draw("log", 1, "subject", MAIL)
    assert opening.opens(opening.commitment)
    assert not replace(opening, value=NAME).opens(opening.commitment)
    assert not replace(opening, key=bytes(32)).opens(opening.commitment)


def test_the_operator_stands_in_the_entry_and_cannot_be_shredded(logger, tmp_path) -> None:
    """The reference contract puts the operator into every entry; who wants none there sets a pseudonym as FORGE_OPERATOR."""
    logger.log_event("acme.asked", personal={"subject": MAIL})
    logger.vault.shred_value("alice@lab")
    assert "audit_log.jsonl" in files_with("alice@lab", tmp_path)


def test_a_copy_of_the_directory_verifies_with_its_vault(logger, tmp_path) -> None:
    logger.log_event("acme.asked", personal={"subject": MAIL})
    copy = Path(shutil.copytree(tmp_path, tmp_path / "copy"))
    assert verify_audit_log(copy / "audit_log.jsonl").openings == 1
    other = AuditLogger.with_settings(copy, AuditSettings("bob"), run_id="run-9")
    other.vault.shred_value(MAIL)
    assert files_with(MAIL, copy) == []
