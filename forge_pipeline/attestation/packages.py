"""The Python packages that were there: names, versions, and under which licence they come.

Names and versions are read off the names of the ``.dist-info`` directories, which the wheel
format fixes, because reading every package's metadata costs a fifth of a second per process.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache
from pathlib import Path

from forge_pipeline.integrity import Digest, json_digest

_INSTALLED = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.(?:dist-info|egg-info)")
_LONGEST_LICENSE = 80  # characters; longer is the licence's text rather than its name


@dataclass(frozen=True, order=True)
class Package:
    """An installed package; `license` as its own metadata declares it, None where it does not in one line."""

    name: str
    version: str
    license: str | None = None


def installed_packages(path: Sequence[str] | None = None) -> dict[str, str]:
    """Version of every package on `path` (``sys.path``) by its normalized name, sorted.

    Of two versions the first on the path counts, as for an import. Names are normalized as PEP 503 says.
    """
    found: dict[str, str] = {}
    for name, version, _ in _directories(sys.path if path is None else path):
        found.setdefault(name, version)
    return dict(sorted(found.items()))


def _directories(path: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Normalized name, version and metadata directory of each installed package, in the order of the path."""
    for folder in path:
        try:
            names = sorted(entry.name for entry in os.scandir(folder or "."))
        except OSError:  # sys.path may name archives and directories that are not there
            continue
        for match in filter(None, map(_INSTALLED.fullmatch, names)):
            name = re.sub(r"[-_.]+", "-", match["name"]).lower()
            yield name, match["version"], Path(folder or ".", match.string)


def packages_digest(packages: Mapping[str, str]) -> Digest:
    """Digest of the canonical JSON of name -> version."""
    return json_digest(dict(packages))


def licensed(packages: Mapping[str, str]) -> tuple[Package, ...]:
    """The packages with the licences that this interpreter's own copies declare, where they are of the same version."""
    there: dict[str, tuple[str, Path]] = {}
    for name, version, directory in _directories(sys.path):
        there.setdefault(name, (version, directory))

    def license_of(name: str, version: str) -> str | None:
        found, directory = there.get(name, (None, None))
        return _license_in(directory) if directory is not None and found == version else None

    return tuple(Package(name, version, license_of(name, version)) for name, version in sorted(packages.items()))


@cache  # an installed version's metadata does not change, and a bundle asks for hundreds of them
def _license_in(directory: Path) -> str | None:
    """The licence in the header of the package's core metadata; the rest of the file, its readme, is not read."""
    for name in ("METADATA", "PKG-INFO"):
        try:
            head = (directory / name).read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        except OSError:
            continue
        header = HeaderParser().parsestr(head)
        words = " ".join(str(header["License-Expression"] or header["License"] or "").split())
        return words if words and words != "UNKNOWN" and len(words) <= _LONGEST_LICENSE else None
    return None
