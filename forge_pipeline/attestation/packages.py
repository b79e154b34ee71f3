"""The Python packages that were there: names, versions, and under which licence they come.

Names and versions are read off the names of the ``.dist-info`` directories, which the wheel
format fixes, because reading every package's metadata costs a fifth of a second per process.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

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
    for folder in sys.path if path is None else path:
        try:
            names = sorted(entry.name for entry in os.scandir(folder or "."))
        except OSError:  # sys.path may name archives and directories that are not there
            continue
        for match in filter(None, map(_INSTALLED.fullmatch, names)):
            found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return dict(sorted(found.items()))


def packages_digest(packages: Mapping[str, str]) -> Digest:
    """Digest of the canonical JSON of name -> version."""
    return json_digest(dict(packages))


def licensed(packages: Mapping[str, str]) -> tuple[Package, ...]:
    """The packages with the licences that this interpreter's own copies declare, where they are of the same version."""
    return tuple(Package(name, version, _license_of(name, version)) for name, version in sorted(packages.items()))


def _license_of(name: str, version: str) -> str | None:
    try:
        there = distribution(name)
    except PackageNotFoundError:
        return None
    metadata = there.metadata.json
    words = " ".join(str(metadata.get("license_expression") or metadata.get("license") or "").split())
    if there.version != version or not words or words == "UNKNOWN" or len(words) > _LONGEST_LICENSE:
        return None
    return words
