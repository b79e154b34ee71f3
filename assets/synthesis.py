"""`synthetic_dataset`: rows that a teacher wrote, one more source of `raw_dataset`. Only in lines whose recipe asks."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import synthetic
from forge_pipeline.config import ForgeConfig
from forge_pipeline.synthetic import SyntheticDataset, account_of
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_synthetic_dataset(line: Line) -> dg.AssetsDefinition:
    teaches_here = bool(line.config and line.config.synthetic and line.config.synthetic.teacher_backend == "local")

    @line.stage(
        io_manager="dataset_io",
        kinds={"json"},
        sections=("synthetic", "model") if teaches_here else ("synthetic",),
        code=[synthetic],
        pool="accelerator" if teaches_here else None,
    )
    def synthetic_dataset(
        context: dg.AssetExecutionContext, recipe: ForgeConfig, stage_process: StageProcess
    ) -> SyntheticDataset:
        """Answers of the recipe's teacher to its prompts, each row with teacher, prompt digest and sampling settings.

        Annex IV 2(d): provenance of the data. A prompt without an answer is counted and named. Answers wait in the
        home directory if the stage ends early; materializing it again asks only the others.
        """
        return stage_process.run(context, "synthesize", recipe, {}, SyntheticDataset)

    return synthetic_dataset


def build_synthetic_dataset_checks(line: Line) -> dg.AssetChecksDefinition:
    names = {
        "every_prompt_accounted_for": "Prompts are answered or counted, and the rows are those of the report.",
        "success_rate": "At least synthetic.min_success_rate of the prompts are answered.",
    }

    @line.checks("synthetic_dataset", names)
    def synthetic_dataset_checks(
        context: dg.AssetCheckExecutionContext,
        recipe: ForgeConfig,
        synthetic_dataset: SyntheticDataset,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        report, wrong = synthetic_dataset.report, list(account_of(synthetic_dataset))
        counts = (
            f"{report.total_prompts} prompts, {report.successful} answered, {report.failed} not; {report.rows} rows, "
            f"{report.duplicates} equal answers left out"
        )
        least = recipe.synthetic.min_success_rate if recipe.synthetic else 0.0
        facts = {
            "every_prompt_accounted_for": (not wrong, "; ".join(wrong) or counts),
            "success_rate": (
                report.success_rate >= least,
                f"{report.success_rate:.1%} of the prompts are answered; at least {least:.1%} must be",
            ),
        }
        yield from report_checks(context, audit_log, line, "synthetic_dataset", facts, subject=synthetic_dataset.digest)

    return synthetic_dataset_checks
