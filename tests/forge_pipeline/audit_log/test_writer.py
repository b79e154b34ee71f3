"""AuditLogger: what is appended, by whom, together with whom, and what it refuses."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

import benchmarks
from forge_pipeline.audit_log import AuditLogger, Checkpoint, read_entries, verify_audit_log
from forge_pipeline.errors import ConfigError, EvidenceError

SECRET = "correct horse battery staple"


@pytest.fixture
def clean_environment(monkeypatch):
    for name in ("FORGE_OPERATOR", "FORGELM_OPERATOR", "FORGE_AUDIT_SECRET", "FORGE_AUDIT_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def logger(tmp_path, settings_for):
    return AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-1")


def test_a_log_begins_with_its_own_name_code_and_keys(tmp_path, settings_for) -> None:
    settings = replace(settings_for("signed"), binds={"policy_digest": "sha256:..."})
    logger = AuditLogger.with_settings(tmp_path / "new" / "place", settings)
    (first,) = read_entries(logger.log_path)
    assert (first.event, first.seq, first.prev_hash) == ("audit.genesis", 0, None)
    assert first.data["binds"] == {"policy_digest": "sha256:..."}
    assert first.data["code_version"].startswith("forge-pipeline ")
    assert first.data["keys"]["hmac"] is None
    assert first.data["keys"]["ed25519"].startswith("sha256:")
    assert verify_audit_log(logger.log_path, checkpoint=logger.checkpoint()).valid


def test_fields_come_back_as_they_were_given(logger) -> None:
    fields = {"text": 'Grüße "世界"\n\u2028', "n": 1e17, "list": [1, (2.5, None)], "deep": {"a": {"b": [True]}}}
    logger.log_event("acme.reviewed", **fields)
    entry = read_entries(logger.log_path)[-1]
    assert entry.data == {**fields, "list": [1, [2.5, None]]}
    assert (entry.event, entry.operator, entry.run_id) == ("acme.reviewed", "alice@lab", "run-1")


def test_a_receipt_names_the_entry_and_the_log_that_ends_with_it(logger) -> None:
    receipt = logger.append("acme.reviewed", {"by": "bob"})
    assert (receipt.seq, receipt.anchor) == (1, logger.anchor())
    assert receipt.entry_hash == read_entries(logger.log_path)[1].hash
    assert Checkpoint.parse(logger.checkpoint()).anchor == receipt.anchor
    logger.log_event("acme.reviewed", by="carol")
    assert verify_audit_log(logger.log_path, checkpoint=receipt.anchor).assurance == "anchored"


REFUSED = {
    "the envelope's operator": {"operator": "ceo@bank"},
    "the envelope's time": {"timestamp": "2020-01-01T00:00:00Z"},
    "NaN": {"loss": float("nan")},
    "an object": {"model": object()},
    "a path": {"model": Path("m")},
    "too much": {"text": "a" * (1 << 20)},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_logged_is_refused_before_anything_is_written(fields, logger) -> None:
    before = logger.log_path.read_bytes()
    with pytest.raises(ValueError, match=r"."):
        logger.log_event("acme.reviewed", **fields)
    assert logger.log_path.read_bytes() == before
    logger.log_event("acme.reviewed", by="bob")
    assert verify_audit_log(logger.log_path).valid


def test_a_closed_run_takes_no_more_events_and_another_does(logger, tmp_path, settings_for) -> None:
    logger.log_event("run.closed")
    again = AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-1")
    for late in (logger, again):
        with pytest.raises(ValueError, match="run 'run-1' was closed"):
            late.log_event("acme.reviewed")
    AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-2").log_event("acme.reviewed")
    assert verify_audit_log(logger.log_path).entries_count == 3


OPERATORS = {
    "ours": ({"FORGE_OPERATOR": "dagster:run-5", "FORGELM_OPERATOR": "other"}, "dagster:run-5"),
    "the peer's": ({"FORGELM_OPERATOR": "airflow:dag-1234:run-5678"}, "airflow:dag-1234:run-5678"),
    "empty is unset": ({"FORGE_OPERATOR": " ", "FORGELM_OPERATOR": "other"}, "other"),
}


@pytest.mark.parametrize(("environ", "expected"), OPERATORS.values(), ids=OPERATORS.keys())
def test_the_operator_comes_from_the_environment(environ, expected, tmp_path, clean_environment) -> None:
    for name, value in environ.items():
        clean_environment.setenv(name, value)
    assert read_entries(AuditLogger(str(tmp_path)).log_path)[0].operator == expected


def test_without_a_name_the_operator_is_user_at_host(tmp_path, clean_environment) -> None:
    operator = read_entries(AuditLogger(str(tmp_path)).log_path)[0].operator
    user, at, host = operator.partition("@")
    assert user
    assert at
    assert host


def test_an_operator_with_a_line_feed_is_refused(tmp_path, clean_environment) -> None:
    clean_environment.setenv("FORGE_OPERATOR", "alice\nbob")
    with pytest.raises(ConfigError, match="FORGE_OPERATOR"):
        AuditLogger(str(tmp_path))


def test_the_keys_come_from_the_environment(tmp_path, clean_environment, signing_key, public_pem) -> None:
    pem = signing_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "public.pem").write_text(public_pem)
    clean_environment.setenv("FORGE_AUDIT_SECRET", SECRET)
    clean_environment.setenv("FORGE_AUDIT_SIGNING_KEY", str(tmp_path / "key.pem"))
    logger = AuditLogger(str(tmp_path / "out"))
    logger.log_event("acme.reviewed", by="bob")
    for public_key in (public_pem, public_pem.encode(), tmp_path / "public.pem", signing_key.public_key()):
        assert verify_audit_log(logger.log_path, require_hmac=True, public_key=public_key).assurance == "signed"
    assert SECRET not in repr(logger._settings)


def test_a_signing_key_that_is_not_there_is_named_with_its_variable(tmp_path, clean_environment) -> None:
    clean_environment.setenv("FORGE_AUDIT_SIGNING_KEY", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"FORGE_AUDIT_SIGNING_KEY: .*none\.pem"):
        AuditLogger(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_log_with_keys_is_not_continued_without_them(tmp_path, settings_for) -> None:
    AuditLogger.with_settings(tmp_path, settings_for("hmac"))
    for mode in ("keyless", "signed"):
        with pytest.raises(EvidenceError, match="Set FORGE_AUDIT_SECRET to what the log was written with"):
            AuditLogger.with_settings(tmp_path, settings_for(mode))
    wrong = replace(settings_for("hmac"), hmac_secret="another secret of some length")
    with pytest.raises(EvidenceError, match="FORGE_AUDIT_SECRET"):
        AuditLogger.with_settings(tmp_path, wrong)


def test_the_note_of_a_recovery_is_not_signed_by_a_key_that_is_named_only_after_it(
    tmp_path, make_log, settings_for, public_pem
) -> None:
    log = make_log(tmp_path)
    with log.path.open("ab") as file:
        file.write(b'{"actor":')
    AuditLogger.with_settings(tmp_path, settings_for("signed"), run_id="run-2").log_event("acme.reviewed")
    events = [(entry.event, entry.sig is not None) for entry in log.entries[8:]]
    assert events == [("audit.recovered", False), ("audit.keys_added", True), ("acme.reviewed", True)]
    assert verify_audit_log(log.path, public_key=public_pem).valid


def test_keys_can_be_added_to_a_log_and_vouch_for_it_from_there(tmp_path, settings_for, public_pem) -> None:
    keyless = AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    keyless.log_event("acme.reviewed", by="bob")
    keyed = AuditLogger.with_settings(tmp_path, settings_for("signed"))
    keyed.log_event("acme.reviewed", by="carol")
    assert [entry.event for entry in read_entries(keyed.log_path)][2] == "audit.keys_added"
    result = verify_audit_log(keyed.log_path, public_key=public_pem)
    assert (result.valid, result.assurance) == (True, "signed")
    assert any("who wrote entries 1 to 2" in sentence for sentence in result.not_checked)
    with pytest.raises(EvidenceError, match="FORGE_AUDIT_SIGNING_KEY"):
        keyless.log_event("acme.reviewed", by="mallory")
    assert verify_audit_log(keyed.log_path, public_key=public_pem).entries_count == 4


TAMPERED = {
    "an entry was edited": lambda log: log.write_lines(
        [*log.lines[:3], log.lines[3].replace(b"loss", b"lost"), *log.lines[4:]]
    ),
    "its end was cut off": lambda log: log.write_lines(log.lines[:-2]),
    "it was emptied": lambda log: log.path.write_bytes(b""),
    "it was deleted": lambda log: log.path.unlink(),
    "its checkpoint was deleted": lambda log: log.checkpoint_path.unlink(),
    "its checkpoint is rubbish": lambda log: log.checkpoint_path.write_bytes(b"\xff"),
    "its last line feed was taken": lambda log: log.path.write_bytes(log.path.read_bytes()[:-1]),
    "lines were put after its end": lambda log: log.write_lines([*log.lines, b"{}", b"{}"]),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_log_that_was_changed_is_refused_and_left_as_it_is(tamper, tmp_path, make_log, settings_for) -> None:
    log = make_log(tmp_path)
    live = AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-2")
    tamper(log)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(EvidenceError):
        live.log_event("acme.reviewed", by="bob")
    with pytest.raises(EvidenceError):
        AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("mode", ["signed", "hmac"])
def test_a_writer_with_keys_puts_its_name_to_nothing_that_it_did_not_write(
    mode, tmp_path, make_log, settings_for
) -> None:
    shortened, extended = make_log(tmp_path / "shortened", mode), make_log(tmp_path / "extended", mode)
    shortened.write_lines(shortened.lines[:-2])
    shortened.rebuild_checkpoint()
    with pytest.raises(EvidenceError, match="was not written by this program"):
        AuditLogger.with_settings(shortened.directory, settings_for(mode))
    forged = replace(extended.entries[-1], seq=8, prev_hash=extended.entries[-1].hash, run={"run_id": "run-2"})
    extended.write_lines([*extended.lines, forged.to_bytes()])  # as if the writer had crashed
    logger = AuditLogger.with_settings(extended.directory, settings_for(mode), run_id="run-3")
    assert [entry.event for entry in read_entries(logger.log_path)][8:] == ["audit.recovered"]


LIVE_ONLY = {
    "an older copy of both files was put back": lambda log: log.rebuild(log.entries[:4]),
    "everything was made anew": lambda log: log.rebuild([log.entries[0], *log.entries[2:], log.entries[1]]),
}


@pytest.mark.parametrize("tamper", LIVE_ONLY.values(), ids=LIVE_ONLY.keys())
def test_a_writer_remembers_what_it_saw(tamper, tmp_path, make_log, settings_for) -> None:
    log = make_log(tmp_path)
    live = AuditLogger.with_settings(tmp_path, settings_for("keyless"), run_id="run-2")
    entries = log.entries
    log.path.unlink()  # a new file, so that nothing is taken from the writer's memory of the old one
    log.rebuild(entries)
    live.log_event("acme.reviewed", by="bob")
    log.path.rename(log.path.with_suffix(".aside"))
    log.path.write_bytes(log.path.with_suffix(".aside").read_bytes())
    tamper(log)
    with pytest.raises(EvidenceError, match="changed outside"):
        live.log_event("acme.reviewed", by="bob")


def test_two_loggers_in_turn_keep_one_chain(tmp_path, settings_for) -> None:
    one, two = (AuditLogger.with_settings(tmp_path, settings_for("hmac"), run_id=name) for name in ("one", "two"))
    for number in range(10):
        (one, two)[number % 2].log_event("acme.counted", number=number)
    assert [e.data["number"] for e in read_entries(one.log_path)[1:]] == list(range(10))
    assert verify_audit_log(one.log_path, hmac_secret=SECRET, require_hmac=True).valid


def test_threads_share_a_logger(logger) -> None:
    def work(name: int) -> None:
        for number in range(25):
            logger.log_event("acme.counted", worker=name, number=number)

    threads = [threading.Thread(target=work, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_audit_log(logger.log_path).entries_count == 101


APPENDER = """
import sys
from forge_pipeline.audit_log import AuditLogger, AuditSettings
logger = AuditLogger.with_settings(sys.argv[1], AuditSettings("worker"), run_id=sys.argv[2])
for number in range(int(sys.argv[3])):
    logger.log_event("acme.counted", worker=sys.argv[2], number=number)
    print(number, flush=True)
"""


def start_appender(directory: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", APPENDER, str(directory), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE)


def test_eight_processes_append_a_hundred_each_without_a_gap(memory_path) -> None:
    """Eight times a thousand: `python -m benchmarks.audit_log`."""
    workers = [start_appender(memory_path, f"worker-{number}", 100) for number in range(8)]
    assert [worker.wait() for worker in workers if worker.communicate()] == [0] * 8
    entries = read_entries(memory_path / "audit_log.jsonl")
    assert [entry.seq for entry in entries] == list(range(801))
    for number in range(8):
        mine = [entry.data["number"] for entry in entries[1:] if entry.run_id == f"worker-{number}"]
        assert mine == list(range(100))
    assert verify_audit_log(memory_path / "audit_log.jsonl").valid


def test_a_log_verifies_at_every_moment_of_being_written(tmp_path, settings_for) -> None:
    AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    worker, counts = start_appender(tmp_path, "worker", 150), []
    while worker.poll() is None:
        result = verify_audit_log(tmp_path / "audit_log.jsonl")
        assert result.valid, result
        counts.append(result.entries_count)
    worker.communicate()
    assert counts == sorted(counts)
    assert verify_audit_log(tmp_path / "audit_log.jsonl").entries_count == 151


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path, settings_for) -> None:
    acknowledged = 0
    for attempt in range(4):
        worker = start_appender(tmp_path, f"worker-{attempt}", 100_000)
        assert worker.stdout is not None
        for _ in range(10 + 13 * attempt):
            worker.stdout.readline()
        worker.kill()
        rest, _ = worker.communicate()
        acknowledged += 10 + 13 * attempt + rest.count(b"\n")
    logger = AuditLogger.with_settings(tmp_path, settings_for("keyless"))
    logger.log_event("acme.reviewed", by="bob")
    result = verify_audit_log(logger.log_path)
    assert result.valid
    counted = [entry for entry in read_entries(logger.log_path) if entry.event == "acme.counted"]
    assert acknowledged <= len(counted) <= acknowledged + 4  # a killed writer may have one on the disk unannounced
    assert not list(tmp_path.glob(".audit_log.jsonl.*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
def test_forty_kills_among_eight_writers_lose_nothing_and_number_nothing_twice() -> None:
    """A thousand: `python -m benchmarks.log_kills`. In a process of its own, because it forks."""
    command = [sys.executable, "-m", "benchmarks.log_kills", "--kills", "40"]
    found = json.loads(subprocess.check_output(command, cwd=Path(benchmarks.__file__).parents[1]))
    assert (found["kills"], found["lost"], found["duplicates"], found["valid"]) == (40, 0, 0, True)
    assert found["entries"] > found["acknowledged"] >= 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
def test_a_forked_child_is_told_to_make_its_own_logger(logger, tmp_path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            logger.log_event("acme.reviewed", by="bob")
        except EvidenceError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert b"make a new AuditLogger" in os.read(reader, 4096)
    logger.log_event("acme.reviewed", by="the parent")
    assert verify_audit_log(logger.log_path).entries_count == 2
