"""GET /api/info, GET /api/health."""

from fastapi import APIRouter, Request

from forge_pipeline import __version__
from forge_pipeline.server import availability
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


@router.get("/api/health")
async def health(request: Request) -> Health:
    """Whether the server answers, and whether training can start."""
    return Health(version=__version__, launcher=request.app.state.launcher_state)
