"""Datasets of the Hugging Face Hub: ``owner/name``, or ``owner/name:configuration``.

Online, the revision is resolved to a commit and `datasets` loads exactly that, when rows
are read. Offline, the files come from the Hub's cache on this machine; the dataset card
says which of them make which split. Splits called neither train, validation nor test are
training rows; provenance counts them under their own names.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.data.columns import without_nulls
from forge_pipeline.data.local_files import LocalFile, ReadFile, manifest_digest
from forge_pipeline.data.parts import Part, Source, file_parts, folder_source
from forge_pipeline.data.reading import ReadRow, Rows
from forge_pipeline.data.splits import as_split
from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.+-]+)?")
_TIMEOUT = 10.0  # seconds


def hub_source(name: str, revision: str | None, offline: bool, read: ReadFile) -> Source:
    """Find a dataset on the Hub, or a copy of it in the Hub's cache.

    Raises:
        DataError: There is none, or the Hub cannot be reached.
    """
    repository, _, configuration = name.partition(":")
    _library("huggingface_hub")
    if offline or os.environ.get("HF_HUB_OFFLINE", "").casefold() in ("1", "true", "yes", "on"):
        return _cached(name, repository, configuration, revision, read)
    try:
        commit, license_name = _facts(repository, revision)
    # Protects from the network and from whatever the Hub answers.
    except Exception as error:
        raise _not_given(name, error) from error

    @cache
    def parts() -> tuple[Part, ...]:
        datasets = _library("datasets")
        try:
            loaded = datasets.load_dataset(repository, configuration or None, revision=commit)
        # Protects from the network and from whatever a dataset repository makes its loader raise.
        except Exception as error:
            raise _not_given(name, error) from error
        return hub_parts(name, loaded)

    return Source(name, f"hub:{name}@{commit}", parts, commit, license_name, _page(repository))


def _library(module: str) -> ModuleType:
    return require(module, extra="train", purpose="Datasets of the Hugging Face Hub")


def _not_given(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name}: there is no such file or folder here, and the Hugging Face Hub did not give it: {error}. "
        "Check the name (owner/name, or owner/name:configuration), data.revision and the network, or set "
        "model.offline to use a copy made before"
    )


def _facts(repository: str, revision: str | None) -> tuple[str, str | None]:
    """Commit SHA that `revision` points to now, and the licence on the dataset's card."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repository, revision=revision, timeout=_TIMEOUT)
    if not info.sha:
        raise ValueError("the Hub named no commit for it")
    return info.sha, _license_of(info.card_data or {})


def _license_of(card: Mapping[str, Any]) -> str | None:
    """The card's licence; its `license_name` where it says only that it is another one."""
    declared = card.get("license")
    if declared == "other":
        declared = card.get("license_name") or declared
    return "; ".join(map(str, declared)) if isinstance(declared, list) else declared


def hub_parts(name: str, loaded: "DatasetDict") -> tuple[Part, ...]:
    """The splits of a loaded Hub dataset as parts.

    Raises:
        DataError: All of them are held out.
    """

    def reader(split: str) -> Callable[[], Rows]:
        def read() -> Iterator[ReadRow]:
            for number, row in enumerate(loaded[split], start=1):
                yield ReadRow(number, without_nulls(dict(row)))

        return read

    splits = {str(split): as_split(str(split)) for split in loaded}
    if not {"train", None} & set(splits.values()):
        raise DataError(f"{name}: has the splits {', '.join(splits)}, but none to train on")
    return tuple(Part(f"{name}/{split}", known, reader(split), split) for split, known in splits.items())


def _cached(name: str, repository: str, configuration: str, revision: str | None, read: ReadFile) -> Source:
    """A copy in the Hub's cache on this machine. Its folder's name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name}: there is no such file or folder here, and no copy of it in the Hub's local cache (model.offline "
            f"or HF_HUB_OFFLINE is set). Fetch it once: hf download --repo-type dataset {repository}"
        ) from error
    card = _card(folder)
    found = _configured(name, folder, _configuration(name, card, configuration), read)
    return replace(
        found,
        name=name,
        uri=f"hub:{name}@{folder.name}",
        revision=folder.name,
        license=_license_of(card),
        origin=_page(repository),
    )


def _card(folder: Path) -> dict[str, Any]:
    """The metadata at the head of the dataset card; empty where there is none."""
    from huggingface_hub import DatasetCard

    try:
        return dict(DatasetCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict())
    except (OSError, ValueError):  # no card, or one without metadata: the files speak for themselves
        return {}


def _configuration(name: str, card: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    """The card's entry about the configuration, or an empty one where the card has none.

    Raises:
        DataError: There are several and none is named, or none of that name.
    """
    entries = {str(entry.get("config_name", "default")): entry for entry in card.get("configs") or ()}
    default = [entry for key, entry in entries.items() if entry.get("default") or key == "default" or len(entries) == 1]
    if wanted in entries:
        return dict(entries[wanted])
    if wanted:
        raise DataError(
            f"{name}: has no configuration {wanted!r}; its card names {', '.join(sorted(entries)) or 'none'}"
        )
    if entries and not default:
        raise DataError(f"{name}: has several configurations; name one of {', '.join(sorted(entries))}: {name}:...")
    return dict(default[0]) if default else {}


def _configured(name: str, folder: Path, entry: Mapping[str, Any], read: ReadFile) -> Source:
    """The files that a configuration names, or else all of its folder."""
    inside = str(entry.get("data_dir") or "")
    patterns = _patterns(entry.get("data_files"))
    for path in (inside, *(pattern for _, pattern in patterns)):
        if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
            raise DataError(f"{name}: its card points outside of the dataset: {path!r}")
    folder /= inside
    if not patterns:
        return folder_source(name, folder, read)
    files, parts = [], []
    for split, pattern in patterns:
        found = [LocalFile.of(path) for path in sorted(folder.glob(pattern)) if path.is_file()]
        if not found:
            raise DataError(
                f"{name}: the copy in the Hub's cache holds no file {pattern!r}, which its card names; fetch it again: "
                f"hf download --repo-type dataset {name.partition(':')[0]}"
            )
        files += found
        splits: dict[Path, str | None] = dict.fromkeys((file.path for file in found), as_split(split))
        parts += [replace(part, declared=split) for part in file_parts(folder, found, read, splits)]
    return Source(name, name, lambda: tuple(parts), digest=manifest_digest(folder, files))


def _patterns(data_files: Any) -> list[tuple[str, str]]:
    """Split and glob of each group of files; a card names them as text, a list, or by split in one of two ways."""
    if not data_files:
        return []
    if isinstance(data_files, str):
        return [("train", data_files)]
    if isinstance(data_files, Mapping):
        pairs = [(str(split), paths) for split, paths in data_files.items()]
    else:
        pairs = [
            (str(item.get("split", "train")), item.get("path", [])) if isinstance(item, Mapping) else ("train", item)
            for item in data_files
        ]
    return [(split, str(path)) for split, paths in pairs for path in ([paths] if isinstance(paths, str) else paths)]


def _page(repository: str) -> str:
    return f"https://huggingface.co/datasets/{repository}"
