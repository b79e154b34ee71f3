"""POST /api/upload_dataset, GET /api/datasets."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request, Response

from forge_pipeline.integrity import Digest
from forge_pipeline.server import uploads
from forge_pipeline.server.idempotency import Claim, once
from forge_pipeline.server.schemas import DatasetList, Uploaded
from forge_pipeline.server.security import UPLOAD_PATH

router = APIRouter(tags=["Datasets"])

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON Lines in UTF-8"}
                    },
                }
            }
        },
    }
}


@router.post(UPLOAD_PATH, openapi_extra=_FORM, response_model=Uploaded)
async def upload_dataset(request: Request) -> Uploaded | Response:
    """Upload a JSONL file. Rows that cannot be learned from are named, line by line."""
    state = request.app.state
    settings, claim = state.settings, Claim.of(request.scope)
    received = await uploads.receive_file(
        request.headers.get("content-type", ""),
        request.stream(),
        settings.datasets_dir,
        limit=settings.upload_limit_bytes,
    )
    take_in = partial(state.catalog.take_in, received)
    if claim is None:
        return await asyncio.to_thread(take_in)
    try:
        content = await asyncio.to_thread(Digest.of_file, received.path)
        return await once(state.replies, claim, f"{content} {received.filename}".encode(), take_in)
    finally:
        received.path.unlink(missing_ok=True)  # still there where the reply is an earlier one


@router.get("/api/datasets")
def list_datasets(request: Request) -> DatasetList:
    """Every uploaded file."""
    return DatasetList(datasets=request.app.state.catalog.datasets())
