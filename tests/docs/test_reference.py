"""The generated reference pages say what the code does now."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def test_the_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, CHECKOUT / "docs" / "generate_reference.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_relative_link_leads_to_a_file(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize(
    "page", [*PAGES, CHECKOUT / "CHANGELOG.md"], ids=lambda page: f"{page.parent.name}-{page.stem}"
)
def test_no_page_promises_more_than_evidence_can(page):
    assert not re.search(r"tamper-proof|immutable|\bAI Act compliant|guarantees compliance", page.read_text(), re.I)
