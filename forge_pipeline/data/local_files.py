"""The files of a dataset on this machine: which they are, what split they declare, that they stay what they were.

Links are followed, and one that leads in a circle or nowhere is refused by name, as is
anything that is not a plain file but is called like one (a pipe would be waited for). A
file is digested first and read later; if it changed in between, what was read is not
what the digest vouches for, and reading ends with an error.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from forge_pipeline.data.reading import (
    BrokenRow,
    Rows,
    check_plain_file,
    document_suffixes,
    is_data_file,
    is_document,
    known_suffixes,
)
from forge_pipeline.data.splits import as_split
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry

ReadFile = Callable[[Path], Rows]

# Files about a dataset that lie beside its rows: Hub cards, `save_to_disk`, our own artefacts.
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "provenance.json")
_ABOUT = ("readme", "license", "licence", "notice", "copying", "changelog", "citation", "authors", "contributing")
_DEEPEST = 64  # folders within folders


@dataclass(frozen=True)
class LocalFile:
    """A plain file as it was when it was digested. `state` is size in bytes, time of change, and inode."""

    path: Path
    digest: Digest
    state: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> "LocalFile":
        """Look at a file and digest it.

        Raises:
            DataError: It cannot be read, or is no plain file.
        """
        try:
            check_plain_file(path)
            state = _state(path)
            return cls(path, Digest.of_file(path), state)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error

    def rows(self, read: ReadFile) -> Rows:
        """The file's rows.

        Raises:
            DataError: It is broken as a whole, or not what it was when it was digested.
        """
        yield from read(self.path)
        try:
            changed = _state(self.path) != self.state
        except OSError:
            changed = True
        if changed:
            raise DataError(
                f"{self.path}: changed while it was being read, so its digest says nothing about these rows. "
                "Ingest it again when nothing writes to it any more"
            )


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def manifest_digest(root: Path, files: Iterable[LocalFile]) -> Digest:
    """Digest of a manifest of the files, their paths taken from `root` on."""
    entries = (ManifestEntry(file.path.relative_to(root).as_posix(), file.state[0], file.digest) for file in files)
    return Manifest(tuple(sorted(entries))).digest


def files_with_rows(root: Path) -> tuple[list[Path], list[Path]]:
    """The files under a folder that hold rows, and the documents beside them that are then not read, each sorted.

    Where there are no data files, the documents are what holds the rows. Hidden files and files about the dataset
    (cards, licences) count for neither.

    Raises:
        DataError: There are none, or a link, pipe or folder stands in the way.
    """
    files = sorted(file for file in _files(root, ()) if may_hold_rows(file))
    data = [file for file in files if is_data_file(file)]
    documents = [file for file in files if not is_data_file(file)]
    if not data and not documents:
        raise DataError(
            f"{root}: the folder holds no data files; expected {', '.join(known_suffixes())}, compressed ones, or "
            f"documents ({', '.join(document_suffixes())})"
        )
    return (data, documents) if data else (documents, [])


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Plain files under a folder; `above` are the device and inode of the folders that led here."""
    try:
        facts = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read: {error.strerror or error}") from error
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        raise DataError(f"{folder}: is a link back to a folder that it lies in; remove the link")
    if len(above) >= _DEEPEST:
        raise DataError(f"{folder}: more than {_DEEPEST} folders within one another; name the folder with the rows")
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, (*above, here))
        elif path.is_file():
            yield path
        elif entry.is_symlink() and (may_hold_rows(path) or not path.suffix):
            raise DataError(f"{path}: is a link that leads nowhere, or in a circle; repair or remove it")
        elif may_hold_rows(path):
            check_plain_file(path)


def may_hold_rows(path: Path) -> bool:
    """Whether a file of this name, met in a folder, is a data file or a document, and not about the dataset."""
    if path.name in _NOT_ROWS:
        return False
    return is_data_file(path) or (is_document(path) and path.name.split(".")[0].casefold() not in _ABOUT)


def declared_splits(root: Path, files: Iterable[Path]) -> dict[Path, str | None]:
    """The split that each file's own name declares, or else the folder that it lies in.

    Raises:
        DataError: Some files declare a split and others do not, or none is for training.
    """
    splits = {file: _declared_split(file.relative_to(root)) for file in files}
    stray = [file for file, split in splits.items() if split is None]
    if stray and len(stray) < len(splits):
        raise DataError(
            f"{stray[0]}: some files of this folder declare a split and this one does not. "
            "Name it train..., validation... or test..., or move it out of the folder"
        )
    if not stray and "train" not in splits.values():
        found = ", ".join(sorted({str(split) for split in splits.values()}))
        raise DataError(f"{root}: the folder declares the splits {found}, but no train split")
    return splits


def _declared_split(relative: PurePath) -> str | None:
    names = [relative.name, *reversed(relative.parent.parts)]
    return next((split for name in names if (split := as_split(name))), None)


def unread_document() -> Rows:
    """In place of the rows of a document that lies beside data files."""
    yield BrokenRow(1, "a document beside data files is not read; to learn from it too, name it in data.extra_datasets")
