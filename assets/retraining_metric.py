"""The cause "the newest model does worse in its benchmark than when it was new"; see `retraining_causes`.

Whoever measures it again is not decided here: a schedule of the recipe's, a person, CI. Looking at what is on record
is all that a tick does, so that it stays cheap and asks nothing twice.
"""

from pathlib import Path

import dagster as dg
from dagster import AssetRecordsFilter

from assets.retraining_causes import Surroundings
from forge_pipeline.evaluation import BenchmarkResult
from forge_pipeline.evaluation.metric_fall import MetricFall, measure_fall
from forge_pipeline.integrity import REPORT_FILE, Digest, read_report, write_report

_LOOK_AT = 1000  # reports of one model


def fallen_metric(around: Surroundings) -> str | None:
    """``<the model's digest>@<when it was made>``, where its benchmark fell by more than the recipe allows.

    So a model is retrained once for it, however often it is measured again. Each fall is written down once for each
    pair of reports, and noted in the audit log.

    Raises:
        StoreError: A report is not in the store.
        IntegrityError: A report cannot be read.
    """
    section = around.config.automation.falling_metric
    model = around.newest("fine_tuned_model")
    found = around.artifact(model) if model else None
    if section is None or model is None or found is None:
        return None
    _, subject = found
    reports = _reports(around, model.timestamp)
    reference = next(filter(None, (_report_of(around, event, subject) for event in reports)), None)
    recent = next(filter(None, (_report_of(around, event, subject) for event in reversed(reports))), None)
    if reference is None or recent is None or reference[0] == recent[0]:
        return None
    fall = measure_fall(section, subject, reference, recent)
    if fall is None or not fall.has_fallen:
        return None
    _store(around, fall)
    return f"{subject}@{model.timestamp:.0f}" if section.retrain else None


def fall_file(home: Path, line: str, fall: MetricFall) -> Path:
    """Where the report of a fall lies, for people."""
    return home / "drift" / line / f"benchmark-{fall.recent.hex[:16]}-{fall.reference.hex[:16]}.json"


def _reports(around: Surroundings, made_at: float) -> list[dg.EventLogEntry]:
    """Benchmark reports since the model was made, oldest first."""
    wanted = AssetRecordsFilter(around.line.key("benchmark_report"), after_timestamp=made_at)
    records = around.instance.fetch_materializations(wanted, limit=_LOOK_AT, ascending=True).records
    return [record.event_log_entry for record in records]


def _report_of(around: Surroundings, event: dg.EventLogEntry, subject: Digest) -> tuple[Digest, BenchmarkResult] | None:
    """A report and its digest, if it is there and of this model."""
    found = around.artifact(event)
    if found is None:
        return None
    path, digest = found
    report = read_report(path / REPORT_FILE, BenchmarkResult)
    return (digest, report) if report.subject == subject else None


def _store(around: Surroundings, fall: MetricFall) -> None:
    file = fall_file(around.deployment.home.root, around.line.name, fall)
    if file.exists() and read_report(file, MetricFall) == fall:
        return
    around.audit_log.log(
        around.line.name,
        "retraining-sensor",
        "benchmark.fell",
        subject=fall.subject,
        reference=fall.reference,
        recent=fall.recent,
        metric=fall.metric,
        drop=fall.drop,
        max_drop=fall.max_drop,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_report(file, fall)
