"""What a user gets from the wheel: the library, its data files, and nothing that collides with other packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, CHECKOUT]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.namelist()


def test_the_wheel_holds_the_library_only(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"forge_pipeline"}


def test_the_data_files_that_the_library_reads_are_in_it(names):
    wanted = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "forge_pipeline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(names)
    assert "forge_pipeline/py.typed" in names


def test_the_licence_travels_along(names):
    assert any(name.endswith("LICENSE") for name in names)
