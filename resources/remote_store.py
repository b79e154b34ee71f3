"""The fsspec side of the artefact store: an object store, or a folder that several hosts mount.

``<root>/sha256/<64 hex>/files/...`` holds an artefact's files and ``<root>/sha256/<64 hex>/manifest.json`` their
names, sizes and digests. The rules:

1. Files first, the manifest last: where there is a manifest, the upload was complete.
2. Before the manifest is written, the sizes that the store lists are those of the files.
3. Manifests and records are created, never overwritten: where the store can refuse (S3's If-None-Match, a local
   file), it is asked to, so that of two writers one wins; and what is found there already must be the same bytes.
4. A reader believes digests alone. What it cannot reach is `StoreError`, what differs is `IntegrityError`.

An upload that was cut off leaves files and no manifest; the next one writes them again.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forge_pipeline.errors import ForgeError, IntegrityError, StoreError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, canonical_json, json_digest, loads_strict
from forge_pipeline.integrity.atomic import publish_directory

_MANIFEST = "manifest.json"


class RemoteStore:
    """Uploads, downloads and small files under one fsspec URL, for example ``s3://bucket/forge``.

    Credentials and endpoint come from the protocol's own places (for S3: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a role).
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self._url = url
        with self._reaching("be opened"):
            # A listing from before another host's upload would be wrong for the life of the process.
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)

    def upload(self, manifest: Manifest, directory: Path) -> None:
        """Store the files of `directory` under the manifest's digest; nothing to do where they are.

        Raises:
            StoreError: The store did not take them all; no manifest is written then.
            IntegrityError: The store holds another manifest under this digest.
        """
        base = self._base(manifest.digest)
        listing = canonical_json([asdict(entry) for entry in manifest.entries])
        with self._reaching(f"take {manifest.digest}"):
            if (found := self._find(f"{base}/{_MANIFEST}")) is not None:
                self._check_same(f"{base}/{_MANIFEST}", found, listing)
                return
            for entry in manifest.entries:
                remote = f"{base}/files/{entry.path}"
                self._fs.makedirs(os.path.dirname(remote), exist_ok=True)
                self._fs.put_file(str(directory / entry.path), remote)
            self._check_sizes(manifest, f"{base}/files")
            self._create(f"{base}/{_MANIFEST}", listing)

    def download(self, digest: Digest, destination: Path) -> None:
        """Fetch an artefact, verify it and publish it as `destination`; nothing where the store does not have it.

        Raises:
            StoreError: The store cannot be reached, or lacks a file that the manifest names.
            IntegrityError: Manifest or files are not what the digest says.
        """
        base = self._base(digest)
        with self._reaching(f"give back {digest}"):
            data = self._find(f"{base}/{_MANIFEST}")
        if data is None:
            return
        listing = loads_strict(data)
        if json_digest(listing) != digest:
            raise IntegrityError(f"the manifest of {digest} in {self._url} was changed; restore it from a backup")
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Of its own: two stages that miss the same artefact download it at the same time.
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        os.chmod(staging, 0o755)
        try:
            self._fetch(digest, listing, staging)
            _publish(staging, destination)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def read(self, path: str) -> bytes:
        """A small file under the root.

        Raises:
            FileNotFoundError: There is none.
            StoreError: The store cannot be reached.
        """
        with self._reaching(f"give back {path}"):
            data = self._find(f"{self._root}/{path}")
        if data is None:
            raise FileNotFoundError(f"{self._url}/{path}")
        return data

    def put(self, path: str, data: bytes) -> None:
        """Create a small file whose name is made of its digest.

        Raises:
            StoreError: It was not written.
            IntegrityError: There is another one of this name.
        """
        target = f"{self._root}/{path}"
        with self._reaching(f"take {path}"):
            self._fs.makedirs(os.path.dirname(target), exist_ok=True)
            self._create(target, data)

    def _base(self, digest: Digest) -> str:
        return f"{self._root}/sha256/{digest.hex}"

    def _find(self, path: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    def _create(self, path: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            self._check_same(path, self._find(path), data)

    def _check_same(self, path: str, found: bytes | None, expected: bytes) -> None:
        if found != expected:
            raise IntegrityError(
                f"{path} in {self._url} holds other bytes than its name says; it was changed, and is not overwritten. "
                "Restore it from a backup, or remove it and materialize the asset again"
            )

    def _check_sizes(self, manifest: Manifest, folder: str) -> None:
        found = self._fs.find(folder, detail=True)
        sizes = {name.rpartition(f"{manifest.digest.hex}/files/")[2]: facts["size"] for name, facts in found.items()}
        for entry in manifest.entries:
            if sizes.get(entry.path) != entry.size:
                raise StoreError(
                    f"{entry.path} of {manifest.digest} did not arrive whole in {self._url}: expected {entry.size} "
                    f"bytes, found {sizes.get(entry.path, 'none')}; materialize the asset again"
                )

    def _fetch(self, digest: Digest, listing: Any, staging: Path) -> None:
        for entry in (ManifestEntry(item["path"], item["size"], Digest(item["digest"])) for item in listing):
            local = staging / entry.path
            if not local.resolve().is_relative_to(staging.resolve()):
                raise IntegrityError(f"the manifest of {digest} names {entry.path!r}, outside its directory")
            local.parent.mkdir(parents=True, exist_ok=True)
            with self._reaching(f"give back {entry.path} of {digest}"):
                self._fs.get_file(f"{self._base(digest)}/files/{entry.path}", str(local))
        actual = Manifest.of_directory(staging).digest
        if actual != digest:
            raise IntegrityError(f"{digest} was changed in {self._url}: its files hash to {actual}")

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except ForgeError:
            raise
        except Exception as error:  # whatever the peer's client raises: botocore's errors are not OSError
            raise StoreError(
                f"{self._url} could not {what}: {type(error).__name__}: {error}. Check the address, the credentials "
                "and the network, and materialize the asset again"
            ) from error


def _publish(staging: Path, destination: Path) -> None:
    try:
        publish_directory(staging, destination)
    except OSError:
        if not destination.is_dir():  # else another stage was first, with the same bytes
            raise
