"""What an adversary who can write the files can do, and who notices.

Each attack states for each of six readers whether it notices. A False is a claim too:
it is what the result's `not_checked` must admit to.
"""

import random
import re
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.log_mutations import damage, damage_logs
from forge_pipeline.audit_log import (
    AuditLogger,
    Checkpoint,
    FailureKind,
    VerifyResult,
    prove_consistency,
    prove_inclusion,
    read_entries,
    verify_audit_log,
)
from forge_pipeline.errors import IntegrityError

SECRET = "correct horse battery staple"
FORGED = {"subject": "sha256:" + "6" * 64}

# Readers: the log alone; with a checkpoint kept elsewhere; with the public key; with both;
# with the secret and require_hmac; with both.
READERS = ("alone", "anchored", "signed", "signed+anchored", "hmac", "hmac+anchored")
ALL = (True,) * 6
NEEDS_MORE_THAN_THE_FILES = (False, True, True, True, True, True)
NEEDS_AN_ANCHOR = (False, True, False, True, False, True)
NEEDS_A_KEY = (False, False, True, True, True, True)
NOBODY = (False,) * 6


def edited(entry):
    return replace(entry, data={**entry.data, **FORGED})


def edit(log, index):
    """Change one entry, in canonical form, and nothing else."""
    lines = log.lines
    lines[index] = edited(log.entries[index]).to_bytes()
    log.write_lines(lines)


def truncate(log, count):
    log.write_lines(log.lines[:-count])


def forged_entry(log, run_id):
    return replace(log.entries[-1], event="human_approval.granted", data=FORGED, run={"run_id": run_id})


def append_forged(log, run_id, *, checkpoint=True):
    entries = [*log.entries, forged_entry(log, run_id)]
    before = log.checkpoint_path.read_bytes()
    log.rebuild(entries)
    if not checkpoint:
        log.checkpoint_path.write_bytes(before)


def with_keys(log, change):
    """What somebody does who has the keys too."""
    log.rebuild(change([replace(entry, hmac=None, sig=None) for entry in log.entries]), log.keys)


def strip_keys(log):
    bare = [replace(entry, hmac=None, sig=None) for entry in log.entries]
    nothing = {"keys": {"hmac": None, "ed25519": None}}
    log.rebuild([replace(bare[0], data={**bare[0].data, **nothing}), *bare[1:]])


def insert_line(log, index, line):
    lines = log.lines
    lines.insert(index, line)
    log.write_lines(lines)


def replace_bytes(log, old, new, *, rebuild=False):
    data = log.path.read_bytes()
    assert data.count(old) >= 1
    log.path.write_bytes(data.replace(old, new, 1))
    if rebuild:
        log.rebuild_checkpoint()


def put_in_place(log, name):
    for path in log.directory.iterdir():
        path.unlink()
    shutil.copytree(log.directory.parent / name, log.directory, dirs_exist_ok=True)


def truncate_then(log, count, then):
    truncate(log, count)
    then(log)


ATTACKS: dict[str, tuple[Callable, tuple[bool, ...]]] = {
    # changes that leave a trace in the file itself
    "edit an entry": (lambda log: edit(log, 3), ALL),
    "edit the last entry": (lambda log: edit(log, -1), ALL),
    "delete an entry": (lambda log: log.write_lines(log.lines[:3] + log.lines[4:]), ALL),
    "insert a copy of an entry": (lambda log: insert_line(log, 4, log.lines[3]), ALL),
    "swap two entries": (
        lambda log: log.write_lines([*log.lines[:2], log.lines[3], log.lines[2], *log.lines[4:]]),
        ALL,
    ),
    "cut the last entry off": (lambda log: truncate(log, 1), ALL),
    "cut all but the first off": (lambda log: truncate(log, 7), ALL),
    "cut everything off": (lambda log: log.path.write_bytes(b""), ALL),
    "put a blank line in": (lambda log: insert_line(log, 4, b""), ALL),
    "put a blank line at the end": (lambda log: insert_line(log, 8, b""), ALL),
    "take the last line feed": (lambda log: log.path.write_bytes(log.path.read_bytes()[:-1]), ALL),
    "write carriage returns": (lambda log: log.path.write_bytes(log.path.read_bytes().replace(b"\n", b"\r\n")), ALL),
    "begin with a byte order mark": (lambda log: log.path.write_bytes(b"\xef\xbb\xbf" + log.path.read_bytes()), ALL),
    "put white space in, rebuild the checkpoint": (
        lambda log: replace_bytes(log, b'"seq":7', b'"seq": 7', rebuild=True),
        ALL,
    ),
    "double a key in the last entry, rebuild the checkpoint": (
        lambda log: replace_bytes(log, b'"seq":7', b'"seq":7,"seq":7', rebuild=True),
        ALL,
    ),
    "append half a line": (lambda log: log.path.write_bytes(log.path.read_bytes() + b'{"actor"'), ALL),
    "write rubbish into the checkpoint": (lambda log: log.checkpoint_path.write_bytes(b"\xff\x00"), ALL),
    "empty the checkpoint": (lambda log: log.checkpoint_path.write_bytes(b""), ALL),
    "put another log's checkpoint beside": (
        lambda log: shutil.copy(log.directory.parent / "other" / log.checkpoint_path.name, log.checkpoint_path),
        ALL,
    ),
    "put an older checkpoint beside": (
        lambda log: shutil.copy(log.directory.parent / "older" / log.checkpoint_path.name, log.checkpoint_path),
        ALL,
    ),
    "append to a closed run, rebuild": (lambda log: append_forged(log, "run-1"), ALL),
    # changes with everything that needs no key made anew
    "cut the end off, rebuild the checkpoint": (
        lambda log: truncate_then(log, 3, type(log).rebuild_checkpoint),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "cut the end off, delete the checkpoint": (
        lambda log: truncate_then(log, 3, lambda log: log.checkpoint_path.unlink()),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "edit the last entry, rebuild": (
        lambda log: log.rebuild([*log.entries[:-1], edited(log.entries[-1])]),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "edit an entry, rebuild": (
        lambda log: log.rebuild([edited(e) if e.seq == 3 else e for e in log.entries]),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "edit the first entry, rebuild": (
        lambda log: log.rebuild(
            [replace(log.entries[0], data={**log.entries[0].data, "binds": FORGED}), *log.entries[1:]]
        ),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "take the seal off and append, rebuild": (
        lambda log: log.rebuild([*log.entries[:-1], forged_entry(log, "run-1")]),
        NEEDS_MORE_THAN_THE_FILES,
    ),
    "strip tags, signatures and the keys' names, rebuild": (strip_keys, (False, False, True, True, True, True)),
    "delete all and begin another log": (lambda log: put_in_place(log, "fresh"), NEEDS_MORE_THAN_THE_FILES),
    # an extension is what an append-only log is for: only a key tells whose it is
    "append under another run, rebuild": (lambda log: append_forged(log, "run-2"), NEEDS_A_KEY),
    "append one as if the writer had crashed": (lambda log: append_forged(log, "run-2", checkpoint=False), NEEDS_A_KEY),
    # what no key helps against
    "put back an older copy of both files": (lambda log: put_in_place(log, "older"), NEEDS_AN_ANCHOR),
    "put the log of another run in place": (lambda log: put_in_place(log, "other"), NEEDS_AN_ANCHOR),
    "with the keys: rewrite": (
        lambda log: with_keys(log, lambda es: [edited(e) if e.seq == 3 else e for e in es]),
        NEEDS_AN_ANCHOR,
    ),
    "with the keys: append": (
        lambda log: with_keys(log, lambda es: [*es, replace(es[-1], run={"run_id": "run-2"})]),
        NOBODY,
    ),
    "delete the checkpoint only": (lambda log: log.checkpoint_path.unlink(), (False, False, True, True, True, True)),
}


@dataclass(frozen=True)
class Reader:
    mode: str
    arguments: dict

    def __call__(self, path: Path, **more) -> VerifyResult:
        return verify_audit_log(path, **{**self.arguments, **more})


@pytest.fixture(scope="session")
def scenes(tmp_path_factory, make_log):
    """Per mode: a log, beside it an older copy, another run's log with the same keys, and a fresh log without keys."""
    found = {}
    for mode in ("keyless", "signed", "hmac"):
        directory = tmp_path_factory.mktemp(mode)
        log = make_log(directory / "log", mode)
        make_log(directory / "other", mode)
        make_log(directory / "fresh", "keyless")
        older = replace(log, directory=Path(shutil.copytree(log.directory, directory / "older")))
        with_keys(older, lambda entries: entries[:4])
        found[mode] = log
    return found


@pytest.fixture
def victim(tmp_path, scenes):
    """A copy of the scene for one reader, to attack."""

    def make(reader: str):
        log = scenes[{"alone": "keyless", "anchored": "keyless"}.get(reader, reader.removesuffix("+anchored"))]
        scene = shutil.copytree(log.directory.parent, tmp_path / reader)
        return replace(log, directory=Path(scene, "log"))

    return make


@pytest.fixture
def reader_for(public_pem):
    def make(reader: str, log) -> Reader:
        arguments = {}
        if reader.startswith("signed"):
            arguments["public_key"] = public_pem
        if reader.startswith("hmac"):
            arguments |= {"hmac_secret": SECRET, "require_hmac": True}
        if reader.endswith("anchored"):
            arguments["checkpoint"] = log.checkpoint_path.read_text()
        return Reader(reader, arguments)

    return make


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("attack", "noticed"), ATTACKS.values(), ids=ATTACKS.keys())
def test_attack(attack, noticed, reader, victim, reader_for) -> None:
    log = victim(reader)
    verify = reader_for(reader, log)
    assert verify(log.path).valid
    attack(log)
    result = verify(log.path)
    assert result.valid is not noticed[READERS.index(reader)], result
    assert result.valid or (result.reason and result.failure and result.assurance is None)


def test_attacks_on_the_identity_of_the_log_are_noticed_by_whoever_recorded_its_id(tmp_path, make_log) -> None:
    log, other = make_log(tmp_path / "log"), make_log(tmp_path / "other")
    log_id = log.entries[0].log_id
    assert verify_audit_log(log.path, expected_log_id=log_id).valid
    result = verify_audit_log(other.path, expected_log_id=log_id)
    assert (result.failure, result.first_invalid_index) == (FailureKind.OTHER_LOG, 1)
    assert log_id in result.reason


def test_a_log_that_is_gone_is_an_error_not_a_result(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_audit_log(tmp_path / "audit_log.jsonl")


# The line that is to blame, counted from 1, and the word for what is wrong with it.
LOCATED = {
    "edit an entry": (4, FailureKind.TAMPERED),
    "edit the last entry": (None, FailureKind.TAMPERED),
    "delete an entry": (4, FailureKind.REORDERED),
    "insert a copy of an entry": (5, FailureKind.REORDERED),
    "cut the last entry off": (8, FailureKind.TRUNCATED),
    "cut everything off": (None, FailureKind.EMPTY),
    "put a blank line in": (5, FailureKind.MALFORMED),
    "take the last line feed": (8, FailureKind.TRUNCATED),
    "append half a line": (9, FailureKind.TRUNCATED),
    "append to a closed run, rebuild": (9, FailureKind.AFTER_SEAL),
    "put an older checkpoint beside": (5, FailureKind.TAMPERED),
    "put another log's checkpoint beside": (None, FailureKind.OTHER_LOG),
}


@pytest.mark.parametrize("name", LOCATED)
def test_the_first_invalid_line_is_named(name, victim) -> None:
    log = victim("alone")
    ATTACKS[name][0](log)
    result = verify_audit_log(log.path)
    assert (result.first_invalid_index, result.failure) == LOCATED[name]
    assert result.entries_count == result.entries_checked <= 9


@pytest.mark.parametrize("reader", READERS)
def test_a_valid_result_says_what_it_rests_on_and_what_it_does_not_show(reader, victim, reader_for) -> None:
    log = victim(reader)
    result = reader_for(reader, log)(log.path)
    assert result.valid
    assert result.reason is result.failure is result.first_invalid_index is None
    assert result.entries_count == 8
    assert result.log_id == log.entries[0].log_id
    assert result.chain_head == log.entries[-1].hash
    expected = "anchored" if reader.endswith("anchored") else {"alone": "checkpoint"}.get(reader, "signed")
    assert result.assurance == expected
    said = " ".join(result.not_checked)
    assert ("who wrote the entries" in said) is (reader in ("alone", "anchored"))
    assert ("older copy of the log" in said) is not reader.endswith("anchored")


def test_without_a_checkpoint_beside_it_only_the_chain_is_vouched_for(tmp_path, make_log) -> None:
    log = make_log(tmp_path)
    log.checkpoint_path.unlink()
    result = verify_audit_log(log.path)
    assert (result.valid, result.assurance) == (True, "chain")
    assert any("cut from the end" in sentence for sentence in result.not_checked)


def test_a_log_that_carries_keys_says_so_to_a_reader_without_them(tmp_path, make_log) -> None:
    result = verify_audit_log(make_log(tmp_path, "signed").path)
    assert result.valid
    assert any("pass hmac_secret or public_key" in sentence for sentence in result.not_checked)


def test_tags_are_missed_only_by_a_reader_who_does_not_require_them(tmp_path, make_log) -> None:
    log = make_log(tmp_path, "hmac")
    strip_keys(log)
    tolerant = verify_audit_log(log.path, hmac_secret=SECRET)
    assert tolerant.valid
    assert any("require_hmac=True" in sentence for sentence in tolerant.not_checked)
    assert verify_audit_log(log.path, hmac_secret=SECRET, require_hmac=True).failure == FailureKind.UNAUTHENTICATED


@pytest.mark.parametrize("mode", ["keyless", "signed", "hmac"])
def test_the_wrong_key_verifies_nothing(mode, tmp_path, make_log) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    log = make_log(tmp_path, mode)
    stranger = Ed25519PrivateKey.generate().public_key()
    assert verify_audit_log(log.path, public_key=stranger).failure == FailureKind.UNAUTHENTICATED
    wrong = verify_audit_log(log.path, hmac_secret="another secret of some length", require_hmac=True)
    assert wrong.failure == FailureKind.UNAUTHENTICATED


def test_the_secret_comes_from_the_environment_when_it_is_required_and_not_given(
    tmp_path, make_log, monkeypatch
) -> None:
    log = make_log(tmp_path, "hmac")
    monkeypatch.setenv("FORGE_AUDIT_SECRET", SECRET)
    assert verify_audit_log(log.path, hmac_secret=None, require_hmac=True).assurance == "signed"
    monkeypatch.delenv("FORGE_AUDIT_SECRET")
    result = verify_audit_log(log.path, hmac_secret=None, require_hmac=True)
    assert (result.valid, result.failure) == (False, FailureKind.USAGE)
    assert "FORGE_AUDIT_SECRET" in result.reason


UNASKABLE = {
    "an empty secret": {"hmac_secret": ""},
    "a public key that is not one": {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
    "a checkpoint that is not one": {"checkpoint": "the log was fine on Friday"},
}


@pytest.mark.parametrize("question", UNASKABLE.values(), ids=UNASKABLE.keys())
def test_a_question_that_cannot_be_asked_is_not_valid(question, tmp_path, make_log) -> None:
    assert verify_audit_log(make_log(tmp_path).path, **question).failure == FailureKind.USAGE


def test_every_earlier_checkpoint_holds_for_every_later_log(tmp_path, settings_for) -> None:
    logger = AuditLogger.with_settings(tmp_path, settings_for("signed"))
    taken = [logger.checkpoint()]
    for number in range(20):
        logger.log_event("acme.counted", number=number)
        taken.append(logger.checkpoint())
    result = verify_audit_log(logger.log_path, checkpoint=[*taken, logger.anchor()])
    assert (result.valid, result.assurance) == (True, "anchored")
    early = verify_audit_log(logger.log_path, checkpoint=taken[3])
    assert any("entries after 4" in sentence for sentence in early.not_checked)


def test_a_checkpoint_survives_being_pasted_into_a_ticket(tmp_path, make_log) -> None:
    log = make_log(tmp_path, "signed")
    pasted = "\r\n".join("  " + line for line in ("\n" + log.checkpoint_path.read_text() + "\n\n").split("\n"))
    assert verify_audit_log(log.path, checkpoint=pasted).assurance == "anchored"


def test_a_checkpoint_ahead_of_the_log_says_that_the_end_is_gone(tmp_path, make_log) -> None:
    log = make_log(tmp_path)
    kept = log.checkpoint_path.read_text()
    truncate(log, 2)
    log.rebuild_checkpoint()
    result = verify_audit_log(log.path, checkpoint=kept)
    assert (result.failure, result.first_invalid_index) == (FailureKind.TRUNCATED, 7)


def test_no_random_damage_to_an_anchored_log_goes_unnoticed_or_breaks_the_verifier(memory_path) -> None:
    found = damage_logs(memory_path, 10_000)
    print(found)
    assert (found.tried, found.detected, found.missed, found.raised) == (10_000, 10_000, (), ())
    assert len(found.failures) >= 5
    assert found.slowest < 1


def test_no_random_rewrite_of_an_anchored_log_goes_unnoticed_though_all_is_made_anew(victim, reader_for) -> None:
    log = victim("anchored")
    verify, entries = reader_for("anchored", log), log.entries
    chance = random.Random(7)
    for _ in range(150):
        changed = list(entries)
        for _ in range(chance.randint(1, 3)):
            index = chance.randrange(len(changed))
            match chance.randrange(3):
                case 0:
                    changed[index] = replace(changed[index], data={**changed[index].data, "n": chance.random()})
                case 1 if len(changed) > 1:
                    del changed[index]
                case _:
                    changed.insert(index, replace(entries[chance.randrange(len(entries))], data={"n": chance.random()}))
        log.rebuild(changed)
        assert verify(log.path).valid is (log.entries == entries)


def test_no_mutation_of_the_checkpoint_beside_a_log_breaks_the_verifier(victim, reader_for) -> None:
    for reader in ("alone", "signed", "hmac"):
        log = victim(reader)
        verify, original = reader_for(reader, log), log.checkpoint_path.read_bytes()
        anchor = Checkpoint.parse(original.decode()).anchor
        chance = random.Random(3)
        for _ in range(100):
            mutated = damage(original, chance)
            log.checkpoint_path.write_bytes(mutated)
            # Signature lines of others may stand in a checkpoint; what it says about the log may not change.
            assert not verify(log.path).valid or Checkpoint.parse(mutated.decode()).anchor == anchor, mutated


STEPS = range(1, 10)
NEEDS = {5: "a key", 7: "a checkpoint beside the log", 8: "an earlier checkpoint", 9: "a vault"}


@pytest.mark.parametrize("reader", READERS)
def test_the_checks_are_numbered_and_say_what_was_not_done(reader, victim, reader_for) -> None:
    log = victim(reader)
    checks = reader_for(reader, log)(log.path).checks
    assert [check.number for check in checks] == list(STEPS)
    left_out = {check.number for check in checks if check.outcome == "not_checked"}
    without = (
        {9} | (set() if reader.endswith("anchored") else {8}) | ({5} if reader in ("alone", "anchored") else set())
    )
    assert left_out == without
    assert left_out <= NEEDS.keys()
    assert all(check.outcome in ("passed", "not_checked") and check.detail and check.name for check in checks)


def test_the_documented_steps_are_the_checks() -> None:
    assert verify_audit_log.__doc__ is not None
    documented = [int(number) for number in re.findall(r"^    \((\d)\)", verify_audit_log.__doc__, re.MULTILINE)]
    assert documented == list(STEPS)


# Which check fails, and which are left undone behind it.
FAILED_AT = {
    "put a blank line in": (2, {3, 4, 5, 6, 7, 8, 9}),
    "cut everything off": (2, {7, 8, 9}),
    "delete an entry": (4, {2, 3, 5, 6, 7, 8, 9}),
    "append to a closed run, rebuild": (6, {2, 3, 4, 5, 7, 8, 9}),
    "write rubbish into the checkpoint": (7, {2, 3, 4, 5, 6, 8, 9}),
    "cut the last entry off": (7, {8, 9}),
    "cut the end off, rebuild the checkpoint": (8, {9}),
}


@pytest.mark.parametrize("name", FAILED_AT)
def test_one_check_fails_and_those_that_were_not_carried_to_their_end_do_not_pass(name, victim, reader_for) -> None:
    log = victim("anchored")
    verify = reader_for("anchored", log)
    ATTACKS[name][0](log)
    result = verify(log.path)
    number, undone = FAILED_AT[name]
    assert [check.number for check in result.checks if check.outcome == "failed"] == [number]
    assert result.checks[number - 1].detail == result.reason
    by_key = set() if number == 5 else {5}  # a keyless log gives it nothing to do
    assert {check.number for check in result.checks if check.outcome == "not_checked"} == undone | by_key


def test_a_question_that_cannot_be_asked_fails_the_first_check(tmp_path, make_log) -> None:
    checks = verify_audit_log(make_log(tmp_path).path, checkpoint="the log was fine on Friday").checks
    assert [check.outcome for check in checks] == ["failed"] + ["not_checked"] * 8


def test_a_signature_that_is_missing_fails_the_check_of_keys(tmp_path, make_log, public_pem) -> None:
    checks = verify_audit_log(make_log(tmp_path).path, public_key=public_pem).checks
    assert [check.number for check in checks if check.outcome == "failed"] == [5]
    assert [check.outcome for check in checks[1:4]] == ["passed"] * 3


def test_the_memory_of_a_verification_does_not_grow_with_the_log(tmp_path, make_log) -> None:
    """Speed, and memory over 100,000 entries: `python -m benchmarks.audit_log`."""
    log = make_log(tmp_path)
    entries, peaks = log.entries, []
    for copies in (100, 3_000):
        log.rebuild([entries[0], *[entries[3]] * copies])
        tracemalloc.start()
        assert verify_audit_log(log.path).entries_count == copies + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 50_000  # bytes; the larger log has 1.3 million


def test_a_bundle_can_show_one_entry_of_many(tmp_path, make_log) -> None:
    log = make_log(tmp_path)
    for entry in log.entries:
        proof = prove_inclusion(log.path, entry.seq)
        assert proof.holds()
        assert proof.entry_hash == entry.hash
        assert proof.anchor.root == verify_audit_log(log.path).root
    assert prove_inclusion(log.path, 1, size=3).anchor.size == 3
    assert not replace(proof, seq=0).holds()
    with pytest.raises(ValueError, match="holds 8 entries, not 9"):
        prove_inclusion(log.path, 0, size=9)


def test_a_later_bundle_can_show_that_it_extends_an_earlier_one(tmp_path, make_log) -> None:
    log = make_log(tmp_path)
    proof = prove_consistency(log.path, 3)
    assert proof.holds()
    assert (proof.old.size, proof.new.size) == (3, 8)
    assert not replace(proof, old=replace(proof.old, root=proof.new.root)).holds()


def test_reading_entries_names_the_line_that_is_none(tmp_path, make_log) -> None:
    log = make_log(tmp_path)
    assert [entry.event for entry in read_entries(log.path)][:2] == ["audit.genesis", "recipe.resolved"]
    insert_line(log, 2, b"{}")
    with pytest.raises(IntegrityError, match="line 3 is not an entry"):
        read_entries(log.path)
    log.path.write_bytes(log.path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="line"):
        read_entries(log.path)
