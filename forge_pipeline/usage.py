"""What a line has used over its runs, added up from its materialization records and its audit log.

An artefact's record says what making it took, the audit log's `STAGE_FAILED` what a stage took that failed or was
stopped. Only what was measured is added: each figure says of how many stages it is known. Records are read along their
chain and held to their digests, the log is verified. A run whose own process was killed left neither.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from forge_pipeline.audit_log import Entry, iter_entries, verify_audit_log
from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.integrity import Digest, loads_strict

STAGE_FAILED = "stage.failed"
_SUMMED = ("duration_seconds", "cpu_seconds", "gpu_seconds", "energy_kwh")


@dataclass(frozen=True)
class Figure:
    """A sum, and how many of the artefacts and failures it is known of; None where it is known of none."""

    value: float | None
    known: int


@dataclass(frozen=True)
class StageUsage:
    """One stage over the runs.

    Attributes:
        artifacts: Materializations on record.
        failures: How often the stage failed or was stopped.
        figures: Name, as in `training.ResourceUsage`, -> sum, of failures too.
        of_failures: The part of `figures` that made nothing.
        peak_memory_bytes: The largest of any run.
        costs: Currency, ``""`` where the recipe names none, -> sum of what the recipes' prices give.
    """

    stage: str
    artifacts: int
    figures: Mapping[str, Figure]
    peak_memory_bytes: float | None
    costs: Mapping[str, Figure] = field(default_factory=dict)
    failures: int = 0
    of_failures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class LineUsage:
    """A line over its runs; `total` is of all stages together."""

    line: str
    runs: int
    first: str | None
    last: str | None
    stages: tuple[StageUsage, ...]
    total: StageUsage


def line_usage(store: Path, line: str, *, since: datetime | None = None, audit_log: Path | None = None) -> LineUsage:
    """Add up the records of `line`, and the failures in its audit log, that were written at `since` or later.

    Args:
        store: The artefact store on this machine.
        since: With a zone.
        audit_log: The line's log file; None, or where there is none: no failure is known.

    Raises:
        StoreError: The line has no records here.
        IntegrityError: A record is missing from the chain, or its bytes are others; or the log does not verify.
    """
    folder = store / "records" / line
    failed = _failures(audit_log) if audit_log is not None and audit_log.is_file() else []
    if not (folder / "HEAD").is_file() and not failed:
        there = sorted(path.parent.name for path in (store / "records").glob("*/HEAD"))
        raise StoreError(f"the line {line!r} has no records in {store}; lines there: {', '.join(there) or 'none'}")
    made = _chain(folder) if (folder / "HEAD").is_file() else ()
    records = [each for each in (*made, *failed) if since is None or _moment(each) >= since]
    stages: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        stages.setdefault(str(record["asset_key"]).split("/", 1)[1], []).append(record)
    moments = sorted(str(record["recorded_at"]) for record in records)
    return LineUsage(
        line=line,
        runs=len({record["run_id"] for record in records}),
        first=moments[0] if moments else None,
        last=moments[-1] if moments else None,
        stages=tuple(_added(stage, found) for stage, found in sorted(stages.items())),
        total=_added("total", records),
    )


def _failures(audit_log: Path) -> list[dict[str, Any]]:
    """What the log says of stages that failed, with the names that a record gives such facts."""
    found = [_failure(entry) for entry in iter_entries(audit_log) if entry.event == STAGE_FAILED]
    if found and not (result := verify_audit_log(audit_log)).valid:
        raise IntegrityError(f"{audit_log} does not verify: {result.reason}")
    return found


def _failure(entry: Entry) -> dict[str, Any]:
    facts = {name: entry.data[name] for name in ("asset_key", "usage")}
    return facts | {"run_id": entry.run_id, "recorded_at": entry.time.isoformat(), "failed": True}


def _added(stage: str, records: Iterable[Mapping[str, Any]]) -> StageUsage:
    records = list(records)
    used = [record.get("usage") or {} for record in records]
    lost = [record.get("usage") or {} for record in records if record.get("failed")]
    peaks = [each["peak_memory_bytes"] for each in used if _is_number(each.get("peak_memory_bytes"))]
    costs: dict[str, list[float]] = {}
    for each in used:
        if _is_number(each.get("estimated_cost")):
            costs.setdefault(str(each.get("cost_currency", "")), []).append(each["estimated_cost"])
    return StageUsage(
        stage=stage,
        artifacts=len(used) - len(lost),
        failures=len(lost),
        figures=_sums(used),
        of_failures=_sums(lost) if lost else {},
        peak_memory_bytes=max(peaks, default=None),
        costs={currency: _figure(values) for currency, values in sorted(costs.items())},
    )


def _sums(used: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    used = list(used)
    return {name: _figure([each[name] for each in used if _is_number(each.get(name))]) for name in _SUMMED}


def _figure(values: list[float]) -> Figure:
    return Figure(sum(values) if values else None, len(values))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _moment(record: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(record["recorded_at"]))


def _chain(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a line, newest first."""
    name: str | None = (folder / "HEAD").read_text(encoding="ascii").strip()
    while name is not None:
        digest = Digest(name)
        file = folder / f"{digest.hex}.json"
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise IntegrityError(f"{folder}: the record {digest} is missing from the chain") from error
        if (found := Digest.of(data)) != digest:
            raise IntegrityError(f"{file} is {found} now; expected {digest}: this record was changed")
        record = loads_strict(data)
        yield record
        name = record.get("previous")
