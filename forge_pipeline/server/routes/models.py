"""GET /api/models, GET and DELETE /api/models/{model_id}."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from forge_pipeline.server.catalog import ModelQuery
from forge_pipeline.server.schemas import Deleted, ModelDetails, ModelId, ModelList, ModelPage

router = APIRouter(tags=["Models"])

Order = Literal[
    "id", "created_at", "name", "size_mb", "final_loss", "-id", "-created_at", "-name", "-size_mb", "-final_loss"
]


@router.get("/api/models")
def list_models(
    request: Request,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    after: Annotated[int | None, Query(description="The last page's last id", ge=0, le=2**63 - 1)] = None,
    task: str | None = None,
    base_model: str | None = None,
    sort: Order = "id",
) -> ModelPage | ModelList:
    """Every trained model, oldest first; or a page of them, filtered and sorted."""
    found: ModelPage | ModelList = request.app.state.catalog.page(ModelQuery(limit, after, task, base_model, sort))
    return found


@router.get("/api/models/{model_id}")
def get_model(request: Request, model_id: ModelId) -> ModelDetails:
    """One model: what it was made from, how, and how well it did."""
    details: ModelDetails = request.app.state.catalog.model(model_id)
    return details


@router.delete("/api/models/{model_id}")
def delete_model(request: Request, model_id: ModelId) -> Deleted:
    """Remove a model and its files."""
    state = request.app.state
    row, _ = state.catalog.row(model_id)
    state.playground.forget(row)
    return Deleted(message=f"Model {state.catalog.delete_model(model_id)} was deleted")
