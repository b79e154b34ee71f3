"""Finished things with an identity: a directory and the digest of its manifest.

Every stage result that is stored is a `DirectoryArtifact`; a report is one whose
only file is ``report.json`` in canonical JSON. Nothing here is ever pickled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import atomic
from forge_pipeline.integrity.canonical_json import canonical_json, loads_strict
from forge_pipeline.integrity.digest import Digest
from forge_pipeline.integrity.manifest import Manifest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

REPORT_FILE = "report.json"

T = TypeVar("T")


@dataclass(frozen=True)
class DirectoryArtifact:
    """A finished, read-only directory.

    Attributes:
        path: Where its files lie.
        digest: Digest of its manifest (see `integrity.manifest`).
    """

    path: Path
    digest: Digest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a finished directory, hashing every file in it.

        Raises:
            NotADirectoryError: There is no such directory.
        """
        return cls(Path(path), Manifest.of_directory(Path(path)).digest)


def report_to_json(report: Any) -> Mapping[str, Any]:
    """A frozen dataclass or pydantic model as plain JSON values."""
    kind: Any = type(report)
    value = _adapter(kind).dump_python(report, mode="json")
    assert isinstance(value, dict)
    return value


def report_digest(report: Any) -> Digest:
    """Digest of a report's canonical bytes."""
    return Digest.of(canonical_json(report_to_json(report)))


def write_report(path: Path, report: Any) -> None:
    """Write a frozen dataclass or pydantic model as canonical JSON, atomically."""
    atomic.write_file(path, canonical_json(report_to_json(report)))


def read_report(path: Path, report_type: type[T]) -> T:
    """Read what `write_report` wrote.

    Raises:
        OSError: The file cannot be read.
        IntegrityError: It is not canonical JSON of a `report_type`.
    """
    from pydantic import ValidationError

    kind: Any = report_type
    try:
        value: T = _adapter(kind).validate_python(loads_strict(path.read_bytes()))
        return value
    except (ValidationError, ValueError) as error:
        raise IntegrityError(f"{path} does not hold a {report_type.__name__}: {error}") from error


@cache
def _adapter(report_type: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(report_type)
