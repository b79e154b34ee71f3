"""Lines to release from, made once for each recipe; a test takes a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.annex_iv import BundleInputs
from forge_pipeline.annex_iv.example import example_inputs
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.config.operation import ReleaseSection
from forge_pipeline.integrity import Digest
from tests.forge_pipeline.release.lines import Line, make_bundled, open_line


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> BundleInputs:
    return example_inputs(tmp_path_factory.mktemp("release") / "example")


@pytest.fixture(scope="session")
def bundled(template: BundleInputs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[ForgeConfig], Path]:
    """A folder with the log, the model and their bundle for a recipe, made once; tests take copies."""
    made: dict[Digest, Path] = {}

    def make(config: ForgeConfig) -> Path:
        if (digest := config_digest(config)) not in made:
            folder = tmp_path_factory.mktemp("bundled")
            make_bundled(template, config, folder)
            made[digest] = folder
        return made[digest]

    return make


@pytest.fixture
def make_line(template: BundleInputs, bundled: Callable[[ForgeConfig], Path], tmp_path: Path) -> Callable[..., Line]:
    def make(**sections: Any) -> Line:
        config = template.config.model_copy(update=sections)
        shutil.copytree(bundled(config), tmp_path, dirs_exist_ok=True)
        return open_line(template, config, tmp_path)

    return make


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    """A line whose recipe asks for two approvals."""
    return make_line(release=ReleaseSection(approvals=2))
