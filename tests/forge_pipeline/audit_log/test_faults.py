"""Crashes and failing disks: what was acknowledged is there, and the log goes on."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from benchmarks.power_loss import unbuffered
from forge_pipeline.audit_log import AuditLogger, read_entries, verify_audit_log
from forge_pipeline.errors import EvidenceError

SYSCALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "chmod", "mkdir", "close")
SHORT_WRITE = 0  # in place of an errno: write(2) takes half of what it was given
FAULTS = [  # which error, and whether all later calls fail too
    (errno.ENOSPC, False),
    (errno.ENOSPC, True),
    (errno.EIO, False),
    (errno.EIO, True),
    (errno.EINTR, False),
    (SHORT_WRITE, False),
]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch) -> None:
    """These tests say themselves what reached the disk; fsync still counts as a call that can fail."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(params=[10])
def log_before_and_after(request, memory_path, make_log, settings_for):
    """The bytes of a log and its checkpoint before and after its last append, and a way to put a state in place."""
    log = make_log(memory_path / "log")
    logger = AuditLogger.with_settings(log.directory, settings_for("keyless"), run_id="run-2")
    before, checkpoint = log.path.read_bytes(), log.checkpoint_path.read_bytes()
    logger.log_event("acme.reviewed", by="bob", text="x" * request.param)
    after = log.path.read_bytes()

    def put(data: bytes) -> None:
        log.path.write_bytes(data)
        log.checkpoint_path.write_bytes(checkpoint)
        for torn in log.directory.glob("*.torn-*"):
            torn.unlink()

    return log, before, after, put


def test_a_log_torn_at_any_byte_of_its_last_line_is_recovered(log_before_and_after, settings_for) -> None:
    log, before, after, put = log_before_and_after
    settings = settings_for("keyless")
    for end in range(len(before), len(after) + 1):
        put(after[:end])
        AuditLogger.with_settings(log.directory, settings, run_id="run-3")
        entries, result = read_entries(log.path), verify_audit_log(log.path)
        torn = [path.read_bytes() for path in log.directory.glob("*.torn-*")]
        assert result.valid, end
        if end == len(before):
            assert (len(entries), torn) == (8, [])
        elif end == len(after):  # whole: it may have been the crash that kept it from being acknowledged
            assert (entries[-1].event, torn) == ("acme.reviewed", [])
        else:
            assert (entries[-1].event, torn) == ("audit.recovered", [after[len(before) : end]])
            assert entries[-1].data["torn_bytes"] == end - len(before)


@pytest.mark.parametrize("log_before_and_after", [2000], indirect=True)
def test_a_line_of_which_sectors_never_reached_the_disk_is_recovered(log_before_and_after, settings_for) -> None:
    log, before, after, put = log_before_and_after
    settings = settings_for("keyless")
    for start in range(len(before) // 512 * 512, len(after), 512):
        lost = range(max(start, len(before)), min(start + 512, len(after)))
        put(after[: lost.start] + bytes(len(lost)) + after[lost.stop :])
        logger = AuditLogger.with_settings(log.directory, settings, run_id="run-3")
        logger.log_event("acme.reviewed", by="carol")
        assert verify_audit_log(log.path).valid
        assert [entry.event for entry in read_entries(log.path)][8:] == ["audit.recovered", "acme.reviewed"]


def test_a_crash_between_the_line_and_its_checkpoint_leaves_a_valid_log(log_before_and_after) -> None:
    log, _, after, put = log_before_and_after
    put(after)
    assert verify_audit_log(log.path).valid


def test_a_crash_while_a_log_begins_leaves_room_for_one(tmp_path, settings_for) -> None:
    first = AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    log_id = first.anchor().log_id
    first.log_path.unlink()  # the checkpoint comes first
    second = AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    assert second.anchor().log_id != log_id
    assert verify_audit_log(second.log_path, checkpoint=second.checkpoint()).valid


class Faults:
    """Counts system calls and makes the n-th fail, once or from there on."""

    def __init__(self, nth: int, code: int, *, sticky: bool) -> None:
        self.nth, self.code, self.sticky = nth, code, sticky
        self.calls = 0
        self.hit: str | None = None

    def wrap(self, name: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.nth or (self.sticky and self.calls > self.nth):
                self.hit = self.hit or name
                if name == "close":
                    real(*args, **kwargs)  # Linux closes the descriptor, whatever it says
                if name == "write" and self.code == SHORT_WRITE:
                    return real(args[0], args[1][: len(args[1]) // 2])  # a short write
                if self.code != SHORT_WRITE:
                    raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


@contextmanager
def failing(faults: Faults) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in SYSCALLS:
            patch.setattr(os, name, faults.wrap(name, getattr(os, name)))
        patch.setattr(os, "fdopen", unbuffered)
        yield


def every_fault(attempt: Callable[[Faults], None]) -> set[str]:
    """Run `attempt` with the first, second, ... call failing until it is done untouched; names of the calls hit."""
    hit = set()
    for code, sticky in FAULTS:
        for nth in itertools.count(1):
            faults = Faults(nth, code, sticky=sticky)
            attempt(faults)
            if faults.hit is None:
                break
            hit.add(faults.hit)
    return hit


def test_no_failing_system_call_bricks_the_log_or_passes_for_success(memory_path, settings_for) -> None:
    logger = AuditLogger.with_settings(memory_path, settings_for("hmac"))
    acknowledged: list[int] = []
    failed: list[int] = []

    def attempt(faults: Faults) -> None:
        number = len(acknowledged) + len(failed)
        try:
            with failing(faults):
                logger.log_event("acme.counted", number=number)
        except EvidenceError:
            failed.append(number)
        else:
            acknowledged.append(number)
        if not faults.sticky:
            assert verify_audit_log(logger.log_path, hmac_secret="correct horse battery staple").valid, faults.hit
        logger.log_event("acme.reviewed", after=number)
        written = [e.data["number"] for e in read_entries(logger.log_path) if e.event == "acme.counted"]
        assert set(acknowledged) <= set(written), faults.hit
        assert len(written) == len(set(written))

    assert every_fault(attempt) >= {"open", "write", "fsync", "replace"}
    assert len(failed) > 10
    result = verify_audit_log(logger.log_path, hmac_secret="correct horse battery staple", require_hmac=True)
    assert (result.valid, result.assurance) == (True, "signed")
    fresh = AuditLogger.with_settings(memory_path, settings_for("hmac"))
    fresh.log_event("acme.reviewed", after="all")
    assert verify_audit_log(fresh.log_path).valid


def test_no_failing_system_call_while_beginning_or_recovering_bricks_the_log(
    memory_path, settings_for, log_before_and_after
) -> None:
    log, before, after, put = log_before_and_after
    settings = settings_for("keyless")
    places = iter(range(10_000))

    def begin(faults: Faults) -> None:
        directory = memory_path / f"new-{next(places)}"
        with suppress(EvidenceError), failing(faults):
            AuditLogger.with_settings(directory, settings)
        assert verify_audit_log(AuditLogger.with_settings(directory, settings).log_path).valid

    def recover(faults: Faults) -> None:
        put(after[: (len(before) + len(after)) // 2])
        with suppress(EvidenceError), failing(faults):
            AuditLogger.with_settings(log.directory, settings)
        AuditLogger.with_settings(log.directory, settings, run_id="run-3").log_event("acme.reviewed", by="carol")
        assert verify_audit_log(log.path).valid
        assert list(log.directory.glob("*.torn-*"))

    assert every_fault(begin) >= {"open", "write", "fsync", "replace", "mkdir"}
    assert every_fault(recover) >= {"open", "write", "fsync", "ftruncate", "replace"}


def test_no_failing_system_call_while_a_key_is_added_bricks_the_log(
    memory_path, make_log, settings_for, public_pem
) -> None:
    keyless = make_log(memory_path / "keyless")
    places = iter(range(10_000))

    def add_key(faults: Faults) -> None:
        log = replace(keyless, directory=shutil.copytree(keyless.directory, memory_path / f"keyed-{next(places)}"))
        with log.path.open("ab") as file:  # a torn tail has to be moved aside first, and is noted without the key
            file.write(b'{"actor":')
        with suppress(EvidenceError), failing(faults):
            AuditLogger.with_settings(log.directory, settings_for("signed"), run_id="run-2")
        AuditLogger.with_settings(log.directory, settings_for("signed"), run_id="run-2").log_event("acme.reviewed")
        result = verify_audit_log(log.path, public_key=public_pem)
        assert (result.valid, result.assurance) == (True, "signed"), (result.reason, faults.hit)
        assert list(log.directory.glob("*.torn-*")), faults.hit
        events = [entry.event for entry in log.entries[8:]]
        # What fails between the truncation and its note leaves the bytes aside without one.
        assert events[-2:] == ["audit.keys_added", "acme.reviewed"], faults.hit
        assert events[:-2] in ([], ["audit.recovered"]), faults.hit

    assert every_fault(add_key) >= {"open", "write", "fsync", "ftruncate", "replace"}


def test_no_failing_system_call_separates_an_entry_from_its_personal_values(memory_path, settings_for) -> None:
    """SQLite makes its own calls, which do not pass through `os`; a full vault is tested with the vault."""
    logger = AuditLogger.with_settings(memory_path, settings_for("keyless"))

    def attempt(faults: Faults) -> None:
        with suppress(EvidenceError), failing(faults):
            logger.log_event("acme.asked", personal={"subject": "ada@example.org"})
        logger.log_event("acme.reviewed")
        result = verify_audit_log(logger.log_path)
        assert result.valid, (result.reason, faults.hit)
        asked = sum(entry.event == "acme.asked" for entry in read_entries(logger.log_path))
        assert (result.openings, result.redacted_openings, len(logger.vault.openings())) == (asked, 0, asked), (
            faults.hit
        )

    logger.log_event("acme.asked", personal={"subject": "ada@example.org"})
    assert every_fault(attempt) >= {"open", "write", "fsync", "replace"}


FULL_DISK = """
import resource, sys
from forge_pipeline.audit_log import AuditLogger, AuditSettings, verify_audit_log
logger = AuditLogger.with_settings(sys.argv[1], AuditSettings("worker"))
size = logger.log_path.stat().st_size
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limit[1]))
try:
    logger.log_event("acme.counted", text="x" * 1000)
except OSError as error:
    print(type(error).__name__, logger.log_path.stat().st_size == size, verify_audit_log(logger.log_path).valid)
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
logger.log_event("acme.counted", text="x" * 1000)
print(verify_audit_log(logger.log_path).entries_count)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_file_that_may_not_grow_gives_a_clean_error_and_goes_on_when_it_may(tmp_path) -> None:
    output = subprocess.check_output([sys.executable, "-c", FULL_DISK, str(tmp_path)], text=True)
    assert output.split() == ["EvidenceError", "True", "True", "2"]
