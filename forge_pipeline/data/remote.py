"""Data files behind an address (s3://, gs://, az://, https://, ...) -> files in a folder, with their digests.

An address names one file, a glob, or a prefix, of which the data files are fetched. Each file
is streamed beside its place, digested while it arrives, checked against the listed size and
moved into place when whole; what names its version (ETag, version id) is recorded. Failures
that may pass are tried again. An address may hold credentials: no error and no fact shows its
user name, password or query.

fsspec does the talking; the package for an address is the user's to install.
"""

import hashlib
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

from forge_pipeline.data.documents import is_document
from forge_pipeline.data.reading import is_data_file, known_suffixes
from forge_pipeline.errors import DataError, OptionalDependencyError
from forge_pipeline.integrity import Digest
from forge_pipeline.integrity.atomic import fsync_directory

_CHUNK = 4 << 20  # bytes
_ATTEMPTS = 4
_FIRST_PAUSE = 0.5  # seconds; doubled after each attempt
_MOST_FILES = 100_000
_GLOB = re.compile(r"[*?\[]")
# Protocol -> the package that fsspec needs for it.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
}
_VERSION_KEYS = ("VersionId", "version_id", "generation")
_ETAG_KEYS = ("ETag", "etag", "e_tag", "md5Hash")
_RETRIED_STATUS = frozenset((408, 425, 429))
_SHORTEST_SECRET = 3  # characters; hiding less would hide every other word

_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """One fetched file.

    Attributes:
        path: Where it lies now.
        url: Its address, without credentials.
        size: Bytes.
        digest: Of its bytes.
        etag: The entity tag that the store gave it, if any.
        version: The store's version id or generation, if it keeps versions.
    """

    path: Path
    url: str
    size: int
    digest: Digest
    etag: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class RemoteFiles:
    """What was fetched: `url` without credentials, the folder, and the files by their paths in it."""

    url: str
    folder: Path
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes in all files together."""
        return sum(file.size for file in self.files)


def is_remote(name: str) -> bool:
    """Whether `name` is an address that `fetch_remote` understands, not a path."""
    protocol, separator, _ = name.partition("://")
    return bool(separator) and protocol.casefold() in _PACKAGES


def fetch_remote(
    url: str,
    folder: Path,
    *,
    limit_bytes: int | None = None,
    options: Mapping[str, Any] | None = None,
    wanted: Callable[[Path], bool] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RemoteFiles:
    """Fetch the data files that `url` names into `folder`, under their names below the address.

    Args:
        url: Of a file, a prefix (folder), or with ``*``, ``?``, ``[...]`` and ``**``. HTTP addresses name one file.
        folder: Made if it is not there. Files of the same names in it are replaced.
        limit_bytes: Most bytes of all files together; None means no limit.
        options: For the fsspec file system, for example ``{"anon": True}``. Credentials usually come from the
            environment instead.
        wanted: Which file names of a prefix or glob to fetch; data files and documents, if not given.
        sleep: Waits that many seconds between attempts.

    Raises:
        DataError: There is nothing to fetch, it is too large, it may not be read, it changed while it was fetched,
            or it could not be fetched in four attempts.
        OptionalDependencyError: The package for this kind of address is not installed.
        OSError: The folder cannot be written to.
    """
    secrets = _Secrets(url)
    attempt = _Attempts(secrets, sleep)
    file_system, root = _file_system(url, secrets, options or {})
    found = attempt(lambda: _listing(file_system, root, wanted or _is_readable, secrets))
    total = sum(entry.size or 0 for entry in found)
    if limit_bytes is not None and total > limit_bytes:
        raise DataError(f"{secrets.url}: {total} bytes in {len(found)} files; at most {limit_bytes} bytes are allowed")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[RemoteFile] = []
    left = limit_bytes
    for entry in found:
        files.append(attempt(partial(_fetch, file_system, entry, folder, left, secrets)))
        left = None if left is None else left - files[-1].size
    return RemoteFiles(secrets.url, folder, tuple(files))


def redacted(url: str) -> str:
    """The address without user name, password, query and fragment, which may hold credentials."""
    return _Secrets(url).url


def _is_readable(path: Path) -> bool:
    return is_data_file(path) or is_document(path)


class _Secrets:
    """What of an address must not be shown.

    Attributes:
        url: The address without it.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            has_password = parts.password is not None
        except ValueError as error:
            raise DataError(f"the address of the dataset cannot be read: {error}") from None
        is_http = parts.scheme.casefold() in ("http", "https")
        if has_password and not is_http:
            raise DataError(
                f"{parts.scheme}://***: credentials in an address end up in records; give them to the environment "
                "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_...) instead"
            )
        login, _, host = parts.netloc.rpartition("@") if is_http else ("", "", parts.netloc)
        query = parts.query if is_http else ""
        values = [pair.partition("=")[2] for pair in query.split("&")] + login.split(":")
        whole = [text for text in (query, login, url if login or query else "") if text]
        pieces = [text for value in values for text in (value, unquote(value)) if len(text) >= _SHORTEST_SECRET]
        self._hidden = sorted({*whole, *pieces}, key=len, reverse=True)
        self.url = f"{parts.scheme}://{host}{parts.path}" if is_http else url

    def hide(self, text: object) -> str:
        """`text` with everything secret replaced."""
        shown = str(text)
        for secret in self._hidden:
            shown = shown.replace(secret, "***")
        return shown


class _DiskError(Exception):
    """Writing here failed; trying again would not help."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _IncompleteError(Exception):
    """What arrived is not what was listed; trying again may help."""


class _Attempts:
    """Does something that talks to the network, again if it fails in a way that may pass."""

    def __init__(self, secrets: _Secrets, sleep: Callable[[float], None]) -> None:
        self._secrets, self._sleep = secrets, sleep

    def __call__(self, work: Callable[[], _T]) -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except (DataError, OptionalDependencyError):
                raise
            except _DiskError as error:
                raise error.error from None
            # The network, and the client libraries of six stores, which raise errors of any kind.
            # `from None`: the message of the original may hold the credentials that are hidden here.
            except Exception as error:
                reason = _lasting_reason(error)
                if reason is None and attempt < _ATTEMPTS:
                    self._sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
                    continue
                tried = reason or f"could not be fetched in {_ATTEMPTS} attempts"
                detail = self._secrets.hide(f"{type(error).__name__}: {error}")[:500]
                raise DataError(f"{self._secrets.url}: {tried} ({detail})") from None
        raise AssertionError("the last attempt returns or raises")


def _lasting_reason(error: Exception) -> str | None:
    """Why trying again would not help, or None."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "there is no such file; check the address"
    if isinstance(error, PermissionError) or status in (401, 403) or "NoCredentials" in type(error).__name__:
        return "may not be read; check the credentials in the environment"
    if isinstance(status, int) and 400 <= status < 500 and status not in _RETRIED_STATUS:
        return "was refused by the server"
    lasting = IsADirectoryError | NotADirectoryError | ValueError | TypeError | NotImplementedError | ImportError
    return "cannot be fetched" if isinstance(error, lasting) else None


def _file_system(url: str, secrets: _Secrets, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system for the address, and the address as it knows it."""
    protocol = url.partition("://")[0].casefold()
    package = _PACKAGES.get(protocol)
    if package is None or "::" in url:
        raise DataError(f"{secrets.url}: no address that can be fetched; expected {', '.join(_PACKAGES)}")
    try:
        import fsspec

        settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if package == "aiohttp":
            settings |= _http_settings(url)
        file_system = fsspec.filesystem(protocol, **{**settings, **options})
    except ImportError:
        raise OptionalDependencyError(
            f"{protocol}:// addresses need the package {package!r}, which is not installed. "
            f"Install it with: pip install {'fsspec' if package == 'fsspec' else f'fsspec {package}'}"
        ) from None
    # Credentials and settings of a store may be refused in any way.
    except Exception as error:
        detail = secrets.hide(f"{type(error).__name__}: {error}")[:500]
        raise DataError(f"{secrets.url}: the store cannot be set up ({detail})") from None
    return file_system, str(file_system._strip_protocol(url))


def _http_settings(url: str) -> dict[str, Any]:
    """No limit to the time of a whole download, but one to silence; the bytes as they are stored; the URL as it is."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=60.0)
    headers = {"Accept-Encoding": "identity"}
    # Quoting a signed URL anew would break its signature.
    return {"client_kwargs": {"timeout": timeout}, "headers": headers, "encoded": "%" in url}


@dataclass(frozen=True)
class _Entry:
    """A listed file: its address for the file system, and its name below the address that was asked for."""

    path: str
    name: PurePosixPath
    size: int | None


def _listing(file_system: Any, root: str, wanted: Callable[[Path], bool], secrets: _Secrets) -> list[_Entry]:
    """The files that the address means, in the order of their names."""
    is_http = root.startswith(("http://", "https://"))
    if not is_http and _GLOB.search(root):
        base = posixpath.dirname(root[: _GLOB.search(root).start()])  # type: ignore[union-attr]
        found = file_system.glob(root, detail=True)
    else:
        info = file_system.info(root)
        if is_http or info["type"] == "file":
            name = PurePosixPath(unquote(urlsplit(root).path) if is_http else root).name
            if not wanted(Path(name)):
                raise DataError(
                    f"{secrets.url}: cannot read files of this kind; expected an address that ends in "
                    f"{', '.join(known_suffixes())}, or .gz, .zst, .bz2 or .xz of text"
                )
            return [_Entry(root, _safe(name, secrets), info.get("size"))]
        base, found = root, file_system.find(root, detail=True)
    if len(found) > _MOST_FILES:
        raise DataError(f"{secrets.url}: {len(found)} files; at most {_MOST_FILES} are fetched")
    entries = []
    for path, info in found.items():
        name = path.removeprefix(base).lstrip("/")
        hidden = any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)
        if info["type"] == "file" and not hidden and wanted(Path(name)):
            entries.append(_Entry(path, _safe(name, secrets), info.get("size")))
    if not entries:
        raise DataError(f"{secrets.url}: holds no data files; expected {', '.join(known_suffixes())}, or .gz of them")
    return sorted(entries, key=lambda entry: entry.name.parts)


def _safe(name: str, secrets: _Secrets) -> PurePosixPath:
    """A name that stays in the folder: object stores take any text for a name."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise DataError(f"{secrets.url}: holds the name {secrets.hide(name)!r}, which is no safe path; rename it")
    return pure


def _fetch(file_system: Any, entry: _Entry, folder: Path, limit: int | None, secrets: _Secrets) -> RemoteFile:
    """One file, streamed beside its place and moved there when it is whole and unchanged."""
    file_system.invalidate_cache()
    before = _facts(file_system.info(entry.path))
    target = folder / entry.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _DiskError(error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            size, digest = _stream(file_system, entry, file, limit, secrets)
        file_system.invalidate_cache()
        after = _facts(file_system.info(entry.path))
        if size != (before.size if before.size is not None else size) or after != before:
            raise _IncompleteError(f"{size} bytes arrived; listed were {before}, and afterwards {after}")
        try:
            os.chmod(aside, 0o644)
            os.replace(aside, target)
            fsync_directory(target.parent)
        except OSError as error:
            raise _DiskError(error) from error
    finally:
        Path(aside).unlink(missing_ok=True)
    return RemoteFile(target, _shown(file_system, entry, secrets), size, digest, before.etag, before.version)


def _stream(
    file_system: Any, entry: _Entry, file: IO[bytes], limit: int | None, secrets: _Secrets
) -> tuple[int, Digest]:
    """Copy the bytes; how many, and their digest."""
    hasher, size = hashlib.sha256(), 0
    # HTTP: one request that streams (block size 0); elsewhere ranges, of which two are held at a time.
    block = 0 if entry.path.startswith(("http://", "https://")) else _CHUNK
    with file_system.open(entry.path, "rb", block_size=block, cache_type="readahead") as source:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if limit is not None and size > limit:
                raise DataError(f"{secrets.url}: more bytes than the {limit} that are allowed for it")
            hasher.update(chunk)
            try:
                file.write(chunk)
            except OSError as error:
                raise _DiskError(error) from error
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _DiskError(error) from error
    return size, Digest(f"sha256:{hasher.hexdigest()}")


@dataclass(frozen=True)
class _Facts:
    """What the store says of one file."""

    size: int | None
    etag: str | None
    version: str | None


def _facts(info: Mapping[str, Any]) -> _Facts:
    def first(keys: tuple[str, ...]) -> str | None:
        return next((str(info[key]).strip('"') for key in keys if info.get(key) not in (None, "", "null")), None)

    return _Facts(info.get("size"), first(_ETAG_KEYS), first(_VERSION_KEYS))


def _shown(file_system: Any, entry: _Entry, secrets: _Secrets) -> str:
    """The file's own address, without credentials."""
    if entry.path.startswith(("http://", "https://")):
        return secrets.url
    return str(file_system.unstrip_protocol(entry.path))
