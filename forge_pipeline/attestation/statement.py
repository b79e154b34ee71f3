"""in-toto Statement v1: which bytes, and one kind of claim about them.

A directory is named by two kinds of subject. The first carries the digest of its manifest
(see `integrity.manifest`), with the media type of that manifest; then comes one subject for
each file, ``<name>/<path>`` with the digest of its bytes, which any in-toto tool can match.

Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest, canonical_json, loads_strict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MANIFEST_MEDIA_TYPE = "application/vnd.forge-pipeline.manifest.v1+json"

_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Subject:
    """Some bytes: a name and their digest. `media_type` is the manifest's where a directory is meant."""

    name: str
    digest: Digest
    media_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"name": self.name, "digest": {"sha256": self.digest.hex}}
        return value | ({"mediaType": self.media_type} if self.media_type else {})

    @property
    def is_directory(self) -> bool:
        return self.media_type == MANIFEST_MEDIA_TYPE


@dataclass(frozen=True)
class Statement:
    """A parsed statement.

    Law: ``Statement.from_json(statement(...)) `` has the subjects, type and predicate that it was made from.
    """

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    @classmethod
    def from_json(cls, value: object) -> "Statement":
        """Raises IntegrityError, naming the member, unless `value` is a statement of version 1."""
        if not isinstance(value, Mapping):
            raise IntegrityError("the statement is not a JSON object")
        if value.get("_type") != STATEMENT_TYPE:
            raise IntegrityError(f"_type is {value.get('_type')!r}; expected {STATEMENT_TYPE!r}")
        subjects, kind, predicate = (value.get(name) for name in ("subject", "predicateType", "predicate"))
        if not isinstance(subjects, list) or not subjects:
            raise IntegrityError("subject is empty or no list; a statement is about something")
        if not isinstance(kind, str) or not kind:
            raise IntegrityError("predicateType is missing")
        if not isinstance(predicate, Mapping):
            raise IntegrityError("predicate is not a JSON object")
        return cls(tuple(_subject(number, each) for number, each in enumerate(subjects)), kind, predicate)

    @classmethod
    def parse(cls, data: bytes) -> "Statement":
        """Raises IntegrityError unless `data` is the JSON of a statement, without duplicate keys."""
        try:
            return cls.from_json(loads_strict(data))
        except ValueError as error:
            if isinstance(error, IntegrityError):
                raise
            raise IntegrityError(f"the statement is not JSON: {error}") from error

    @property
    def digest(self) -> Digest:
        """Of the first subject: the artefact that the statement is about."""
        return self.subjects[0].digest

    def differences(self, directory: Path) -> list[str]:
        """Where `directory` is not what the statement is about, one sentence each; empty when it is.

        Every file counts: changed, missing, and added ones that the statement does not name.

        Raises:
            NotADirectoryError: It is not a directory.
            IntegrityError: It holds a link or a special file.
        """
        actual = Manifest.of_directory(directory)
        about = self.subjects[0]
        files = {each.name.removeprefix(f"{about.name}/"): each.digest for each in self.subjects[1:]}
        if not files and actual.digest != about.digest:
            return [f"{about.name} is {actual.digest} now; the statement is about {about.digest}"]
        found = {entry.path: entry.digest for entry in actual.entries}
        words = [f"{path} is missing" for path in files if path not in found]
        words += [f"{path} is not in the statement" for path in found if files and path not in files]
        words += [
            f"{path} changed: the statement says {digest}, found {found[path]}"
            for path, digest in files.items()
            if path in found and found[path] != digest
        ]
        if not words and about.is_directory and actual.digest != about.digest:
            words = [f"{about.name} is {actual.digest} now; the statement is about {about.digest}"]
        return sorted(words)


def statement(subjects: Sequence[Subject], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement as JSON values.

    Args:
        subjects: At least one; the artefact itself first (`subjects_of`).
        predicate_type: URI of the kind of claim.
        predicate: The claim.

    Raises:
        ValueError: There is no subject, or the predicate is not representable as canonical JSON.
    """
    if not subjects:
        raise ValueError("a statement needs at least one subject")
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [each.to_json() for each in subjects],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    canonical_json(value)
    return value


def subjects_of(name: str, artifact: Manifest | Digest) -> tuple[Subject, ...]:
    """The subjects of a directory: its manifest's digest, then each file; of a bare digest the first alone."""
    if isinstance(artifact, Digest):
        return (Subject(name, artifact, MANIFEST_MEDIA_TYPE),)
    files = (Subject(f"{name}/{entry.path}", entry.digest) for entry in artifact.entries)
    return (Subject(name, artifact.digest, MANIFEST_MEDIA_TYPE), *files)


def _subject(number: int, value: object) -> Subject:
    where = f"subject[{number}]"
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise IntegrityError(f"{where} has no name")
    digests = value.get("digest")
    sha256 = digests.get("sha256") if isinstance(digests, Mapping) else None
    if not isinstance(sha256, str) or len(sha256) != 64 or not _HEX.fullmatch(sha256):
        raise IntegrityError(f"{where} {value['name']!r} has no sha256 digest of 64 hex digits")
    media_type = value.get("mediaType")
    return Subject(value["name"], Digest(f"sha256:{sha256}"), media_type if isinstance(media_type, str) else None)
