"""GET /api/models, GET and DELETE /api/models/{model_id}."""

from fastapi import APIRouter, Request

from forge_pipeline.server.schemas import Deleted, ModelDetails, ModelList

router = APIRouter(tags=["Models"])


@router.get("/api/models")
def list_models(request: Request) -> ModelList:
    """Every trained model, oldest first."""
    return ModelList(models=request.app.state.catalog.models())


@router.get("/api/models/{model_id}")
def get_model(request: Request, model_id: int) -> ModelDetails:
    """One model: what it was made from, how, and how well it did."""
    details: ModelDetails = request.app.state.catalog.model(model_id)
    return details


@router.delete("/api/models/{model_id}")
def delete_model(request: Request, model_id: int) -> Deleted:
    """Remove a model and its files."""
    state = request.app.state
    row, _ = state.catalog.row(model_id)
    state.playground.forget(row)
    return Deleted(message=f"Model {state.catalog.delete_model(model_id)} was deleted")
