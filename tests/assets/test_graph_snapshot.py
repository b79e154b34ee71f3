"""The asset graph as others see it: its snapshot, Dagster's own command for it, its pages' words and links."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import asset_pages
from assets.asset_pages import code_links, describe, references_of
from assets.definitions import build_definitions
from assets.line import STAGES
from assets.stage_notes import STAGE_NOTES
from resources.environment import CHECKOUT
from resources.home import Home
from tests.assets.graph_snapshot import LINES, SNAPSHOT, difference

RENEW = "if it is meant: python -m tests.assets.graph_snapshot"


def test_the_graph_is_the_one_that_was_agreed_on() -> None:
    found = difference()
    assert not found, f"{found}\n\n{RENEW}"


def test_the_snapshot_has_every_stage_and_its_promises() -> None:
    kept = json.loads(SNAPSHOT.read_text())
    stages = {key.rpartition("/")[2] for key in kept["assets"]}
    assert stages == set(STAGES)
    for key, asset in kept["assets"].items():
        assert asset["kinds"], key
        assert asset["has_code_version"], key
        assert asset["sections"][:2] == ["What it proves", "Supports"], key
        assert asset["code"], key
        assert asset["io_manager"] != "io_manager", f"{key} would be pickled"
    assert all(check["says_what_it_holds"] for check in kept["checks"].values())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("graph")
    (folder / "everything.yaml").write_text(LINES["everything"])
    definitions = build_definitions(folder, Home(folder), str(folder / "store"))
    return definitions.resolve_asset_graph(), folder


def test_each_stage_tells_an_auditor_what_stops_the_line_there(everything: tuple[Any, Path]) -> None:
    graph, _ = everything
    assert set(STAGE_NOTES) == set(STAGES)
    for key in graph.asset_check_keys:
        description = graph.get(key.asset_key).description
        if graph.get_check_spec(key).blocking:
            assert f"- `{key.name}`: {graph.get_check_spec(key).description}" in description
        else:
            assert f"`{key.name}`" not in description


def test_no_page_claims_more_than_support(everything: tuple[Any, Path]) -> None:
    graph, _ = everything
    for key in graph.get_all_asset_keys():
        words = graph.get(key).description.lower()
        assert not any(word in words for word in ("compliant", "tamper-proof", "guarantees", "certified")), key


def test_a_stage_without_checks_has_no_empty_list() -> None:
    text = describe("Docs.", "recipe", [])
    assert text.startswith("Docs.\n\n**What it proves.**")
    assert "Stops what comes after" not in text


def test_each_asset_points_at_its_own_code_and_recipe(everything: tuple[Any, Path]) -> None:
    graph, folder = everything
    for stage in STAGES:
        code, recipe = references_of(graph.get(dg.AssetKey(["everything", stage])).metadata)
        assert isinstance(code, dg.LocalFileCodeReference)
        assert isinstance(recipe, dg.LocalFileCodeReference)
        assert code.line_number
        lines = Path(code.file_path).read_text().splitlines()
        after = "".join(lines[code.line_number - 1 : code.line_number + 12])
        assert f"def {stage}(" in after, f"{code.file_path}:{code.line_number}"
        assert recipe.file_path == str(folder / "everything.yaml")


HOSTS = {
    "GitHub": ("https://github.com/you/lines", "https://github.com/you/lines/blob/abc/assets/line.py#L7"),
    "a clone's address": ("https://github.com/you/lines.git", "https://github.com/you/lines/blob/abc/assets/line.py#L7"),
    "GitLab": ("https://gitlab.example.com/you/lines/", "https://gitlab.example.com/you/lines/-/blob/abc/assets/line.py#L7"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.parametrize(("url", "expected"), HOSTS.values(), ids=HOSTS)
def test_a_named_repository_turns_references_into_links(url: str, expected: str) -> None:
    link = code_links({"FORGE_SOURCE_URL": url, "FORGE_SOURCE_REVISION": "abc"})
    found = link(CHECKOUT / "assets" / "line.py", 7, "asset")
    assert isinstance(found, dg.UrlCodeReference)
    assert (found.url, found.label) == (expected, "asset")


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_without_git_or_outside_the_checkout_the_reference_is_to_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = {"FORGE_SOURCE_URL": "https://github.com/you/lines"}
    outside = code_links({**url, "FORGE_SOURCE_REVISION": "abc"})(tmp_path / "mine.yaml", 1, "recipe")
    assert isinstance(outside, dg.LocalFileCodeReference)
    monkeypatch.setenv("PATH", "")
    asset_pages._commit.cache_clear()
    try:
        inside = code_links(url)(CHECKOUT / "assets" / "line.py", 1, "asset")
    finally:
        asset_pages._commit.cache_clear()
    assert isinstance(inside, dg.LocalFileCodeReference)


def test_dg_lists_the_same_graph_from_the_projects_own_settings(tmp_path: Path) -> None:
    pytest.importorskip("dagster_dg_cli", reason="pip install dagster-dg-cli")
    (tmp_path / "plain.yaml").write_text(LINES["plain"])
    (tmp_path / "dagster").mkdir()
    shutil.copy(
        CHECKOUT / "deploy" / "dagster.yaml", tmp_path / "dagster"
    )  # dg reads there that it must not phone home
    variables = {**os.environ, "FORGE_CONFIGS": str(tmp_path), "FORGE_HOME": str(tmp_path / "home"),
                 "DAGSTER_HOME": str(tmp_path / "dagster"), "DG_CLI_CONFIG": os.devnull, "NO_COLOR": "1"}  # fmt: skip
    dg_command = Path(sys.executable).with_name("dg")
    done = subprocess.run([str(dg_command), "list", "defs", "--json"], cwd=CHECKOUT, env=variables,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout[done.stdout.index("{") :])
    expected = {key for key in json.loads(SNAPSHOT.read_text())["assets"] if key.startswith(("plain/", "studio/"))}
    assert {asset["asset_key"] for asset in listed["assets"]} == expected
    assert "Telemetry" not in done.stdout + done.stderr
    assert "does not match the virtual environment" not in done.stdout + done.stderr
    assert not (tmp_path / "dagster" / ".telemetry").exists()


def test_the_snapshots_lines_are_recipes_of_the_kinds_that_they_say() -> None:
    assert inspect.cleandoc(LINES["broken"]) == "model: {}"
    kept = json.loads(SNAPSHOT.read_text())["assets"]
    assert {key for key in kept if key.startswith("broken/")} == {"broken/recipe"}
    assert {key.split("/")[1] for key in kept if key.startswith("everything/")} == set(STAGES)


def documented_selections() -> list[str]:
    page = (CHECKOUT / "docs" / "deployment.md").read_text(encoding="utf-8")
    table = page[page.index("| what | selection |") :].split("\n\n")[0]
    return re.findall(r"\| `(.+)` \|$", table, re.M)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_documented_selections_select_something(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(LINES["plain"])
    graph = build_definitions(tmp_path, Home(tmp_path), str(tmp_path / "store")).resolve_asset_graph()
    selections = documented_selections()
    assert len(selections) == 6
    for selection in selections:
        assert dg.AssetSelection.from_string(selection).resolve(graph), selection
