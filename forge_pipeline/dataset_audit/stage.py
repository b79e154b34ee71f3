"""The pipeline's stage: audit a stored dataset as the recipe says, and decide its gates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.dataset_audit.artifacts import CROISSANT_FILE, PAGE_FILE, DatasetAudit
from forge_pipeline.dataset_audit.contamination import Contamination, find_contamination
from forge_pipeline.dataset_audit.croissant import declared
from forge_pipeline.dataset_audit.page import page
from forge_pipeline.dataset_audit.report import AuditReport
from forge_pipeline.dataset_audit.rows import row_texts_of
from forge_pipeline.dataset_audit.run import audit_path
from forge_pipeline.dataset_audit.settings import audit_options
from forge_pipeline.dataset_audit.token_lengths import token_lengths
from forge_pipeline.errors import ForgeError
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import REPORT_FILE, canonical_json, write_report
from forge_pipeline.integrity.atomic import publishing, write_file
from forge_pipeline.progress import Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.config.data import AuditSection
    from forge_pipeline.data.artifacts import RawDataset
    from forge_pipeline.integrity import Digest

GATES = ("no_secrets", "no_critical_pii", "no_split_overlap", "minimum_rows")
CONTAMINATION_GATE = "not_contaminated"

BenchmarkItems = Callable[[], Mapping[str, Sequence[str]]]


def audit_raw_dataset(
    config: "ForgeConfig",
    dataset: "RawDataset",
    output_dir: Path,
    *,
    benchmark_items: BenchmarkItems | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    progress: Report = silent,
) -> DatasetAudit:
    """Audit a stored dataset with the thresholds of `config.data.audit`.

    What is written is equal for equal data and options: it holds no time and no path.

    Args:
        config: The recipe.
        dataset: What `data.ingest` wrote, or what `clean_dataset` made of it.
        output_dir: The directory to make.
        benchmark_items: Gives the texts of the items that will measure the model, by task; with it the gate
            ``not_contaminated`` is decided too. None: nothing will be measured.
        tokenizer: The recipe's, for lengths in tokens.
        progress: Told after each shard.

    Raises:
        OptionalDependencyError: The recipe asks for an extra that is not installed.
        FileExistsError: `output_dir` exists and is not empty.
    """
    section = config.data.audit
    with publishing(output_dir) as staging:
        report = (
            _audited(config, dataset, staging, benchmark_items, tokenizer, progress)
            if section.enabled
            else _not_audited(dataset.digest, section)
        )
        write_report(staging / REPORT_FILE, report)
        if report.croissant:
            write_file(staging / CROISSANT_FILE, canonical_json(report.croissant))
        if section.enabled and section.html_report:
            write_file(staging / PAGE_FILE, page(report, config.name).encode())
    return DatasetAudit.open(output_dir)


def _audited(
    config: "ForgeConfig",
    dataset: "RawDataset",
    staging: Path,
    benchmark_items: BenchmarkItems | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    progress: Report,
) -> AuditReport:
    section = config.data.audit
    report = audit_path(
        dataset.path,
        audit_options(section),
        name=config.name,
        progress=progress,
        output_dir=staging,
        only=dataset.splits,
    )
    decisions = _decide(report, section, dataset.digest)
    if benchmark_items is not None and section.contamination.enabled:
        found = _contamination(section, dataset, benchmark_items)
        decisions.append(_contamination_decision(found, section, dataset.digest))
        report = replace(report, contamination={"problem": found} if isinstance(found, str) else found.summary())
    return replace(
        report,
        source_input=str(dataset.digest),
        dataset_digest=dataset.digest,
        token_lengths=(
            token_lengths(dataset, tokenizer, config.model.max_length) if tokenizer and section.token_counts else {}
        ),
        croissant=declared(report.croissant, config, dataset.provenance, report) if report.croissant else {},
        gates=tuple(replace(decision, guards=section.guards) for decision in decisions),
    )


def _contamination(
    section: "AuditSection", dataset: "RawDataset", benchmark_items: BenchmarkItems
) -> Contamination | str:
    """What was found, or why nobody could look."""
    wanted = section.contamination
    try:
        items = benchmark_items()
    except ForgeError as error:
        return f"the benchmark's items could not be had: {error}"
    return find_contamination(
        items,
        row_texts_of(dataset.path / "train.parquet"),
        ngram=wanted.ngram,
        min_words=wanted.min_words,
        jaccard=wanted.jaccard,
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


def _decide(report: AuditReport, section: "AuditSection", subject: "Digest") -> list[GateDecision]:
    return [
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


def _contamination_decision(found: Contamination | str, section: "AuditSection", subject: "Digest") -> GateDecision:
    gate, metric, threshold = CONTAMINATION_GATE, "share of benchmark items found in train", section.max_contamination
    if isinstance(found, str):
        return GateDecision(gate, "not_run", found, subject, metric=metric, threshold=threshold)
    if not found.items:
        reason = (
            f"none of the benchmark's items has {section.contamination.min_words} words, the fewest that are looked "
            f"for ({found.too_short} are too short)"
        )
        return GateDecision(gate, "insufficient_evidence", reason, subject, metric=metric, threshold=threshold, n=0)
    share = found.contaminated / found.items
    outcome: Outcome = "pass" if share <= threshold else "fail"
    by_task = ", ".join(f"{name} {task.contaminated} of {task.items}" for name, task in found.tasks.items())
    reason = (
        f"{found.contaminated} of {found.items} benchmark items stand in {len(found.rows)} training rows ({by_task}; "
        f"{found.too_short} too short to look for); at most {threshold:.2%} allowed"
    )
    return GateDecision(
        gate, outcome, reason, subject, metric=metric, observed=share, threshold=threshold, n=found.items
    )
