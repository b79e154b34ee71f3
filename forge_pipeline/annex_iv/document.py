"""The technical documentation: one entry for each point of Annex IV.

`build_document` is a pure function of the evidence, so a verifier can build it again
and compare. An entry's status is ``auto`` (facts answer it), ``declared`` (the provider
stated it), ``not_applicable`` (with a reason) or ``missing``; missing is never filled
by a default. What was declared carries who declared it and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forge_pipeline.annex_iv.answers import Answer, answer_to
from forge_pipeline.annex_iv.evidence import EVIDENCE, DeclaredBy, Evidence
from forge_pipeline.annex_iv.points import POINTS
from forge_pipeline.integrity import Digest

Status = Literal["auto", "declared", "missing", "not_applicable"]
STATUSES: tuple[Status, ...] = ("auto", "declared", "missing", "not_applicable")


@dataclass(frozen=True)
class EvidenceRef:
    """Where a value comes from.

    Attributes:
        kind: ``file`` of the bundle, ``artifact`` of the pipeline, or ``log``.
        name: Path in the bundle, asset name, or log id.
        digest: Of the file, of the artefact, or the log's root.
    """

    kind: Literal["file", "artifact", "log"]
    name: str
    digest: Digest


@dataclass(frozen=True)
class PointEntry:
    """One point with its answer.

    Attributes:
        value: Keys ``facts``, ``statement``, ``awaiting``, ``not_stated``, ``reason``, those that say something.
        declared_by: Who stated what the provider states here; None where nobody states anything.
    """

    point: str
    title: str
    status: Status
    value: Mapping[str, Any]
    evidence: tuple[EvidenceRef, ...]
    declared_by: DeclaredBy | None = None


def build_document(evidence: Evidence) -> tuple[PointEntry, ...]:
    """An entry for every point, in the law's order."""
    return tuple(build_entry(point.id, point.title, answer_to(point.id, evidence), evidence) for point in POINTS)


def entry_json(entry: PointEntry) -> dict[str, Any]:
    """An entry as JSON values; `declared_by` only where somebody declared something."""
    value = asdict(entry)
    if entry.declared_by is None:
        del value["declared_by"]
    return value


def missing_fields(entries: Sequence[PointEntry]) -> list[str]:
    """The points that nobody has answered yet."""
    return [entry.point for entry in entries if entry.status == "missing"]


def build_entry(point: str, title: str, answer: Answer, evidence: Evidence) -> PointEntry:
    """The entry for one point: its status follows from the answer."""
    value = {
        "facts": answer.facts,
        "statement": answer.statement,
        "awaiting": list(answer.awaiting),
        "not_stated": list(answer.not_stated),
        "reason": answer.not_applicable,
    }
    said = {key: part for key, part in value.items() if part}
    declared = bool(answer.statement) or (bool(answer.not_applicable) and "recipe.json" in answer.evidence)
    by = evidence.declared_by if declared else None
    return PointEntry(point, title, _status(answer), said, _references(answer, evidence), by)


def _status(answer: Answer) -> Status:
    if answer.not_applicable:
        return "not_applicable"
    if answer.awaiting:
        return "missing"
    if answer.statement:
        return "declared"
    return "auto" if answer.facts else "missing"


def _references(answer: Answer, evidence: Evidence) -> tuple[EvidenceRef, ...]:
    found = []
    for name in answer.evidence:
        if name in evidence.files:
            found.append(EvidenceRef("file", f"{EVIDENCE}/{name}", evidence.files[name].digest))
        elif name in evidence.subjects:
            found.append(EvidenceRef("artifact", name, evidence.subjects[name]))
    anchor = evidence.run.anchor
    if anchor is not None and "run.json" in answer.evidence:
        found.append(EvidenceRef("log", anchor.log_id, Digest(anchor.root)))
    return tuple(found)
