"""`verify_integrity`: are the files of this directory those that somebody listed, and who says so?

A directory cannot vouch for itself, so a result names what it was held against. Where nothing
was given and the directory has no listing of its own, it is not valid: nothing was compared.
Links and pickles are findings wherever they lie: what a link points to may change behind its
digest, and loading a pickle runs it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from forge_pipeline.annex_iv.manifest import MANIFEST_NAME, manifest_hash
from forge_pipeline.errors import IntegrityError
from forge_pipeline.export.result import EXPORT_REPORT_FILE, ExportReport
from forge_pipeline.integrity import Digest, Manifest, loads_strict, read_report
from forge_pipeline.models.directory import RECORD_FILE
from forge_pipeline.models.recorded import RecordedArtifacts
from forge_pipeline.verification.contents import Contents
from forge_pipeline.verification.listing import (
    MANIFESTS_NAME,
    Listing,
    PublicKey,
    fitting,
    manifest_from,
    read_listings,
)

Kind = Literal["bundle", "model", "export", "directory"]
Assurance = Literal["listed", "kept", "logged", "signed"]

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class VerifyIntegrityResult:
    """What `verify_integrity` found.

    Attributes:
        valid: Whether something was compared, everything agreed, and there are no links or pickles.
        reason: What did not, when invalid.
        kind: A bundle, a model directory, a directory of GGUF files, or any other.
        digest: Of the files as they are; None where links make that meaningless.
        added, removed, changed: Paths that differ from the listing, sorted; those of an exported artefact begin
            with its name.
        links: Symbolic links and special files, none of which was followed or read.
        pickles: Files that run code when they are loaded.
        compared_with: What the directory was held against, one phrase each; empty if there was nothing.
        assurance: The strongest of them when valid. ``listed``: a listing that nothing vouches for. ``kept``: a
            digest that the caller kept. ``logged``: an audit log that verifies. ``signed``: a signature that was
            checked.
        not_checked: What this result does not show, one sentence each.
    """

    valid: bool
    reason: str | None
    kind: Kind
    digest: Digest | None
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    pickles: tuple[str, ...] = ()
    compared_with: tuple[str, ...] = ()
    assurance: Assurance | None = None
    not_checked: tuple[str, ...] = ()


@dataclass
class _Findings:
    """Collected on the way."""

    problems: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    pickles: list[str] = field(default_factory=list)
    compared_with: list[str] = field(default_factory=list)
    assurances: set[Assurance] = field(default_factory=set)
    not_checked: list[str] = field(default_factory=list)


def verify_integrity(
    path: str | os.PathLike[str],
    *,
    listing: str | os.PathLike[str] | None = None,
    expected_digest: str | None = None,
    audit_log: str | os.PathLike[str] | None = None,
    public_key: PublicKey | None = None,
    exported: Sequence[str | os.PathLike[str]] = (),
) -> VerifyIntegrityResult:
    """Compare a directory with what was recorded of it. The steps:

    (1) Everything in it is a plain file, and none is a pickle.
    (2) A bundle holds exactly the files that its ``annex_iv.json`` lists, and that file its own hash; an export
        holds exactly the GGUF files of its report.
    (3) It holds exactly the files of `listing`, which is signed with `public_key` if that is given.
    (4) It has `expected_digest`.
    (5) `audit_log` verifies and says that exactly this was stored.
    (6) Each of `exported` is an artefact, or a file of one, that the bundle or `listing` names.

    Args:
        path: A model directory, an exported or any other artefact, or a bundle (its directory or ``annex_iv.json``).
        listing: A store's manifest, a bundle, an in-toto statement or a model signature; see `verification.listing`.
        expected_digest: The digest as it was kept elsewhere; for a bundle its manifest hash will do.
        audit_log: The line's audit log.
        public_key: Ed25519 or EC P-256: PEM text, path of a PEM file, or the key.
        exported: GGUF files or directories that lie elsewhere.

    Raises:
        OSError: Something cannot be read; NotADirectoryError if `path` is neither directory nor manifest.
    """
    directory = Path(path)
    if directory.name == MANIFEST_NAME and directory.is_file():
        directory = directory.parent
    contents = Contents.read(directory)
    kind = _kind(directory)
    findings = _Findings()
    _check_contents(contents, "", findings)  # (1)
    listings: tuple[Listing, ...] = ()
    known = {contents.digest}
    try:
        if kind == "bundle":
            known.add(_check_bundle(directory, contents, findings))  # (2)
            listings = read_listings(directory) if (directory / MANIFESTS_NAME).is_file() else ()
        elif kind == "export":
            _check_export(directory, contents, findings)  # (2)
        if listing is not None:
            given = read_listings(Path(listing), public_key)
            _check_listing(Path(listing), given, contents, findings)  # (3)
            listings += given
    except IntegrityError as error:
        findings.problems.append(str(error))
    if expected_digest is not None:
        _check_expected(expected_digest, known, findings)  # (4)
    if audit_log is not None:
        _check_log(Path(audit_log), known, findings)  # (5)
    for each in exported:
        _check_exported(Path(each), listings, findings)  # (6)
    if kind == "bundle":
        _note_what_was_not_given(listings, exported, findings)
    return _result(kind, contents, findings)


def _kind(directory: Path) -> Kind:
    markers: tuple[tuple[str, Kind], ...] = (
        (MANIFEST_NAME, "bundle"),
        (RECORD_FILE, "model"),
        (EXPORT_REPORT_FILE, "export"),
    )
    return next((kind for name, kind in markers if (directory / name).is_file()), "directory")


# (1)
def _check_contents(contents: Contents, prefix: str, findings: _Findings) -> None:
    findings.links += [prefix + name for name in contents.links]
    findings.pickles += [prefix + name for name in contents.pickles]


# (2)
def _check_bundle(directory: Path, contents: Contents, findings: _Findings) -> Digest | None:
    """The bundle's manifest hash, under which a log or a person may know it."""
    try:
        manifest = loads_strict((directory / MANIFEST_NAME).read_bytes())
        listed, stored = manifest_from(manifest["files"]), str(manifest["manifest_hash"])
        actual = manifest_hash(manifest)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{MANIFEST_NAME} is not a bundle's manifest: {error!r}") from error
    if stored != actual:
        findings.problems.append(f"manifest_hash is {stored!r}, but {MANIFEST_NAME} has {actual}")
    others = Manifest(tuple(entry for entry in contents.files.entries if entry.path != MANIFEST_NAME))
    _compare(Listing.of("the bundle", listed), others, "", findings)
    findings.compared_with.append(f"{MANIFEST_NAME} beside the files")
    findings.assurances.add("listed")
    findings.not_checked.append("whether the bundle's documents follow from its evidence: see forge verify bundle")
    return actual


def _check_export(directory: Path, contents: Contents, findings: _Findings) -> None:
    report = read_report(directory / EXPORT_REPORT_FILE, ExportReport)
    files = {file.name: file.digest for file in report.files}
    models = Manifest(tuple(entry for entry in contents.files.entries if entry.path.endswith(".gguf")))
    _compare(Listing("the export", files), models, "", findings)
    findings.compared_with.append(f"{EXPORT_REPORT_FILE} beside the files")
    findings.assurances.add("listed")
    findings.not_checked.append("whether the GGUF files are well-formed: see forge verify gguf")


# (3)
def _check_listing(path: Path, listings: tuple[Listing, ...], contents: Contents, findings: _Findings) -> None:
    chosen = fitting(listings, contents.files)
    if chosen.files:
        _compare(chosen, contents.files, "", findings)
    if chosen.digest is not None and not _differs(findings) and contents.digest not in (chosen.digest, None):
        findings.problems.append(f"the directory is {contents.digest}; {path.name} is about {chosen.digest}")
    findings.compared_with.append(f"{chosen.name} in {path.name}")
    if chosen.signed_by is not None:
        findings.assurances.add("signed")
    else:
        findings.assurances.add("listed")
        findings.not_checked.append(f"who wrote {path.name}: no key was given, or it carries no signature")


# (4)
def _check_expected(expected: str, known: set[Digest | None], findings: _Findings) -> None:
    if expected not in known:
        found = " or ".join(sorted(str(digest) for digest in known if digest)) or "no digest, because of its links"
        findings.problems.append(f"the directory has {found}; expected {expected}")
    findings.compared_with.append("the digest given")
    findings.assurances.add("kept")


# (5)
def _check_log(path: Path, known: set[Digest | None], findings: _Findings) -> None:
    recorded = RecordedArtifacts.read(path)
    findings.compared_with.append(f"the audit log {path.name}")
    if not recorded.log.valid:
        findings.problems.append(f"the audit log {path.name} does not verify: {recorded.log.reason}")
    elif not known & recorded.entries.keys():
        findings.problems.append(f"none of the {len(recorded.entries)} artefacts that the audit log names is this one")
    findings.assurances.add("logged")
    findings.not_checked += [f"log: {words}" for words in recorded.log.not_checked]


# (6)
def _check_exported(path: Path, listings: tuple[Listing, ...], findings: _Findings) -> None:
    if not listings:
        findings.problems.append(f"{path} cannot be held against anything: give a bundle or a listing that names it")
        return
    if path.is_dir():
        contents = Contents.read(path)
        chosen = fitting(listings, contents.files)
        _check_contents(contents, f"{chosen.name}/", findings)
        _compare(chosen, contents.files, f"{chosen.name}/", findings)
        findings.compared_with.append(f"{chosen.name} in the listing, for {path.name}")
        return
    digest = Digest.of_file(path)
    named = {(each.name, name): value for each in listings for name, value in each.files.items()}
    place = next((place for place, value in named.items() if value == digest), None)
    namesake = next((place for place in named if Path(place[1]).name == path.name), None)
    if place is not None:
        findings.compared_with.append(f"{'/'.join(place)} in the listing, for {path.name}")
    elif namesake is not None:
        findings.changed.append("/".join(namesake))
        findings.problems.append(f"{path} is {digest}; listed is {named[namesake]}")
    else:
        findings.added.append(path.name)
        findings.problems.append(f"{path} is {digest}, which is not listed")


def _note_what_was_not_given(
    listings: tuple[Listing, ...], exported: Sequence[str | os.PathLike[str]], findings: _Findings
) -> None:
    named = {name for each in listings for name in each.files if name.endswith(".gguf")}
    given = {Path(each).name for each in exported}
    for each in exported:
        given |= {path.name for path in Path(each).glob("*.gguf")} if Path(each).is_dir() else set()
    if left := sorted(named - given):
        findings.not_checked.append(f"exported files that the bundle names and that were not given: {_few(left)}")


def _compare(listing: Listing, actual: Manifest, prefix: str, findings: _Findings) -> None:
    found: Mapping[str, Digest] = {entry.path: entry.digest for entry in actual.entries}
    findings.removed += [prefix + name for name in listing.files if name not in found]
    findings.added += [prefix + name for name in found if name not in listing.files]
    findings.changed += [
        prefix + name for name, digest in listing.files.items() if name in found and found[name] != digest
    ]


def _differs(findings: _Findings) -> bool:
    return bool(findings.added or findings.removed or findings.changed)


def _result(kind: Kind, contents: Contents, findings: _Findings) -> VerifyIntegrityResult:
    lists = {
        "changed": sorted(set(findings.changed)),
        "removed": sorted(set(findings.removed)),
        "added": sorted(set(findings.added)),
        "links": sorted(findings.links),
        "pickles": sorted(findings.pickles),
    }
    words = {
        "changed": "changed",
        "removed": "missing",
        "added": "not listed",
        "links": "links or special files",
        "pickles": "pickles, which run code when they are loaded",
    }
    reasons = [f"{words[name]}: {_few(names)}" for name, names in lists.items() if names]
    reasons += findings.problems
    if not findings.compared_with:
        reasons.append("there is nothing to compare it with; give a listing, a bundle, a digest or an audit log")
    order: tuple[Assurance, ...] = ("signed", "logged", "kept", "listed")
    return VerifyIntegrityResult(
        valid=not reasons,
        reason="; ".join(reasons) or None,
        kind=kind,
        digest=contents.digest,
        **{name: tuple(names) for name, names in lists.items()},
        compared_with=tuple(findings.compared_with),
        assurance=None if reasons else next(each for each in order if each in findings.assurances),
        not_checked=tuple(findings.not_checked),
    )


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
