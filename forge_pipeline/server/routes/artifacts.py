"""A model's artefacts: their list, their bytes, their making, and its push to the Hub."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from forge_pipeline.server.archives import Span, file_pieces, zip_pieces
from forge_pipeline.server.artifact_schemas import (
    ArtifactBody,
    ArtifactKind,
    ArtifactList,
    ExportModel,
    PushModel,
    Queued,
)
from forge_pipeline.server.artifacts import Artifact
from forge_pipeline.server.errors import NotFoundError, envelope
from forge_pipeline.server.schemas import ModelId

router = APIRouter(tags=["Models"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes; a directory as a ZIP. The ETag is the digest.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The bytes that Range asked for"},
    304: {"description": "The client has them"},
    416: {"description": "The file has no such range"},
}


@router.get("/api/models/{model_id}/artifacts")
def list_artifacts(request: Request, model_id: ModelId) -> ArtifactList:
    """What belongs to a model: its files, GGUF, card, bundle, its data's audit; and why what is missing is missing."""
    return ArtifactList(artifacts=[_body(model_id, found) for found in _artifacts(request, model_id)])


@router.get("/api/models/{model_id}/download/{kind}", response_class=Response, responses=_BYTES)
def download(
    request: Request,
    model_id: ModelId,
    kind: ArtifactKind,
    name: Annotated[str | None, Query(description="Which GGUF file; by default the first")] = None,
) -> Response:
    """The bytes of one artefact, after they were found to be what its digest says."""
    found = [each for each in _artifacts(request, model_id) if each.kind == kind and name in (None, each.name)]
    if not found:
        raise NotFoundError(
            f"Model {model_id} has no {kind} of that name; GET /api/models/{model_id}/artifacts lists them"
        )
    artifact = found[0]
    if artifact.why is not None or artifact.digest is None:
        raise NotFoundError(f"The {kind} of model {model_id} is not available: {artifact.why}")
    headers = {"ETag": f'"{artifact.digest}"', "Content-Disposition": f'attachment; filename="{artifact.name}"'}
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    if artifact.text is not None:
        return Response(artifact.text, media_type=artifact.media_type, headers=headers)
    assert artifact.path is not None
    manifest = request.app.state.verifier.check(artifact.path, artifact.digest)
    if artifact.folder:
        if request.scope.get("is_head"):  # nobody would read what is packed
            return StreamingResponse(iter(()), media_type=artifact.media_type, headers=headers)
        pieces = zip_pieces(artifact.path, manifest, artifact.folder)
        return StreamingResponse(pieces, media_type=artifact.media_type, headers=headers)
    return _file(request, artifact, headers)


@router.post("/api/models/{model_id}/push")
def push_model(request: Request, model_id: ModelId, body: PushModel) -> Queued:
    """Queue the push of a model and its card to the Hugging Face Hub; a job of its own, beside any training."""
    state = request.app.state
    row, _ = state.catalog.row(model_id)
    job = state.push_jobs.enqueue(row, state.catalog.model(model_id).name, body)
    return Queued(job_id=job.id, message=f"Model {model_id} will be pushed to {body.repo_id}")


@router.post("/api/models/{model_id}/export")
def export_model(request: Request, model_id: ModelId, body: ExportModel) -> Queued:
    """Queue the making of a model's GGUF files and Annex IV bundle; a job of its own, beside any training."""
    state = request.app.state
    row, _ = state.catalog.row(model_id)
    job = state.export_jobs.enqueue(row, state.catalog.model(model_id).name, body)
    return Queued(job_id=job.id, message=f"What can be made of model {model_id} will be made")


def _artifacts(request: Request, model_id: int) -> list[Artifact]:
    state = request.app.state
    row, _ = state.catalog.row(model_id)
    found: list[Artifact] = state.artifacts.of(row, state.catalog.model(model_id).name)
    return found


def _body(model_id: int, found: Artifact) -> ArtifactBody:
    named = f"?name={found.name}" if found.kind == "gguf" else ""
    return ArtifactBody(
        kind=found.kind,
        name=found.name,
        size_mb=None if found.size is None else round(found.size / 1e6, 3) or 0.001,
        digest=found.digest,
        available=found.why is None,
        why=found.why,
        url=None if found.why else f"/api/models/{model_id}/download/{found.kind}{named}",
    )


def _file(request: Request, artifact: Artifact, headers: dict[str, str]) -> Response:
    """A file, or the range of it that was asked for (RFC 9110, 14): one range; of several the whole file is sent."""
    assert artifact.path is not None
    assert artifact.digest is not None
    size, headers = artifact.path.stat().st_size, headers | {"Accept-Ranges": "bytes"}
    asked = request.headers.get("range")
    if request.headers.get("if-range") not in (None, headers["ETag"]):
        asked = None
    found = _RANGE.fullmatch(asked.strip()) if asked else None
    if found is None or found.group(0) == "bytes=-":
        pieces: Iterator[bytes] = file_pieces(artifact.path, artifact.digest)
        headers["Content-Length"] = str(size)
        return StreamingResponse(pieces, media_type=artifact.media_type, headers=headers)
    span = _span(found.group(1), found.group(2), size)
    if span is None:
        return envelope(416, f"The file has {size} bytes", {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    headers["Content-Length"] = str(span.stop - span.start)
    pieces = file_pieces(artifact.path, artifact.digest, span)
    return StreamingResponse(pieces, status_code=206, media_type=artifact.media_type, headers=headers)


def _span(first: str, last: str, size: int) -> Span | None:
    """The bytes that ``first-last`` means; None where the file has none of them."""
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    return Span(start, stop, size) if start < stop else None
