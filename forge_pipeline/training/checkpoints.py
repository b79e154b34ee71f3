"""Training checkpoints, the `checkpoint-<step>` folders that a run can resume from: whole ones, and their retention.

A checkpoint is whole when it holds `forge_checkpoint.json`, its *seal*: written last, after
everything else has reached the disk, with the digest of every file and the identity of the
run. What a killed process or a full disk leaves half-written has no seal, or one that does
not hold, and is never resumed from.
"""

import logging
import os
import re
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forge_pipeline.errors import ConfigError, IntegrityError, TrainingError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, canonical_json, loads_strict
from forge_pipeline.integrity.atomic import fsync_directory, write_file

SEAL = "forge_checkpoint.json"

_log = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read back whole.

    Attributes:
        step: Optimizer updates made when it was written.
        identity: What the run was, as `identity.run_identity` gives it.
        batch: `per_device_train_batch_size` and `gradient_accumulation_steps` as they really were.
    """

    path: Path
    step: int
    identity: Mapping[str, Any]
    batch: tuple[int, int]


def seal_checkpoint(path: Path, *, identity: Mapping[str, Any], batch: tuple[int, int]) -> None:
    """Bring a finished checkpoint to the disk and mark it as whole.

    Raises:
        OSError: Something could not be read, flushed or written; there is no seal.
    """
    for parent, _, files in os.walk(path):
        for name in files:
            _flush(Path(parent, name))
        fsync_directory(Path(parent))
    entries = [asdict(entry) for entry in Manifest.of_directory(path).entries]
    values = {"step": _step(path), "identity": identity, "batch": list(batch), "files": entries}
    write_file(path / SEAL, canonical_json(values))
    fsync_directory(path.parent)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's seal and every byte that it vouches for.

    Raises:
        TrainingError: It is no checkpoint, was not written to its end, or was changed since.
    """
    if not (path / SEAL).is_file():
        known = (path / "trainer_state.json").is_file() or _CHECKPOINT.fullmatch(path.name)
        words = (
            f"has no {SEAL}: it was not written to its end, or not by this version"
            if known
            else "is not a training checkpoint; expected a checkpoint-<step> directory"
        )
        raise TrainingError(f"{path} {words}")
    try:
        values: Mapping[str, Any] = loads_strict((path / SEAL).read_bytes())
        expected = Manifest(
            tuple(ManifestEntry(each["path"], each["size"], Digest(each["digest"])) for each in values["files"])
        )
        actual = Manifest.of_directory(path)
        batch, accumulation = (int(number) for number in values["batch"])
        found = Checkpoint(path, int(values["step"]), dict(values["identity"]), (batch, accumulation))
    except (OSError, ValueError, KeyError, TypeError, IntegrityError) as error:
        raise TrainingError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    differences = expected.differences(Manifest(tuple(each for each in actual.entries if each.path != SEAL)))
    if differences:
        raise TrainingError(f"{path} is not what was written: {'; '.join(differences)}")
    return found


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The last checkpoint in `directory` that is whole; None if none is. Each one passed over is said in the log."""
    for path in reversed(find_checkpoints(directory)):
        try:
            return open_checkpoint(path)
        except TrainingError as error:
            _log.warning("passed over: %s", error)
    return None


def discard_checkpoint(path: Path) -> None:
    """Remove a checkpoint, its seal first, so that no moment shows half of it as whole."""
    (path / SEAL).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def rotate_checkpoints(directory: Path, *, limit: int, best: Path | None) -> None:
    """Keep the newest `limit` checkpoints; the newest of all and `best` stay whatever the limit is."""
    found = find_checkpoints(directory)
    kept = {found[-1], *(path for path in found if best is not None and path == best)} if found else set()
    surplus = len(found) - max(limit, len(kept))
    for path in [path for path in found if path not in kept][: max(0, surplus)]:
        discard_checkpoint(path)


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
        (path / SEAL).unlink(missing_ok=True)
        shutil.rmtree(path)
    _log.info("%s: %s %d checkpoints", directory, "compressed" if action == "compress" else "deleted", len(found))


def find_checkpoints(directory: Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `directory`, by step; none if there is no such directory."""
    if not directory.is_dir():
        return []
    return sorted(
        (path for path in directory.iterdir() if path.is_dir() and _CHECKPOINT.fullmatch(path.name)), key=_step
    )


def _step(path: Path) -> int:
    match = _CHECKPOINT.fullmatch(path.name)
    assert match, path
    return int(match.group(1))


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
