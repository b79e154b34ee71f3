"""`tokenized_dataset`: token ids and the mask of what is learned."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.data.tokenization_cache import tokenization_code, tokenization_settings
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.gates import check_gates
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_tokenized_dataset(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="dataset_io",
        kinds={"parquet", "huggingface"},
        sections=("model", "data", "training"),
        settings=tokenization_facts,
    )
    def tokenized_dataset(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        dataset_audit_report: DatasetAudit,
        stage_process: StageProcess,
    ) -> TokenizedDataset:
        """Rows through the chat template into `input_ids` and `labels`, where -100 marks what is not learned.

        Refused unless the audit's gates that guard training passed for exactly these rows.
        """
        check_gates("training", dataset_audit_report.gates, subject=dataset.digest)
        return stage_process.run(context, "tokenize", recipe, {"dataset": dataset}, TokenizedDataset)

    return tokenized_dataset


def tokenization_facts(config: ForgeConfig) -> dict[str, Any]:
    """What tokens follow from, beside the rows: a changed learning rate leaves them up to date."""
    return {"settings": tokenization_settings(config), "code": tokenization_code()}


def build_tokenized_dataset_checks(line: Line) -> dg.AssetChecksDefinition:
    names = {
        "within_max_length": "No row had to be cut to model.max_length (warns).",
        "labels_not_empty": "Every training row has at least one token to learn.",
    }

    @line.checks("tokenized_dataset", names)
    def tokenized_dataset_checks(
        context: dg.AssetCheckExecutionContext, tokenized_dataset: TokenizedDataset, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        splits, subject = tokenized_dataset.summary.splits, tokenized_dataset.digest
        cut = sum(split.truncated for split in splits.values())
        longest = max(split.max_length_seen for split in splits.values())
        words = f"{cut} rows cut; the longest has {longest} of {tokenized_dataset.summary.max_length} tokens"
        facts = {"within_max_length": (cut == 0, words)}
        yield from report_checks(context, audit_log, line, "tokenized_dataset", facts, subject=subject, warn_only=True)
        train = splits["train"]
        words = (
            f"{train.rows} rows, {train.trained_tokens} learned tokens; {train.fully_masked} rows without any left out"
        )
        facts = {"labels_not_empty": (train.rows > 0 and train.trained_tokens != 0, words)}
        yield from report_checks(context, audit_log, line, "tokenized_dataset", facts, subject=subject)

    return tokenized_dataset_checks
