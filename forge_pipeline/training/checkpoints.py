"""Retention of training checkpoints, the `checkpoint-<step>` folders that a run can resume from."""

import logging
import re
import shutil
import tarfile
from pathlib import Path

from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest
from forge_pipeline.integrity.atomic import write_file

_log = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def manage_checkpoints(checkpoint_dir: str, action: str = "keep") -> None:
    """Apply a retention rule to the checkpoints of one run. Nothing else in the directory is touched.

    Args:
        checkpoint_dir: Holds `checkpoint-<step>` folders.
        action: ``keep`` leaves them; ``delete`` removes them; ``compress`` packs them into
            ``<checkpoint_dir>/checkpoints.tar.gz`` with a ``.sha256`` file beside it, and removes
            them once the archive was read back whole.

    Raises:
        ConfigError: `action` is none of these.
        OSError: A file could not be written, read or removed; what was not packed is still there.
    """
    if action not in ("keep", "delete", "compress"):
        raise ConfigError(f"manage_checkpoints: found action {action!r}; expected keep, delete or compress")
    directory = Path(checkpoint_dir)
    found = find_checkpoints(directory)
    if action == "keep" or not found:
        return
    if action == "compress":
        _compress(directory, found)
    for path in found:
        shutil.rmtree(path)
    _log.info("%s: %s %d checkpoints", directory, "compressed" if action == "compress" else "deleted", len(found))


def find_checkpoints(directory: Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `directory`, by step; none if there is no such directory."""
    if not directory.is_dir():
        return []
    steps = {
        path: match for path in directory.iterdir() if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    }
    return sorted(steps, key=lambda path: int(steps[path].group(1)))


def _compress(directory: Path, found: list[Path]) -> None:
    archive = directory / "checkpoints.tar.gz"
    if archive.exists():
        raise FileExistsError(f"{archive} already exists and is never overwritten; move it away first")
    aside = archive.with_name(".checkpoints.tar.gz.part")
    try:
        with tarfile.open(aside, "w:gz") as tar:
            for path in found:
                tar.add(path, arcname=path.name)
        with tarfile.open(aside) as tar:
            packed = sum(member.isfile() for member in tar)
        expected = sum(path.is_file() for folder in found for path in folder.rglob("*"))
        if packed != expected:
            raise OSError(f"{aside}: holds {packed} files, expected {expected}; the checkpoints were left in place")
        digest = Digest.of_file(aside)
        aside.replace(archive)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    write_file(directory / f"{archive.name}.sha256", f"{digest.hex}  {archive.name}\n".encode())
