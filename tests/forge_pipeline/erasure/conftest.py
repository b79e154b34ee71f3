"""Fixtures of the erasure tests."""

from pathlib import Path

import pytest

from tests.forge_pipeline.erasure.deployed import Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path / "deployment")
