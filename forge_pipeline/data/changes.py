"""Whether the files behind a recipe's datasets may have changed, without reading them.

The state is made of names, sizes, inodes and times of change, of the file and of what is known about it (``ctime``,
which no program can set back), so equal states mean equal bytes except on a file system that keeps no times. It says
only that a digest (`held_out.source_digest`) need not be computed again.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, json_digest


@dataclass(frozen=True)
class FilesState:
    """Files as they are now: a digest that changes with any of them, and their newest time of change.

    `changed_at` is in seconds since 1970, by the clock of whoever serves the files.
    """

    digest: Digest
    changed_at: float


def files_state(names: Iterable[str]) -> FilesState | None:
    """The state of the files and folders named; None where a name is not of a file on this machine.

    Raises:
        DataError: A folder cannot be listed.
    """
    state: list[list[str]] = []
    newest = 0.0
    for name in names:
        path = Path(name)
        if not os.path.exists(name):
            return None
        try:
            for file in sorted(_files_in(path)) if path.is_dir() else [path]:
                found = file.stat() if file.exists() else file.lstat()  # a dead link is reported when it is read
                # As text: JSON's numbers end at 2**53.
                numbers = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
                state.append([str(file.relative_to(path.parent)), *map(str, numbers)])
                newest = max(newest, found.st_mtime, found.st_ctime)
        except OSError as error:
            raise DataError(f"{name}: cannot be looked at: {error.strerror or error}") from error
    return FilesState(json_digest(state), newest)


def _files_in(folder: Path) -> Iterator[Path]:
    """Files below a folder, links followed; a folder that was seen is not entered again, so circles end."""
    seen: set[tuple[int, int]] = set()
    for root, below, names in os.walk(folder, followlinks=True):
        found = os.stat(root)
        if (found.st_dev, found.st_ino) in seen:
            below.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        yield from (Path(root, name) for name in names)
