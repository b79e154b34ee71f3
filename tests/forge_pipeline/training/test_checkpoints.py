"""Retention of checkpoints."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from forge_pipeline.errors import ConfigError
from forge_pipeline.training import manage_checkpoints
from forge_pipeline.training.checkpoints import find_checkpoints


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    for step in (2, 10, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state.bin").write_bytes(b"x" * step)
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "final_model").mkdir()
    return tmp_path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_checkpoints_are_found_by_step(run_directory: Path) -> None:
    assert [path.name for path in find_checkpoints(run_directory)] == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]
    assert find_checkpoints(run_directory / "nowhere") == []


def test_keep_touches_nothing(run_directory: Path) -> None:
    before = names(run_directory)
    manage_checkpoints(str(run_directory))
    assert names(run_directory) == before


def test_delete_removes_checkpoints_only(run_directory: Path) -> None:
    manage_checkpoints(str(run_directory), "delete")
    assert names(run_directory) == {"checkpoint-notes", "final_model"}


def test_compress_packs_them_with_a_checksum_that_holds(run_directory: Path) -> None:
    manage_checkpoints(str(run_directory), action="compress")
    assert names(run_directory) == {
        "checkpoint-notes",
        "final_model",
        "checkpoints.tar.gz",
        "checkpoints.tar.gz.sha256",
    }
    archive = run_directory / "checkpoints.tar.gz"
    with tarfile.open(archive) as tar:
        assert "checkpoint-10/state.bin" in tar.getnames()
    assert (run_directory / "checkpoints.tar.gz.sha256").read_text().split() == [
        hashlib.sha256(archive.read_bytes()).hexdigest(),
        "checkpoints.tar.gz",
    ]


def test_an_archive_is_never_overwritten(run_directory: Path) -> None:
    (run_directory / "checkpoints.tar.gz").write_bytes(b"older")
    with pytest.raises(FileExistsError):
        manage_checkpoints(str(run_directory), "compress")
    assert (run_directory / "checkpoint-2").is_dir()


def test_an_unknown_action_is_refused(run_directory: Path) -> None:
    with pytest.raises(ConfigError, match="'shred'; expected keep, delete or compress"):
        manage_checkpoints(str(run_directory), "shred")
