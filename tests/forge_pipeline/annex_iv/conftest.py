"""One synthetic bundle, built once; tests that change it take a copy."""

import shutil
from pathlib import Path

import pytest

from forge_pipeline.annex_iv import BundleInputs, Evidence, bundle
from forge_pipeline.annex_iv.example import example_inputs


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> BundleInputs:
    """The example's inputs; their directories live as long as the session."""
    return example_inputs(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def finished(example: BundleInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle directory that nobody changes."""
    return bundle(example, tmp_path_factory.mktemp("bundles") / "finished").path


@pytest.fixture(scope="session")
def evidence(finished: Path) -> Evidence:
    """What that bundle's evidence says."""
    return Evidence.read(finished)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to tamper with."""
    return Path(shutil.copytree(finished, tmp_path / "bundle"))
