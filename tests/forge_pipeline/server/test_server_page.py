"""The studio's files as they are served: addresses, policy, caching; what is vendored; and that no field is unexplained."""

import hashlib
import re
from pathlib import Path

import pytest

from forge_pipeline.server import availability
from forge_pipeline.server.page import load_tree
from forge_pipeline.server.schemas import ModelMetrics, StartTraining
from tests.forge_pipeline.server.served import CHECKOUT, Studio, check_envelope

STATIC = CHECKOUT / "forge_pipeline" / "server" / "static"
VENDOR = STATIC / "vendor"
OWN = sorted(
    path for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".html") and VENDOR not in path.parents
)


def test_the_page_runs_its_own_files_alone(server: Studio) -> None:
    reply = server.get("/")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", reply.text)


def test_what_the_page_names_is_there_and_kept_for_good(server: Studio) -> None:
    addresses = re.findall(r'(?:href|src)="(/[^"]+)"', server.get("/").text)
    assert any(address.endswith("/app.js") for address in addresses)
    for address in addresses:
        reply = server.get(address)
        assert (reply.status_code, "immutable" in reply.headers["cache-control"]) == (200, True), address
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_every_import_leads_to_a_file_of_the_tree() -> None:
    tree = load_tree()
    for path, file in tree.files.items():
        text = file.content.decode()
        for target in re.findall(r'^(?:import|export)[^;"\']*?from ?["\'](.+?)["\']', text, re.MULTILINE):
            assert target.startswith("."), f"{path}: {target}"
            assert str((STATIC / path).parent.joinpath(target).resolve().relative_to(STATIC)) in tree.files, (
                f"{path}: {target}"
            )


def test_what_a_browser_has_is_not_sent_again(server: Studio) -> None:
    first = server.get("/")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = server.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert server.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["0123456789abcdef/app.js", "{tree}/nothing.js", "{tree}/../app.py", "{tree}/vendor/README.md", "{tree}/"]
)
def test_nothing_else_is_there(server: Studio, path: str) -> None:
    check_envelope(server.get(f"/static/{path.format(tree=load_tree().digest)}"), 404)


def test_another_version_has_another_address(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{{static}}/app.js {{modules}}")
    (tmp_path / "app.js").write_text("1")
    first = load_tree(tmp_path)
    assert first.page.content.decode().startswith(f"/static/{first.digest}/app.js")
    (tmp_path / "app.js").write_text("2")
    second = load_tree(tmp_path)
    assert first.digest != second.digest
    assert first.page.etag != second.page.etag


def test_vendored_files_are_those_of_their_packages() -> None:
    readme = (VENDOR / "README.md").read_text()
    named = dict(re.findall(r"^\| `(\S+)` \| `\S+` \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert named == found
    for package in {path.split("/")[0] for path in found}:
        assert f"{package}/LICENSE" in found


def test_the_page_calls_nobody_else() -> None:
    for path in OWN:
        addresses = set(re.findall(r"https?://[^\s\"'<`]+", path.read_text()))
        assert not addresses, f"{path.name}: {addresses}"


def test_every_setting_task_strategy_and_metric_is_explained() -> None:
    fields, methods = (STATIC / "fields.js").read_text(), (STATIC / "methods.js").read_text()
    chosen = {"task", "model_name", "dataset", "strategy"}
    explained = set(re.findall(r"^  (\w+): \[\"", fields, re.MULTILINE))
    assert explained == StartTraining.model_fields.keys() - chosen
    grouped = re.findall(r'"([a-z]\w*)"', fields.partition("GROUPS")[2].partition("};")[0])
    assert sorted(grouped) == sorted(explained)
    for name in (*availability.TASKS, *availability.STRATEGIES, *ModelMetrics.model_fields):
        assert re.search(rf'^  "?{name}"?: \{{', methods, re.MULTILINE), name
