"""`trained_on_erased_data`: a model whose training data was erased since fails until it is trained again."""

from collections.abc import Iterator

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import erasure
from forge_pipeline.models import ModelDirectory
from resources.evidence import AuditLogResource
from resources.settings import DeploymentResource

CHECK = "trained_on_erased_data"


def build_erasure_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("fine_tuned_model", {CHECK: "No row that the model was trained on was erased since (GDPR 17)."})
    def erasure_checks(
        context: dg.AssetCheckExecutionContext,
        fine_tuned_model: ModelDirectory,
        deployment: DeploymentResource,
        audit_log: AuditLogResource,
    ) -> Iterator[dg.AssetCheckResult]:
        record = fine_tuned_model.record
        inputs = (record.tokenized_digest, *record.dataset_digests)
        inputs += tuple(digest for stage in record.earlier for digest in (stage.tokenized_digest, stage.model_digest))
        found = erasure.erased_behind(
            deployment.home.root, record.dataset_digest, fine_tuned_model.digest, inputs=inputs
        )
        words = erasure.explanation(found) if found else "no erasure concerns the data that it was trained on"
        facts = {CHECK: (not found, words)}
        yield from report_checks(context, audit_log, line, "fine_tuned_model", facts, subject=fine_tuned_model.digest)

    return erasure_checks
