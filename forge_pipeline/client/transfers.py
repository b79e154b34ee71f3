"""Files to and from the server: in pieces, never whole in memory, and held against their digests.

The ETag of a download is a digest: of a file, of its bytes; of a directory, which comes as a ZIP, of its manifest,
which is made again from the ZIP's members. A file that is not what its digest says never gets its name.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry

if TYPE_CHECKING:
    import httpx

_PIECE = 1 << 20  # bytes


def keep(reply: "httpx.Response", to: Path) -> Path:
    """Write a streamed reply to `to`, all of it or nothing; into `to` under the server's name if it is a directory.

    Raises:
        IntegrityError: The bytes are not what the ETag says.
    """
    target = to / _name(reply) if to.is_dir() else to
    fd, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            for piece in reply.iter_bytes(_PIECE):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        _check(Path(partial), reply)
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target


def _check(path: Path, reply: "httpx.Response") -> None:
    expected = reply.headers.get("etag", "").removeprefix("W/").strip('"')
    if not expected.startswith("sha256:"):
        return
    zipped = reply.headers.get("content-type", "").startswith("application/zip")
    found = manifest_of_zip(path).digest if zipped else Digest.of_file(path)
    if str(found) != expected:
        raise IntegrityError(f"{reply.url.path}: expected {expected}, received {found}; nothing was kept")


def manifest_of_zip(path: Path) -> Manifest:
    """The manifest of the directory that a ZIP holds under one folder.

    Raises:
        IntegrityError: It is not such a ZIP, or a member is damaged.
    """
    entries = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                folder, _, relative = member.filename.partition("/")
                if not folder or not relative:
                    raise IntegrityError(f"{member.filename!r} does not lie in the ZIP's folder")
                entries.append(ManifestEntry(relative, member.file_size, _digest(archive, member)))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise IntegrityError(f"what was received is no whole ZIP: {error}") from error
    return Manifest(tuple(sorted(entries)))


def _digest(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Digest:
    hasher = hashlib.sha256()
    with archive.open(member) as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return Digest(f"sha256:{hasher.hexdigest()}")


def _name(reply: "httpx.Response") -> str:
    """The last part of the name that the server gives the file."""
    said = reply.headers.get("content-disposition", "").partition('filename="')[2].partition('"')[0]
    name = said.replace("\\", "/").rsplit("/", 1)[-1].lstrip(".")
    return name or "download"
