"""What a served application holds of models' files and datasets, on `app.state`; started and ended with it.

verifier     Verifier        whether bytes are what their digests say
artifacts    Artifacts       what belongs to a model
push_jobs    PushJobs        pushes to the Hub
export_jobs  ExportJobs      GGUF files and bundles
audits       DatasetAudits   audits of uploaded datasets
datasets     DatasetShelf    one dataset: rows, removal
validator    Validator       what a start body would meet
"""

from collections.abc import Mapping

from starlette.datastructures import State

from forge_pipeline.server.archives import Verifier
from forge_pipeline.server.artifacts import Artifacts
from forge_pipeline.server.dataset_audits import DatasetAudits
from forge_pipeline.server.dataset_shelf import DatasetShelf
from forge_pipeline.server.export_jobs import ExportJobs
from forge_pipeline.server.push_jobs import PushJobs
from forge_pipeline.server.validation import Validator


def install(state: State, environment: Mapping[str, str], *, runs_end_with_server: bool = False) -> None:
    """Put everything on `state`, which has settings, registry, jobs and launcher, and start what works by itself.

    Args:
        state: The application's.
        environment: What pushes inherit.
        runs_end_with_server: Whether a run cannot outlive this server.
    """
    state.verifier = Verifier()
    state.artifacts = Artifacts(state.verifier)
    state.push_jobs = PushJobs(state.settings, state.jobs, state.registry, state.artifacts, environment)
    state.export_jobs = ExportJobs(
        state.settings,
        state.jobs,
        state.registry,
        state.artifacts,
        state.launcher,
        runs_end_with_server=runs_end_with_server,
    )
    state.audits = DatasetAudits(state.settings)
    state.datasets = DatasetShelf(state.settings, state.registry, state.jobs, state.audits)
    state.validator = Validator(state.settings, state.registry, state.jobs)
    state.push_jobs.start()
    state.export_jobs.start()
    state.audits.start()


def shut_down(state: State) -> None:
    """End what works by itself; returns when its processes are gone."""
    state.push_jobs.stop()
    state.export_jobs.stop()
    state.audits.stop()
