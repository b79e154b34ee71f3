"""What a disk may hold after a crash, for each operation; every state of all is tried by `python -m benchmarks.power_loss`.

Here each operation gives a part of its states, drawn at random, and every state at which nothing is torn.
"""

import os
from pathlib import Path

import pytest

from benchmarks.power_loss import Call, Disk, Recorder, applied, crash_everywhere, operations
from forge_pipeline.audit_log import AuditLogger, AuditSettings

OPERATIONS = operations()


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_crash_loses_what_was_acknowledged_or_bricks_the_log(name, memory_path) -> None:
    outcome = crash_everywhere(name, OPERATIONS[name], memory_path, share=0.06)
    assert outcome.is_clean, outcome
    assert outcome.calls >= 7
    assert outcome.states >= 20


@pytest.mark.parametrize(
    "is_forgotten",
    [
        lambda name: name == "audit_log.jsonl",
        lambda name: name.startswith(".audit_log.jsonl.checkpoint"),
        lambda name: name == "",
    ],
    ids=["of the log", "of the checkpoint", "of the directory"],
)
def test_a_writer_that_forgot_an_fsync_would_be_found_out(is_forgotten, memory_path, monkeypatch) -> None:
    """The simulation is worth something only if it finds a writer that is wrong."""
    noted = Recorder._note_fsync

    def forgetful(recorder: Recorder, result: None, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not is_forgotten("" if os.path.isdir(path) else os.path.basename(path)):
            noted(recorder, result, fd)

    monkeypatch.setattr(Recorder, "_note_fsync", forgetful)
    name = "begin a log and append" if is_forgotten("") else "append"
    assert not crash_everywhere(name, OPERATIONS[name], memory_path, fine=False).is_clean


def test_the_calls_of_an_append_are_these(tmp_path) -> None:
    logger = AuditLogger.with_settings(tmp_path, AuditSettings("alice@lab"))
    with Recorder(tmp_path) as recorder:
        logger.log_event("acme.counted", number=1)
    kinds = [call.kind for call in recorder.calls]
    assert kinds == ["write", "fsync", "create", "write", "fsync", "replace", "fsync_directory"]


def test_a_disk_keeps_what_was_fsynced_and_may_keep_the_rest() -> None:
    disk = Disk({"log": 0}, {0: b"old"}, None)
    disk.take(Call("write", 0, offset=3, data=b"new"))
    disk.take(Call("create", 1, "other"))
    files = [state for state, _ in disk.states(fine=True)]
    assert {state["log"] for state in files} == {b"old", b"oldn", b"oldne", b"oldnew", b"old\0\0\0"}
    assert {frozenset(state) for state in files} == {frozenset({"log"}), frozenset({"log", "other"})}
    disk.take(Call("fsync", 0))
    assert {state["log"] for state, _ in disk.states(fine=True)} == {b"oldnew"}
    disk.take(Call("replace", 1, "other", "log"))
    disk.take(Call("fsync_directory"))
    assert [state for state, _ in disk.states(fine=True)] == [{"log": b""}]


def test_bytes_are_written_where_they_were_written_to() -> None:
    assert applied(b"abc", Call("write", offset=5, data=b"xy")) == b"abc\0\0xy"
    assert applied(b"abcdef", Call("truncate", offset=2)) == b"ab"


def test_a_write_past_the_recorder_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="went past the recorder"), Recorder(tmp_path):
        (tmp_path / "file").write_bytes(b"unseen")
