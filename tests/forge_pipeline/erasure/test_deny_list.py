"""The deny-list: knows erased people again, keeps no identifier, and forgets in time."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forge_pipeline.erasure import DenyList, Subject
from forge_pipeline.errors import ConfigError, IntegrityError

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PEOPLE: dict[str, tuple[str, str | None, str, str]] = {
    "an e-mail address": ("jane@example.org", None, "Write to Jane+news@Example.org!", "Write to june@example.org"),
    "a phone number": ("+49 30 901820", None, "call 030 901820 or fax", "call 030 901821 or fax"),
    "an IBAN": ("DE89370400440532013000", None, "to DE89 3704 0044 0532 0130 00 and", "to GB82WEST12345698765432"),
    "a name": ("Grace Hopper", None, "It was Grace Hopper, she said.", "It was Grace Kelly, she said."),
}


@pytest.fixture
def deny_list(tmp_path: Path) -> DenyList:
    return DenyList.of_home(tmp_path)


@pytest.mark.parametrize("case", PEOPLE)
def test_a_person_on_the_list_is_recognized_and_others_are_not(case: str, deny_list: DenyList) -> None:
    identifier, region, hers, others = PEOPLE[case]
    entry = deny_list.add(Subject.parse(identifier, region=region), at=NOW)
    assert deny_list.matches(hers, at=NOW) == (entry,)
    assert deny_list.matches(others, at=NOW) == ()


def test_an_entry_ends_and_is_dropped_from_the_file(deny_list: DenyList, tmp_path: Path) -> None:
    deny_list.add(Subject.parse("jane@example.org"), days=30, at=NOW)
    later = NOW + timedelta(days=31)
    assert deny_list.matches("jane@example.org", at=NOW + timedelta(days=29))
    assert deny_list.matches("jane@example.org", at=later) == ()
    assert deny_list.expire(later) == 0
    assert (tmp_path / "erasure" / "deny_list.jsonl").read_bytes() == b""


def test_the_same_person_has_one_entry(deny_list: DenyList) -> None:
    deny_list.add(Subject.parse("jane@example.org"), days=10, at=NOW)
    deny_list.add(Subject.parse("JANE+x@example.org"), days=20, at=NOW)
    (entry,) = deny_list.entries(NOW)
    assert entry.expires_at.startswith("2026-12-11")


def test_list_and_key_are_their_owners_alone_and_hold_no_identifier(deny_list: DenyList, tmp_path: Path) -> None:
    deny_list.add(Subject.parse("jane@example.org"))
    for path in (tmp_path / "erasure" / "deny_list.jsonl", tmp_path / "keys" / "deny_list.key"):
        assert b"jane" not in path.read_bytes()
        assert os.name != "posix" or path.stat().st_mode & 0o077 == 0


def test_another_key_recognizes_nobody(tmp_path: Path) -> None:
    DenyList.of_home(tmp_path, tmp_path / "one.key").add(Subject.parse("jane@example.org"))
    other = DenyList.of_home(tmp_path, tmp_path / "two.key")
    with pytest.raises(ConfigError, match=r"two\.key"):
        other.matches("jane@example.org")
    (tmp_path / "two.key").write_text("00" * 32)
    (tmp_path / "two.key").chmod(0o600)
    assert other.matches("jane@example.org") == ()


def test_an_empty_list_needs_no_key(deny_list: DenyList) -> None:
    assert deny_list.matches("jane@example.org") == ()


KEYS = {"readable by others": ("00" * 32, 0o644), "too short": ("00", 0o600), "no hex": ("key", 0o600)}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("case", KEYS)
def test_a_key_that_is_unfit_is_refused(case: str, deny_list: DenyList, tmp_path: Path) -> None:
    deny_list.add(Subject.parse("jane@example.org"))
    text, mode = KEYS[case]
    (tmp_path / "keys" / "deny_list.key").write_text(text)
    (tmp_path / "keys" / "deny_list.key").chmod(mode)
    with pytest.raises(ConfigError, match=r"deny_list\.key"):
        DenyList.of_home(tmp_path).matches("jane@example.org")


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"tag": "x", "kind": "email", "expires_at": "2027-01-01"}'])
def test_a_list_that_was_changed_is_refused(line: str, deny_list: DenyList, tmp_path: Path) -> None:
    (tmp_path / "erasure").mkdir()
    (tmp_path / "erasure" / "deny_list.jsonl").write_text(line + "\n")
    with pytest.raises(IntegrityError, match="line 1"):
        deny_list.matches("jane@example.org")


@pytest.mark.parametrize("days", [0, -1, 10_000])
def test_an_entry_without_a_sensible_end_is_refused(days: int, deny_list: DenyList) -> None:
    with pytest.raises(ConfigError, match="personal data itself"):
        deny_list.add(Subject.parse("jane@example.org"), days=days)
