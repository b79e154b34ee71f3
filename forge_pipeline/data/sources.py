"""Dataset names of a recipe -> the files or Hub splits behind them, pinned and digested.

Order of meaning: ``package:<module>/<path or glob>``, then a URL of an object store, then an
existing file or folder, then a Hub id, of which ``<id>:<configuration>`` names one
configuration. Installed packages are located without importing them.
"""

import importlib.metadata
import importlib.util
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from forge_pipeline.data.hub import HUB_NAME, hub_source
from forge_pipeline.data.local_files import LocalFile, ReadFile, manifest_digest, may_hold_rows
from forge_pipeline.data.parts import Part, Source, file_parts, folder_source, shown_name
from forge_pipeline.data.reading import is_data_file, read_rows
from forge_pipeline.errors import DataError

__all__ = ["Part", "Source", "recorded_url", "resolve_source"]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_QUERY = re.compile(r"\?[\w.-]+=.*", re.DOTALL)  # a question mark alone may be part of a glob or of an object's name


def resolve_source(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    read: ReadFile = read_rows,
    scratch: Path | None = None,
) -> Source:
    """Find the dataset that `name` means.

    Args:
        name: A file, a folder, ``package:<module>/<path or glob>``, a URL of an object store (one file, or a prefix
            under which there are data files), or a Hub id, with ``:<configuration>`` where it has several.
        revision: Commit, tag or branch, of a Hub dataset only.
        offline: Ask the Hub for nothing; read a copy in its cache on this machine.
        read: How a file becomes rows.
        scratch: Where the files behind a URL are put, to be read from there; it need not exist yet.

    Raises:
        DataError: There is no such dataset, or it cannot be reached.
    """
    path = Path(name)
    if not name.startswith("package:") and not _URL.match(name) and not _exists(name, path):
        if HUB_NAME.fullmatch(name) and not is_data_file(path):
            return hub_source(name, revision, offline, read)
        raise DataError(f"{name}: there is no such file or folder; check data.dataset_name_or_path")
    if revision is not None:
        shown = recorded_url(name) if _URL.match(name) else name
        raise DataError(
            f"{shown}: has no revision {revision!r}: only datasets of the Hub have revisions. Remove the key; what was "
            "read is recorded by its digest"
        )
    if name.startswith("package:"):
        return _package_source(name, read)
    if _URL.match(name):
        return _remote_source(name, read, scratch)
    return _local_source(name, path, read)


def _exists(name: str, path: Path) -> bool:
    try:
        if path.exists():
            return True
        is_link = path.is_symlink()
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL in it
        raise DataError(f"{name[:200]}: cannot be looked up: {error}; check data.dataset_name_or_path") from error
    if is_link:
        raise DataError(f"{name}: is a link that leads nowhere, or in a circle; repair it, or name the file itself")
    return False


def _local_source(name: str, path: Path, read: ReadFile) -> Source:
    return folder_source(name, path, read) if path.is_dir() else _file_source(name, path, read)


def _file_source(name: str, path: Path, read: ReadFile) -> Source:
    file = LocalFile.of(path)
    shown = shown_name(name, path)
    parts = file_parts(path.parent, [file], read)
    return Source(shown, f"file:{shown}", lambda: parts, digest=file.digest)


def _remote_source(url: str, read: ReadFile, scratch: Path | None) -> Source:
    """The files behind a URL, copied here. What is recorded of the URL holds no credentials."""
    from forge_pipeline.data.remote import fetch_remote

    if scratch is None:
        raise ValueError("scratch is needed to read from a URL")
    files = fetch_remote(url, scratch, wanted=may_hold_rows).files
    shown = recorded_url(url)
    one = len(files) == 1
    found = _file_source(shown, files[0].path, read) if one else folder_source(shown, scratch, read)
    version = (files[0].version or files[0].etag) if one else None
    return replace(found, name=shown, uri=shown, revision=version, origin=shown)


def recorded_url(url: str) -> str:
    """A URL without what may be a secret: user and password, query (signatures, tokens) and fragment."""
    from forge_pipeline.data.remote import redacted

    return _QUERY.sub("", redacted(url))


def _package_source(name: str, read: ReadFile) -> Source:
    module, _, inside = name.removeprefix("package:").partition("/")
    if not inside or PurePosixPath(inside).is_absolute() or ".." in PurePosixPath(inside).parts:
        raise DataError(f"{name}: expected package:<module>/<path or glob of a data file in it>")
    root = _package_directory(module, name)
    paths = sorted(path for path in root.glob(inside) if path.is_file() and path.resolve().is_relative_to(root))
    if not paths:
        raise DataError(f"{name}: the installed module {module!r} holds no file {inside!r}")
    files = [LocalFile.of(path) for path in paths]
    parts = file_parts(root, files, read)
    distribution = _distribution_of(module, name)
    metadata = distribution.metadata
    return Source(
        name,
        f"package:{metadata['Name']}=={distribution.version}/{module.replace('.', '/')}/{inside}",
        lambda: parts,
        revision=distribution.version,
        license=_license_of(metadata),
        origin=_origin_of(metadata),
        digest=files[0].digest if len(files) == 1 else manifest_digest(root, files),
    )


def _package_directory(module: str, name: str) -> Path:
    """The directory of an installed package. Nothing is imported: `find_spec` would import the parents of ``a.b``."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        directory = Path(location, *below).resolve()
        if directory.is_dir():
            return directory
    raise DataError(f"{name}: no installed package provides the module {module!r}; install it with pip")


def _distribution_of(module: str, name: str) -> importlib.metadata.Distribution:
    names = importlib.metadata.packages_distributions().get(module.partition(".")[0])
    if not names:
        raise DataError(
            f"{name}: the module {module!r} belongs to no installed distribution, so its version and licence are "
            "unknown; name the file by its path instead"
        )
    return importlib.metadata.distribution(names[0])


def _license_of(metadata: Any) -> str | None:
    """SPDX expression, else a one-line License field, else the classifier."""
    for field in ("License-Expression", "License"):
        value = metadata.get(field)
        if value and "\n" not in value.strip() and value.strip().upper() != "UNKNOWN":
            return str(value).strip()
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    return "; ".join(c.rpartition(" :: ")[2] for c in classifiers) or None


def _origin_of(metadata: Any) -> str | None:
    urls = {}
    for entry in metadata.get_all("Project-URL") or ():
        label, _, url = entry.partition(",")
        urls[label.strip().casefold()] = url.strip()
    wanted = ("repository", "source", "source code", "homepage", "documentation")
    home: str | None = metadata.get("Home-page")
    return next((urls[label] for label in wanted if label in urls), home)
