"""What lies in a directory, nothing of it followed or run: files with digests, links, devices, pickles."""

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.integrity import Digest, Manifest, ManifestEntry

# torch.save writes a ZIP around a pickle, or a bare one; these names are also used for other things, hence the look
# inside. A pickle of protocol 0 or 1 is text like any other, and known by its name alone.
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt")
_HEAD = 256  # bytes


@dataclass(frozen=True)
class Contents:
    """A directory as it lies there.

    Attributes:
        files: Its plain files.
        links: Symbolic links, devices, sockets, and names that are no UTF-8; none of them was read.
        pickles: Files among `files` that run code when they are loaded.
    """

    files: Manifest
    links: tuple[str, ...]
    pickles: tuple[str, ...]

    @classmethod
    def read(cls, directory: Path) -> "Contents":
        """Hash every plain file under `directory`.

        Raises:
            NotADirectoryError: It is not a directory.
            OSError: A file cannot be read.
        """
        if not directory.is_dir():
            raise NotADirectoryError(f"{directory} is not a directory")
        entries, links, pickles = [], [], []
        for path in _walk(directory):
            name = path.relative_to(directory).as_posix()
            if _is_unreadable_name(name):
                links.append(os.fsencode(name).decode("utf-8", "backslashreplace"))
            elif not stat.S_ISREG(path.lstat().st_mode):
                links.append(name)
            else:
                entries.append(ManifestEntry(name, path.stat().st_size, Digest.of_file(path)))
                if is_pickle(path):
                    pickles.append(name)
        return cls(Manifest(tuple(sorted(entries))), tuple(sorted(links)), tuple(sorted(pickles)))

    @property
    def digest(self) -> Digest | None:
        """The directory's identity; None where it holds what a manifest does not cover."""
        return None if self.links else self.files.digest


def is_pickle(path: Path) -> bool:
    """Whether loading the file with the library that wrote it would unpickle something."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return _has_stop(path)
    if head.startswith(b"PK\x03\x04"):
        return _archive_holds_pickle(path)
    return head.startswith(b"\x93NUMPY") and b"'descr': '|O'" in head


def _has_stop(path: Path) -> bool:
    """A pickle ends with its STOP opcode; most files that happen to begin like one do not."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"."


def _archive_holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive after all, or none that anybody loads
        return False


def _walk(directory: Path) -> Iterator[Path]:
    """Everything below `directory` but plain directories; links to directories are not entered."""
    for parent, folders, names in os.walk(directory, onerror=_raise):
        yield from (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        yield from (Path(parent, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def _is_unreadable_name(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, which no manifest can hold
        return True
    return False
