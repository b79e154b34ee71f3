"""`fine_tuned_model`: an adapter or a full model, trained in its own process."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import models, training
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.gates import check_gates
from forge_pipeline.models import ModelDirectory
from resources.candidates import register_candidate
from resources.evidence import AuditLogResource, RegistryResource
from resources.last_word import failure
from resources.stage_process import StageProcess


def build_fine_tuned_model(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="model_io",
        kinds={"pytorch", "huggingface"},
        sections=("model", "lora", "training", "distributed"),
        code=[training, models],
        pool="accelerator",
    )
    def fine_tuned_model(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        dataset_audit_report: DatasetAudit,
        tokenized_dataset: TokenizedDataset,
        stage_process: StageProcess,
        registry: RegistryResource,
        audit_log: AuditLogResource,
    ) -> ModelDirectory:
        """The trained weights as safetensors, with the training report and what they were trained on.

        Annex IV 2(a)-(c). Runs TRL in a process of its own; the same recipe and rows give the same
        digest on one machine.
        """
        check_gates("training", dataset_audit_report.gates, subject=dataset.digest)
        check_tokens_come_from(tokenized_dataset, dataset)
        audit_log.log(
            line.name, context.run_id, "training.started",
            trainer_type=recipe.training.trainer_type, model=recipe.model.name_or_path, dataset=dataset.digest,
        )  # fmt: skip
        inputs = {"tokenized_dataset": tokenized_dataset, "raw_digest": str(dataset.digest)}
        model = stage_process.run(context, "fine_tune", recipe, inputs, ModelDirectory)
        register_candidate(
            registry.registry, recipe, model, line=line.name, run_id=context.run_id, job_id=job_id(context)
        )
        return model

    return fine_tuned_model


def build_fine_tuned_model_checks(line: Line) -> dg.AssetChecksDefinition:
    names = {"loss_is_finite": "No step's loss was NaN or infinite."}
    if line.config is None or sets_loss_threshold(line.config):
        names["loss_gate"] = "The final loss is at or below the recipe's threshold."

    @line.checks("fine_tuned_model", names)
    def fine_tuned_model_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        decisions = training.loss_gate(recipe, fine_tuned_model)
        gates = {"loss_is_finite": "loss_is_finite", "loss_gate": "loss"}
        wanted = {check: gates[check] for check in names}
        yield from gate_checks(context, audit_log, line, "fine_tuned_model", decisions, wanted, recipe)

    return fine_tuned_model_checks


def sets_loss_threshold(config: ForgeConfig) -> bool:
    return config.evaluation.max_acceptable_loss is not None or config.evaluation.baseline_loss is not None


def check_tokens_come_from(tokens: TokenizedDataset, rows: RawDataset) -> None:
    """Refuse token ids made from other rows than the audited ones.

    Raises:
        dagster.Failure: The two digests differ.
    """
    if tokens.summary.dataset_digest != rows.digest:
        raise failure(
            f"tokenized_dataset was made from {tokens.summary.dataset_digest}, but the dataset is now {rows.digest}; "
            "materialize tokenized_dataset again"
        )


def job_id(context: dg.AssetExecutionContext) -> str | None:
    return context.partition_key if context.has_partition_key else None
