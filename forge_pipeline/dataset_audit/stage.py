"""The pipeline's stage: audit a stored dataset as the recipe says, and decide its gates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from forge_pipeline.dataset_audit.contamination import Contamination, find_contamination
from forge_pipeline.dataset_audit.report import AuditReport
from forge_pipeline.dataset_audit.run import AuditOptions, audit_path
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.progress import Report, silent

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.config.data import AuditSection
    from forge_pipeline.data.artifacts import RawDataset
    from forge_pipeline.integrity import Digest

GATES = ("no_secrets", "no_critical_pii", "no_split_overlap", "minimum_rows")


def audit_raw_dataset(
    config: "ForgeConfig",
    dataset: "RawDataset",
    *,
    progress: Report = silent,
    benchmark_texts: Sequence[str] = (),
) -> AuditReport:
    """Audit a stored dataset with the thresholds of `config.data.audit`.

    The report is equal for equal data and options: it holds no time and no path.

    Args:
        config: The recipe.
        dataset: What `data.ingest` wrote.
        progress: Told after each shard.
        benchmark_texts: Items of the benchmarks that will measure the model; with any, the gate
            ``not_contaminated`` is decided too.

    Raises:
        OptionalDependencyError: The recipe asks for an extra that is not installed.
    """
    section = config.data.audit
    if not section.enabled:
        return _not_audited(dataset.digest, section)
    options = AuditOptions(
        near_dup_threshold=section.near_dup_threshold,
        dedup_method=section.dedup_method,
        minhash_jaccard=section.minhash_jaccard,
        minhash_num_perm=section.minhash_num_perm,
        enable_quality_filter=section.enable_quality_filter,
        enable_pii_ml=section.enable_pii_ml,
        pii_ml_language=section.pii_ml_language,
        emit_croissant=section.emit_croissant,
        workers=section.workers,
    )
    report = audit_path(dataset.path, options, name=config.name, progress=progress)
    contamination = find_contamination(benchmark_texts, dataset.path / "train.parquet") if benchmark_texts else None
    return replace(
        report,
        source_input=str(dataset.digest),
        dataset_digest=dataset.digest,
        gates=_decide(report, section, dataset.digest, contamination),
    )


def _not_audited(digest: "Digest", section: "AuditSection") -> AuditReport:
    reason = "data.audit.enabled is false: nobody looked at the rows"
    return AuditReport(
        generated_at=None,
        source_path="",
        source_input=str(digest),
        total_samples=0,
        splits={},
        cross_split_overlap={},
        pii_summary={},
        pii_severity={},
        near_duplicate_summary={},
        secrets_summary={},
        quality_summary={},
        croissant={},
        notes=(f"Not audited: {reason}.",),
        dataset_digest=digest,
        gates=tuple(GateDecision(gate, "not_run", reason, digest, section.guards) for gate in GATES),
    )


def _decide(
    report: AuditReport, section: "AuditSection", subject: "Digest", contamination: Contamination | None
) -> tuple[GateDecision, ...]:
    decisions = [
        _at_most(
            "no_secrets", "secret findings", sum(report.secrets_summary.values()), section.max_secrets, report, subject
        ),
        _at_most(
            "no_critical_pii",
            "critical PII findings",
            report.pii_severity["by_tier"]["critical"],
            section.max_critical_pii,
            report,
            subject,
        ),
        _split_overlap(report, section, subject),
        _minimum_rows(report, section, subject),
    ]
    if contamination is not None:
        decisions.append(_contamination(contamination, section, subject))
    return tuple(replace(decision, guards=section.guards) for decision in decisions)


def _at_most(
    gate: str, what: str, observed: int, threshold: int, report: AuditReport, subject: "Digest"
) -> GateDecision:
    rows = report.total_samples
    outcome: Outcome = "insufficient_evidence" if not rows else "pass" if observed <= threshold else "fail"
    found = f"{observed} {what} in {rows} rows; at most {threshold} allowed" if rows else "there are no rows to look at"
    return GateDecision(gate, outcome, found, subject, metric=what, observed=observed, threshold=threshold, n=rows)


def _split_overlap(report: AuditReport, section: "AuditSection", subject: "Digest") -> GateDecision:
    """The share of rows of each other split that have a duplicate or near-duplicate in train."""
    gate, metric, threshold = (
        "no_split_overlap",
        "largest share of a split's rows found in train",
        section.max_split_overlap,
    )
    others = [split for split in report.splits if split != "train"]
    if not others:
        reason = "there is only one split, so no row can stand in another"
        return GateDecision(gate, "pass", reason, subject, metric=metric, threshold=threshold, n=0)
    compared = {split: report.cross_split_overlap["pairs"][f"train__{split}"] for split in others}
    empty = [split for split, entry in compared.items() if not entry[f"rows_compared_in_{split}"]]
    rows = sum(entry[f"rows_compared_in_{split}"] for split, entry in compared.items())
    if empty or not compared[others[0]]["rows_compared_in_train"]:
        reason = f"no rows with text to compare in {', '.join(empty) or 'train'}"
        return GateDecision(gate, "insufficient_evidence", reason, subject, metric=metric, threshold=threshold, n=rows)
    rates = {
        split: entry[f"leaked_rows_in_{split}"] / entry[f"rows_compared_in_{split}"]
        for split, entry in compared.items()
    }
    worst = max(rates, key=lambda split: rates[split])
    leaked = compared[worst][f"leaked_rows_in_{worst}"]
    reason = (
        f"{leaked} of {compared[worst][f'rows_compared_in_{worst}']} rows of {worst} stand in train too, exactly or "
        f"nearly ({rates[worst]:.2%}); at most {threshold:.2%} allowed"
    )
    outcome: Outcome = "pass" if rates[worst] <= threshold else "fail"
    return GateDecision(
        gate, outcome, reason, subject, metric=metric, observed=rates[worst], threshold=threshold, n=rows
    )


def _minimum_rows(report: AuditReport, section: "AuditSection", subject: "Digest") -> GateDecision:
    rows = report.splits.get("train", {}).get("sample_count", 0)
    outcome: Outcome = "pass" if rows >= section.min_rows else "fail"
    reason = f"{rows} training rows; at least {section.min_rows} expected"
    return GateDecision(
        "minimum_rows",
        outcome,
        reason,
        subject,
        metric="training rows",
        observed=rows,
        threshold=section.min_rows,
        n=rows,
    )


def _contamination(found: Contamination, section: "AuditSection", subject: "Digest") -> GateDecision:
    gate, metric, threshold = "not_contaminated", "share of benchmark items found in train", section.max_contamination
    if not found.items:
        reason = f"none of the benchmark items is long enough to look for ({found.too_short} are too short)"
        return GateDecision(gate, "insufficient_evidence", reason, subject, metric=metric, threshold=threshold, n=0)
    share = found.contaminated / found.items
    outcome: Outcome = "pass" if share <= threshold else "fail"
    reason = f"{found.contaminated} of {found.items} benchmark items stand in train; at most {threshold:.2%} allowed"
    return GateDecision(
        gate, outcome, reason, subject, metric=metric, observed=share, threshold=threshold, n=found.items
    )
