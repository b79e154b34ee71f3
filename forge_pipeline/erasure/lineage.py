"""What was made from what, transitively, as materialization records and audit logs say."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_pipeline.audit_log import iter_entries
from forge_pipeline.erasure.places import Places
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, loads_strict

_PACKAGE_LISTS = "package-lists"  # beside the records of the lines, whose names have no hyphen
MODEL_KINDS = ("ModelDirectory", "GgufModel")


@dataclass(frozen=True)
class Made:
    """One materialization.

    Attributes:
        inputs: The artefacts that it was made from.
        log: Directory of the audit log of its line; None where there is none.
        recorded_at: ISO 8601; "" where only the log tells.
    """

    digest: Digest
    asset_key: str
    kind: str
    run_id: str
    inputs: frozenset[Digest]
    log: Path | None = field(default=None, compare=False)
    recorded_at: str = field(default="", compare=False)

    @property
    def is_model(self) -> bool:
        return self.kind in MODEL_KINDS


@dataclass(frozen=True)
class Lineage:
    """Every materialization that is known, and what could not be read."""

    made: tuple[Made, ...]
    problems: tuple[str, ...] = ()

    def of(self, digest: Digest) -> tuple[Made, ...]:
        """The materializations that gave these bytes."""
        return tuple(each for each in self.made if each.digest == digest)

    def downstream(self, digests: Iterable[Digest]) -> tuple[Made, ...]:
        """Everything made from one of `digests`, or from what was; in the order of asset keys and digests."""
        reached = set(digests)
        found: set[Made] = set()
        while True:
            new = {each for each in self.made if each.inputs & reached and each not in found}
            if not new:
                return tuple(sorted(found, key=lambda each: (each.asset_key, each.digest, each.run_id)))
            found |= new
            reached |= {each.digest for each in new}

    def upstream(self, digests: Iterable[Digest]) -> frozenset[Digest]:
        """`digests` and everything that they were made from."""
        reached = set(digests)
        while True:
            new = {digest for each in self.made if each.digest in reached for digest in each.inputs} - reached
            if not new:
                return frozenset(reached)
            reached |= new


def read_lineage(places: Places) -> Lineage:
    """Read the records of the store and the logs. What cannot be read is named in `problems`."""
    problems: list[str] = []
    made: dict[Made, Made] = {}
    for each in (*_of_records(places, problems), *_of_logs(places, problems)):
        made.setdefault(each, each)
    return Lineage(tuple(made), tuple(problems))


def _of_records(places: Places, problems: list[str]) -> Iterator[Made]:
    for path in sorted(places.store.glob("records/*/*.json")):
        if path.parent.name == _PACKAGE_LISTS:
            continue
        try:
            record = loads_strict(path.read_bytes())
            log = places.home / "audit_log" / path.parent.name
            yield _made(
                record["asset_key"], record, record["artifact_type"], record["run_id"], log, record["recorded_at"]
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{places.shown(path)}: not a materialization record: {type(error).__name__}")


def _of_logs(places: Places, problems: list[str]) -> Iterator[Made]:
    for path in places.logs():
        try:
            for entry in iter_entries(path):
                if entry.event == "artifact.materialized":
                    data = entry.data
                    run_id = str(entry.run.get("run_id", ""))
                    yield _made(str(data["asset_key"]), data, str(data["kind"]), run_id, path.parent, "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IntegrityError) as error:
            problems.append(f"{places.shown(path)}: cannot be read to its end: {type(error).__name__}")


def _made(key: str, facts: Mapping[str, Any], kind: str, run_id: str, log: Path, at: str) -> Made:
    inputs = frozenset(Digest(value) for value in facts["inputs"].values())
    return Made(Digest(facts["digest"]), key, kind, run_id, inputs, log if log.is_dir() else None, at)


def json_text(path: Path) -> Any:
    """A small JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
