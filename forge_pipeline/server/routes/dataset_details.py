"""One dataset: GET and DELETE /api/datasets/{filename}, its audit and the audit's page."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from forge_pipeline.server.dataset_schemas import AuditSummary, DatasetAuditBody, DatasetDetails
from forge_pipeline.server.errors import NotFoundError
from forge_pipeline.server.schemas import Deleted

router = APIRouter(tags=["Datasets"])

_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page without scripts", "content": {"text/html": {"schema": {"type": "string"}}}}
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/api/datasets/{filename}")
def get_dataset(request: Request, filename: str) -> DatasetDetails:
    """One dataset: its size, its digest, what is wrong with its rows, and the first of them."""
    state = request.app.state
    row = state.datasets.row(filename)
    details: DatasetDetails = state.catalog.dataset(row, state.datasets.preview(row))
    return details


@router.delete("/api/datasets/{filename}")
def delete_dataset(request: Request, filename: str) -> Deleted:
    """Remove a dataset, its file and its audit; 409 while a job that waits or runs learns from it."""
    state = request.app.state
    row = state.datasets.row(filename)
    state.datasets.delete(row)
    return Deleted(message=f"Dataset {row.filename} was deleted")


@router.get("/api/datasets/{filename}/audit")
def audit_dataset(request: Request, filename: str, again: bool = False) -> DatasetAuditBody:
    """What an audit found. The first call has it begin, later ones say how far it is; `again` repeats a failed one."""
    state = request.app.state
    row = state.datasets.row(filename)
    found = state.audits.state(row, again=again)
    report = None
    if found.summary is not None:
        report = AuditSummary(**found.summary, url=f"/api/datasets/{row.filename}/audit.html")
    return DatasetAuditBody(state=found.state, error=found.error, report=report)


@router.get("/api/datasets/{filename}/audit.html", response_class=Response, responses=_PAGE)
def audit_page(request: Request, filename: str) -> Response:
    """The audit's whole report as a page: charts and places, and nothing of what was found."""
    state = request.app.state
    path = state.audits.page(state.datasets.row(filename))
    if path is None:
        raise NotFoundError("This dataset has no audit yet; GET its /audit first")
    return FileResponse(path, media_type="text/html", headers=_PAGE_HEADERS)
