"""The one `defs`: every recipe in configs/ as an asset group, and the studio line for REST jobs.

`dagster asset materialize -m assets.definitions --select 'group:<line>'` runs a whole line.
Settings are read here, once: FORGE_HOME, FORGE_STORE, FORGE_CONFIGS, FORGE_REGISTRY_URL or
FORGE_DATABASE_URL; and in `assets.asset_pages` FORGE_SOURCE_URL.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets import (
    annex_iv,
    approval,
    automation,
    benchmarking,
    calibration,
    cleaning,
    dataset_audit,
    erasure,
    fine_tuning,
    gguf_export,
    ingestion,
    judging,
    notifications,
    publishing,
    recipe,
    release,
    safety,
    synthesis,
    tokenization,
)
from assets.asset_pages import with_pages
from assets.base_lines import build_refused_line
from assets.line import Line
from assets.recipe_files import STUDIO, BrokenFile, read_recipes
from forge_pipeline.database import DATABASE_VARIABLE, REGISTRY_VARIABLE
from resources.environment import CHECKOUT
from resources.evidence import AuditLogResource, RegistryResource
from resources.home import Home
from resources.io_managers import DatasetIOManager, ModelDirectoryIOManager, RefusingIOManager, ReportIOManager
from resources.settings import DeploymentResource
from resources.stage_process import StageProcess

STUDIO_JOBS = dg.DynamicPartitionsDefinition(name="studio_jobs")


def build_line(line: Line) -> dg.Definitions:
    """All assets, checks and automation of one line."""
    *earlier, line = line.parts()
    return dg.Definitions.merge(*map(build_part, earlier), _build_whole(line))


def build_part(part: Line) -> dg.Definitions:
    """A stage of the recipe's `pipeline` before the last: its own rows, and the model that the next goes on from."""
    cleans = part.dataset_stage == "clean_dataset"
    measured = part.is_measured
    assets = [
        ingestion.build_raw_dataset(part),
        *([cleaning.build_clean_dataset(part)] if cleans else []),
        dataset_audit.build_dataset_audit_report(part),
        tokenization.build_tokenized_dataset(part),
        fine_tuning.build_fine_tuned_model(part),
        *([benchmarking.build_benchmark_report(part), safety.build_safety_report(part)] if measured else []),
        *([calibration.build_scorer_calibration(part)] if part.has_calibration else []),
        *([judging.build_judge_report(part)] if part.has_judge else []),
    ]
    checks = [
        ingestion.build_raw_dataset_checks(part),
        *([cleaning.build_clean_dataset_checks(part)] if cleans else []),
        dataset_audit.build_dataset_audit_checks(part),
        tokenization.build_tokenized_dataset_checks(part),
        fine_tuning.build_fine_tuned_model_checks(part),
        *([benchmarking.build_benchmark_checks(part), safety.build_safety_checks(part)] if measured else []),
        *([calibration.build_scorer_calibration_checks(part)] if part.has_calibration else []),
        *([judging.build_judge_checks(part)] if part.has_judge else []),
    ]
    return dg.Definitions(
        assets=with_pages(part, assets, checks),
        asset_checks=checks,
    )


def _build_whole(line: Line) -> dg.Definitions:
    job = dg.define_asset_job(f"{line.name}_job", selection=dg.AssetSelection.groups(line.name))
    automatic = automation.build_automation(line, job.name)
    releases = approval.build_release_sensor(line)
    exports = "gguf_model" in line.stages
    cleans = line.dataset_stage == "clean_dataset"
    assets = [
        recipe.build_recipe(line),
        *([synthesis.build_synthetic_dataset(line)] if line.has_teacher else []),
        ingestion.build_raw_dataset(line),
        *([cleaning.build_clean_dataset(line)] if cleans else []),
        dataset_audit.build_dataset_audit_report(line),
        tokenization.build_tokenized_dataset(line),
        fine_tuning.build_fine_tuned_model(line),
        benchmarking.build_benchmark_report(line),
        *([calibration.build_scorer_calibration(line)] if line.has_calibration else []),
        safety.build_safety_report(line),
        *([judging.build_judge_report(line)] if line.has_judge else []),
        *([gguf_export.build_gguf_model(line)] if exports else []),
        annex_iv.build_annex_iv_bundle(line),
        release.build_released_model(line),
        *([publishing.build_published_model(line)] if "published_model" in line.stages else []),
    ]
    checks = [
        recipe.build_recipe_checks(line),
        *([synthesis.build_synthetic_dataset_checks(line)] if line.has_teacher else []),
        ingestion.build_raw_dataset_checks(line),
        *([cleaning.build_clean_dataset_checks(line)] if cleans else []),
        dataset_audit.build_dataset_audit_checks(line),
        tokenization.build_tokenized_dataset_checks(line),
        fine_tuning.build_fine_tuned_model_checks(line),
        benchmarking.build_benchmark_checks(line),
        *([calibration.build_scorer_calibration_checks(line)] if line.has_calibration else []),
        safety.build_safety_checks(line),
        *([judging.build_judge_checks(line)] if line.has_judge else []),
        *([gguf_export.build_gguf_checks(line)] if exports else []),
        *annex_iv.build_annex_iv_checks(line),
        erasure.build_erasure_checks(line),
    ]
    return dg.Definitions(
        assets=with_pages(line, assets, checks),
        asset_checks=checks,
        jobs=[job],
        schedules=automatic.schedules,
        sensors=[
            *automatic.sensors,
            *([releases] if releases else []),
            *notifications.build_notifications(line),
        ],
    )


def build_broken_line(name: str, file: Path) -> dg.Definitions:
    """A recipe that does not load: one asset that says why, so that the other lines still do."""
    line = Line(name, file)
    return dg.Definitions(assets=with_pages(line, [recipe.build_recipe(line)], []))


def build_resources(
    home: Home, store_root: str, *, registry_url: str | None = None, allow_temporary_instance: bool = False
) -> Mapping[str, Any]:
    """The resources of a deployment; a test passes its own `home`.

    Args:
        registry_url: SQLAlchemy URL of the registry, or a `dg.EnvVar` that holds it; None: the file under `home`.
    """
    audit_log = AuditLogResource(directory=str(home.root))
    shared: dict[str, Any] = {
        "home": str(home.root),
        "store_root": store_root,
        "allow_temporary_instance": allow_temporary_instance,
        "audit_log": audit_log,
    }
    return {
        "io_manager": RefusingIOManager(),
        "dataset_io": DatasetIOManager(**shared),
        "model_io": ModelDirectoryIOManager(**shared),
        "report_io": ReportIOManager(**shared),
        "audit_log": audit_log,
        "registry": RegistryResource(url=registry_url or home.registry_url),
        "stage_process": StageProcess(home=str(home.root), store_root=store_root),
        "deployment": DeploymentResource(
            home_directory=str(home.root), store_root=store_root, allow_temporary_instance=allow_temporary_instance
        ),
    }


def build_definitions(
    configs: Path,
    home: Home,
    store_root: str,
    *,
    registry_url: str | None = None,
    allow_temporary_instance: bool = False,
) -> dg.Definitions:
    """The whole code location from a folder of recipes."""
    lines = []
    for found in read_recipes(configs):
        if isinstance(found, BrokenFile):
            lines.append(build_broken_line(found.name, found.file))
        elif found.refused:
            lines.append(build_refused_line(found.config.name, found.file, found.refused))
        else:
            lines.append(build_line(Line(found.config.name, found.file, found.config)))
    lines.append(build_line(Line(STUDIO, partitions=STUDIO_JOBS)))
    return dg.Definitions.merge(
        *lines,
        dg.Definitions(
            resources=build_resources(
                home, store_root, registry_url=registry_url, allow_temporary_instance=allow_temporary_instance
            ),
            executor=dg.in_process_executor,
        ),
    )


_home = Home.from_environment()
_named = [name for name in (REGISTRY_VARIABLE, DATABASE_VARIABLE) if os.environ.get(name)]
defs = build_definitions(
    configs=Path(os.environ.get("FORGE_CONFIGS", CHECKOUT / "configs")),
    home=_home,
    store_root=os.environ.get("FORGE_STORE", str(_home.store)),
    # By its name: Dagster shows the values of resources to everybody who may look, and a URL may hold a password.
    registry_url=next(
        (dg.EnvVar(each) for each in (REGISTRY_VARIABLE, DATABASE_VARIABLE) if os.environ.get(each)), None
    ),
)
