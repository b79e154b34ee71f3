"""The registry on a real SQLite file, and on a real PostgreSQL server."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import ConfigError, StoreError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import ApprovalRequestRow, ModelRow, Registry
from tests.postgresql import database_url, postgresql  # noqa: F401

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:  # noqa: F811
    registry = Registry(database_url)
    yield registry
    registry.close()


def uid(name: str) -> Digest:
    return Digest.of(name.encode())


def register(registry: Registry, name: str = "m1", **changes: Any) -> ModelRow:
    values: dict[str, Any] = {
        "uid": uid(name),
        "name": name,
        "line": "support_bot",
        "base_model": "tiny",
        "size_bytes": 5_000_000_000,
        "path": f"/store/{name}",
        "created_at": NOON,
    }
    return registry.register_model(**{**values, **changes})


def test_a_model_comes_back_as_it_went_in(registry: Registry) -> None:
    row = register(registry, metrics={"final_loss": 0.25}, training_params={"num_epochs": 3}, job_id="train_1")
    assert registry.get_model(row.id) == row == registry.find_model(uid("m1"))
    assert row.created_at == NOON
    assert (row.stage, row.metrics, row.size_bytes) == ("candidate", {"final_loss": 0.25}, 5_000_000_000)


def test_a_metric_that_is_no_number_is_left_out(registry: Registry) -> None:
    row = register(registry, metrics={"loss": math.nan, "eval_loss": 0.5, "grad": math.inf})
    assert row.metrics == {"eval_loss": 0.5}


def test_the_same_bytes_are_registered_once(registry: Registry) -> None:
    first = register(registry)
    again = register(registry, name="m1", path="/elsewhere")
    assert again == first
    assert registry.list_models() == (first,)


def test_an_id_is_never_given_twice(registry: Registry) -> None:
    first = register(registry, "m1")
    assert registry.delete_model(first.id)
    assert not registry.delete_model(first.id)
    assert register(registry, "m2").id > first.id


def test_models_are_listed_in_order_and_in_pages(registry: Registry) -> None:
    rows = [register(registry, f"m{n}", line="a" if n % 2 else "b") for n in range(5)]
    assert registry.list_models(limit=2) == tuple(rows[:2])
    assert registry.list_models(after=rows[2].id) == tuple(rows[3:])
    assert registry.list_models(line="a") == (rows[1], rows[3])
    assert registry.list_models(stage="released") == ()


def test_a_second_registry_on_the_same_file_sees_everything(registry: Registry) -> None:
    row = register(registry)
    assert Registry(registry.url).list_models() == (row,)


def test_other_time_zones_are_kept_as_utc(registry: Registry) -> None:
    in_tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    row = register(registry, created_at=in_tokyo)
    assert (row.created_at, row.created_at.tzinfo) == (NOON, UTC)


def test_many_may_open_an_empty_database_and_register_the_same_model_at_once(
    database_url: str,  # noqa: F811
) -> None:
    def first_use(number: int) -> ModelRow:
        registry = Registry(database_url)
        try:
            registry.register_dataset(
                digest=uid("d"), filename="d.jsonl", path="/d", num_examples=number, size_bytes=1, validation={}
            )
            return register(registry)
        finally:
            registry.close()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(repr, pool.map(first_use, range(8))))) == 1


def test_a_dataset_of_the_same_name_is_replaced(registry: Registry) -> None:
    values: dict[str, Any] = {"filename": "d.jsonl", "path": "/d", "size_bytes": 1, "uploaded_at": NOON}
    first = registry.register_dataset(digest=uid("a"), num_examples=1, validation={"valid": True}, **values)
    second = registry.register_dataset(digest=uid("b"), num_examples=2, validation={"valid": True}, **values)
    assert (second.id, second.digest, second.num_examples) == (first.id, uid("b"), 2)
    assert registry.list_datasets() == (second,)
    assert registry.find_dataset("other.jsonl") is None
    assert registry.delete_dataset("d.jsonl")
    assert not registry.delete_dataset("d.jsonl")
    assert registry.list_datasets() == ()


def test_rolling_back_twice_goes_two_models_back(registry: Registry) -> None:
    for name in ("m1", "m2", "m3"):
        register(registry, name)
        registry.set_alias("support_bot", "production", uid(name), set_by="ci", reason="release", set_at=NOON)
    for expected in ("m2", "m1"):
        registry.rollback_alias("support_bot", "production", set_by="ann", reason="regression", set_at=NOON)
        current = registry.resolve_alias("support_bot", "production")
        assert current is not None
        assert current.name == expected
    with pytest.raises(StoreError, match="nothing to go back to"):
        registry.rollback_alias("support_bot", "production", set_by="ann", reason="again")
    assert [row.model_uid for row in registry.alias_history("support_bot", "production")] == [
        uid(name) for name in ("m1", "m2", "m3", "m2", "m1")
    ]


def test_a_model_that_an_alias_meant_is_kept(registry: Registry) -> None:
    row = register(registry)
    registry.set_alias("support_bot", "production", row.uid, set_by="ci", reason="release")
    with pytest.raises(StoreError, match="archive it"):
        registry.delete_model(row.id)
    registry.set_stage(row.uid, "archived")
    assert registry.list_models(stage="archived")[0].uid == row.uid


def approval_request(**changes: Any) -> ApprovalRequestRow:
    values: dict[str, Any] = {
        "request_id": "r1",
        "line": "support_bot",
        "subject": uid("m1"),
        "bundle": uid("bundle"),
        "policy_digest": uid("recipe"),
        "needed": 2,
        "requested_by": "ci",
        "created_at": NOON,
        "expires_at": NOON + timedelta(days=7),
        "log_directory": "/log",
    }
    return ApprovalRequestRow(**{**values, **changes})


def test_one_person_decides_once_on_one_request(registry: Registry) -> None:
    request = approval_request()
    registry.add_approval_request(request)
    assert registry.approval_requests(subject=uid("m1")) == (request,)
    decision: dict[str, Any] = {"subject": uid("m1"), "reason": "looked at it", "decided_at": NOON, "record": {"v": 1}}
    row = registry.add_approval(request_id="r1", approver="ann", decision="granted", **decision)
    assert registry.approvals("r1") == (row,)
    with pytest.raises(StoreError, match="ann has decided already"):
        registry.add_approval(request_id="r1", approver="ann", decision="rejected", **decision)
    with pytest.raises(StoreError, match="no such request"):
        registry.add_approval(request_id="r2", approver="ben", decision="granted", **decision)


BAD_CALLS: dict[str, tuple[Callable[[Registry], object], type[Exception], str]] = {
    "unknown stage": (lambda r: register(r, stage="live"), ConfigError, "not one of candidate"),
    "stage of an unknown model": (lambda r: r.set_stage(uid("no"), "released"), StoreError, "register it first"),
    "alias of an unknown model": (
        lambda r: r.set_alias("support_bot", "production", uid("no"), set_by="x", reason="y"),
        StoreError,
        "no model",
    ),
    "alias of another line's model": (
        lambda r: r.set_alias("other", "production", register(r).uid, set_by="x", reason="y"),
        StoreError,
        "its own line",
    ),
    "rollback of nothing": (
        lambda r: r.rollback_alias("support_bot", "production", set_by="x", reason="y"),
        StoreError,
        "nothing to go back to",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_say_what_is_wrong(registry: Registry, name: str) -> None:
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call(registry)


@pytest.mark.parametrize("url", ["nonsense", "", "nodialect://x/y"])
def test_a_url_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="database URL"):
        Registry(url)


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"registry\.sqlite"):
        Registry(f"sqlite:///{path}")


def test_a_password_is_in_no_message() -> None:
    for url in ("postgresql://ann:secret@127.0.0.1:9/x", "nodialect://ann:secret@x/y"):
        with pytest.raises((ConfigError, StoreError)) as raised:
            Registry(url)
        assert "secret" not in str(raised.value)
