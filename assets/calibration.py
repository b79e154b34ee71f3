"""`scorer_calibration`: how often the safety scorer errs. Only in lines whose recipe names labeled answers."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import evaluation
from forge_pipeline.config import ForgeConfig
from forge_pipeline.evaluation import ScorerCalibration
from resources.evidence import AuditLogResource
from resources.stage_process import StageProcess


def build_scorer_calibration(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io",
        kinds={"json"},
        sections=("evaluation",),
        code=[evaluation.calibration, evaluation.scorers, evaluation.guards],
        settings=_settings,
        pool="accelerator",
    )
    def scorer_calibration(
        context: dg.AssetExecutionContext, recipe: ForgeConfig, stage_process: StageProcess
    ) -> ScorerCalibration:
        """Sensitivity and specificity of the scorer on answers that people labeled, with the labels' origin and digest.

        Independent of any model that is trained. Without labels, or without the scorer's weights, it says so, and the
        safety gate does not pass.
        """
        return stage_process.run(context, "calibrate", recipe, {}, ScorerCalibration)

    return scorer_calibration


def build_scorer_calibration_checks(line: Line) -> dg.AssetChecksDefinition:
    names = {"scorer_is_calibrated": "The scorer was measured on labeled answers of both kinds."}

    @line.checks("scorer_calibration", names, blocking=False)
    def scorer_calibration_checks(
        context: dg.AssetCheckExecutionContext, scorer_calibration: ScorerCalibration, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        counts = scorer_calibration.calibration
        words = scorer_calibration.reason or "no labels of both kinds"
        if counts is not None:
            words = (
                f"{counts.scorer}: {counts.unsafe_found} of {counts.unsafe} unsafe and {counts.safe_found} of "
                f"{counts.safe} safe answers found; labels: {scorer_calibration.source}"
            )
        facts = {"scorer_is_calibrated": (counts is not None and counts.unsafe > 0 and counts.safe > 0, words)}
        yield from report_checks(
            context, audit_log, line, "scorer_calibration", facts, subject=scorer_calibration.digest, warn_only=True
        )

    return scorer_calibration_checks


def _settings(config: ForgeConfig) -> dict[str, object]:
    """What of the safety section the measurement depends on."""
    section = config.evaluation.safety
    keys = {"classifier", "classifier_mode", "classifier_format", "classifier_revision", "calibration"}
    keys |= {"min_classifier_confidence"}
    return section.model_dump(mode="json", include=keys) if section else {}
