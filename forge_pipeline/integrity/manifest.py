"""A directory's manifest: each file's path, size and digest, sorted by path.

Laws: moving or copying a directory leaves its digest unchanged; renaming, adding,
removing or changing any file changes it. Times, owners and modes do not count.
Symbolic links are refused, because what they point to may change behind the digest;
empty directories do not count.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity.canonical_json import json_digest
from forge_pipeline.integrity.digest import Digest


@dataclass(frozen=True, order=True)
class ManifestEntry:
    """One file: `path` relative with forward slashes, `size` in bytes, `digest` of its bytes."""

    path: str
    size: int
    digest: Digest


@dataclass(frozen=True)
class Manifest:
    """The files of one directory, sorted by path."""

    entries: tuple[ManifestEntry, ...]

    @property
    def digest(self) -> Digest:
        """Digest of the canonical JSON of the sorted entries: the directory's identity."""
        return json_digest([asdict(entry) for entry in self.entries])

    @property
    def size(self) -> int:
        """Bytes in all files together."""
        return sum(entry.size for entry in self.entries)

    @classmethod
    def of_directory(cls, directory: Path) -> "Manifest":
        """Read and hash every file under `directory`.

        Raises:
            NotADirectoryError: It is not a directory.
            IntegrityError: It holds a symbolic link, a device or a socket.
        """
        if not directory.is_dir():
            raise NotADirectoryError(f"{directory} is not a directory")
        entries = []
        for parent, folders, files in os.walk(directory):
            for name in [*folders, *files]:
                path = Path(parent, name)
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise IntegrityError(f"{path} is a link or a special file; a manifest covers plain files only")
            for name in files:
                path = Path(parent, name)
                relative = path.relative_to(directory).as_posix()
                entries.append(ManifestEntry(relative, path.stat().st_size, Digest.of_file(path)))
        return cls(tuple(sorted(entries)))

    def differences(self, actual: "Manifest") -> list[str]:
        """What differs in `actual` from this manifest, one sentence a file; empty when equal."""
        expected_files = {entry.path: entry for entry in self.entries}
        actual_files = {entry.path: entry for entry in actual.entries}
        words = [f"{path} is missing" for path in expected_files if path not in actual_files]
        words += [f"{path} was added" for path in actual_files if path not in expected_files]
        words += [
            f"{path} changed: expected {entry.digest}, found {actual_files[path].digest}"
            for path, entry in expected_files.items()
            if path in actual_files and actual_files[path] != entry
        ]
        return sorted(words)
