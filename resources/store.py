"""The content-addressed artefact store.

``<root>/sha256/<2 hex>/<64 hex>/`` holds one artefact: the files whose manifest has that
digest. Content is never overwritten: publishing what is there already is a no-op, so a
retry is harmless, and history is never lost. ``<root>/records/<line>/`` holds one record a
materialization: what was stored, from which inputs, by which run, code and machine; each
names the digest of the record before it in its line. ``<root>/records/package-lists/`` holds the
lists of installed packages that records name by digest, each list once.

The root is a local path, or any fsspec URL (``s3://``, ``gs://``, ``az://``): then files are
uploaded first and the manifest last, and readers download what a manifest names into a
local cache and verify it (`resources.remote_store`).
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_pipeline.audit_log.locking import exclusive
from forge_pipeline.erasure import read_tombstone
from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.integrity import Digest, Manifest, canonical_json, loads_strict
from forge_pipeline.integrity.atomic import publish_directory, write_file
from resources.remote_store import RemoteStore

_PACKAGES = "package-lists"  # beside the folders of the lines, whose names have no hyphen


@dataclass(frozen=True)
class MaterializationRecord:
    """What one materialization stored, from what, by whom.

    Attributes:
        inputs: Asset key -> digest of the artefact that the stage really loaded.
        code_version: Digest of the recipe sections and source files that the stage reads.
        recorded_at, started_at: ISO 8601 with a zone: when it was stored, and when the stage began.
        previous: Digest of the line's record before this one; None for the first.
        environment: Git commit and whether it is what ran, lock digest, hardware, interpreter.
        recipe: Digest of the resolved recipe.
        seeds: Recipe key -> value of what decides random choices.
        packages: Digest of the list of installed packages, which the store keeps (`ArtifactStore.packages`).
        usage: What the stage's process used, as `training.ResourceUsage` names it; empty where nothing was measured.

    The last five are None or empty in records from before they were kept.
    """

    asset_key: str
    partition: str | None
    artifact_type: str
    digest: Digest
    files: int
    size: int
    inputs: Mapping[str, Digest]
    code_version: str | None
    run_id: str
    step_key: str
    recorded_at: str
    previous: Digest | None
    environment: Mapping[str, str]
    recipe: Digest | None = None
    seeds: Mapping[str, int | bool] = field(default_factory=dict)
    packages: Digest | None = None
    started_at: str | None = None
    usage: Mapping[str, float | str] = field(default_factory=dict)


class ArtifactStore:
    """Publishes directories under their digest and hands them out verified.

    Args:
        root: Local path or fsspec URL.
        cache: Where artefacts of a remote root are kept after download.
    """

    def __init__(self, root: str, cache: Path) -> None:
        self._remote = RemoteStore(root) if "://" in root else None
        self._local = cache if self._remote else Path(root)

    def path(self, digest: Digest) -> Path:
        """Where an artefact lies, or would lie, on this machine."""
        return self._local / "sha256" / digest.hex[:2] / digest.hex

    def publish(self, directory: Path) -> Digest:
        """Move a finished directory into the store and return its digest.

        `directory` must lie on the store's file system; it is gone afterwards.

        Raises:
            StoreError: It could not be stored; nothing half-written is visible.
        """
        manifest = Manifest.of_directory(directory)
        destination = self.path(manifest.digest)
        try:
            if destination.exists():
                if erased := read_tombstone(destination):
                    raise StoreError(f"{manifest.digest} is not stored again: it {erased.words}")
                if directory != destination:
                    shutil.rmtree(directory)
            else:
                destination.parent.mkdir(parents=True, exist_ok=True)
                publish_directory(directory, destination)
            if self._remote:
                self._remote.upload(manifest, destination)
        except OSError as error:
            raise StoreError(f"{directory.name} could not be stored as {destination}: {error}") from error
        return manifest.digest

    def get(self, digest: Digest) -> Path:
        """The directory of an artefact, every file verified against `digest`.

        Raises:
            StoreError: It is not in the store.
            IntegrityError: Its bytes are no longer what the digest says.
        """
        path = self.path(digest)
        if not path.exists() and self._remote:
            self._remote.download(digest, path)
        if not path.is_dir():
            raise StoreError(f"{digest} is not in the artefact store {self._local}; materialize the asset again")
        if erased := read_tombstone(path):
            raise StoreError(f"{digest} {erased.words}")
        actual = Manifest.of_directory(path).digest
        if actual != digest:
            raise IntegrityError(
                f"{path} was changed after it was stored: expected {digest}, found {actual}. "
                "Nothing is read from it; materialize the asset again or restore it from a backup"
            )
        return path

    def append_record(self, line: str, build: Callable[[Digest | None], Mapping[str, Any]]) -> Digest:
        """Write a materialization record and return its digest.

        Args:
            build: Makes the record, given the digest of the line's record before it. Runs of one line that end
                at the same time are served one after the other, so the chain never forks.

        Raises:
            StoreError: It could not be written; the stage must fail.
        """
        folder = self._records(line)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / ".lock"):
                data = canonical_json(dict(build(self.last_record(line))))
                digest = Digest.of(data)
                write_file(folder / f"{digest.hex}.json", data)
                write_file(folder / "HEAD", digest.encode())
            if self._remote:
                self._remote.put(f"records/{line}/{digest.hex}.json", data)
        except OSError as error:
            raise StoreError(f"the materialization record of line {line} could not be written: {error}") from error
        return digest

    def last_record(self, line: str) -> Digest | None:
        """Digest of the line's newest record."""
        head = self._records(line) / "HEAD"
        return Digest(head.read_text()) if head.exists() else None

    def record(self, line: str, digest: Digest) -> dict[str, Any]:
        """Read a record back, verified.

        Raises:
            StoreError: There is no such record.
            IntegrityError: Its bytes differ from its digest.
        """
        name = f"{line}/{digest.hex}.json"
        return self._read_json(name, digest, absent=f"line {line} has no record {digest}")

    def materialization(self, line: str, digest: Digest) -> MaterializationRecord:
        """`record` as the dataclass; of an older record the newer fields have their defaults.

        Raises:
            StoreError: As `record`.
            IntegrityError: As `record`, or it is no materialization record.
        """
        from pydantic import TypeAdapter, ValidationError

        value = self.record(line, digest)
        try:
            return TypeAdapter(MaterializationRecord).validate_python(value)
        except ValidationError as error:
            raise IntegrityError(f"record {digest} of line {line} is no materialization record: {error}") from error

    def keep_packages(self, packages: Mapping[str, str]) -> Digest:
        """Keep a list of packages, name -> version, and return its digest. A list that is there is not written again.

        Raises:
            StoreError: It could not be written; the stage must fail.
        """
        data = canonical_json(dict(packages))
        digest = Digest.of(data)
        path = self._records(_PACKAGES) / f"{digest.hex}.json"
        if path.exists():
            return digest
        try:
            if self._remote:
                self._remote.put(f"records/{_PACKAGES}/{digest.hex}.json", data)
            write_file(path, data)  # last, so that what is here is there too
        except OSError as error:
            raise StoreError(f"the list of installed packages could not be written: {error}") from error
        return digest

    def packages(self, digest: Digest) -> dict[str, str]:
        """The list of packages that a record names.

        Raises:
            StoreError: There is no such list.
            IntegrityError: Its bytes differ from its digest.
        """
        name = f"{_PACKAGES}/{digest.hex}.json"
        value = self._read_json(name, digest, absent=f"there is no list of packages {digest}")
        return {str(name): str(version) for name, version in value.items()}

    def _read_json(self, name: str, digest: Digest, *, absent: str) -> dict[str, Any]:
        """The JSON object `name` under records/, which has `digest`; from here, or else from the remote store."""
        path = self._local / "records" / name
        try:
            if self._remote and not path.exists():
                write_file(path, self._remote.read(f"records/{name}"))
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{absent}: {error}") from error
        if Digest.of(data) != digest:
            raise IntegrityError(f"{name} was changed after it was written: expected {digest}, found {Digest.of(data)}")
        value = loads_strict(data)
        assert isinstance(value, dict)
        return value

    def _records(self, line: str) -> Path:
        return self._local / "records" / line
