"""`forge doctor`: each probe on surroundings that are right and wrong; only a failure changes the exit code."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge_pipeline.cli.probes import Finding, identity, machine, packages, places

Forge = Callable[..., Any]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORGE_STORE", "DAGSTER_HOME", "FORGE_MODEL_SIGNING_KEY", "FORGE_HOST", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_doctor_names_each_probe_and_its_state(forge: Forge) -> None:
    done = forge("doctor", "--quick", "--json")
    document = json.loads(done.out)
    assert (done.code, document["ok"], document["counts"]["fail"]) == (0, True, 0), document
    names = {each["what"] for each in document["findings"]}
    wanted = "python processor memory disk clock versions pins chromium FORGE_HOME store DAGSTER_HOME operator offline"
    assert set(wanted.split()) | {"HMAC key", "signing key", "approver key", "REST API", "port 3000"} <= names
    assert all(each["fix"] for each in document["findings"] if each["state"] != "ok")


def test_only_a_failure_changes_the_exit_code(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "training_libraries", lambda: [Finding("torch", "warn", "old", "pip install torch")])
    done = forge("doctor")
    assert done.code == 0
    assert "warn  torch                  old\n      -> pip install torch" in done.out
    monkeypatch.setattr(packages, "training_libraries", lambda: [Finding("torch", "fail", "not there", "pip install")])
    done = forge("doctor")
    assert done.code == 1
    assert "FAIL  torch" in done.out
    assert "1 that must be put right" in done.out


def test_every_trainer_of_a_recipe_is_looked_for() -> None:
    from forge_pipeline.training.methods import METHODS

    found = {each.what: each.state for each in packages.training_libraries()}
    assert {f"trainer {name}" for name in METHODS} <= set(found)
    assert set(found.values()) == {"ok"}


def _pem(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(mode)
    return path


KEYS: dict[str, tuple[Callable[[Path], dict[str, str]], str, str]] = {
    "a named operator": (lambda _: {"FORGE_OPERATOR": "ann"}, "operator", "ok"),
    "an operator from the account": (lambda _: {}, "operator", "warn"),
    "an operator that is no name": (lambda _: {"FORGE_OPERATOR": "a\x07"}, "operator", "fail"),
    "a secret": (lambda _: {"FORGE_AUDIT_SECRET": "x" * 32}, "HMAC key", "ok"),
    "a secret that can be guessed": (lambda _: {"FORGE_AUDIT_SECRET": "short"}, "HMAC key", "warn"),
    "a signing key": (lambda at: {"FORGE_AUDIT_SIGNING_KEY": str(_pem(at / "k"))}, "signing key", "ok"),
    "a key that others may read": (
        lambda at: {"FORGE_APPROVER_KEY": str(_pem(at / "k", 0o644))},
        "approver key",
        "warn",
    ),
    "a key that is not there": (lambda _: {"FORGE_AUDIT_SIGNING_KEY": "/nowhere/key.pem"}, "signing key", "fail"),
    "a key that is none": (lambda _: {"FORGE_MODEL_SIGNING_KEY": __file__}, "model key", "fail"),
    "one key for two": (
        lambda at: {"FORGE_AUDIT_SIGNING_KEY": str(_pem(at / "k")), "FORGE_APPROVER_KEY": str(at / "k")},
        "two keys",
        "warn",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys(tmp_path: Path, name: str) -> None:
    surroundings, what, state = KEYS[name]
    (finding,) = [each for each in identity.keys(surroundings(tmp_path)) if each.what == what]
    assert finding.state == state, finding
    assert bool(finding.fix) == (state != "ok")


DAGSTER: dict[str, tuple[str | None, str, str]] = {
    "no file": (None, "dagster.yaml", "warn"),
    "telemetry left on": ("{}", "dagster.yaml", "warn"),
    "telemetry off": ("telemetry: {enabled: false}", "dagster.yaml", "ok"),
    "no YAML": ("telemetry: {", "dagster.yaml", "fail"),
    "a list": ("[1, 2]", "dagster.yaml", "fail"),
    "SQLite": ("telemetry: {enabled: false}", "dagster storage", "ok"),
    "PostgreSQL without a host": (
        "storage: {postgres: {postgres_db: {hostname: {env: NOT_SET}}}}", "dagster storage", "fail",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAGSTER)
def test_dagster_home(tmp_path: Path, name: str) -> None:
    text, what, state = DAGSTER[name]
    if text is not None:
        (tmp_path / "dagster.yaml").write_text(text)
    found = {each.what: each.state for each in places.dagster_home({"DAGSTER_HOME": str(tmp_path)})}
    assert found["DAGSTER_HOME"] == "ok"
    assert found[what] == state


def test_dagster_home_that_is_unset_relative_or_missing(tmp_path: Path) -> None:
    for environ, state in (
        ({}, "warn"),
        ({"DAGSTER_HOME": "here"}, "fail"),
        ({"DAGSTER_HOME": str(tmp_path / "x")}, "fail"),
    ):
        (finding,) = places.dagster_home(environ)
        assert finding.state == state
        assert "cp deploy/dagster.yaml" in finding.fix


def test_a_database_that_does_not_answer_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: name)  # as if the driver were there, which this never uses
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: 'postgresql://u:p@127.0.0.1:9/d'}}")
    found = {each.what: each for each in places.dagster_home({"DAGSTER_HOME": str(tmp_path)})}
    assert found["dagster storage"].state == "fail"
    assert "127.0.0.1:9" in found["dagster storage"].words
    assert ":p@" not in found["dagster storage"].words


def test_a_home_that_takes_no_files_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = places.forge_home(tmp_path / "file")
    assert finding.state == "fail"
    (finding,) = places.forge_home(tmp_path / "not" / "yet")
    assert (finding.state, "(not there yet)" in finding.words) == ("ok", True)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    ("url", "state"),
    [("", "ok"), ("s3://key:secret@bucket/rows", "ok"), ("az://bucket", "fail"), ("/dev/null", "fail")],
)
def test_the_store(tmp_path: Path, url: str, state: str) -> None:
    (finding,) = places.store(tmp_path, {"FORGE_STORE": url})
    assert finding.state == state, finding
    assert "secret" not in finding.words


def test_a_clock_behind_the_newest_log_fails(tmp_path: Path) -> None:
    log = tmp_path / "audit_log" / "line" / "audit_log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("")
    assert places.log_files(tmp_path) == [log]
    assert machine.clock([log])[0].state != "fail"
    os.utime(log, (time.time() + 4000, time.time() + 4000))
    (finding,) = machine.clock([log])
    assert finding.state == "fail"
    assert "behind the newest audit log" in finding.words
    assert machine.clock([], now=0.0)[0].state == "fail"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_something_to_look_at(taken: int) -> None:
    (finding,) = machine.ports([(taken, "the REST API")])
    assert (finding.state, finding.what) == ("warn", f"port {taken}")


def test_pins_that_differ_are_named(tmp_path: Path) -> None:
    from importlib.metadata import version

    constraints = tmp_path / "constraints.txt"
    assert packages.pins(constraints) == []
    constraints.write_text(f"# made by hand\npytest=={version('pytest')}\nnot-installed-anywhere==1.0\n")
    assert packages.pins(constraints)[0].state == "ok"
    constraints.write_text("pytest==0.1\n")
    (finding,) = packages.pins(constraints)
    assert (finding.state, "(pinned 0.1)" in finding.words) == ("warn", True)


def test_a_base_requirement_out_of_bounds_fails_and_one_of_an_extra_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    for declared, state in (
        (["pytest>=1"], "ok"),
        (["pytest>=9999"], "fail"),
        (["not-installed-anywhere"], "fail"),
        (["pytest>=9999; extra == 'train'"], "warn"),
        (["not-installed-anywhere; extra == 'train'"], "ok"),
    ):
        monkeypatch.setattr(packages, "requires", lambda _, declared=declared: declared)
        assert packages.bounds()[0].state == state, declared


def test_the_hub_is_said_to_be_asked_or_not() -> None:
    assert identity.offline({"HF_HUB_OFFLINE": "1"})[0].words.startswith("yes")
    assert identity.offline({"HF_HUB_DISABLE_TELEMETRY": "1"})[0].state == "ok"
    assert identity.offline({})[0].state == "warn"


def test_settings_that_the_server_would_refuse_fail(tmp_path: Path) -> None:
    (finding,) = identity.api({"FORGE_HOST": "0.0.0.0", "FORGE_HOME": str(tmp_path)})
    assert finding.state == "fail"
    assert "API key" in finding.words
    assert identity.api({"FORGE_HOME": str(tmp_path)})[0].state == "ok"
