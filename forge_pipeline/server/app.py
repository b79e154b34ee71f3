"""`create_app(settings)`: the application, with everything it holds on `app.state`.

settings     ServerSettings
registry     Registry           models and datasets
jobs         JobTable           jobs
launcher     RunLauncher        starts and ends runs
control      TrainingControl    start, stop, status
catalog      Catalog            models and datasets as the contract shows them
playground   Playground         loaded models
audience     Audience           WebSocket clients
job_reader   JobReader          jobs as the contract shows them
api_keys     KeyRing            who may call
replies      Replies            of requests that brought an Idempotency-Key
metrics      Metrics            requests and state, for Prometheus
watched_at   float              when the active job was last looked at, monotonic seconds
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from forge_pipeline import __version__
from forge_pipeline.registry import Registry
from forge_pipeline.server import addresses, docs_page, errors, layers, openapi, storage
from forge_pipeline.server.catalog import Catalog
from forge_pipeline.server.control import TrainingControl
from forge_pipeline.server.job_reader import JobReader
from forge_pipeline.server.jobs import JobTable
from forge_pipeline.server.launchers import DagsterRunLauncher, RunLauncher
from forge_pipeline.server.playground import Playground
from forge_pipeline.server.progress import Audience
from forge_pipeline.server.routes import (
    approvals,
    artifacts,
    dataset_details,
    datasets,
    jobs,
    models,
    openai,
    page,
    playground,
    system,
    training,
    validation,
)
from forge_pipeline.server.settings import ServerSettings
from forge_pipeline.server.supervisor import DagsterSupervisor, exclusive

_log = logging.getLogger(__name__)

_WATCH_EVERY = 0.5  # seconds
_FIRST_START = 90.0  # seconds a start waits for the supervised Dagster


def create_app(settings: ServerSettings, launcher: RunLauncher | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: See `ServerSettings`.
        launcher: Who runs the jobs. None: the webserver that the settings name, else one
            that is started and supervised for as long as the application lives.

    Raises:
        ConfigError: A supervised Dagster is wanted and there is no workspace.yaml.
    """
    supervisor = None
    if launcher is None and settings.dagster_url is None:
        supervisor = DagsterSupervisor(settings, os.environ)
    if launcher is None:
        launcher = _dagster(settings, supervisor)
    app = FastAPI(
        title="Forge Pipeline",
        version=__version__,
        lifespan=_lifespan(settings, launcher, supervisor),
        description=openapi.DESCRIPTION,
        generate_unique_id_function=openapi.operation_id,
        dependencies=[Depends(addresses.check_query)],
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    layers.install(app, settings)
    for module in (system, training, jobs, models, datasets, playground, openai, approvals, page):
        app.include_router(module.router)
    for module in (artifacts, dataset_details, validation):
        app.include_router(module.router)
    docs_page.install(app)
    openapi.document(app)
    return app


def _dagster(settings: ServerSettings, supervisor: DagsterSupervisor | None) -> DagsterRunLauncher:
    if supervisor is None:
        return DagsterRunLauncher(lambda: settings.dagster_url)
    return DagsterRunLauncher(supervisor.url, supervisor.state, lambda: supervisor.wait_until_ready(_FIRST_START))


def _lifespan(settings: ServerSettings, launcher: RunLauncher, supervisor: DagsterSupervisor | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with exclusive(settings.data_dir):
            for folder in (settings.datasets_dir, settings.recipes_dir, settings.progress_dir):
                folder.mkdir(parents=True, exist_ok=True)
            for unfinished in settings.datasets_dir.glob(".incoming.*"):
                unfinished.unlink()
            state = app.state
            state.settings, state.launcher = settings, launcher
            state.registry, state.jobs = Registry(settings.registry), JobTable(settings.jobs_database)
            state.control = TrainingControl(settings, state.jobs, launcher, runs_end_with_server=supervisor is not None)
            state.catalog = Catalog(settings, state.registry, state.jobs)
            state.playground, state.audience = Playground(settings), Audience()
            state.job_reader = JobReader(settings, state.jobs, state.registry, launcher)
            storage.install(state, os.environ, runs_end_with_server=supervisor is not None)
            if supervisor:
                supervisor.start()
            state.launcher_state, state.watched_at = "not asked yet", time.monotonic()
            watchers = [
                asyncio.create_task(_watch(app, state.control, state.audience)),
                asyncio.create_task(_watch_launcher(app, launcher)),
                asyncio.create_task(_watch_queue(state.control)),
                asyncio.create_task(layers.watch_keys(state.api_keys)),
            ]
            try:
                yield
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.to_thread(state.playground.close)
                await asyncio.to_thread(storage.shut_down, state)
                await asyncio.to_thread(state.control.shut_down)
                if supervisor:
                    await asyncio.to_thread(supervisor.stop)
                await asyncio.to_thread(layers.keep_use, state.api_keys)
                state.replies.close()
                state.jobs.close()
                state.registry.close()

    return lifespan


async def _watch(app: FastAPI, control: TrainingControl, audience: Audience) -> None:
    """Follow the active job and tell the WebSocket clients about every change."""
    told = ""
    while True:
        try:
            status = await asyncio.to_thread(control.refresh)
            app.state.watched_at = time.monotonic()
            message = status.model_dump_json()
            if message != told:
                audience.tell(message)
                told = message
        except Exception:  # one failed look must not blind every client for good
            _log.exception("the active job could not be brought up to date")
        await asyncio.sleep(_WATCH_EVERY)


async def _watch_queue(control: TrainingControl) -> None:
    """Launch what waits, one after the other. A launch takes its time, so it has a watcher of its own."""
    while True:
        try:
            await asyncio.to_thread(control.dispatch)
        except Exception:  # one failed launch must not hold up the queue for good
            _log.exception("the queue could not be worked on")
        await asyncio.sleep(_WATCH_EVERY)


async def _watch_launcher(app: FastAPI, launcher: RunLauncher) -> None:
    """Keep the launcher's state at hand, so that a health check never waits for Dagster."""
    while True:
        app.state.launcher_state = await asyncio.to_thread(launcher.state)
        await asyncio.sleep(4 * _WATCH_EVERY)
