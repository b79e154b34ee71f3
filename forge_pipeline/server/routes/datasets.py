"""POST /api/upload_dataset, GET /api/datasets."""

import asyncio

from fastapi import APIRouter, Request

from forge_pipeline.server import uploads
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


@router.post(UPLOAD_PATH, openapi_extra=_FORM)
async def upload_dataset(request: Request) -> Uploaded:
    """Upload a JSONL file. Rows that cannot be learned from are named, line by line."""
    settings = request.app.state.settings
    received = await uploads.receive_file(
        request.headers.get("content-type", ""),
        request.stream(),
        settings.datasets_dir,
        limit=settings.upload_limit_bytes,
    )
    return await asyncio.to_thread(request.app.state.catalog.take_in, received)


@router.get("/api/datasets")
def list_datasets(request: Request) -> DatasetList:
    """Every uploaded file."""
    return DatasetList(datasets=request.app.state.catalog.datasets())
