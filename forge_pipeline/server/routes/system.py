"""GET /api/info, /api/health, /api/live, /api/ready and /metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from forge_pipeline import __version__
from forge_pipeline.server import availability, health
from forge_pipeline.server.errors import UnavailableError
from forge_pipeline.server.health import Alive, Ready
from forge_pipeline.server.metrics import CONTENT_TYPE
from forge_pipeline.server.schemas import Health, Info

router = APIRouter(tags=["System"])


@router.get("/api/info")
def info(request: Request) -> Info:
    """What this server offers, and what of it can run here."""
    module_of = {
        name: name.removeprefix("package:").partition("/")[0] for name in request.app.state.settings.package_models
    }
    return Info(
        providers=list(availability.PROVIDERS),
        strategies=list(availability.STRATEGIES),
        tasks=list(availability.TASKS),
        version=__version__,
        availability=availability.availability(request.app.state.settings.unsloth_python),
        package_models=[name for name, module in module_of.items() if availability.installed(module)],
    )


@router.get("/api/health", operation_id="health")
async def get_health(request: Request) -> Health:
    """Whether the server answers, and whether training can start."""
    return Health(version=__version__, launcher=request.app.state.launcher_state)


@router.get("/api/live")
async def live() -> Alive:
    """Whether the process is alive. Needs no key; a supervisor restarts what does not answer."""
    return Alive()


@router.get("/api/ready")
def ready(request: Request) -> Ready:
    """Whether work can be taken; 503 names why not. Needs no key."""
    reasons = health.not_ready(request.app.state)
    if reasons:
        raise UnavailableError("; ".join(reasons))
    return Ready()


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Requests, jobs, watchers, loaded models and the training's figures, in Prometheus' text format."""
    return PlainTextResponse(request.app.state.metrics.text(), media_type=CONTENT_TYPE)
