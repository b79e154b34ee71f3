"""Promotion fails closed: on gates, bytes, bundles, logs and approvals alike."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.annex_iv import bundle
from forge_pipeline.audit_log import AuditLogger, AuditSettings, verify_audit_log
from forge_pipeline.config.evaluation import BenchmarkSection, EvaluationSection
from forge_pipeline.errors import (
    AwaitingApprovalError,
    ConfigError,
    EvidenceError,
    GateFailedError,
    IntegrityError,
    StoreError,
)
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, read_report, write_report
from forge_pipeline.release import (
    Approval,
    ReleaseRecord,
    all_approvals,
    approve,
    pending_approvals,
    read_approval,
    reject,
    required_gates,
)
from tests.forge_pipeline.release.lines import NOW, WHY, Line, key_file


def test_without_approvals_a_model_with_passed_gates_is_released(
    make_line: Callable[..., Line], tmp_path: Path
) -> None:
    line = make_line()
    record = line.promote()
    current = line.registry.resolve_alias("example", "released")
    assert current is not None
    assert (current.uid, current.stage, current.id) == (line.subject, "released", record.model_id)
    assert line.events()[-2:] == ["release.started", "model.released"]
    assert record.released_by == "ci"
    assert verify_audit_log(line.log.log_path).root == record.anchor.root
    write_report(tmp_path / "release.json", record)
    assert read_report(tmp_path / "release.json", ReleaseRecord) == record


def test_promoting_again_changes_nothing_but_the_log(make_line: Callable[..., Line]) -> None:
    """What a crash between registry and log leaves is finished by promoting again."""
    line = make_line()
    first, second = line.promote(), line.promote()
    assert len(line.registry.alias_history("example", "released")) == 1
    assert (second.previous, second.model_id) == (None, first.model_id)


def test_a_released_bundle_says_so(make_line: Callable[..., Line], tmp_path: Path) -> None:
    line = make_line()
    record = line.promote()
    again = bundle(replace(line.inputs, release=asdict(record)), tmp_path / "again")
    assert line.bundle.manifest["label"] == "not released"
    assert again.manifest["label"] == "released"
    stranger = bundle(
        replace(line.inputs, release={**asdict(record), "subject": Digest.of(b"another")}), tmp_path / "stranger"
    )
    assert stranger.manifest["released"] is False


def test_two_distinct_people_release_a_model(line: Line) -> None:
    request = line.ask()
    assert line.events()[-1] == "human_approval.required"
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    with pytest.raises(AwaitingApprovalError, match=r"needs 2 approvals and has 1 \(Ann\)"):
        line.promote()
    approve(line.registry, request[:6], approver="Ben", reason=WHY, log=line.log, at=NOW)
    record = line.promote()
    assert [each.approver for each in record.approvals] == ["Ann", "Ben"]
    assert pending_approvals(line.registry, at=NOW) == ()
    assert all_approvals(line.registry, at=NOW)[0].still_needed == 0


def test_asking_twice_makes_one_request(line: Line) -> None:
    assert line.ask() == line.ask()
    assert len(pending_approvals(line.registry, at=NOW)) == 1


def same_person_by_name(line: Line, request: str, folder: Path) -> None:
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    approve(line.registry, request, approver="  ANN ", reason=WHY, log=line.log, at=NOW)


def same_person_by_key(line: Line, request: str, folder: Path) -> None:
    key, _ = key_file(folder, "ann")
    approve(line.registry, request, approver="Ann", reason=WHY, key=key, log=line.log, at=NOW)
    approve(line.registry, request, approver="Ben", reason=WHY, key=key, log=line.log, at=NOW)


def not_in_the_log(line: Line, request: str, folder: Path) -> None:
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    row = line.registry.approvals(request)[0]
    record = {**row.record, "approver": "Ben"}
    line.registry.add_approval(
        request_id=request,
        subject=line.subject,
        decision="granted",
        approver="Ben",
        reason=WHY,
        decided_at=NOW,
        record=record,
    )


def forged_signature(line: Line, request: str, folder: Path) -> None:
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    (ann,) = [read_approval(row.record) for row in line.registry.approvals(request)]
    real = replace(ann, approver="Ben").signed(Ed25519PrivateKey.generate())
    assert real.signature_holds()
    forged = asdict(replace(real, approver="Cleo"))
    line.log.log_event("human_approval.granted", subject=line.subject, approval=forged)
    line.registry.add_approval(
        request_id=request,
        subject=line.subject,
        decision="granted",
        approver="Cleo",
        reason=WHY,
        decided_at=NOW,
        record=forged,
    )


NOT_ENOUGH = {
    "the same person under one name": same_person_by_name,
    "the same person under one key": same_person_by_key,
    "a decision that the log does not hold": not_in_the_log,
    "a signature for another name": forged_signature,
}


@pytest.mark.parametrize("name", NOT_ENOUGH)
def test_it_takes_two_real_decisions(line: Line, tmp_path: Path, name: str) -> None:
    NOT_ENOUGH[name](line, line.ask(), tmp_path)
    with pytest.raises(AwaitingApprovalError, match="has 1"):
        line.promote()


def test_approvals_expire(line: Line) -> None:
    request = line.ask()
    for name in ("Ann", "Ben"):
        approve(line.registry, request, approver=name, reason=WHY, log=line.log, at=NOW)
    later = NOW + timedelta(days=7)
    with pytest.raises(AwaitingApprovalError, match="has 0"):
        line.promote(at=later)
    assert [each.expired for each in all_approvals(line.registry, at=later)] == [True, False]  # asked anew


def test_approvals_of_another_bundle_do_not_count(line: Line, tmp_path: Path) -> None:
    request = line.ask()
    for name in ("Ann", "Ben"):
        approve(line.registry, request, approver=name, reason=WHY, log=line.log, at=NOW)
    other = bundle(replace(line.inputs, generated_at="2026-11-22T00:00:00Z"), tmp_path / "other")
    with pytest.raises(AwaitingApprovalError, match="has 0"):
        line.promote(bundle=other)


def test_one_rejection_refuses_the_release(line: Line) -> None:
    request = line.ask()
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    approve(line.registry, request, approver="Ben", reason=WHY, log=line.log, at=NOW)
    reject(line.registry, request, approver="Cleo", reason="Answers in the wrong language.", log=line.log, at=NOW)
    with pytest.raises(GateFailedError, match="Cleo rejected it: Answers in the wrong language"):
        line.promote()
    assert line.events()[-1] == "release.refused"
    assert pending_approvals(line.registry, at=NOW) == ()


def test_with_known_keys_only_their_signed_approvals_count(line: Line, tmp_path: Path) -> None:
    request = line.ask()
    ann, ann_print = key_file(tmp_path, "ann")
    ben, ben_print = key_file(tmp_path, "ben")
    approve(line.registry, request, approver="Ann", reason=WHY, key=ann, log=line.log, at=NOW)
    approve(line.registry, request, approver="Mallory", reason=WHY, log=line.log, at=NOW)
    with pytest.raises(AwaitingApprovalError, match=r"has 1 \(Ann\)"):
        line.promote(approver_keys={ann_print, ben_print})
    signed = approve(line.registry, request, approver="Ben", reason=WHY, key=ben, log=line.log, at=NOW)
    assert signed.key == ben_print
    assert signed.signature_holds()
    assert [each.approver for each in line.promote(approver_keys={ann_print, ben_print}).approvals] == ["Ann", "Ben"]


def test_a_signature_covers_every_field(line: Line, tmp_path: Path) -> None:
    key, _ = key_file(tmp_path, "ann")
    approval = approve(line.registry, line.ask(), approver="Ann", reason=WHY, key=key, log=line.log, at=NOW)
    assert read_approval(asdict(approval)) == approval
    changes: dict[str, Any] = {
        "request_id": "other",
        "subject": Digest.of(b"x"),
        "bundle": Digest.of(b"x"),
        "policy_digest": Digest.of(b"x"),
        "decision": "rejected",
        "approver": "Ben",
        "reason": "other",
        "decided_at": "2026-01-01T00:00:00.000000Z",
        "expires_at": "2036-01-01T00:00:00.000000Z",
        "shown": {"safety_report": Digest.of(b"x")},
        "role": "compliance",
        "identity": "stated",
        "key": Digest.of(b"x"),
        "public_key": "AAAA",
        "signature": "AAAA",
    }
    assert set(changes) == set(Approval.__dataclass_fields__)
    for name, value in changes.items():
        assert not replace(approval, **{name: value}).signature_holds(), name


BAD_DECISIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no reason": ({"reason": " "}, ConfigError, "says nothing"),
    "a placeholder": ({"reason": "n/a"}, ConfigError, "says nothing"),
    "nobody": ({"approver": " "}, ConfigError, "approver's name"),
    "no such request": ({"request_id": "zzz"}, ConfigError, "there is no request 'zzz'"),
    "an empty id": ({"request_id": ""}, ConfigError, "there is no request"),
    "too late": ({"at": NOW + timedelta(days=8)}, ConfigError, "expired"),
    "a missing key": ({"key": Path("/nowhere/key.pem")}, ConfigError, "approver key"),
}


@pytest.mark.parametrize("name", BAD_DECISIONS)
def test_bad_decisions_are_refused_before_anything_is_written(line: Line, name: str) -> None:
    request = line.ask()
    changes, error, words = BAD_DECISIONS[name]
    before = line.events()
    values: dict[str, Any] = {"request_id": request, "approver": "Ann", "reason": WHY, "at": NOW, "log": line.log}
    values |= changes
    with pytest.raises(error, match=words):
        approve(line.registry, values.pop("request_id"), **values)
    assert line.events() == before
    assert line.registry.approvals(request) == ()


def test_nobody_decides_twice(line: Line) -> None:
    request = line.ask()
    approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    with pytest.raises(StoreError, match="Ann has decided already"):
        reject(line.registry, request, approver="Ann", reason="Changed my mind.", log=line.log, at=NOW)


def test_a_decision_that_cannot_be_logged_is_not_entered(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    request = line.ask()

    def full(*args: object, **fields: object) -> None:
        raise EvidenceError("the disk is full")

    monkeypatch.setattr(AuditLogger, "log_event", full)
    with pytest.raises(EvidenceError):
        approve(line.registry, request, approver="Ann", reason=WHY, log=line.log, at=NOW)
    assert line.registry.approvals(request) == ()


def decision(**changes: Any) -> GateDecision:
    values: dict[str, Any] = {"gate": "safety", "outcome": "pass", "reason": "for the test"}
    return GateDecision(**{**values, **changes})


REFUSED_GATES: dict[str, tuple[dict[str, Any], str]] = {
    "failed": ({"outcome": "fail"}, "safety.*failed"),
    "not run": ({"outcome": "not_run"}, "not evaluated"),
    "insufficient evidence": ({"outcome": "insufficient_evidence", "guards": ("release",)}, "not evaluated"),
    "about other bytes": ({"subject": Digest.of(b"another model")}, "judged"),
    "failed although it guards nothing": ({"outcome": "fail", "guards": ()}, "safety.*failed"),
}


@pytest.mark.parametrize("name", REFUSED_GATES)
def test_a_gate_that_did_not_pass_refuses_the_release(make_line: Callable[..., Line], name: str) -> None:
    line = make_line()
    changes, words = REFUSED_GATES[name]
    with pytest.raises(GateFailedError, match=words):
        line.promote(decisions=[decision(**{"subject": line.subject, **changes})])
    assert line.registry.resolve_alias("example", "released") is None
    assert line.events()[-1] == "release.refused"
    row = line.registry.find_model(line.subject)
    assert row is not None
    assert row.stage == ("quarantined" if changes.get("outcome") == "fail" else "candidate")
    assert line.inputs.model.path.is_dir()  # nothing is deleted


def test_a_gate_that_the_recipe_asks_for_and_nobody_decided_refuses_the_release(make_line: Callable[..., Line]) -> None:
    line = make_line(evaluation=EvaluationSection(max_acceptable_loss=2.0))
    assert "loss" in required_gates(line.config)
    # The bundle was made under this recipe, so its loss gate is there; without it the release is refused.
    assert line.promote().gates
    without = tuple(each for each in line.bundle.evidence.gates if each.gate != "loss")
    from forge_pipeline.release.promotion import _check_release_gates

    with pytest.raises(GateFailedError, match="'loss' was never evaluated"):
        _check_release_gates(line.config, line.inputs.model, line.bundle.evidence, without)


def test_a_recipe_changed_after_the_bundle_refuses_the_release(make_line: Callable[..., Line]) -> None:
    line = make_line()
    benchmark = BenchmarkSection(enabled=True, tasks=["held_out"], min_score=0.1)
    laxer = line.config.model_copy(update={"evaluation": EvaluationSection(benchmark=benchmark)})
    with pytest.raises(IntegrityError, match="another recipe"):
        line.promote(config=laxer)


def swap_model(line: Line) -> None:
    (line.inputs.model.path / "adapter_model.safetensors").write_bytes(b"other weights")


def edit_bundle(line: Line) -> None:
    (line.bundle.path / "model_card.md").write_text("# Better numbers")


def replace_log(line: Line) -> None:
    for path in line.log.log_path.parent.iterdir():
        path.unlink()
    line.log = AuditLogger.with_settings(line.log.log_path.parent, AuditSettings("ci"))


def shorten_log(line: Line) -> None:
    lines = line.log.log_path.read_bytes().splitlines(keepends=True)
    line.log.log_path.write_bytes(b"".join(lines[:-1]))


TAMPERED: dict[str, tuple[Callable[[Line], None], str]] = {
    "weights swapped after the gates": (swap_model, "expected sha256"),
    "bundle edited": (edit_bundle, "expected sha256"),
    "log replaced by a new one": (replace_log, "not the one in the bundle"),
    "log shortened": (shorten_log, "not the one in the bundle"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_refuses_the_release(make_line: Callable[..., Line], name: str) -> None:
    line = make_line()
    tamper, words = TAMPERED[name]
    tamper(line)
    with pytest.raises(IntegrityError, match=words):
        line.promote()
    assert line.registry.resolve_alias("example", "released") is None


def test_a_bundle_without_a_log_is_not_enough_for_a_release(make_line: Callable[..., Line], tmp_path: Path) -> None:
    line = make_line()
    mute = bundle(replace(line.inputs, audit_log_path=None, anchor=None), tmp_path / "mute")
    with pytest.raises(IntegrityError, match="holds no audit log"):
        line.promote(bundle=mute)
