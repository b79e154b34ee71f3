"""POST /api/playground/generate."""

from fastapi import APIRouter, Request

from forge_pipeline.server.schemas import Generate, Generated

router = APIRouter(tags=["Playground"])


@router.post("/api/playground/generate")
def generate(request: Request, body: Generate) -> Generated:
    """Let a trained model answer a prompt."""
    row, _ = request.app.state.catalog.row(body.model_id)
    generated: Generated = request.app.state.playground.generate(row, body)
    return generated
