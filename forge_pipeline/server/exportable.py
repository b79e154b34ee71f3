"""Whether files can be made of a model, and which: looked at before a job is made, so that a refusal names its reason.

The stages of the run decide again; what stands here only spares a run that would be refused.
"""

from pathlib import Path

from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.config.evaluation import BenchmarkSection, SafetySection
from forge_pipeline.errors import ConfigError
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.artifact_schemas import ExportModel
from forge_pipeline.server.artifacts import Artifacts, writes_text
from forge_pipeline.server.errors import ConflictError, NotFoundError, RequestError
from forge_pipeline.server.launchers import EXPORT_ASSETS, LINE
from forge_pipeline.server.leaving import check_audit
from forge_pipeline.server.settings import ServerSettings


def assets_of(row: ModelRow) -> tuple[str, ...]:
    """The assets that an export of the model makes: without GGUF files where there are none of its kind."""
    return tuple(name for name in EXPORT_ASSETS if name != "gguf_model" or writes_text(row))


def check_exportable(settings: ServerSettings, artifacts: Artifacts, row: ModelRow, body: ExportModel) -> None:
    """Refuse what the run would refuse, or could not make.

    Raises:
        NotFoundError: The model's files are gone.
        ConflictError: It is no model of a job, or its recipe or its data's audit lets nothing be made of it.
        RequestError: Its recipe makes no such file.
    """
    if row.line != LINE or not row.job_id:
        raise ConflictError(
            f"Model {row.id} is of the line {row.line}, not of a job of this server. Its files are made there: "
            f"materialize {row.line}/annex_iv_bundle and what it needs in Dagster"
        )
    if not Path(row.path).is_dir():
        raise NotFoundError(f"The files of model {row.id} are not on this machine")
    config = _recipe(settings, row.job_id)
    _check_gates(config, row.job_id)
    if "gguf_model" in assets_of(row):
        _check_quantizations(config, body)
    elif body.quantizations:
        raise RequestError(
            f"quantizations: model {row.id} writes no text token by token, so there is no GGUF file of it; leave "
            "quantizations out to have its bundle made"
        )
    check_audit(artifacts, row, "export")


def _recipe(settings: ServerSettings, job_id: str) -> ForgeConfig:
    try:
        return load_config(str(settings.recipes_dir / f"{job_id}.yaml"))
    except ConfigError as error:
        raise ConflictError(f"The recipe of job {job_id} cannot be read, so nothing can be made by it") from error


def _check_gates(config: ForgeConfig, job_id: str) -> None:
    """A gate that is never evaluated and guards export refuses it; of a recipe that names neither, both do."""
    evaluation = config.evaluation
    sections: dict[str, BenchmarkSection | SafetySection] = {
        "benchmark": evaluation.benchmark or BenchmarkSection(),
        "safety": evaluation.safety or SafetySection(),
    }
    closed = [name for name, section in sections.items() if not section.enabled and "export" in section.guards]
    if closed:
        raise ConflictError(
            f"The recipe of job {job_id}, fixed before training, lets no file be made unless the gates of "
            f"{' and '.join(closed)} passed, and measures neither: it is of an earlier version. Train the model again "
            "to export it"
        )


def _check_quantizations(config: ForgeConfig, body: ExportModel) -> None:
    made = [str(each) for each in config.export.quantizations]
    missing = [str(each) for each in body.quantizations or () if str(each) not in made]
    if missing:
        raise RequestError(
            f"quantizations: {', '.join(missing)} is not in the job's recipe, which was fixed before training; it "
            f"makes {', '.join(made)}"
        )
