"""Dataset names of a recipe -> the files or Hub splits behind them, pinned and digested.

Order of meaning: ``package:<module>/<path or glob>``, then an existing file or folder,
then a Hub id. Installed packages are located without importing them.
"""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.columns import without_nulls
from forge_pipeline.data.reading import ReadRow, Rows, is_data_file, known_suffixes, read_rows
from forge_pipeline.data.splits import as_split
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry

if TYPE_CHECKING:
    from datasets import DatasetDict

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Files about a dataset that lie beside its rows: Hub cards, `save_to_disk`, our own artefacts.
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "provenance.json")
_HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Part:
    """Rows of one file or Hub split. `label` names it in reports; `split` is the declared split, if any."""

    label: str
    split: str | None
    read: Callable[[], Rows]


@dataclass(frozen=True)
class Source:
    """One dataset of a recipe, found. Fields as in `SourceProvenance`."""

    name: str
    uri: str
    parts: tuple[Part, ...]
    revision: str | None = None
    license: str | None = None
    origin: str | None = None
    digest: Digest | None = None


def resolve_source(name: str, *, revision: str | None = None, offline: bool = False) -> Source:
    """Find the dataset that `name` means.

    Args:
        name: A file, a folder, ``package:<module>/<path or glob>``, or a Hub id.
        revision: Hub revision; anything else has none.
        offline: Ask the Hub for nothing; read a copy in its cache on this machine.

    Raises:
        DataError: There is no such dataset, or it cannot be reached.
    """
    if name.startswith("package:"):
        return _package_source(name)
    path = Path(name)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL in it
        raise DataError(f"{name[:200]}: cannot be looked up: {error}; check data.dataset_name_or_path") from error
    if exists:
        return _local_source(name, path)
    if _HUB_ID.fullmatch(name) and not is_data_file(path):
        return _hub_source(name, revision, offline)
    raise DataError(f"{name}: there is no such file or folder; check data.dataset_name_or_path")


def _local_source(name: str, path: Path) -> Source:
    shown = PurePosixPath(path.name if path.is_absolute() or ".." in path.parts else path.as_posix())
    if path.is_file():
        part = Part(path.name, None, lambda: read_rows(path))
        return Source(str(shown), f"file:{shown}", (part,), digest=_file_digest(path))
    files = sorted(file for file in path.rglob("*") if file.is_file() and _holds_rows(file.relative_to(path)))
    if not files:
        raise DataError(
            f"{path}: the folder holds no data files; expected {', '.join(known_suffixes())}, or .gz of them"
        )
    splits = {file: _declared_split(file.relative_to(path)) for file in files}
    stray = [file for file, split in splits.items() if split is None]
    if stray and len(stray) < len(files):
        raise DataError(
            f"{stray[0]}: some files of this folder declare a split and this one does not. "
            "Name it train..., validation... or test..., or move it out of the folder"
        )
    if not stray and "train" not in splits.values():
        found = ", ".join(sorted({str(split) for split in splits.values()}))
        raise DataError(f"{path}: the folder declares the splits {found}, but no train split")
    return Source(str(shown), f"file:{shown}", _parts(path, splits), digest=_manifest_digest(path, files))


def _holds_rows(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return is_data_file(relative) and not hidden and relative.name not in _NOT_ROWS


def _declared_split(relative: Path) -> str | None:
    """From the file's own name, else from the folder it lies in."""
    names = [relative.name, *reversed(relative.parent.parts)]
    return next((split for name in names if (split := as_split(name))), None)


def _parts(root: Path, splits: dict[Path, str | None]) -> tuple[Part, ...]:
    def reader(file: Path) -> Callable[[], Rows]:
        return lambda: read_rows(file)

    return tuple(Part(file.relative_to(root).as_posix(), split, reader(file)) for file, split in splits.items())


def _file_digest(path: Path) -> Digest:
    try:
        return Digest.of_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _manifest_digest(root: Path, files: list[Path]) -> Digest:
    entries = (ManifestEntry(f.relative_to(root).as_posix(), f.stat().st_size, _file_digest(f)) for f in files)
    return Manifest(tuple(sorted(entries))).digest


def _package_source(name: str) -> Source:
    module, _, inside = name.removeprefix("package:").partition("/")
    if not inside or PurePosixPath(inside).is_absolute() or ".." in PurePosixPath(inside).parts:
        raise DataError(f"{name}: expected package:<module>/<path or glob of a data file in it>")
    root = _package_directory(module, name)
    files = sorted(file for file in root.glob(inside) if file.is_file() and file.resolve().is_relative_to(root))
    if not files:
        raise DataError(f"{name}: the installed module {module!r} holds no file {inside!r}")
    distribution = _distribution_of(module, name)
    metadata = distribution.metadata
    return Source(
        name,
        f"package:{metadata['Name']}=={distribution.version}/{module.replace('.', '/')}/{inside}",
        _parts(root, dict.fromkeys(files)),
        revision=distribution.version,
        license=_license_of(metadata),
        origin=_origin_of(metadata),
        digest=_file_digest(files[0]) if len(files) == 1 else _manifest_digest(root, files),
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


def _hub_source(name: str, revision: str | None, offline: bool) -> Source:
    if offline or os.environ.get("HF_HUB_OFFLINE", "").casefold() in ("1", "true", "yes", "on"):
        return _hub_snapshot(name, revision)
    from datasets import load_dataset

    try:
        commit, license_name = _hub_facts(name, revision)
        loaded = load_dataset(name, revision=commit)
    # Protects from the network and from whatever a dataset repository makes its loader raise.
    except Exception as error:
        raise DataError(
            f"{name}: there is no such file or folder here, and the Hugging Face Hub did not give it: {error}. "
            "Check the name, data.revision and the network, or set model.offline to use a copy made before"
        ) from error
    parts = hub_parts(name, loaded)
    return Source(name, f"hub:{name}@{commit}", parts, commit, license_name, _hub_page(name))


def _hub_snapshot(name: str, revision: str | None) -> Source:
    """A copy in the Hub's cache on this machine, read as a folder. Its folder's name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name}: there is no such file or folder here, and no copy of it in the Hub's local cache (model.offline "
            f"or HF_HUB_OFFLINE is set). Fetch it once: hf download --repo-type dataset {name}"
        ) from error
    found = _local_source(str(folder), folder)
    return replace(found, name=name, uri=f"hub:{name}@{folder.name}", revision=folder.name, origin=_hub_page(name))


def _hub_page(name: str) -> str:
    return f"https://huggingface.co/datasets/{name}"


def _hub_facts(name: str, revision: str | None) -> tuple[str, str | None]:
    """Commit SHA that `revision` points to now, and the licence on the dataset's card."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(name, revision=revision, timeout=_HUB_TIMEOUT)
    declared = (info.card_data or {}).get("license")
    license_name = "; ".join(declared) if isinstance(declared, list) else declared
    if not info.sha:
        raise ValueError("the Hub named no commit for it")
    return info.sha, license_name


def hub_parts(name: str, loaded: "DatasetDict") -> tuple[Part, ...]:
    """The splits of a loaded Hub dataset as parts.

    Raises:
        DataError: Several splits, of which one is neither train, validation nor test.
    """

    def reader(split: str) -> Callable[[], Rows]:
        def read() -> Iterator[ReadRow]:
            for number, row in enumerate(loaded[split], start=1):
                yield ReadRow(number, without_nulls(dict(row)))

        return read

    declared = {split: as_split(split) for split in loaded}
    unknown = [split for split, known in declared.items() if known is None]
    if unknown and len(declared) > 1:
        raise DataError(
            f"{name}: the split {unknown[0]!r} is neither train, validation nor test; export the rows you want"
        )
    return tuple(Part(f"{name}/{split}", known, reader(split)) for split, known in declared.items())
