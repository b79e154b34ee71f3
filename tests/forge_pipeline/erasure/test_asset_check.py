"""The asset check `trained_on_erased_data`, run by Dagster on a stored model."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.definitions import build_resources
from assets.erasure import CHECK, build_erasure_checks
from assets.line import Line
from forge_pipeline.audit_log import read_entries
from forge_pipeline.erasure import erase
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory
from resources.home import Home
from tests.forge_pipeline.erasure.deployed import LINE, Deployment

JANE = "jane.doe@example.org"


def evaluate(deployment: Deployment, model: Digest) -> dg.AssetCheckEvaluation:
    """Store the model as the line's asset and let Dagster evaluate the check on it."""
    line = Line(LINE)

    @dg.asset(key=line.key("fine_tuned_model"), io_manager_key="model_io")
    def fine_tuned_model() -> ModelDirectory:
        import shutil

        copy = deployment.home / "work" / f"again-{model.short}"
        shutil.copytree(deployment.store.path(model), copy)
        return ModelDirectory.open(copy)

    resources = build_resources(Home(deployment.home), str(deployment.home / "store"), allow_temporary_instance=True)
    checks = build_erasure_checks(line)
    definitions = dg.Definitions(assets=[fine_tuned_model], asset_checks=[checks], resources=resources)
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


@pytest.fixture
def trained(deployment: Deployment) -> tuple[Deployment, Path, Digest]:
    rows: list[dict[str, Any]] = [{"text": f"Row {n} of {JANE if n == 1 else n}."} for n in range(6)]
    corpus = deployment.corpus(rows)
    return deployment, corpus, deployment.model(deployment.raw_dataset(corpus))


def test_the_check_passes_before_and_fails_after_the_erasure(trained: tuple[Deployment, Path, Digest]) -> None:
    deployment, corpus, model = trained
    before = evaluate(deployment, model)
    assert (before.check_name, before.passed) == (CHECK, True)
    erase(JANE, places=deployment.places, corpora=[corpus])
    after = evaluate(deployment, model)
    assert not after.passed
    assert after.severity is dg.AssetCheckSeverity.ERROR
    assert "train it again" in str(after.description)
    logged = [entry for entry in read_entries(deployment.log.log_path) if entry.event == "asset_check.evaluated"]
    assert [entry.data["passed"] for entry in logged] == [True, False]
    assert JANE not in json.dumps([dict(entry.data) for entry in logged])


def test_a_model_trained_again_passes(trained: tuple[Deployment, Path, Digest]) -> None:
    deployment, corpus, _ = trained
    erase(JANE, places=deployment.places, corpora=[corpus])
    assert evaluate(deployment, deployment.model(deployment.raw_dataset(corpus))).passed
