"""Does Dagster's history still say what the audit log says? Both ways, event by event.

Dagster's event log can be changed: rows can be edited in its database, assets wiped, runs
deleted, and anybody who reaches the webserver can post events. The audit log cannot be
changed without being found out. `reconcile` holds the two of one model line against each
other and names each disagreement. What only a crash can have caused (a log entry of a run
that did not succeed, without its event) is told apart from what somebody did.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from dagster import AssetRecordsFilter

from forge_pipeline.audit_log import Entry, merkle, verify_audit_log
from forge_pipeline.audit_log.reading import iter_entries
from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest
from resources.evidence import AuditLogResource

Kind = Literal[
    "log_invalid",
    "event_missing",
    "event_forged",
    "event_changed",
    "event_repeated",
    "event_after_run",
    "check_forged",
    "check_changed",
    "unfinished",
    "failed_run",
]
HARMLESS: frozenset[Kind] = frozenset({"unfinished", "failed_run"})
"""What a crash or a failed stage leaves behind. Everything else is somebody's doing, or damage."""

_OWN_KEYS = ("forge/", "audit/", "dagster/uri")
_PAGE = 500
_ENDED_BADLY = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Discrepancy:
    """One disagreement: what kind, about which asset, in a sentence for the person who must act."""

    kind: Kind
    asset_key: str
    detail: str

    @property
    def is_harmless(self) -> bool:
        return self.kind in HARMLESS


@dataclass(frozen=True)
class Reconciliation:
    """What was compared, and what does not agree.

    Attributes:
        events: Materialization events looked at.
        checks: Check evaluations looked at.
        entries: Log entries that name an artefact or a verdict.
        discrepancies: In the order of asset keys.
        anchor: The log's id, size and root that the history was compared with; empty for a log that does not verify.
    """

    events: int
    checks: int
    entries: int
    discrepancies: tuple[Discrepancy, ...] = field(default=())
    anchor: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether nothing but what a crash leaves behind was found."""
        return all(found.is_harmless for found in self.discrepancies)

    @property
    def summary(self) -> str:
        looked = f"{self.events} events, {self.checks} check results and {self.entries} log entries compared"
        serious = [found for found in self.discrepancies if not found.is_harmless]
        if serious:
            first = "; ".join(f"{found.asset_key}: {found.detail}" for found in serious[:3])
            return f"{looked}; {len(serious)} disagree: {first}"
        harmless = len(self.discrepancies)
        return f"{looked}; all agree" + (f" ({harmless} left over from runs that failed)" if harmless else "")


def facts_digest(metadata: Mapping[str, Any]) -> Digest:
    """Digest of what an event says about its artefact: its metadata without the anchors and addresses."""
    facts = {key: metadata[key] for key in sorted(metadata) if not key.startswith(_OWN_KEYS)}
    normal: Any = dg.AssetMaterialization("facts", metadata=facts).metadata
    return Digest.of(dg.serialize_value(dict(normal)).encode())


def reconcile(
    instance: dg.DagsterInstance,
    log_path: Path,
    asset_keys: Iterable[dg.AssetKey],
    check_keys: Iterable[dg.AssetCheckKey],
    *,
    running: str | None = None,
) -> Reconciliation:
    """Compare one line's history with its log.

    Args:
        instance: Dagster's.
        log_path: The line's ``audit_log.jsonl``.
        asset_keys: The line's assets.
        check_keys: Their checks.
        running: The run that asks, whose own last step has a log entry and no event yet.
    """
    keys = sorted(asset_keys)
    verified = verify_audit_log(str(log_path))
    if not verified.valid:
        words = f"the audit log does not verify: {verified.reason}"
        return Reconciliation(0, 0, 0, (Discrepancy("log_invalid", log_path.parent.name, words),))
    log = _Log.read(log_path)
    runs = _Runs(instance)
    found: list[Discrepancy] = []
    seen: set[Digest] = set()
    events = checks = 0
    for key in keys:
        for record in _events(instance, key):
            events += 1
            found += _about_event(record, log, runs, seen)
    for key in keys:
        found += _without_event(key.to_user_string(), log, runs, seen, running)
    for check in sorted(check_keys, key=lambda each: (each.asset_key, each.name)):
        for evaluation, run_id in _evaluations(instance, check):
            checks += 1
            found += _about_check(check, evaluation, run_id, log)
    entries = len(log.artifacts) + len(log.verdicts)
    return Reconciliation(events, checks, entries, tuple(found), log.anchor)


def reconcile_line(
    instance: dg.DagsterInstance, audit_log: AuditLogResource, line: str, graph: Any, *, running: str | None = None
) -> Reconciliation:
    """`reconcile` for all assets and checks of `line` that the asset graph `graph` knows."""
    keys = [key for key in graph.get_all_asset_keys() if key.path[0] == line]
    checks = [check for check in graph.asset_check_keys if check.asset_key.path[0] == line]
    return reconcile(instance, audit_log.path(line), keys, checks, running=running)


@dataclass(frozen=True)
class _Log:
    """The log, indexed: entries by record digest, verdicts by what they are about, and the root after each size."""

    log_id: str
    artifacts: Mapping[Digest, Entry]
    verdicts: Mapping[tuple[str, str, str], tuple[Entry, ...]]
    roots: Sequence[bytes]

    @classmethod
    def read(cls, path: Path) -> "_Log":
        artifacts: dict[Digest, Entry] = {}
        verdicts: dict[tuple[str, str, str], list[Entry]] = {}
        roots = [merkle.EMPTY_ROOT]
        builder, log_id = merkle.RangeBuilder(), ""
        for entry in iter_entries(path):
            log_id = entry.log_id
            builder.append(merkle.leaf_hash(entry.to_bytes()))
            roots.append(builder.root)
            if entry.event == "artifact.materialized" and "record" in entry.data:
                artifacts[Digest(entry.data["record"])] = entry
            elif entry.event in ("gate.decided", "asset_check.evaluated") and "check" in entry.data:
                about = (entry.data["asset_key"], entry.data["check"], entry.run_id)
                verdicts.setdefault(about, []).append(entry)
        return cls(log_id, artifacts, {about: tuple(each) for about, each in verdicts.items()}, roots)

    @property
    def anchor(self) -> Mapping[str, Any]:
        size = len(self.roots) - 1
        return {"log_id": self.log_id, "size": size, "root": f"sha256:{self.roots[size].hex()}"}

    def anchors(self, metadata: Mapping[str, Any], entry: Entry) -> bool:
        """Whether `metadata` holds this log's root at a size that includes `entry`."""
        size = metadata.get("audit/size")
        if metadata.get("audit/log_id") != self.log_id or not isinstance(size, int):
            return False
        if not entry.seq < size < len(self.roots):
            return False
        return metadata.get("audit/root") == f"sha256:{self.roots[size].hex()}"


class _Runs:
    """Status and end of runs, asked for once each."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._known: dict[str, tuple[dg.DagsterRunStatus | None, float | None]] = {}

    def status(self, run_id: str) -> tuple[dg.DagsterRunStatus | None, float | None]:
        """Status, None for a run that there is not, and when it ended in seconds since the epoch."""
        if run_id not in self._known:
            record = self._instance.get_run_record_by_id(run_id) if run_id else None
            self._known[run_id] = (record.dagster_run.status, record.end_time) if record else (None, None)
        return self._known[run_id]


def _events(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[Any]:
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(AssetRecordsFilter(key), limit=_PAGE, cursor=cursor, ascending=True)
        yield from page.records
        cursor = page.cursor
        if not page.has_more:
            return


def _about_event(record: Any, log: _Log, runs: _Runs, seen: set[Digest]) -> Iterator[Discrepancy]:
    event, run_id = record.asset_materialization, record.run_id
    key = event.asset_key.to_user_string()
    metadata = {name: value.value for name, value in event.metadata.items()}
    named = metadata.get("forge/record")
    try:
        digest = Digest(str(named))
    except (ValueError, IntegrityError):
        digest = None
    entry = log.artifacts.get(digest) if digest else None
    if entry is None or digest is None:
        words = f"an event (run {run_id or 'none'!r}) names the record {named!r}, which the audit log does not know"
        yield Discrepancy("event_forged", key, words + "; it was not made by this pipeline")
        return
    if digest in seen:
        yield Discrepancy("event_repeated", key, f"a second event (run {run_id or 'none'!r}) names the record {digest}")
        return
    seen.add(digest)
    said = {
        "asset_key": (key, entry.data["asset_key"]),
        "partition": (event.partition, entry.data.get("partition")),
        "run": (run_id, entry.run_id),
        "digest": (metadata.get("forge/digest"), entry.data["digest"]),
        "data version": ((event.tags or {}).get("dagster/data_version"), entry.data["digest"]),
    }
    if "facts" in entry.data:
        said["metadata"] = (str(facts_digest(event.metadata)), entry.data["facts"])
    differing = [f"{name} is {here!r}, the log says {there!r}" for name, (here, there) in said.items() if here != there]
    if not log.anchors(metadata, entry):
        differing.append("the anchor (audit/log_id, size, root) is none of this log's")
    if differing:
        yield Discrepancy("event_changed", key, f"run {run_id!r}: " + "; ".join(differing))
        return
    status, ended = runs.status(run_id)
    if ended is not None and record.timestamp > ended + 1.0:
        words = f"the event came {record.timestamp - ended:.0f} s after its run {run_id!r} had ended ({_said(status)})"
        yield Discrepancy("event_after_run", key, words)
    elif status in _ENDED_BADLY:
        yield Discrepancy("failed_run", key, f"made by the run {run_id!r}, which then ended as {_said(status)}")


def _without_event(key: str, log: _Log, runs: _Runs, seen: set[Digest], running: str | None) -> Iterator[Discrepancy]:
    for digest, entry in log.artifacts.items():
        if entry.data["asset_key"] != key or digest in seen:
            continue
        status, _ = runs.status(entry.run_id)
        if entry.run_id == running or status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
            continue  # its event may be on its way
        words = f"log entry {entry.seq} (run {entry.run_id!r}, {_said(status)}) has no event"
        if status in _ENDED_BADLY:
            yield Discrepancy("unfinished", key, words + ": the step failed between the two, or the event was removed")
        else:
            yield Discrepancy("event_missing", key, words + ": it was wiped, or its run was deleted")


def _evaluations(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> Iterator[tuple[dg.AssetCheckEvaluation, str]]:
    """Finished evaluations, the newest `_PAGE` of them, and the run of each."""
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=_PAGE):
        dagster_event = record.event.dagster_event if record.event else None
        if dagster_event is not None and dagster_event.event_type_value == "ASSET_CHECK_EVALUATION":
            yield dagster_event.asset_check_evaluation_data, record.run_id


def _about_check(
    check: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation, run_id: str, log: _Log
) -> Iterator[Discrepancy]:
    key = check.asset_key.to_user_string()
    entries = log.verdicts.get((key, check.name, run_id), ())
    if not entries:
        words = f"a result of the check {check.name!r} (run {run_id or 'none'!r}) stands in no entry of the audit log"
        yield Discrepancy("check_forged", key, words)
        return
    metadata = {name: value.value for name, value in evaluation.metadata.items()}
    if not any(_passed(entry) == evaluation.passed and log.anchors(metadata, entry) for entry in entries):
        words = (
            f"the check {check.name!r} (run {run_id!r}) says {'passed' if evaluation.passed else 'failed'}; the log "
        )
        said = " and ".join(sorted({"passed" if _passed(entry) else "failed" for entry in entries}))
        yield Discrepancy("check_changed", key, f"{words}says {said}, or the anchor is none of this log's")


def _passed(entry: Entry) -> bool:
    if entry.event == "gate.decided":
        return bool(entry.data["verdict"] == "passed")
    return bool(entry.data["passed"])


def _said(status: dg.DagsterRunStatus | None) -> str:
    return status.value if status else "unknown to Dagster"
