"""Aliases and stages: who may move what, that nothing is lost on the way back, and what a failed gate does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from forge_pipeline.config.operation import ReleaseSection
from forge_pipeline.errors import AwaitingApprovalError, ConfigError, IntegrityError, StoreError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.release import archive, check_alias, quarantine, revert_failed, rollback, set_alias
from tests.forge_pipeline.release.lines import WHY, Line


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    return make_line()


def meaning(line: Line, alias: str = "released") -> Digest | None:
    row = line.registry.resolve_alias("example", alias)
    check_alias(line.registry, line.log.log_path, "example", alias)
    return row.uid if row else None


def release_by_hand(line: Line, uid: Digest) -> None:
    """A release as `promote` makes it, of a model without a bundle of its own."""
    from forge_pipeline.release.journal import announce, complete

    about = {"line": "example", "subject": uid, "bundle": line.bundle.digest, "alias": "released"}
    intent = announce(line.log, "release.started", about)
    line.registry.move_alias(
        "example", "released", uid, operation="release", intent=intent.hash, set_by="ci", reason="release",
        stages={uid: ("released", None)},
    )  # fmt: skip
    complete(line.log, intent)


@pytest.fixture
def two(line: Line, tmp_path: Path) -> tuple[Line, Digest, Digest]:
    """Two releases, one after the other."""
    line.promote()
    second = line.another_model(tmp_path, "second")
    release_by_hand(line, second)
    return line, line.subject, second


def test_a_rollback_is_at_once_and_keeps_everything(two: tuple[Line, Digest, Digest]) -> None:
    line, first, second = two
    row = rollback(line.registry, "example", reason="Answers got worse.", log=line.log)
    assert (row.model_uid, row.operation, row.set_by) == (first, "rollback", "ci")
    assert meaning(line) == first
    assert line.events()[-2:] == ["alias.started", "alias.moved"]
    left = line.registry.find_model(second)
    assert left is not None
    assert (left.stage, Path(left.path).is_dir()) == ("released", True)
    history = [each.model_uid for each in line.registry.alias_history("example", "released")]
    assert history == [first, second, first]
    with pytest.raises(StoreError, match="no earlier model"):
        rollback(line.registry, "example", reason="Once more.", log=line.log)


def test_a_rollback_passes_over_what_may_not_be_used(two: tuple[Line, Digest, Digest], tmp_path: Path) -> None:
    line, first, second = two
    third = line.another_model(tmp_path, "third")
    release_by_hand(line, third)
    quarantine(line.registry, "example", second, reason="It leaks.", log=line.log)
    rollback(line.registry, "example", reason="It leaks too.", log=line.log, quarantine=True)
    assert meaning(line) == first
    failed = line.registry.find_model(third)
    assert failed is not None
    assert (failed.stage, failed.stage_reason) == ("quarantined", "It leaks too.")


def test_after_two_rollbacks_a_model_that_was_left_is_not_returned_to(
    two: tuple[Line, Digest, Digest], tmp_path: Path
) -> None:
    line, first, _ = two
    release_by_hand(line, line.another_model(tmp_path, "third"))
    rollback(line.registry, "example", reason="Answers got worse.", log=line.log, to=first)
    assert line.registry.alias_meanings("example", "released") == (first,)


def archived(line: Line, uid: Digest) -> None:
    archive(line.registry, "example", uid, reason="Superseded for good.", log=line.log)


BAD_MOVES: dict[str, tuple[Callable[[Line, Digest, Digest], Any], type[Exception], str]] = {
    "released without a release": (
        lambda li, a, b: set_alias(li.registry, "example", "released", a, reason=WHY, log=li.log),
        ConfigError,
        "by a release alone",
    ),
    "champion for a candidate": (
        lambda li, a, b: set_alias(li.registry, "example", "champion", b, reason=WHY, log=li.log),
        ConfigError,
        "takes models that are released",
    ),
    "another line's model": (
        lambda li, a, b: set_alias(li.registry, "other", "canary", a, reason=WHY, log=li.log),
        StoreError,
        "has no model",
    ),
    "no reason": (
        lambda li, a, b: set_alias(li.registry, "example", "canary", a, reason="todo", log=li.log),
        ConfigError,
        "says nothing",
    ),
    "a name that is none": (
        lambda li, a, b: set_alias(li.registry, "example", "../x", a, reason=WHY, log=li.log),
        ConfigError,
        "lower-case letters",
    ),
    "an archived model": (
        lambda li, a, b: (archived(li, b), set_alias(li.registry, "example", "canary", b, reason=WHY, log=li.log)),
        ConfigError,
        "neither quarantined nor archived",
    ),
    "archiving what is in use": (lambda li, a, b: archived(li, a), ConfigError, "move the alias first"),
    "back to what it never meant": (
        lambda li, a, b: rollback(li.registry, "example", reason=WHY, log=li.log, to=b),
        ConfigError,
        "did not mean",
    ),
    "back from what it does not mean": (
        lambda li, a, b: rollback(li.registry, "example", reason=WHY, log=li.log, away_from=b),
        StoreError,
        "by now",
    ),
    "back of an alias that is none": (
        lambda li, a, b: rollback(li.registry, "example", "nobody", reason=WHY, log=li.log),
        StoreError,
        "has no alias",
    ),
}


@pytest.mark.parametrize("name", BAD_MOVES)
def test_a_move_that_is_not_allowed_changes_nothing(line: Line, tmp_path: Path, name: str) -> None:
    line.promote()
    candidate = line.another_model(tmp_path, "second")
    move, error, words = BAD_MOVES[name]
    with pytest.raises(error, match=words):
        move(line, line.subject, candidate)
    assert meaning(line) == line.subject
    assert "alias.started" not in line.events()


def test_an_alias_that_a_release_moved_is_guarded_under_any_name(line: Line, tmp_path: Path) -> None:
    line.promote(alias="production")
    other = line.another_model(tmp_path, "second")
    with pytest.raises(ConfigError, match="by a release alone"):
        set_alias(line.registry, "example", "production", other, reason=WHY, log=line.log)


def test_an_alias_does_not_go_back_to_files_that_were_changed(two: tuple[Line, Digest, Digest]) -> None:
    line, _, second = two
    (line.inputs.model.path / "adapter_model.safetensors").write_bytes(b"other weights")
    with pytest.raises(IntegrityError, match="The alias was not moved"):
        rollback(line.registry, "example", reason="Answers got worse.", log=line.log)
    assert meaning(line) == second


def decided(line: Line, uid: Digest, verdict: str = "failed", gate: str = "safety") -> None:
    outcome = {"failed": "fail", "passed": "pass"}[verdict]
    line.log.log_event(
        "gate.decided", asset_key="example/safety_report", gate=gate, verdict=verdict, outcome=outcome, subject=uid,
        policy_digest=Digest.of(b"policy"), reason="9 of 300 unsafe, at most 8",
    )  # fmt: skip


def test_a_candidate_that_fails_is_quarantined_and_the_alias_stays(
    two: tuple[Line, Digest, Digest], tmp_path: Path
) -> None:
    line, _, second = two
    candidate = line.another_model(tmp_path, "third")
    decided(line, candidate)
    (done,) = revert_failed(line.registry, "example", line.log, auto_revert=False)
    assert (done.subject, done.aliases) == (candidate, {})
    row = line.registry.find_model(candidate)
    assert row is not None
    assert (row.stage, row.stage_reason) == ("quarantined", "safety: 9 of 300 unsafe, at most 8")
    assert Path(row.path).is_dir()
    assert meaning(line) == second
    assert line.events()[-2:] == ["model.quarantined", "model.reverted"]
    assert revert_failed(line.registry, "example", line.log, auto_revert=True) == ()


def test_a_released_model_that_fails_later_is_taken_back_with_auto_revert(two: tuple[Line, Digest, Digest]) -> None:
    line, first, second = two
    set_alias(line.registry, "example", "champion", first, reason=WHY, log=line.log)
    decided(line, second)
    assert revert_failed(line.registry, "example", line.log, auto_revert=False) == ()
    assert meaning(line) == second
    (done,) = revert_failed(line.registry, "example", line.log, auto_revert=True)
    assert done.aliases == {"released": first}
    assert meaning(line) == first
    assert meaning(line, "champion") == first
    assert revert_failed(line.registry, "example", line.log, auto_revert=True) == ()


def test_the_only_released_model_is_quarantined_and_stays_until_another_is_there(line: Line) -> None:
    line.promote()
    decided(line, line.subject)
    (done,) = revert_failed(line.registry, "example", line.log, auto_revert=True)
    assert done.aliases == {"released": None}
    assert meaning(line) == line.subject
    assert revert_failed(line.registry, "example", line.log, auto_revert=True) == ()


def test_a_gate_that_failed_first_and_passed_then_reverts_nothing(line: Line, tmp_path: Path) -> None:
    candidate = line.another_model(tmp_path, "second")
    decided(line, candidate)
    decided(line, candidate, "passed")
    assert revert_failed(line.registry, "example", line.log, auto_revert=True) == ()


def test_a_candidate_is_in_staging_while_people_decide(make_line: Callable[..., Line]) -> None:
    line = make_line(release=ReleaseSection(approvals=1))
    with pytest.raises(AwaitingApprovalError):
        line.promote()
    assert [row.uid for row in line.registry.list_models(stage="staging")] == [line.subject]


def test_a_registry_of_an_earlier_version_gets_the_columns_that_came_later(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.sqlite"
    Registry(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        for table, column in (("alias_history", "intent"), ("alias_history", "operation"), ("models", "stage_reason")):
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE approval_requests DROP COLUMN details"))
        connection.execute(text("DROP TABLE revocations"))
    engine.dispose()
    registry = Registry(url)
    row = registry.register_model(uid=Digest.of(b"m"), name="m", line="a", base_model="b", path=str(tmp_path))
    assert row.stage_reason is None
    assert registry.set_alias("a", "x", row.uid, set_by="ci", reason="first").intent is None
    assert registry.revocations("none") == ()
