"""Library results as Dagster metadata: what a person wants to see, and numbers that plot over time.

Never the text of a row: an event log cannot be made to forget (GDPR Art. 17).
"""

from functools import singledispatch
from typing import Any

import dagster as dg

from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.config import ForgeConfig, config_digest, resolved
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.deploy.hub_push import Pushed
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport, ScorerCalibration
from forge_pipeline.export import GgufModel
from forge_pipeline.gates import GateDecision
from forge_pipeline.models import ModelDirectory
from forge_pipeline.release import ReleaseRecord
from forge_pipeline.synthetic import SyntheticDataset
from forge_pipeline.training import read_training_report
from resources.loss_curve import loss_json, loss_plot, loss_rows
from resources.size_curve import size_plot

_IN_THE_CURVE = ("loss", "eval_loss", "learning_rate", "epoch")


@singledispatch
def metadata_of(result: Any) -> dict[str, Any]:
    """Metadata of one stage's result; empty for a type that is not the pipeline's."""
    return {}


@metadata_of.register
def _(pushed: Pushed) -> dict[str, Any]:
    return {"repository": pushed.repo_id, "commit": pushed.commit, "url": dg.MetadataValue.url(pushed.url)}


@metadata_of.register
def _(config: ForgeConfig) -> dict[str, Any]:
    return {
        "config_digest": config_digest(config),
        "trainer_type": config.training.trainer_type,
        "base_model": config.model.name_or_path,
        "recipe": dg.MetadataValue.json(resolved(config)),
    }


@metadata_of.register
def _(dataset: RawDataset) -> dict[str, Any]:
    found = dataset.provenance
    sources = [
        {
            "source": source.uri,
            "licence": source.license or "not declared",
            "category": source.category,
            "rows": source.rows_read,
            "skipped": source.rows_skipped,
            "digest": source.digest or "",
        }
        for source in found.sources
    ]
    return {
        "dagster/row_count": sum(found.rows.values()),
        **{f"rows/{split}": rows for split, rows in found.rows.items()},
        "rows/skipped": found.skipped_count,
        "dataset_type": f"{found.dataset_type}, {found.dataset_format}",
        "dagster/column_schema": _column_schema(dataset),
        "sources": _table(sources),
    }


@metadata_of.register
def _(dataset: SyntheticDataset) -> dict[str, Any]:
    report = dataset.report
    facts = {
        "dagster/row_count": report.rows,
        "prompts": report.total_prompts,
        "prompts/answered": report.successful,
        "prompts/failed": report.failed,
        "answers/equal": report.duplicates,
        "answers/truncated": report.truncated,
        "settings_digest": report.settings_digest,
    }
    return facts | ({"teacher": report.teacher.name, "backend": report.teacher.backend} if report.teacher else {})


@metadata_of.register
def _(audit: DatasetAudit) -> dict[str, Any]:
    report = audit.report
    return {
        "dagster/row_count": report.total_samples,
        "secrets": sum(report.secrets_summary.values()),
        "pii": sum(report.pii_summary.values()),
        "duplicates": report.duplicate_count,
        "pii_by_category": dg.MetadataValue.json(dict(report.pii_summary)),
        "gates": gate_table(report.gates),
    }


@metadata_of.register
def _(dataset: TokenizedDataset) -> dict[str, Any]:
    summary = dataset.summary
    rows = [
        {
            "split": split,
            "rows": facts.rows,
            "tokens": facts.tokens,
            "learned tokens": facts.trained_tokens if facts.trained_tokens is not None else "",
            "truncated": facts.truncated,
            "left out": facts.fully_masked,
            "longest": facts.max_length_seen,
            "mean length": round(facts.mean_length, 1),
        }
        for split, facts in summary.splits.items()
    ]
    return {
        "dagster/row_count": sum(facts.rows for facts in summary.splits.values()),
        "tokens": sum(facts.tokens for facts in summary.splits.values()),
        "truncated": sum(facts.truncated for facts in summary.splits.values()),
        "splits": _table(rows),
    }


@metadata_of.register
def _(model: ModelDirectory) -> dict[str, Any]:
    report = read_training_report(model)
    numbers = {
        "train_loss": report.train_loss,
        "eval_loss": report.eval_loss,
        "steps": report.steps,
        "tokens_trained": report.tokens_trained,
        "trainable_parameters": report.trainable_parameters,
    }
    return {
        **{name: value for name, value in numbers.items() if value is not None},
        **{f"last/{name}": value for name, value in report.metrics.items() if name not in _IN_THE_CURVE},
        "trainer": report.trainer_class,
        "base_model": model.record.base_model.name_or_path,
        "loss_curve": dg.MetadataValue.md(f"![loss by step](data:image/png;base64,{loss_plot(report)})"),
        "loss_table": _table(loss_rows(report)),
        "loss_history": dg.MetadataValue.json(loss_json(report)),
    }


@metadata_of.register
def _(report: BenchmarkResult) -> dict[str, Any]:
    rows = [
        {
            "task": pair.task,
            "metric": pair.metric,
            "n": pair.n,
            "base": round(pair.base_score, 4),
            "tuned": round(pair.tuned_score, 4),
            "difference": round(pair.difference, 4),
            "95 % interval": f"{pair.interval[0]:+.3f} to {pair.interval[1]:+.3f}" if pair.interval else "",
            "McNemar p": f"{pair.p_value:.3g}" if pair.p_value is not None else "",
            "detects": f"{pair.minimum_detectable_effect:.3g}" if pair.minimum_detectable_effect is not None else "",
        }
        for pair in report.comparisons
    ]
    seen = "unknown" if report.seen is None else sum(len(each.items) for each in report.seen)
    return {
        "average_score": report.average_score,
        "items": report.items,
        "items_in_training_rows": seen,
        "base_from_cache": report.base_from_cache,
        "notes": "; ".join(report.notes),
        "paired": _table(rows),
        "gates": gate_table(report.gates),
    }


@metadata_of.register
def _(report: SafetyReport) -> dict[str, Any]:
    numbers = {
        "n": report.n,
        "unsafe": report.unsafe,
        "unscored": report.unscored,
        "unsafe_rate": report.unsafe_rate,
        "upper_bound": report.upper_bound,
        "corrected_rate": report.corrected_rate,
        "over_refusal_bound": report.over_refusal_bound,
        "incoherent": report.incoherent,
        "between_seed_sd": report.between_seed_sd,
    }
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "scorer": f"{report.scorer} ({'calibrated' if report.scorer_calibrated else 'not calibrated'})",
        **{name: value for name, value in numbers.items() if value is not None},
        "gates": gate_table(report.gates),
    }


@metadata_of.register
def _(report: ScorerCalibration) -> dict[str, Any]:
    shares = {"sensitivity": report.sensitivity, "specificity": report.specificity}
    return {
        "scorer": report.scorer,
        "labels": report.source,
        **({"reason": report.reason} if report.reason else {}),
        **{name: share.k / share.n for name, share in shares.items() if share and share.n},
        **{f"{name}_interval": f"{share.low:.3f} to {share.high:.3f}" for name, share in shares.items() if share},
    }


@metadata_of.register
def _(report: JudgeReport) -> dict[str, Any]:
    numbers = {
        "n": report.n,
        "invalid": report.invalid,
        "mean_score": report.mean_score,
        "win_rate": report.tally.win_rate if report.tally else None,
        "order_agreement": report.tally.order_agreement if report.tally else None,
        "kappa": report.agreement.kappa if report.agreement else None,
    }
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "judge": f"{report.judge_model} ({report.mode})",
        **{name: value for name, value in numbers.items() if value is not None},
        "gates": gate_table(report.gates),
    }


@metadata_of.register
def _(exported: GgufModel) -> dict[str, Any]:
    rows = [
        {
            "file": file.name,
            "quantization": file.quantization,
            "MB": round(file.size / 1e6, 1),
            "bits per weight": round(file.bits_per_weight, 2),
            "mean KL": f"{file.fidelity.mean_kl:.2e}" if file.fidelity else "not measured",
            "p99 KL": f"{file.fidelity.p99_kl:.2e}" if file.fidelity and file.fidelity.p99_kl is not None else "",
            "top-1": f"{file.fidelity.top1_agreement:.2%}" if file.fidelity else "",
            "perplexity": f"{file.fidelity.perplexity_rise:+.2%}" if file.fidelity else "",
            "texts split otherwise": file.fidelity.tokenizer_mismatches if file.fidelity else "",
            "tensors": ", ".join(f"{count} {name}" for name, count in file.tensor_types.items()),
            "digest": file.digest,
        }
        for file in exported.report.files
    ]
    plot = size_plot(exported.report)
    return {
        "files": _table(rows),
        **({"size_and_fidelity": dg.MetadataValue.md(f"![KL by size](data:image/png;base64,{plot})")} if plot else {}),
        "directory": dg.MetadataValue.path(str(exported.path)),
        **{f"mean_kl/{file.quantization}": file.fidelity.mean_kl for file in exported.report.files if file.fidelity},
    }


@metadata_of.register
def _(bundle: AnnexIvBundle) -> dict[str, Any]:
    return {
        "index": dg.MetadataValue.path(str(bundle.path / "index.html")),
        "manifest": dg.MetadataValue.path(str(bundle.path / "annex_iv.json")),
        "complete": bundle.complete,
        "missing_points": ", ".join(bundle.missing_fields) or "none",
        "released": False,
    }


@metadata_of.register
def _(record: ReleaseRecord) -> dict[str, Any]:
    return {"released": True, "subject": record.subject, "gates": gate_table(record.gates)}


def gate_table(decisions: tuple[GateDecision, ...]) -> dg.TableMetadataValue:
    """Gate verdicts with their numbers and intervals, one row each."""
    rows = [
        {
            "gate": decision.gate,
            "verdict": decision.verdict.value,
            "observed": f"{decision.observed:.4g}" if decision.observed is not None else "",
            "interval": f"{decision.interval[0]:.4g} to {decision.interval[1]:.4g}" if decision.interval else "",
            "threshold": f"{decision.threshold:.4g}" if decision.threshold is not None else "",
            "n": decision.n if decision.n is not None else "",
            "guards": ", ".join(decision.guards),
            "reason": decision.reason,
        }
        for decision in decisions
    ]
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    columns = list(rows[0]) if rows else []
    kinds = {bool: "bool", int: "int", float: "float"}
    schema = dg.TableSchema(
        columns=[dg.TableColumn(name, kinds.get(type(rows[0][name]), "string")) for name in columns]
    )
    records = [
        dg.TableRecord(
            {name: value if isinstance(value, bool | int | float) else str(value) for name, value in row.items()}
        )
        for row in rows
    ]
    return dg.MetadataValue.table(records=records, schema=schema)


def _column_schema(dataset: RawDataset) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(field.name, str(field.type)) for field in dataset.table("train").schema]
    )
