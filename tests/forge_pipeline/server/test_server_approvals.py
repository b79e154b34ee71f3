"""Approvals over HTTP: what people are shown, who may decide, and what a decision in the name of a key is worth."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.client import ForgeClient
from forge_pipeline.client.transfers import manifest_of_zip
from forge_pipeline.config.operation import ReleaseSection
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.registry import Registry
from forge_pipeline.release import approve
from tests.forge_pipeline.release.lines import WHY, Line, key_file, make_bundled, open_line
from tests.forge_pipeline.server.served import Studio, check_envelope, in_thread, settings_for

PEOPLE = {"ann": "approve", "ben": "approve", "train": "train", "admin": "admin", "read": "read"}


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> BundleInputs:
    return example_inputs(tmp_path_factory.mktemp("example") / "example")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def studio(home: Path) -> Iterator[Studio]:
    keys = [
        {"name": name, "scope": scope, "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name, scope in PEOPLE.items()
    ]
    with in_thread(settings_for(home, api_keys=keys)) as studio:
        yield studio


@pytest.fixture
def make_line(template: BundleInputs, home: Path, tmp_path: Path) -> Iterator[Callable[..., Line]]:
    """Lines in the registry of the server, with the bundle made anew: each has a request of its own."""

    def make(**release: Any) -> Line:
        config = template.config.model_copy(update={"release": ReleaseSection(**release)})
        (home / "audit_log").mkdir(exist_ok=True)
        make_bundled(template, config, tmp_path)
        line = open_line(template, config, tmp_path)
        line.registry = Registry(f"sqlite:///{home}/registry.sqlite")
        return line

    yield make
    (home / "audit_log" / "example").unlink(missing_ok=True)


def ask(line: Line) -> str:
    return line.ask(at=datetime.now(UTC))


def body(line: Line, decision: str = "granted", **changes: Any) -> dict[str, Any]:
    return {"decision": decision, "reason": WHY, "model": line.subject} | changes


def test_what_is_shown_is_what_the_log_holds(studio: Studio, make_line: Callable[..., Line], tmp_path: Path) -> None:
    line = make_line(approvals=2)
    request = ask(line)
    listed = studio.get("/api/approvals", headers=key("read")).json()
    assert listed["may_decide"] is True
    (found,) = [each for each in listed["approvals"] if each["request_id"] == request]
    assert (found["state"], found["needed"], found["still_needed"]) == ("open", 2, 2)
    assert found["shown"]["annex_iv_bundle"] == line.bundle.digest
    assert {"no_secrets", "loss_is_finite"} <= {gate["gate"] for gate in found["gates"]}
    assert found["command"].startswith(f"forge approve {request} --model {line.subject[7:19]}")
    zipped = studio.get(f"/api/approvals/{request}/bundle", headers=key("read"))
    assert "annex_iv/annex_iv.json" in zipfile.ZipFile(io.BytesIO(zipped.content)).namelist()
    # What came is the bundle: the client makes its manifest again from the ZIP, and keeps no other bytes.
    assert zipped.headers["etag"] == f'"{Manifest.of_directory(line.bundle.path).digest}"'
    with ForgeClient(studio.url, api_key="read") as client:
        kept = client.approval_bundle(request, tmp_path)
    assert manifest_of_zip(kept) == Manifest.of_directory(line.bundle.path)
    assert found["has_bundle"] is True
    assert str(line.bundle.path) not in json.dumps(listed)
    (line.bundle.path / "model_card.md").write_text("# Better numbers")
    assert "the request is about" in check_envelope(
        studio.get(f"/api/approvals/{request}/bundle", headers=key("read")), 409
    )


def test_two_keys_approve_and_the_release_counts_them(studio: Studio, make_line: Callable[..., Line]) -> None:
    line = make_line(approvals=2)
    path = f"/api/approvals/{ask(line)}"
    first = studio.post(path, json=body(line), headers=key("ann")).json()
    assert [(each["approver"], each["identity"], each["not_counted"]) for each in first["decisions"]] == [
        ("ann", "api_key", None)
    ]
    assert "decided already" in check_envelope(studio.post(path, json=body(line), headers=key("ann")), 409)
    assert studio.post(path, json=body(line), headers=key("ben")).json()["state"] == "approved"
    revoked = studio.post(path, json=body(line, "revoked"), headers=key("ann")).json()
    assert (revoked["state"], revoked["still_needed"]) == ("open", 1)
    assert next(each for each in revoked["decisions"] if each["approver"] == "ann")["not_counted"] == "it was revoked"
    approve(line.registry, path.rpartition("/")[2], approver="Cleo", reason=WHY)
    assert {each.approver for each in line.promote(at=datetime.now(UTC)).approvals} == {"ben", "Cleo"}
    assert studio.get(path, headers=key("read")).json()["state"] == "released"


def test_one_rejection_ends_it(studio: Studio, make_line: Callable[..., Line]) -> None:
    line = make_line(approvals=1)
    path = f"/api/approvals/{ask(line)}"
    assert studio.post(path, json=body(line, "rejected"), headers=key("ann")).json()["state"] == "rejected"


@pytest.mark.parametrize(
    ("name", "status"), [(None, 401), ("guess", 401), ("read", 403), ("train", 403), ("admin", 403), ("ann", 200)]
)
def test_only_a_key_with_the_scope_approve_decides(
    studio: Studio, make_line: Callable[..., Line], name: str | None, status: int
) -> None:
    line = make_line(approvals=2)
    reply = studio.post(f"/api/approvals/{ask(line)}", json=body(line), headers=key(name) if name else {})
    assert reply.status_code == status


def test_a_key_that_approves_does_not_train(studio: Studio) -> None:
    check_envelope(studio.post("/api/stop_training", headers=key("ann")), 403)
    check_envelope(studio.post("/api/models/1/rollback", json={"reason": WHY}, headers=key("ann")), 403)


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": Digest.of(b"x")}, 400, "look at it again"),
    "no reason": ({"reason": "ok"}, 400, "says nothing"),
    "a short reason": ({"reason": "it is so"}, 400, "too short"),
    "a decision that is none": ({"decision": "maybe"}, 400, "decision"),
    "a name": ({"approver": "ben"}, 400, "approver"),
    "a revocation of nothing": ({"decision": "revoked"}, 400, "decided nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_decision_that_is_none_is_refused(studio: Studio, make_line: Callable[..., Line], name: str) -> None:
    line = make_line(approvals=2)
    changes, status, words = REFUSED[name]
    reply = studio.post(f"/api/approvals/{ask(line)}", json=body(line, **changes), headers=key("ann"))
    assert words in check_envelope(reply, status)


def test_four_eyes_take_no_decision_in_the_name_of_a_key(
    studio: Studio, make_line: Callable[..., Line], tmp_path: Path
) -> None:
    line = make_line(four_eyes=True)
    request = ask(line)
    assert "must be signed" in check_envelope(
        studio.post(f"/api/approvals/{request}", json=body(line), headers=key("ann")), 400
    )
    approve(line.registry, request, approver="Ann", reason=WHY, key=key_file(tmp_path, "ann")[0])
    found = studio.get(f"/api/approvals/{request}", headers=key("read")).json()
    assert (found["signed_only"], found["still_needed"], found["decisions"][0]["identity"]) == (True, 1, "signed")
    assert "--key" in found["command"]


def test_a_request_that_is_not_there_is_404(studio: Studio) -> None:
    for path in ("/api/approvals/abc", "/api/approvals/abc/bundle", "/api/approvals/..%2Fx"):
        check_envelope(studio.get(path, headers=key("read")), 404)


def test_without_keys_nobody_decides(tmp_path: Path, template: BundleInputs, make_line: Callable[..., Line]) -> None:
    line = make_line(approvals=1)
    line.registry = Registry(f"sqlite:///{tmp_path}/own/registry.sqlite")
    request = ask(line)
    with in_thread(settings_for(tmp_path / "own")) as open_to_all:
        assert open_to_all.get("/api/approvals").json()["may_decide"] is False
        reply = open_to_all.post(f"/api/approvals/{request}", json=body(line))
        assert "needs a person behind it" in check_envelope(reply, 403)


def test_an_alias_is_rolled_back_by_an_admin(tmp_path: Path, make_line: Callable[..., Line], studio: Studio) -> None:
    from tests.forge_pipeline.release.test_aliases import release_by_hand

    line = make_line()
    (studio.data_dir / "audit_log" / "example").symlink_to(line.directory)
    line.promote()
    second = line.another_model(tmp_path, "second")
    release_by_hand(line, second)
    row = line.registry.find_model(second)
    assert row is not None
    path, why = f"/api/models/{row.id}/rollback", {"reason": "Answers got worse."}
    check_envelope(studio.post(path, json=why, headers=key("train")), 403)
    done = studio.post(path, json=why, headers=key("admin")).json()
    assert (done["alias"], done["uid"]) == ("released", line.subject)
    assert "by now" in check_envelope(studio.post(path, json=why, headers=key("admin")), 409)
    assert "no alias" in check_envelope(studio.post(path, json=why | {"alias": "x"}, headers=key("admin")), 409)


@pytest.mark.browser
def test_a_person_sees_the_gates_and_approves_in_the_browser(studio: Studio, make_line: Callable[..., Line]) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    line = make_line(approvals=1)
    request = ask(line)
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, problems = browser.new_page(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{studio.url}/#/approvals")
        page.fill("#key", "ann")
        page.press("#key", "Tab")
        box = page.locator("article", has_text=request)
        expect = playwright.expect
        expect(box).to_contain_text("no_secrets", timeout=30_000)
        expect(box).to_contain_text(line.bundle.digest)
        expect(box.locator("pre")).to_contain_text(f"forge approve {request} --model {line.subject[7:19]}")
        with page.expect_download() as download:
            box.get_by_text("Download the bundle").click()
        assert zipfile.is_zipfile(download.value.path())
        box.get_by_text("Approve", exact=True).click()  # without a reason nothing is sent
        box.get_by_placeholder("Why, in words").fill(WHY)
        box.get_by_text("Approve", exact=True).click()
        expect(page.locator("#approval-note")).to_contain_text("granted; now approved")
        browser.close()
    assert problems == []
    assert [row.approver for row in line.registry.approvals(request)] == ["ann"]
