"""`fine_tuned_model`: an adapter or a full model, trained in its own process."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import models, training
from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, TokenizedDataset
from forge_pipeline.dataset_audit import DatasetAudit
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
from forge_pipeline.gates import check_gates
from forge_pipeline.models import ModelDirectory, PreviousStage
from resources.candidates import register_candidate
from resources.evidence import AuditLogResource, RegistryResource
from resources.last_word import failure
from resources.noted_inputs import note_input
from resources.stage_process import StageProcess
from resources.training_run import tracker_run_id


def build_fine_tuned_model(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="model_io",
        kinds={"pytorch", "huggingface"},
        sections=("model", "lora", "training", "distributed", "merge"),
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
        **previous: Any,
    ) -> ModelDirectory:
        """The trained weights as safetensors, with the training report and what they were trained on.

        Annex IV 2(a)-(c). Runs TRL in a process of its own; the same recipe and rows give the same
        digest on one machine. A later stage of a pipeline goes on from the model of the stage before,
        and the first from another line's model where the recipe says ``line:<name>``.
        """
        check_gates("training", dataset_audit_report.gates, subject=dataset.digest)
        check_tokens_come_from(tokenized_dataset, dataset)
        before = going_on_from(line, **previous) or going_on_from_line(context, recipe, stage_process)
        audit_log.log(
            line.name, context.run_id, "training.started",
            trainer_type=recipe.training.trainer_type, model=recipe.model.name_or_path, dataset=dataset.digest,
        )  # fmt: skip
        inputs: dict[str, Any] = {"tokenized_dataset": tokenized_dataset, "raw_digest": str(dataset.digest)}
        inputs["run_id"] = tracker_run_id(context.run_id, line.part)
        if before:
            inputs |= {"previous_model": before.model, "previous_stage": before.stage}
        with training.resumable_work_dir(
            Path(stage_process.home), recipe, tokenized_dataset.digest,
            previous=before.model.digest if before else None,
        ) as checkpoints:  # fmt: skip
            if checkpoints:
                inputs["checkpoints"] = str(checkpoints)
            model = stage_process.run(
                context, "fine_tune", recipe, inputs, ModelDirectory,
                log_event=partial(audit_log.log, line.name, context.run_id),
            )  # fmt: skip
        if line.part is None:
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
        decisions = training.loss_gate(line.recipe_of(recipe), fine_tuned_model)
        gates = {"loss_is_finite": "loss_is_finite", "loss_gate": "loss"}
        wanted = {check: gates[check] for check in names}
        yield from gate_checks(context, audit_log, line, "fine_tuned_model", decisions, wanted, recipe)

    return fine_tuned_model_checks


def going_on_from(
    line: Line,
    previous_fine_tuned_model: ModelDirectory | None = None,
    previous_dataset_audit_report: DatasetAudit | None = None,
    previous_benchmark_report: BenchmarkResult | None = None,
    previous_safety_report: SafetyReport | None = None,
    previous_judge_report: JudgeReport | None = None,
) -> PreviousStage | None:
    """The stage of the pipeline before this one, if there is one, and its gates let it be built upon.

    Raises:
        GateFailedError: They do not.
    """
    before, model, audit = line.previous, previous_fine_tuned_model, previous_dataset_audit_report
    if before is None or model is None or audit is None:
        return None
    assert before.config is not None
    assert before.part is not None
    decisions = [*training.loss_gate(before.config, model)]
    for report in (previous_benchmark_report, previous_safety_report, previous_judge_report):
        decisions += report.gates if report else ()
    return models.go_on_from(before.part, model, about_rows=audit.gates, about_model=decisions)


def going_on_from_line(
    context: dg.AssetExecutionContext, recipe: ForgeConfig, stage_process: StageProcess
) -> PreviousStage | None:
    """Another line's model, where the recipe's base model is one; it is an input of this stage, with its digest.

    Raises:
        ModelError, IntegrityError: There is no such model, or its files are others.
        GateFailedError: A gate of its line keeps it from being built upon.
    """
    other, start = recipe.model.base_line, models.start_from_line(recipe)
    if other is None or start is None:
        return None
    step = str(context.op_execution_context.op_handle)
    key = f"{other.line}/fine_tuned_model"
    note_input(Path(stage_process.home), context.run_id, step, key, start.model.digest)
    return start


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
