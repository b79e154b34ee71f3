"""A process that is killed while it changes something: afterwards the registry and the log say the same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline import registry as registry_module
from forge_pipeline.audit_log import AuditLogger, read_entries, verify_audit_log
from forge_pipeline.audit_log.writer import AuditLogger as Writer
from forge_pipeline.config.operation import ReleaseSection
from forge_pipeline.errors import IntegrityError
from forge_pipeline.registry import Registry
from forge_pipeline.release import approve, check_alias, quarantine, recover, revoke, rollback, set_alias, standing
from tests.forge_pipeline.release.lines import NOW, WHY, Line, logger_in


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str) -> None:
    setattr(owner, name, _die)


def _after(owner: Any, name: str) -> None:
    done = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        done(*args, **kwargs)
        _die()

    setattr(owner, name, wrapped)


def _at_entry(number: int, *, written: bool) -> None:
    """Die when the process appends its entry `number`, from 1: before its line, or between line and checkpoint."""
    name = "_write_checkpoint" if written else "_write_line"
    real, count = getattr(Writer, name), iter(range(1, 100))

    def counted(*args: Any) -> Any:
        if next(count) == number:
            _die()
        return real(*args)

    setattr(Writer, name, counted)


# Where the process dies: (how, whether the change of an alias must have happened)
POINTS: dict[str, tuple[Callable[[], None], bool]] = {
    "before the intent is written": (lambda: _at_entry(1, written=False), False),
    "after the intent's line, before its checkpoint": (lambda: _at_entry(1, written=True), False),
    "after the intent": (lambda: _before(Registry, "move_alias"), False),
    "inside the transaction": (lambda: _after(registry_module, "_add_alias"), False),
    "after the registry": (lambda: _after(Registry, "move_alias"), True),
    "before the completion is written": (lambda: _at_entry(2, written=False), True),
    "after the completion's line, before its checkpoint": (lambda: _at_entry(2, written=True), True),
}


def killed(line: Line, folder: Path, crash: Callable[[], None], change: Callable[[Line], object]) -> None:
    """Do `change` in a process of its own, which dies at `crash`."""
    line.registry.close()
    child = os.fork()
    if child == 0:
        try:
            mine = Line(line.inputs, line.config, line.bundle, Registry(line.registry.url), logger_in(folder))
            crash()
            change(mine)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def agree(line: Line, alias: str = "released") -> None:
    assert verify_audit_log(line.log.log_path).valid
    check_alias(line.registry, line.log.log_path, "example", alias)
    assert recover(line.registry, line.directory) == ()  # nothing is left to be put right


@pytest.mark.parametrize("name", POINTS)
def test_a_release_that_is_killed_is_finished_or_taken_back(
    make_line: Callable[..., Line], tmp_path: Path, name: str
) -> None:
    line = make_line()
    crash, happened = POINTS[name]
    killed(line, tmp_path, crash, lambda mine: mine.promote())
    recover(line.registry, line.directory)
    agree(line)
    current = line.registry.resolve_alias("example", "released")
    assert (current is not None) == happened
    row = line.registry.find_model(line.subject)
    assert row is not None
    assert row.stage == ("released" if happened else "candidate")
    assert line.events().count("model.released") == happened
    line.log = logger_in(tmp_path)
    line.promote()  # and nothing stands in the way of doing it again
    agree(line)


@pytest.mark.parametrize("name", POINTS)
def test_a_rollback_that_is_killed_is_finished_or_taken_back(
    make_line: Callable[..., Line], tmp_path: Path, name: str
) -> None:
    line = make_line()
    first = line.promote().subject
    second = line.another_model(tmp_path, "second")
    set_alias(line.registry, "example", "canary", first, reason=WHY, log=line.log)
    set_alias(line.registry, "example", "canary", second, reason=WHY, log=line.log)
    crash, happened = POINTS[name]
    killed(line, tmp_path, crash, lambda m: rollback(m.registry, "example", "canary", reason=WHY, log=m.log))
    recover(line.registry, line.directory)
    agree(line, "canary")
    current = line.registry.resolve_alias("example", "canary")
    assert current is not None
    assert current.uid == (first if happened else second)


ONE_ENTRY: dict[str, Callable[[], None]] = {
    "before the entry": lambda: _at_entry(1, written=False),
    "after the entry's line": lambda: _at_entry(1, written=True),
    "before the registry": lambda: (
        [_before(Registry, each) for each in ("add_approval", "add_revocation", "set_stage")] and None
    ),
    "after the registry": lambda: (
        [_after(Registry, each) for each in ("add_approval", "add_revocation", "set_stage")] and None
    ),
}


@pytest.mark.parametrize("name", ONE_ENTRY)
def test_a_decision_that_is_killed_counts_exactly_if_the_log_holds_it(
    make_line: Callable[..., Line], tmp_path: Path, name: str
) -> None:
    line = make_line(release=ReleaseSection(approvals=2))
    request = line.ask()
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    killed(
        line,
        tmp_path,
        ONE_ENTRY[name],
        lambda mine: approve(mine.registry, request, approver="Ben", reason=WHY, log=mine.log, at=NOW),
    )
    line.log = logger_in(tmp_path)  # takes up a line whose checkpoint was not written
    recover(line.registry, line.log)
    held = [entry for entry in read_entries(line.log.log_path) if entry.event == "human_approval.granted"]
    assert (
        len(standing(line.registry, request, at=NOW).granted) == len(held) == (1 if name == "before the entry" else 2)
    )
    agree(line)


@pytest.mark.parametrize("name", ONE_ENTRY)
def test_a_revocation_that_is_killed_counts_exactly_if_the_log_holds_it(
    make_line: Callable[..., Line], tmp_path: Path, name: str
) -> None:
    line = make_line(release=ReleaseSection(approvals=2))
    request = line.ask()
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    killed(
        line,
        tmp_path,
        ONE_ENTRY[name],
        lambda mine: revoke(mine.registry, request, approver="Ann", reason=WHY, log=mine.log, at=NOW),
    )
    line.log = logger_in(tmp_path)
    recover(line.registry, line.log)
    gone = name != "before the entry"
    assert len(line.registry.revocations(request)) == gone
    assert len(standing(line.registry, request, at=NOW).granted) == 1 - gone
    agree(line)


@pytest.mark.parametrize("name", ONE_ENTRY)
def test_a_quarantine_that_is_killed_holds_exactly_if_the_log_holds_it(
    make_line: Callable[..., Line], tmp_path: Path, name: str
) -> None:
    line = make_line()
    uid = line.another_model(tmp_path, "second")
    killed(
        line,
        tmp_path,
        ONE_ENTRY[name],
        lambda mine: quarantine(mine.registry, "example", uid, reason="It rambles.", log=mine.log),
    )
    line.log = logger_in(tmp_path)
    recover(line.registry, line.log)
    row = line.registry.find_model(uid)
    assert row is not None
    assert (row.stage, row.stage_reason) == (
        ("candidate", None) if name == "before the entry" else ("quarantined", "It rambles.")
    )
    agree(line)


def test_a_request_that_is_killed_before_the_registry_is_entered_later(
    make_line: Callable[..., Line], tmp_path: Path
) -> None:
    line = make_line(release=ReleaseSection(approvals=2))
    killed(line, tmp_path, lambda: _before(Registry, "add_approval_request"), lambda mine: mine.promote())
    assert line.registry.approval_requests() == ()
    recover(line.registry, line.directory)
    (request,) = line.registry.approval_requests()
    assert (request.subject, request.needed) == (line.subject, 2)
    line.log = logger_in(tmp_path)
    assert line.ask() == request.request_id


def test_recovery_waits_for_a_change_that_is_being_made(make_line: Callable[..., Line], tmp_path: Path) -> None:
    """Under the lock an open intent belongs to nobody alive; without it somebody may be between two steps."""
    import threading

    line = make_line()
    begun, go_on, real = threading.Event(), threading.Event(), line.registry.move_alias

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*args, **kwargs)

    line.registry.move_alias = slow  # type: ignore[method-assign]
    releasing = threading.Thread(target=line.promote)
    releasing.start()
    assert begun.wait(30)
    done: list[object] = []
    recovering = threading.Thread(
        target=lambda: done.extend(recover(Registry(line.registry.url), AuditLogger(str(line.directory), "other")))
    )
    recovering.start()
    recovering.join(0.3)
    assert recovering.is_alive()
    go_on.set()
    releasing.join(30)
    recovering.join(30)
    assert done == []
    agree(line)


def test_a_registry_that_was_changed_behind_the_log_is_found_out(
    make_line: Callable[..., Line], tmp_path: Path
) -> None:
    line = make_line()
    line.promote()
    other = line.another_model(tmp_path, "other")
    line.registry.set_alias("example", "released", other, set_by="mallory", reason="mine is better")
    with pytest.raises(IntegrityError, match="somebody changed one of the two"):
        check_alias(line.registry, line.log.log_path, "example", "released")
