"""POST /api/validate."""

from typing import Any

from fastapi import APIRouter, Request

from forge_pipeline.server.validation_schemas import Validated

router = APIRouter(tags=["Training"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "description": "As of start_training"}}},
    }
}


@router.post("/api/validate", openapi_extra=_BODY)
def validate(request: Request, body: dict[str, Any], exact: bool = False) -> Validated:
    """What a start with this body would meet: wrong fields, unfit rows, memory and time. Starts nothing."""
    found: Validated = request.app.state.validator.validate(body, exact=exact)
    return found
