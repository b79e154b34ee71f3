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
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.middleware.cors import CORSMiddleware

from forge_pipeline import __version__
from forge_pipeline.registry import Registry
from forge_pipeline.server import errors
from forge_pipeline.server.catalog import Catalog
from forge_pipeline.server.control import TrainingControl
from forge_pipeline.server.job_reader import JobReader
from forge_pipeline.server.jobs import JobTable
from forge_pipeline.server.launchers import DagsterRunLauncher, RunLauncher
from forge_pipeline.server.playground import Playground
from forge_pipeline.server.progress import Audience
from forge_pipeline.server.routes import approvals, datasets, jobs, models, playground, system, training
from forge_pipeline.server.schemas import ErrorBody
from forge_pipeline.server.security import Guard
from forge_pipeline.server.settings import ServerSettings
from forge_pipeline.server.supervisor import DagsterSupervisor, exclusive

_log = logging.getLogger(__name__)

_WATCH_EVERY = 0.5  # seconds
_FIRST_START = 90.0  # seconds a start waits for the supervised Dagster
_PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


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
        responses={code: {"model": ErrorBody} for code in (400, 404, 409, 413, 415, 500)},
        redirect_slashes=False,
    )
    errors.install(app)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Guard, settings=settings)
    for module in (system, training, jobs, models, datasets, playground, approvals):
        app.include_router(module.router)
    app.add_api_route("/", _page, include_in_schema=False)
    _without_422(app)
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
            state.registry, state.jobs = Registry(settings.registry), JobTable(settings.data_dir / "jobs.sqlite")
            state.control = TrainingControl(settings, state.jobs, launcher, runs_end_with_server=supervisor is not None)
            state.catalog = Catalog(settings, state.registry, state.jobs)
            state.playground, state.audience = Playground(settings), Audience()
            state.job_reader = JobReader(settings, state.jobs, state.registry, launcher)
            if supervisor:
                supervisor.start()
            state.launcher_state = "not asked yet"
            watchers = [
                asyncio.create_task(_watch(state.control, state.audience)),
                asyncio.create_task(_watch_launcher(app, launcher)),
                asyncio.create_task(_watch_queue(state.control)),
            ]
            try:
                yield
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.to_thread(state.control.shut_down)
                if supervisor:
                    await asyncio.to_thread(supervisor.stop)
                state.jobs.close()
                state.registry.close()

    return lifespan


async def _watch(control: TrainingControl, audience: Audience) -> None:
    """Follow the active job and tell the WebSocket clients about every change."""
    told = ""
    while True:
        try:
            status = await asyncio.to_thread(control.refresh)
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


def _page() -> HTMLResponse:
    page = files("forge_pipeline.server").joinpath("static/studio.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "no-referrer"})


def _without_422(app: FastAPI) -> None:
    """FastAPI documents 422 for every validated route; here such an error is a 400."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        schema = build()
        for path in schema["paths"].values():
            for operation in path.values():
                operation.get("responses", {}).pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
