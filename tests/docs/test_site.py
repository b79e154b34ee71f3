"""The documentation site builds without a warning, offline, and its links lead somewhere."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.conftest import CHECKOUT, Site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_links", CHECKOUT / "docs" / "check_links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_without_a_warning(site: Site) -> None:
    """Among them: a page that no index lists, a link or anchor that leads nowhere, a notebook that fails."""
    said = [line for line in site.said.splitlines() if re.search(r"WARNING:|ERROR:|SEVERE:", line)]
    assert not said


def test_every_link_and_anchor_of_the_pages_leads_somewhere_and_nothing_is_loaded_from_elsewhere(
    site: Site, checker: ModuleType
) -> None:
    assert not list(checker.broken_links(site.directory))
    assert "https://github.com/huggingface/trl" in checker.external_links(site.directory)


BROKEN = {
    "a page that is not there": ('<a href="nowhere.html">x</a>', "no such file"),
    "an anchor that is not there": ('<a href="other.html#nowhere">x</a>', "no such anchor"),
    "a script from elsewhere": ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
    "a picture that is not there": ('<img src="x.png">', "not there"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_link_check_can_fail(tmp_path: Path, checker: ModuleType, name: str) -> None:
    text, words = BROKEN[name]
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1><a href="#here">y</a>')
    assert not list(checker.broken_links(tmp_path))
    (tmp_path / "page.html").write_text(text)
    (found,) = checker.broken_links(tmp_path)
    assert words in found


NOTEBOOKS = {
    "audit_a_dataset": ["github_token", "[REDACTED]", "leaked_rows_in_test"],
    "read_a_bundle": ["every check held", "checks failed", "not checked:", "audit.genesis"],
}


def test_every_notebook_is_listed_here() -> None:
    assert {path.stem for path in (CHECKOUT / "docs" / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_ran_while_the_site_was_built_and_shows_what_it_printed(site: Site, name: str) -> None:
    stored = json.loads((CHECKOUT / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in stored["cells"]), "clear the outputs: the build makes them anew"
    page = (site.directory / "notebooks" / f"{name}.html").read_text()
    assert [words for words in NOTEBOOKS[name] if words not in page] == []
    assert "Traceback" not in page


@pytest.mark.parametrize("name", ["load_config", "audit_dataset", "verify_audit_log", "ForgeTrainer", "ForgeConfig"])
def test_the_library_page_documents_the_public_names(site: Site, name: str) -> None:
    assert f'id="forge_pipeline.{name}"' in (site.directory / "reference" / "library.html").read_text()


def test_the_library_page_leaves_no_public_name_out(site: Site) -> None:
    import forge_pipeline

    page = (site.directory / "reference" / "library.html").read_text()
    public = [name for name in forge_pipeline.__all__ if not name.startswith("__")]
    assert [name for name in public if f"forge_pipeline.{name}" not in page] == []
