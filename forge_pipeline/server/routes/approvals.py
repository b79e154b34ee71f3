"""Releases that wait for people: list, one, its bundle, a decision; and the rollback of an alias."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.integrity import Manifest
from forge_pipeline.server import decisions
from forge_pipeline.server.approval_schemas import ApprovalList, ApprovalRequest, Decide, Rollback, RolledBack
from forge_pipeline.server.archives import zip_pieces
from forge_pipeline.server.errors import ConflictError, NotFoundError
from forge_pipeline.server.schemas import ModelId

router = APIRouter(tags=["Approvals"])


@router.get("/api/approvals")
def list_approvals(request: Request, state: Literal["open", "all"] = "open") -> ApprovalList:
    """Releases that wait for people, oldest first; with `state=all` those that wait no more too."""
    app = request.app.state
    found = decisions.requests(app.registry, all_of_them=state == "all")
    return ApprovalList(approvals=found, may_decide=app.api_keys.has_scope("approve"))


@router.get("/api/approvals/{request_id}")
def get_approval(request: Request, request_id: str) -> ApprovalRequest:
    """One request: gates, digests, decisions, and why one does not count."""
    return decisions.request(request.app.state.registry, request_id)


@router.post("/api/approvals/{request_id}")
def decide(request: Request, request_id: str, body: Decide) -> ApprovalRequest:
    """Approve, reject or revoke in the name of the API key, whose scope must be `approve`."""
    name = request.scope.get("state", {}).get("api_key")
    return decisions.decide(request.app.state.registry, request_id, body, name)


@router.get("/api/approvals/{request_id}/bundle", response_class=Response)
def bundle(request: Request, request_id: str) -> Response:
    """The bundle that the request is about, as a ZIP file; refused if its bytes are others by now."""
    registry = request.app.state.registry
    found, folder = decisions.request(registry, request_id), decisions.bundle_folder(registry, request_id)
    if folder is None:
        raise NotFoundError("The bundle does not lie on this machine; ask whoever made it")
    opened = AnnexIvBundle.open(folder)
    if opened.digest != found.bundle:
        raise ConflictError(f"The bundle is {opened.digest} now; the request is about {found.bundle}")
    manifest = Manifest.of_directory(opened.path)
    headers = {
        "ETag": f'"{manifest.digest}"',
        "Content-Disposition": f'attachment; filename="annex-iv-{opened.digest.short}.zip"',
    }
    return StreamingResponse(
        zip_pieces(opened.path, manifest, "annex_iv"), media_type="application/zip", headers=headers
    )


@router.post("/api/models/{model_id}/rollback")
def rollback(request: Request, model_id: ModelId, body: Rollback) -> RolledBack:
    """Make an alias that means this model mean the one before; needs the scope `admin` where there are keys."""
    app = request.app.state
    row, _ = app.catalog.row(model_id)
    return decisions.roll_back(app.settings, app.registry, row, body)
