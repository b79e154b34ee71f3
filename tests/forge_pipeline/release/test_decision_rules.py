"""Every rule of a decision, each with an attack on it that fails."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.annex_iv import bundle
from forge_pipeline.audit_log import AuditLogger, read_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.operation import ApproverSection, ReleaseSection
from forge_pipeline.errors import AwaitingApprovalError, ConfigError, IntegrityError, StoreError
from forge_pipeline.integrity import Digest, report_digest
from forge_pipeline.release import (
    Approval,
    Terms,
    all_approvals,
    announce_expired,
    approve,
    pending_approvals,
    read_approval,
    reject,
    revoke,
    standing,
)
from forge_pipeline.release.decisions import Revocation
from tests.forge_pipeline.release.lines import NOW, WHY, Line, key_file, logger_in

LATER = NOW + timedelta(hours=1)


def decide(line: Line, request: str, name: str, **options: Any) -> Approval:
    values = {"approver": name, "reason": WHY, "log": line.log, "at": NOW} | options
    return approve(line.registry, request, **values)


def smuggle(line: Line, approval: Approval) -> None:
    """Put a decision into log and registry without asking `approve`, as who can write both may."""
    line.log.log_event("human_approval.granted", subject=approval.subject, approval=asdict(approval))
    line.registry.add_approval(
        request_id=approval.request_id,
        subject=approval.subject,
        decision=approval.decision,
        approver=approval.approver,
        reason=approval.reason,
        decided_at=NOW,
        record=asdict(approval),
    )


def why_not(line: Line, request: str) -> list[str]:
    return [each.why for each in standing(line.registry, request, at=LATER).not_counted]


@pytest.fixture
def four_eyes(make_line: Callable[..., Line]) -> Line:
    return make_line(release=ReleaseSection(four_eyes=True))


# A record that was changed after `approve` made it, signed again by nobody: (change, why it does not count)
FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "about another model": ({"subject": Digest.of(b"x")}, "about another model"),
    "about another bundle": ({"bundle": Digest.of(b"x")}, "about another model, bundle"),
    "about another recipe": ({"policy_digest": Digest.of(b"x")}, "or recipe"),
    "other reports shown": ({"shown": {"safety_report": Digest.of(b"x")}}, "other reports were shown"),
    "nothing shown": ({"shown": {}}, "other reports were shown"),
    "before the request": ({"decided_at": "2020-01-01T00:00:00.000000Z"}, "before the request"),
    "in the future": ({"decided_at": "2030-01-01T00:00:00.000000Z"}, "in the future"),
    "with a longer life": ({"expires_at": "2036-01-01T00:00:00.000000Z"}, "it expired"),
    "without a reason": ({"reason": "n/a"}, "says nothing"),
    "with a short reason": ({"reason": "fine by me"}, "too short"),
    "called signed": ({"identity": "signed"}, "signature does not hold"),
    "with a signature of other bytes": ({"signature": "AAAA"}, "signature does not hold"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_record_that_breaks_a_rule_does_not_count_though_log_and_registry_hold_it(
    make_line: Callable[..., Line], name: str
) -> None:
    line = make_line(release=ReleaseSection(approvals=2, min_reason_length=20))
    request = line.ask()
    honest = decide(line, request, "Ann")
    changes, words = FORGED[name]
    smuggle(line, replace(honest, approver="Ben", **changes))
    (why,) = why_not(line, request)
    assert words in why
    with pytest.raises(AwaitingApprovalError, match="has 1"):
        line.promote(at=LATER)


def test_a_reason_has_the_length_that_the_recipe_asks_for(make_line: Callable[..., Line]) -> None:
    line = make_line(release=ReleaseSection(approvals=1, min_reason_length=30))
    request = line.ask()
    with pytest.raises(ConfigError, match="at least 30 characters"):
        decide(line, request, "Ann", reason="Looks good   to      me.")
    decide(line, request, "Ann", reason="Read the safety report; 0 of 300 unsafe.")
    assert line.promote(at=LATER).approvals[0].approver == "Ann"


TERMS: dict[str, tuple[dict[str, Any], Terms]] = {
    "nothing asked": ({}, Terms(0, False, 10)),
    "human approval": ({"evaluation": {"require_human_approval": True}}, Terms(1, False, 10)),
    "four eyes": ({"release": {"four_eyes": True}}, Terms(2, True, 10)),
    "three": ({"release": {"approvals": 3, "min_reason_length": 4}}, Terms(3, False, 4)),
    "a high-risk system": ({"compliance": {"risk_classification": "high-risk"}}, Terms(2, True, 10)),
    "a high-risk assessment": ({"risk_assessment": {"risk_category": "high-risk"}}, Terms(2, True, 10)),
    "limited risk": ({"risk_assessment": {"risk_category": "limited-risk"}}, Terms(0, False, 10)),
}


@pytest.mark.parametrize("name", TERMS)
def test_the_terms_follow_from_the_recipe_and_its_risk_tier(name: str) -> None:
    sections, expected = TERMS[name]
    evaluation = {"safety": {"enabled": True}, **sections.get("evaluation", {})}
    recipe = {"model": {"name_or_path": "m"}, "lora": {}, "training": {}, "data": {"dataset_name_or_path": "d"}}
    assert Terms.of(ForgeConfig(**{**recipe, **sections, "evaluation": evaluation})) == expected


BAD_SECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a role that nobody has": ({"roles": ["legal"]}, "no approver has the role legal"),
    "more approvals than approvers": (
        {"approvals": 2, "approvers": [{"name": "Ann", "key": Digest.of(b"a")}]},
        "more than the 1 approvers",
    ),
    "one key for two": (
        {"approvers": [{"name": name, "key": Digest.of(b"a")} for name in ("Ann", "Ben")]},
        "two have the same key",
    ),
    "a key that is none": ({"approvers": [{"name": "Ann", "key": "abc"}]}, "pattern"),
}


@pytest.mark.parametrize("name", BAD_SECTIONS)
def test_a_release_section_that_nobody_could_meet_is_refused(name: str) -> None:
    values, words = BAD_SECTIONS[name]
    with pytest.raises(ValueError, match=words):
        ReleaseSection(**values)


def test_four_eyes_take_two_signed_approvals_by_others_than_the_trainer(four_eyes: Line, tmp_path: Path) -> None:
    request = four_eyes.ask()
    (ann, _), (ben, _), (maker, _) = (key_file(tmp_path, name) for name in ("ann", "ben", "maker"))
    with pytest.raises(ConfigError, match="must be signed"):
        decide(four_eyes, request, "Ann")
    for name in ("synthetic-operator", " CI "):  # who trained the example, who asked for its release
        with pytest.raises(ConfigError, match="trained the model or asked for its release"):
            decide(four_eyes, request, name, key=maker)
    decide(four_eyes, request, "Ann", key=ann)
    decide(four_eyes, request, "Ben", key=ben)
    assert {each.identity for each in four_eyes.promote(at=LATER).approvals} == {"signed"}


FOUR_EYES_ATTACKS: dict[str, tuple[str, bool, str]] = {
    "not signed": ("Ben", False, "not signed"),
    "by the trainer": ("Synthetic-Operator", True, "trained the model"),
    "by whoever asked": ("ci", True, "asked for its release"),
}


@pytest.mark.parametrize("name", FOUR_EYES_ATTACKS)
def test_four_eyes_hold_against_who_can_write_log_and_registry(four_eyes: Line, tmp_path: Path, name: str) -> None:
    approver, signs, words = FOUR_EYES_ATTACKS[name]
    request = four_eyes.ask()
    honest = decide(four_eyes, request, "Ann", key=key_file(tmp_path, "ann")[0])
    blank = replace(honest, approver=approver, identity="stated", key=None, public_key=None, signature=None)
    smuggle(four_eyes, blank.signed(Ed25519PrivateKey.generate()) if signs else blank)
    (why,) = why_not(four_eyes, request)
    assert words in why
    with pytest.raises(AwaitingApprovalError, match="has 1"):
        four_eyes.promote(at=LATER)


def test_the_key_of_the_training_process_approves_nothing(make_line: Callable[..., Line], tmp_path: Path) -> None:
    line = make_line(release=ReleaseSection(approvals=1))
    path, fingerprint = key_file(tmp_path, "service")
    from forge_pipeline.audit_log.keys import load_private_key

    line.log = logger_in(tmp_path, signing_key=load_private_key(path))  # the log names it from here on
    line.log.log_event("acme.note")
    request = line.ask()
    with pytest.raises(ConfigError, match="process which trains signs with"):
        decide(line, request, "Ann", key=path)
    row = line.registry.approval_requests()[0]
    blank = Approval(
        request, row.subject, row.bundle, row.policy_digest, "granted", "Ann", WHY, "", "",
    )  # fmt: skip
    asked = standing(line.registry, request, at=NOW).request
    timed = replace(blank, decided_at=asked.created_at, expires_at=asked.expires_at, shown=asked.shown)
    smuggle(line, timed.signed(load_private_key(path)))
    assert "process which trains" in why_not(line, request)[0]
    assert read_approval(line.registry.approvals(request)[0].record).key == fingerprint
    with pytest.raises(AwaitingApprovalError, match="has 0"):
        line.promote(at=LATER)


@pytest.fixture
def named(make_line: Callable[..., Line], tmp_path: Path) -> tuple[Line, dict[str, Path]]:
    """A line whose recipe names three people; compliance must be among the approvers."""
    keys = {name: key_file(tmp_path, name) for name in ("Ann", "Ben", "Cleo")}
    roles = {"Ann": ["ml_lead"], "Ben": ["ml_lead"], "Cleo": ["compliance"]}
    people = [ApproverSection(name=name, key=print_, roles=roles[name]) for name, (_, print_) in keys.items()]
    line = make_line(release=ReleaseSection(approvals=2, approvers=people, roles=["compliance"]))
    return line, {name: path for name, (path, _) in keys.items()}


def test_each_role_that_the_recipe_names_must_be_among_the_approvers(named: tuple[Line, dict[str, Path]]) -> None:
    line, keys = named
    request = line.ask()
    decide(line, request, "Ann", key=keys["Ann"])
    decide(line, request, "Ben", key=keys["Ben"])
    with pytest.raises(AwaitingApprovalError, match="nobody approved as compliance"):
        line.promote(at=LATER)
    decide(line, request, "Cleo", key=keys["Cleo"], role="compliance")
    assert len(line.promote(at=LATER).approvals) == 3


def test_a_recipe_that_names_its_approvers_takes_nobody_elses_decision(
    named: tuple[Line, dict[str, Path]], tmp_path: Path
) -> None:
    line, keys = named
    request = line.ask()
    mallory, _ = key_file(tmp_path, "mallory")
    for options in ({"key": mallory}, {}, {"key": keys["Ben"]}):  # another's key, no key, another's name
        with pytest.raises(ConfigError, match=r"one of release\.approvers"):
            decide(line, request, "Ann", **options)
    with pytest.raises(ConfigError, match="does not have the role 'compliance'"):
        decide(line, request, "Ann", key=keys["Ann"], role="compliance")
    honest = decide(line, request, "Ann", key=keys["Ann"])
    smuggle(line, replace(honest, approver="Cleo").signed(Ed25519PrivateKey.generate()))
    assert why_not(line, request) == ["it is not signed by one of the recipe's release.approvers"]


def test_what_was_looked_at_must_be_what_is_asked_about(line: Line) -> None:
    request = line.ask()
    for digest in (Digest.of(b"another"), "ab", line.subject[:14]):
        with pytest.raises(ConfigError, match="look at it again"):
            decide(line, request, "Ann", subject=digest)
    short = decide(line, request, "Ann", subject=line.subject.removeprefix("sha256:")[:12])
    assert short.shown["annex_iv_bundle"] == line.bundle.digest
    assert short.shown["benchmark_report"] == report_digest(line.inputs.benchmark)


def test_a_bundle_that_was_changed_on_the_desk_is_not_decided_about(line: Line) -> None:
    request = line.ask()
    (line.bundle.path / "model_card.md").write_text("# Better numbers")
    with pytest.raises(IntegrityError, match="is about"):
        decide(line, request, "Ann")
    assert line.registry.approvals(request) == ()


def test_a_request_that_the_log_does_not_hold_is_nobodys(line: Line) -> None:
    line.ask()
    (row,) = line.registry.approval_requests()
    line.registry.add_approval_request(replace(row, request_id="f" * 12, subject=Digest.of(b"mine")))
    with pytest.raises(IntegrityError, match="nobody asked for this release"):
        decide(line, "f" * 12, "Ann")
    with pytest.raises(IntegrityError, match="nobody asked for this release"):
        standing(line.registry, "f" * 12, at=NOW)


def test_a_change_of_the_subject_voids_what_was_decided(line: Line, tmp_path: Path) -> None:
    first = line.ask()
    decide(line, first, "Ann")
    decide(line, first, "Ben")
    other = bundle(replace(line.inputs, generated_at="2026-11-22T00:00:00Z"), tmp_path / "other")
    second = line.ask(bundle=other, at=NOW + timedelta(minutes=1))
    assert standing(line.registry, first, at=LATER).state == "superseded"
    assert [each.superseded for each in all_approvals(line.registry, at=LATER)] == [True, False]
    assert [each.request.request_id for each in pending_approvals(line.registry, at=LATER)] == [second]
    with pytest.raises(ConfigError, match=f"decide about {second}"):
        decide(line, first, "Cleo")
    with pytest.raises(AwaitingApprovalError, match="has 0"):  # asked anew, also for the first
        line.promote(at=LATER)


def test_a_revoked_approval_does_not_count(line: Line, tmp_path: Path) -> None:
    request = line.ask()
    ann, _ = key_file(tmp_path, "ann")
    decide(line, request, "Ann", key=ann)
    decide(line, request, "Ben")
    revoke(line.registry, request, approver="ann", reason="The report was wrong.", key=ann, log=line.log, at=LATER)
    assert line.events()[-1] == "human_approval.revoked"
    assert why_not(line, request) == ["it was revoked"]
    assert all_approvals(line.registry, at=NOW)[0].still_needed == 1
    with pytest.raises(AwaitingApprovalError, match=r"has 1 \(Ben\).*Ann: it was revoked"):
        line.promote(at=LATER)
    with pytest.raises(StoreError, match="revoked before"):
        revoke(line.registry, request, approver="Ann", reason="Once more.", key=ann, log=line.log)
    with pytest.raises(StoreError, match="decided already"):
        decide(line, request, "Ann", key=ann)


def test_a_revoked_rejection_lets_the_others_release(line: Line) -> None:
    request = line.ask()
    for name in ("Ann", "Ben"):
        decide(line, request, name)
    reject(line.registry, request, approver="Cleo", reason="It rambles without end.", log=line.log, at=NOW)
    assert standing(line.registry, request, at=LATER).state == "rejected"
    revoke(line.registry, request, approver="Cleo", reason="It was the old model.", log=line.log, at=LATER)
    assert standing(line.registry, request, at=LATER).state == "approved"
    line.promote(at=LATER)


def test_nobody_revokes_for_somebody_else(line: Line, tmp_path: Path) -> None:
    request = line.ask()
    (ann, _), (mallory, _) = key_file(tmp_path, "ann"), key_file(tmp_path, "mallory")
    approval = decide(line, request, "Ann", key=ann)
    for key in (None, mallory):
        with pytest.raises(ConfigError, match="revoke it with the same key"):
            revoke(line.registry, request, approver="Ann", reason="Mine now.", key=key, log=line.log)
    with pytest.raises(ConfigError, match="has decided nothing"):
        revoke(line.registry, request, approver="Ben", reason="Not mine.", log=line.log)
    forged = Revocation(request, line.subject, approval.digest, "Ann", "Smuggled in.", "2026-11-21T12:00:00.000000Z")
    for each in (forged, forged.signed(Ed25519PrivateKey.generate())):
        line.log.log_event("human_approval.revoked", subject=line.subject, revocation=asdict(each))
    assert [each.approver for each in standing(line.registry, request, at=LATER).granted] == ["Ann"]


def test_a_signed_rejection_is_not_revoked_by_whoever_writes_the_log(line: Line, tmp_path: Path) -> None:
    request, (cleo, _) = line.ask(), key_file(tmp_path, "cleo")
    no = reject(
        line.registry, request, approver="Cleo", reason="It rambles without end.", key=cleo, log=line.log, at=NOW
    )
    forged = Revocation(request, line.subject, no.digest, "Cleo", "Smuggled in.", "2026-11-21T12:00:00.000000Z")
    line.log.log_event("human_approval.revoked", subject=line.subject, revocation=asdict(forged))
    assert standing(line.registry, request, at=LATER).state == "rejected"


def test_a_request_that_ran_out_is_announced_once(line: Line) -> None:
    request = line.ask()
    assert announce_expired(line.registry, line.log, "example", at=NOW) == ()
    after = NOW + timedelta(days=8)
    assert announce_expired(line.registry, line.log, "example", at=after) == (request,)
    assert announce_expired(line.registry, line.log, "example", at=after) == ()
    assert line.events().count("human_approval.expired") == 1


def test_what_people_are_shown_is_read_from_the_log(line: Line) -> None:
    request = standing(line.registry, line.ask(), at=NOW).request
    assert {each.gate for each in request.gates} == {each.gate for each in line.bundle.evidence.gates}
    assert request.shown["fine_tuned_model"] == line.subject
    entry = next(each for each in read_entries(line.log.log_path) if each.event == "human_approval.required")
    assert entry.data["shown"]["annex_iv_manifest"] == line.bundle.manifest["manifest_hash"]


def test_a_decision_names_its_log_by_the_request(line: Line) -> None:
    """Without a log given, the one that the request names is written."""
    request = line.ask()
    approve(line.registry, request, approver="Ann", reason=WHY, at=NOW)
    assert AuditLogger(str(line.directory)).anchor().size == len(line.events())
    assert line.events()[-1] == "human_approval.granted"
