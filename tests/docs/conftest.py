"""The site, built once: every page, every notebook executed."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """The built site and what the build said."""

    directory: Path
    said: str


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("site")
    environment = os.environ | {"FORGE_HOME": str(directory / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "--keep-going", "-q", "-d", str(directory / "trees")]
    done = subprocess.run(
        [*command, str(CHECKOUT / "docs"), str(directory / "html")],
        capture_output=True, text=True, check=False, timeout=500, env=environment, cwd=CHECKOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Site(directory / "html", done.stderr)
