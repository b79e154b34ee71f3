"""`verify_annex_iv_artifact`: a bundle checked against itself, its evidence, its log, and what was kept elsewhere.

`valid` speaks of integrity, `complete` of content: a bundle with points missing can be
valid, and a complete one can have been tampered with.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from forge_pipeline.annex_iv.bundle import (
    LOG_NAME,
    PAGE_NAME,
    VERIFIER_NAME,
    AnnexIvBundle,
    derived_files,
    derived_manifest,
    derived_page,
    derived_pdf,
)
from forge_pipeline.annex_iv.document import STATUSES, build_document
from forge_pipeline.annex_iv.evidence import DOCUMENT_VERSION, Evidence, RunRecord, custody_problems, known_digests
from forge_pipeline.annex_iv.manifest import SCHEMA, manifest_hash
from forge_pipeline.annex_iv.pdf import PDF_NAME, pdf_writer
from forge_pipeline.annex_iv.points import POINT_IDS
from forge_pipeline.audit_log import Anchor, iter_entries, prove_consistency, verify_audit_log
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, Manifest, ManifestEntry, canonical_json, loads_strict

Assurance = Literal["consistent", "logged", "anchored"]

_KEYS = {
    "schema": str,
    "document_version": int,
    "regime": dict,
    "subjects": dict,
    "released": bool,
    "gates": list,
    "points": list,
    "missing_fields": list,
    "complete": bool,
    "files": list,
    "audit_log": dict | None,
    "manifest_hash": str,
}
_ENTRIES = ("points", "annex_xi", "annex_xii")
_REASONS_SHOWN = 5
# What reading hostile evidence may raise besides our own errors: values of the right type and absurd size or content.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class VerifyAnnexIVResult:
    """What `verify_annex_iv_artifact` found.

    Attributes:
        valid: Whether every check held.
        reason: What did not, when invalid.
        missing_fields: Annex IV points marked missing: ``1(b)``, ``2(e)``, ``4``, ...
        manifest_hash_actual: Digest of the manifest as it lies there; None if it cannot be computed.
        manifest_hash_expected: What the manifest itself says, or the hash the caller kept elsewhere.
        complete: Whether no point is missing.
        assurance: The strongest thing that held; None when invalid. ``consistent``: files, hash and documents
            agree with one another and the evidence. ``logged``: the log in the bundle also verifies and names
            every artefact. ``anchored``: a hash or a log kept elsewhere agrees.
        not_checked: What this result does not show, one sentence each.
    """

    valid: bool
    reason: str | None
    missing_fields: list[str]
    manifest_hash_actual: str | None
    manifest_hash_expected: str | None
    complete: bool = False
    assurance: Assurance | None = None
    not_checked: tuple[str, ...] = ()


@dataclass
class _Findings:
    """Collected on the way: what is wrong, and what could not be checked."""

    problems: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    logged: bool = False
    anchored: bool = False


def verify_annex_iv_artifact(
    path: str,
    *,
    expected_manifest_hash: str | None = None,
    audit_log: str | None = None,
    parent: str | None = None,
) -> VerifyAnnexIVResult:
    """Verify the bundle whose manifest is the JSON file `path`. The steps:

    (1) The manifest is canonical JSON with every member that a manifest has.
    (2) Its `manifest_hash` is there and is the digest of the rest.
    (3) Points are those of Annex IV; each has a legal status and says something; the missing ones are
        exactly `missing_fields`, and `complete` agrees.
    (4) The files beside it are exactly those listed, under safe paths, with the listed bytes.
    (5) Each copy under ``evidence/`` is the file that its artefact's manifest lists; the gates of the
        reports are all there.
    (6) The log beside it verifies and is the one, of the size and root, that the manifest names.
    (7) Documents, page and manifest follow from the evidence again, member by member.
    (8) The log extends that of the previous version, as the consistency proof in the manifest shows; where the
        previous bundle is at hand, it verifies too and is the one that this one names, member by member.
    (9) What the caller kept elsewhere agrees: the manifest's hash; the line's log, which must extend the
        copy and name this bundle.

    Args:
        path: ``annex_iv.json`` inside the bundle directory.
        expected_manifest_hash: The hash, as it was recorded outside the bundle.
        audit_log: Path of the line's own log.
        parent: ``annex_iv.json`` of the previous version's bundle.

    Raises:
        OSError: `path`, or the log or the parent given, cannot be read.
        ValueError: `path` or `parent` does not hold JSON.
    """
    file = Path(path)
    raw = file.read_bytes()
    manifest = loads_strict(raw)
    findings = _Findings()
    if not isinstance(manifest, dict):
        return VerifyAnnexIVResult(False, "the manifest is not a JSON object", [], None, expected_manifest_hash)
    actual = _hash_or_none(manifest)
    stored = manifest.get("manifest_hash")
    expected = expected_manifest_hash or (stored if isinstance(stored, str) else None)
    _check_form(manifest, raw, findings)  # (1)
    _check_hash(actual, stored, findings)  # (2)
    if not findings.problems or _has_members(manifest):
        _check_points(manifest, findings)  # (3)
        listed = _check_files(manifest, file, findings)  # (4)
        _check_against_evidence(manifest, file.parent, listed, findings)  # (5), (6), (7)
        _check_parent(file.parent, parent, findings)  # (8)
        _check_elsewhere(manifest, file.parent, actual, expected_manifest_hash, audit_log, findings)  # (9)
    return _result(manifest, actual, expected, findings)


def _result(
    manifest: Mapping[str, Any], actual: str | None, expected: str | None, findings: _Findings
) -> VerifyAnnexIVResult:
    problems = findings.problems
    missing = _missing_points(manifest)
    more = f"; and {len(problems) - _REASONS_SHOWN} more" if len(problems) > _REASONS_SHOWN else ""
    return VerifyAnnexIVResult(
        valid=not problems,
        reason="; ".join(problems[:_REASONS_SHOWN]) + more if problems else None,
        missing_fields=missing,
        manifest_hash_actual=actual,
        manifest_hash_expected=expected,
        complete=not problems and not missing,
        assurance=None if problems else _assurance(findings),
        not_checked=tuple(findings.not_checked),
    )


def _assurance(findings: _Findings) -> Assurance:
    if findings.anchored:
        return "anchored"
    return "logged" if findings.logged else "consistent"


def _hash_or_none(manifest: dict[str, Any]) -> str | None:
    try:
        return manifest_hash(manifest)
    except (ValueError, RecursionError):
        return None


# (1)
def _check_form(manifest: dict[str, Any], raw: bytes, findings: _Findings) -> None:
    for key, kind in _KEYS.items():
        if key not in manifest:
            findings.problems.append(f"the manifest has no {key!r}")
        elif not isinstance(manifest[key], kind):
            findings.problems.append(f"the manifest's {key!r} is {type(manifest[key]).__name__}")
    if manifest.get("schema") != SCHEMA:
        findings.problems.append(f"schema is {manifest.get('schema')!r}; this version reads {SCHEMA!r}")
    try:
        canonical = canonical_json(manifest) == raw
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        findings.problems.append("the manifest's bytes are not canonical JSON (RFC 8785)")


def _has_members(manifest: Mapping[str, Any]) -> bool:
    needed = {key: kind for key, kind in _KEYS.items() if key != "manifest_hash"}
    return all(key in manifest and isinstance(manifest[key], kind) for key, kind in needed.items())


# (2)
def _check_hash(actual: str | None, stored: Any, findings: _Findings) -> None:
    if actual is None or stored != actual:
        findings.problems.append(f"manifest_hash is {stored!r}, but the manifest has {actual}")


# (3)
def _check_points(manifest: Mapping[str, Any], findings: _Findings) -> None:
    points = [entry for entry in manifest["points"] if isinstance(entry, dict)]
    found = [entry.get("point") for entry in points]
    if found != list(POINT_IDS):
        absent = [point for point in POINT_IDS if point not in found]
        findings.problems.append(f"points are not those of Annex IV in order; absent: {', '.join(absent) or 'none'}")
    for entry in points:
        if entry.get("status") not in STATUSES:
            findings.problems.append(
                f"point {entry.get('point')}: status {entry.get('status')!r} is none of {STATUSES}"
            )
        elif not entry.get("value"):
            findings.problems.append(f"point {entry.get('point')} is {entry['status']} and says nothing")
    missing = _missing_points(manifest)
    if manifest["missing_fields"] != missing:
        findings.problems.append(
            f"missing_fields is {manifest['missing_fields']}, but the missing points are {missing}"
        )
    if manifest["complete"] is not (not missing):
        findings.problems.append(f"complete is {manifest['complete']}, with {len(missing)} points missing")


def _missing_points(manifest: Mapping[str, Any]) -> list[str]:
    """Points marked missing, and points of the law that are not there at all."""
    points = manifest.get("points")
    entries = [entry for entry in points if isinstance(entry, dict)] if isinstance(points, list) else []
    answered = {entry.get("point") for entry in entries if entry.get("status") in STATUSES[:2] + STATUSES[3:]}
    return [point for point in POINT_IDS if point not in answered]


# (4)
def _check_files(manifest: Mapping[str, Any], file: Path, findings: _Findings) -> Manifest | None:
    """The files beside the manifest, if they can be listed at all."""
    try:
        listed = Manifest(tuple(_listed_file(entry) for entry in manifest["files"]))
        actual = Manifest.of_directory(file.parent)
    except (IntegrityError, ValueError, TypeError) as error:
        findings.problems.append(str(error))
        return None
    others = Manifest(tuple(entry for entry in actual.entries if entry.path != file.name))
    if list(listed.entries) != sorted(listed.entries) or len({e.path for e in listed.entries}) != len(listed.entries):
        findings.problems.append("the list of files is not sorted, or names a file twice")
    findings.problems += listed.differences(others)
    return actual


def _listed_file(entry: Any) -> ManifestEntry:
    if not isinstance(entry, dict) or set(entry) != {"path", "size", "digest"}:
        raise ValueError(f"a listed file is {entry!r}; expected path, size and digest")
    path = entry["path"]
    if not isinstance(path, str) or not is_safe_path(path):
        raise ValueError(f"the listed path {path!r} leads out of the bundle or is not plain")
    if type(entry["size"]) is not int:
        raise ValueError(f"{path}: size {entry['size']!r} is not a number of bytes")
    return ManifestEntry(path, entry["size"], Digest(str(entry["digest"])))


def is_safe_path(path: str) -> bool:
    """Whether `path` is relative, with forward slashes, and stays inside."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and "\\" not in path and ":" not in path and path.isprintable()
    return plain and not path.startswith("/") and ".." not in parts and PurePosixPath(path).as_posix() == path


def _check_against_evidence(
    manifest: Mapping[str, Any], bundle: Path, listed: Manifest | None, findings: _Findings
) -> None:
    if listed is None:
        return
    try:
        evidence = Evidence.read(bundle)
    except _UNREADABLE as error:
        findings.problems.append(f"the evidence cannot be read: {error}")
        return
    findings.problems += custody_problems(evidence)  # (5)
    findings.problems += _gates_left_out(evidence)
    _check_log(manifest, bundle, evidence, findings)  # (6)
    if evidence.run.document_version != DOCUMENT_VERSION:
        findings.not_checked.append(
            f"whether documents follow from the evidence: they were derived by rules {evidence.run.document_version}, "
            f"this version knows rules {DOCUMENT_VERSION}"
        )
        return
    try:
        findings.problems += _derivation_problems(manifest, bundle, listed, evidence)  # (7)
        if (bundle / VERIFIER_NAME).read_bytes() != (files("forge_pipeline.annex_iv") / VERIFIER_NAME).read_bytes():
            findings.not_checked.append(f"{VERIFIER_NAME}, which is not the one of this version; do not rely on it")
        _check_pdf(bundle, evidence, findings)
    except _UNREADABLE as error:
        findings.problems.append(f"the documents cannot be derived from the evidence again: {error!r}")


def _gates_left_out(evidence: Evidence) -> list[str]:
    reported = [*evidence.audit.gates]
    reported += evidence.benchmark.gates if evidence.benchmark else ()
    reported += evidence.safety.gates if evidence.safety else ()
    return [
        f"gate {each.gate!r} of a report is not among the bundle's gates"
        for each in reported
        if each not in evidence.gates
    ]


# (6)
def _check_log(manifest: Mapping[str, Any], bundle: Path, evidence: Evidence, findings: _Findings) -> None:
    named = manifest["audit_log"]
    path = bundle / LOG_NAME
    if named is None:
        if path.exists():
            findings.problems.append(f"{LOG_NAME} lies in the bundle, but the manifest names no log")
        findings.not_checked.append("who ran what, and when: the bundle was made without an audit log")
        return
    anchor = _anchor(named)
    if anchor is None or not path.is_file():
        findings.problems.append(
            f"the manifest names the log {named!r}, and {LOG_NAME} is not there or not named rightly"
        )
        return
    result = verify_audit_log(path, checkpoint=anchor, expected_log_id=anchor.log_id)
    if not result.valid or result.entries_count != anchor.size:
        findings.problems.append(f"{LOG_NAME}: {result.reason or f'it goes on after the {anchor.size} entries named'}")
        return
    digests = _digests_in(path)
    unnamed = [asset for asset, known in known_digests(evidence).items() if not digests.intersection(known)]
    findings.logged = not unnamed
    if unnamed:
        findings.not_checked.append(
            f"whether the log knows these artefacts, which it does not name: {', '.join(unnamed)}"
        )
    findings.not_checked += [f"log: {words}" for words in result.not_checked]


def _anchor(named: Mapping[str, Any]) -> Anchor | None:
    try:
        return Anchor(str(named["log_id"]), int(named["size"]), Digest(str(named["root"])))
    except (KeyError, ValueError, TypeError):
        return None


def _digests_in(log: Path) -> set[str]:
    """Every digest that stands anywhere in the log's fields."""
    found: set[str] = set()
    for entry in iter_entries(log):
        found.update(_strings(entry.data))
    return {text for text in found if text.startswith("sha256:")}


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


# (7)
def _derivation_problems(manifest: Mapping[str, Any], bundle: Path, listed: Manifest, evidence: Evidence) -> list[str]:
    entries = build_document(evidence)
    pages = {**derived_files(evidence, entries), PAGE_NAME: derived_page(evidence, entries, listed)}
    problems = [
        f"{name} does not follow from the evidence"
        for name, expected in pages.items()
        if not (bundle / name).is_file() or (bundle / name).read_bytes() != expected
    ]
    if not (bundle / VERIFIER_NAME).is_file():
        problems.append(f"{VERIFIER_NAME} is missing")
    derived = derived_manifest(evidence, entries, listed)
    return problems + manifest_problems(manifest, loads_strict(canonical_json(derived)))  # numbers as read: 1.0 is 1


def manifest_problems(manifest: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """Members and points of `manifest` that are not those of `derived`, the hash aside, each named."""
    problems: list[str] = []
    for key in sorted((set(derived) | set(manifest)) - {"manifest_hash"}):
        if key in _ENTRIES and isinstance(manifest.get(key), list):
            problems += _entry_differences(manifest[key], derived[key])
        elif key not in manifest or key not in derived or _differ(manifest[key], derived[key]):
            problems.append(f"the manifest's {key!r} does not follow from the evidence")
    return problems


def _entry_differences(found: list[Any], derived: list[Any]) -> list[str]:
    """Points that differ, by name; a point that is there twice, or at another place, counts as one that differs."""
    problems = [
        f"point {entry['point']} does not follow from the evidence"
        for n, entry in enumerate(derived)
        if n >= len(found) or _differ(found[n], entry)
    ]
    more = len(found) - len(derived)
    return [*problems, f"{more} points follow after {derived[-1]['point']}"] if more > 0 else problems


def _check_pdf(bundle: Path, evidence: Evidence, findings: _Findings) -> None:
    """The PDF's bytes depend on library and fonts, so only the same ones can tell whether it follows."""
    writer, there = evidence.run.pdf, (bundle / PDF_NAME).exists()
    if writer is None or not there:
        if there != (writer is not None):
            findings.problems.append(
                f"{PDF_NAME} is {'there' if there else 'missing'}; evidence/run.json says otherwise"
            )
        return
    here = pdf_writer()
    if here != writer:
        by = here.library if here else "without ReportLab"
        findings.not_checked.append(
            f"whether {PDF_NAME} follows from the evidence: it was written by {writer.library} with fonts "
            f"{writer.fonts}, and this machine writes {by}"
        )
    # With anything else wrong, the bundle is invalid already, and the document takes a quarter of a second to write.
    elif not findings.problems and (bundle / PDF_NAME).read_bytes() != derived_pdf(evidence, build_document(evidence)):
        findings.problems.append(f"{PDF_NAME} does not follow from the evidence")


def _differ(one: Any, other: Any) -> bool:
    """Whether two JSON values differ as they are written; Python takes 1 and true for equal, JSON does not."""
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


# (8)
def _check_parent(bundle: Path, parent: str | None, findings: _Findings) -> None:
    try:
        run = Evidence.read(bundle).run
        findings.problems += _consistency_problems(run, bundle / LOG_NAME)
        if parent is None:
            if run.parent is not None:
                findings.not_checked.append("the previous version's bundle, which was not given")
            return
        if run.parent is None:
            findings.problems.append("the bundle names no previous version, but one was given")
            return
    except _UNREADABLE as error:  # step (5) has said what cannot be read
        findings.problems.append(f"the relation to the previous version cannot be checked: {error}")
        return
    result = verify_annex_iv_artifact(parent)
    if not result.valid:
        findings.problems.append(f"the previous version's bundle: {result.reason}")
    elif AnnexIvBundle.open(Path(parent).parent).as_parent() != run.parent:
        findings.problems.append(
            f"the previous version's bundle is {result.manifest_hash_actual}; this one names "
            f"{run.parent.manifest_hash} and what stood in it"
        )


def _consistency_problems(run: RunRecord, log: Path) -> list[str]:
    """RFC 9162 2.1.4, and the old root computed again from the copy of the log."""
    old, new = run.parent.audit_log if run.parent else None, run.anchor
    if old is None or new is None or old.log_id != new.log_id:
        return (
            ["there is a consistency proof, but nothing that it is about"] if run.consistency_proof is not None else []
        )
    proof = run.consistency
    if proof is None:
        return ["the log is the previous version's, but the proof that it extends it is missing"]
    if not proof.holds() or prove_consistency(log, old.size).old != old.anchor:
        return [f"the log does not extend the {old.size} entries of the previous version's: its root was {old.root}"]
    return []


# (9)
def _check_elsewhere(
    manifest: Mapping[str, Any],
    bundle: Path,
    actual: str | None,
    expected: str | None,
    audit_log: str | None,
    findings: _Findings,
) -> None:
    if expected is not None:
        if expected != actual:
            findings.problems.append(f"the manifest has {actual}; {expected} was kept elsewhere")
        findings.anchored = True
    if audit_log is not None:
        findings.problems += _problems_with_own_log(manifest, bundle, Path(audit_log))
        findings.anchored = True
    if not findings.anchored:
        findings.not_checked.append(
            "whether the whole bundle was made anew: no manifest hash or audit log kept elsewhere was given"
        )


def _problems_with_own_log(manifest: Mapping[str, Any], bundle: Path, log: Path) -> list[str]:
    anchor = _anchor(manifest["audit_log"]) if manifest["audit_log"] else None
    if anchor is None:
        return ["the bundle holds no log that could be compared with the one given"]
    result = verify_audit_log(log, checkpoint=anchor, expected_log_id=anchor.log_id)
    if not result.valid:
        return [f"the audit log given: {result.reason}"]
    known = {str(manifest["manifest_hash"]), str(Manifest.of_directory(bundle).digest)}
    if not known & _digests_in(log):
        return ["the audit log given does not name this bundle"]
    return []
