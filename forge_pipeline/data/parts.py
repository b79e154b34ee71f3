"""One dataset of a recipe, found: what it is called, what pins it, and how its rows are read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from forge_pipeline.data.local_files import (
    LocalFile,
    ReadFile,
    declared_splits,
    files_with_rows,
    manifest_digest,
    unread_document,
)
from forge_pipeline.data.reading import Rows
from forge_pipeline.integrity import Digest


@dataclass(frozen=True)
class Part:
    """Rows of one file or Hub split.

    Attributes:
        label: Names it in reports.
        split: The declared split: train, validation or test; None where none of them is declared.
        read: Gives its rows, each time from the beginning.
        declared: What the dataset itself calls the split; "" where it says nothing.
    """

    label: str
    split: str | None
    read: Callable[[], Rows]
    declared: str = ""


@dataclass(frozen=True)
class Source:
    """A dataset and its parts. Fields as in `SourceProvenance`.

    Attributes:
        find_parts: Gives the parts; called when rows are read, because a Hub dataset is downloaded only then.
    """

    name: str
    uri: str
    find_parts: Callable[[], tuple[Part, ...]]
    revision: str | None = None
    license: str | None = None
    origin: str | None = None
    digest: Digest | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they are read.

        Raises:
            DataError: They cannot be had.
        """
        return self.find_parts()


def folder_source(name: str, folder: Path, read: ReadFile) -> Source:
    """The data files of a folder, or its documents, by the splits that their names declare.

    Raises:
        DataError: There are none, or their names leave unclear what each is for.
    """
    paths, unread = files_with_rows(folder)
    splits = declared_splits(folder, paths)
    files = [LocalFile.of(path) for path in paths]
    parts = file_parts(folder, files, read, splits)
    labels = [document.relative_to(folder).as_posix() for document in unread]
    parts += tuple(Part(label, None, unread_document) for label in labels)
    shown = shown_name(name, folder)
    return Source(shown, f"file:{shown}", lambda: parts, digest=manifest_digest(folder, files))


def file_parts(
    root: Path, files: Iterable[LocalFile], read: ReadFile, splits: dict[Path, str | None] | None = None
) -> tuple[Part, ...]:
    """Each file as a part, labelled by its path from `root` on."""
    found = []
    for file in files:
        split = (splits or {}).get(file.path)
        label = file.path.relative_to(root).as_posix()
        found.append(Part(label, split, partial(file.rows, read), split or ""))
    return tuple(found)


def shown_name(name: str, path: Path) -> str:
    """What reports call a local dataset: its path as the recipe has it, but nothing of the machine's own folders."""
    return PurePosixPath(path.name if path.is_absolute() or ".." in path.parts else path.as_posix()).as_posix()
