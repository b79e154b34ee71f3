"""Why a line should be trained again, each cause with an identity, so that it is acted on once.

A cause looks at the world as it is, not at what happened since last time: nothing is lost while nobody looks, and
looking twice changes nothing. A cause whose identity was acted on already is no cause.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster import AssetRecordsFilter

from assets.line import Line
from forge_pipeline import erasure
from forge_pipeline.audit_log import iter_entries
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.data.held_out import source_digest
from forge_pipeline.dataset_audit.drift import DriftReport, measure_drift
from forge_pipeline.integrity import Digest, json_digest, read_report, write_report
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.settings import DeploymentResource

REQUESTED = "retraining.requested"
_TRAINED_BY = ("synthetic_dataset", "raw_dataset", "clean_dataset", "tokenized_dataset", "fine_tuned_model")
_DIGEST = "forge/digest"


@dataclass(frozen=True)
class Surroundings:
    """What the causes of one line look at.

    Attributes:
        code_versions: Of the line's assets as they are now.
    """

    line: Line
    config: ForgeConfig
    instance: dg.DagsterInstance
    deployment: DeploymentResource
    audit_log: AuditLogResource
    code_versions: Mapping[dg.AssetKey, str | None] = field(default_factory=dict)

    def newest(self, stage: str, *, before: float | None = None) -> dg.EventLogEntry | None:
        """The stage's newest materialization, or the newest that is older than `before` (seconds since 1970)."""
        wanted = AssetRecordsFilter(self.line.key(stage), before_timestamp=before)
        records = self.instance.fetch_materializations(wanted, limit=1).records
        return records[0].event_log_entry if records else None

    def artifact(self, event: dg.EventLogEntry) -> tuple[Path, Digest] | None:
        """Where an event's artefact lies. It is not verified: it decides only whether to train, not what is released.

        None where the event names none, or where it was erased.

        Raises:
            StoreError: It is not in the store.
        """
        made = event.asset_materialization
        if made is None or _DIGEST not in made.metadata:
            return None
        digest = Digest(str(made.metadata[_DIGEST].value))
        store = self.deployment.store
        path = store.path(digest)
        if not path.is_dir():
            path = store.get(digest)
        return None if erasure.read_tombstone(path) else (path, digest)

    def raw_dataset(self) -> RawDataset | None:
        """The rows behind the newest model, as far as they are still there."""
        model = self.newest("fine_tuned_model")
        event = self.newest("raw_dataset", before=model.timestamp) if model else None
        found = self.artifact(event) if event else None
        return RawDataset(*found) if found else None


def new_data(around: Surroundings) -> str | None:
    """The digest of the recipe's sources, unless it is what the newest model was trained on.

    Raises:
        DataError: A source cannot be read.
    """
    digest = source_digest(around.config)
    return None if digest == trained_on(around) else str(digest)


def trained_on(around: Surroundings) -> Digest | None:
    """What `source_digest` was when the rows of the newest model were read; None where nobody knows."""
    dataset = around.raw_dataset()
    if dataset is None:
        return None
    sources = dataset.provenance.sources[: len(around.config.data.datasets)]  # a teacher's rows come after them
    return json_digest([[source.uri, source.revision, source.digest] for source in sources])


def erased_data(around: Surroundings) -> str | None:
    """The newest erasure that concerns the newest model's training data.

    Raises:
        IntegrityError: The register of erased data cannot be read.
    """
    event = around.newest("fine_tuned_model")
    found = around.artifact(event) if event else None
    if found is None:
        return None
    model = ModelDirectory(*found)
    inputs = (model.record.tokenized_digest, *model.record.dataset_digests)
    erased = erasure.erased_behind(
        around.deployment.home.root, model.record.dataset_digest, model.digest, inputs=inputs
    )
    return str(erased[-1].request) if erased else None


def changed_code(around: Surroundings) -> str | None:
    """A digest of the code versions that training has now, if one differs from what the newest model was made with."""
    now: dict[str, str | None] = {}
    is_other = False
    for part in around.line.parts():
        for stage in (stage for stage in _TRAINED_BY if stage in around.line.stages):
            key = part.key(stage)
            event = around.instance.get_latest_materialization_event(key)
            made = event.asset_materialization if event else None
            if made is None or key not in around.code_versions:
                continue
            now[key.to_user_string()] = around.code_versions[key]
            is_other = is_other or (made.tags or {}).get("dagster/code_version") != around.code_versions[key]
    return str(json_digest(now)) if is_other else None


def stale_model(around: Surroundings) -> str | None:
    """The newest model's digest, once it is older than `automation.max_age_days`."""
    days = around.config.automation.max_age_days
    event = around.newest("fine_tuned_model")
    made = event.asset_materialization if event else None
    if days is None or event is None or made is None or _DIGEST not in made.metadata:
        return None
    age = datetime.now(UTC) - datetime.fromtimestamp(event.timestamp, UTC)
    return f"{made.metadata[_DIGEST].value}@{event.timestamp:.0f}" if age >= timedelta(days=days) else None


def requested(around: Surroundings) -> str | None:
    """The newest entry by which a person asked for a retraining (``forge retrain``): ``<log id>:<seq>``."""
    path = around.audit_log.path(around.line.name)
    if not path.exists():
        return None
    found = None
    for entry in iter_entries(path):
        if entry.event == REQUESTED:
            found = f"{entry.log_id}:{entry.seq}"
    return found


def drifted_data(around: Surroundings) -> str | None:
    """The digest of the recent data, where it has moved too far from what the newest model was trained on.

    The report is written once for each pair of data, and noted in the audit log.

    Raises:
        DataError: The recent data cannot be read.
    """
    section = around.config.automation.drift
    reference = around.raw_dataset()
    if section is None or reference is None:
        return None
    with tempfile.TemporaryDirectory(prefix="forge-drift-") as folder:
        report = measure_drift(section, reference, offline=around.config.model.offline, scratch=Path(folder, "source"))
    _store(around, report)
    return str(report.recent) if report.has_drifted and section.retrain else None


def drift_report_file(home: Path, line: str, report: DriftReport) -> Path:
    """Where a drift report lies, for people."""
    return home / "drift" / line / f"{report.recent.hex[:16]}-{report.reference.hex[:16]}.json"


def _store(around: Surroundings, report: DriftReport) -> None:
    file = drift_report_file(around.deployment.home.root, around.line.name, report)
    if file.exists() and read_report(file, DriftReport) == report:
        return
    around.audit_log.log(
        around.line.name,
        "retraining-sensor",
        "drift.measured",
        recent=report.recent,
        reference=report.reference,
        drifted=report.has_drifted,
        reasons=list(report.passed),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_report(file, report)
