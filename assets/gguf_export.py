"""`gguf_model`: files for llama.cpp, proven faithful to the tuned model."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import gate_checks
from assets.line import Line
from forge_pipeline import export, models, training
from forge_pipeline.config import ForgeConfig, config_digest
from forge_pipeline.data import RawDataset
from forge_pipeline.evaluation import BenchmarkResult, JudgeReport, SafetyReport
from forge_pipeline.export import GgufModel
from forge_pipeline.gates import check_gates
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_gguf_model(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="model_io", kinds={"gguf"}, sections=("export", "evaluation", "model"), code=[export, models]
    )
    def gguf_model(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        dataset: RawDataset,
        fine_tuned_model: ModelDirectory,
        benchmark_report: BenchmarkResult,
        safety_report: SafetyReport,
        stage_process: StageProcess,
        audit_log: AuditLogResource,
        **judged: JudgeReport,
    ) -> GgufModel:
        """The merged model as GGUF, run in llama.cpp beside the original on held-out rows.

        Refused unless the gates that guard export passed for exactly this model, however the
        asset was launched. Each file's metadata name the recipe, the dataset, the model and the audit log as it
        is now: a log that verifies and goes on from that size and root is the one the files were made under.
        """
        check_export_gates(recipe, fine_tuned_model, benchmark_report, safety_report, **judged)
        anchor = audit_log.logger(line.name, context.run.run_id).anchor()
        inputs = {
            "fine_tuned_model": fine_tuned_model,
            "dataset": dataset,
            "provenance": {
                "recipe_digest": str(config_digest(recipe)),
                "dataset_digest": str(dataset.digest),
                "model_digest": str(fine_tuned_model.digest),
                "log_id": anchor.log_id,
                "log_size": str(anchor.size),
                "log_root": str(anchor.root),
                **({} if line.config else {"release": "not released"}),  # a job's gates let no release through
            },
        }
        return stage_process.run(context, "gguf", recipe, inputs, GgufModel)

    return gguf_model


def build_gguf_checks(line: Line) -> dg.AssetChecksDefinition:
    names = {
        "gguf_is_valid": "Each file's header, metadata, tensors and tokenizer are sound.",
        "gguf_is_faithful": "Each file answers as the merged model does, within the recipe's limits.",
    }

    @line.checks("gguf_model", names)
    def gguf_checks(
        context: dg.AssetCheckExecutionContext, recipe: ForgeConfig, gguf_model: GgufModel, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        decisions = export.fidelity_gates(recipe, gguf_model)
        yield from gate_checks(
            context, audit_log, line, "gguf_model", decisions, {name: name for name in names}, recipe
        )

    return gguf_checks


def check_export_gates(
    recipe: ForgeConfig,
    model: ModelDirectory,
    benchmark: BenchmarkResult,
    safety: SafetyReport,
    judge_report: JudgeReport | None = None,
) -> None:
    """Refuse export unless every gate that guards it passed for exactly `model`.

    Raises:
        GateFailedError: Naming each gate that did not.
    """
    decisions = [*training.loss_gate(recipe, model), *benchmark.gates, *safety.gates]
    decisions += judge_report.gates if judge_report else ()
    judge = recipe.evaluation.llm_judge
    required = ["loss_is_finite", "benchmark", "safety", *(["judge"] if judge and judge.enabled else [])]
    check_gates("export", decisions, subject=model.digest, required=required)
