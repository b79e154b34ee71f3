"""GET /: the studio page. GET /static/...: its modules, styles and pictures."""

from functools import cache

from fastapi import APIRouter, Request, Response

from forge_pipeline.server.errors import NotFoundError
from forge_pipeline.server.page import POLICY, StaticFile, StaticTree, load_tree

router = APIRouter(include_in_schema=False)

_PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_FILE_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable"}


@cache
def _tree() -> StaticTree:
    return load_tree()


@router.get("/")
def page(request: Request) -> Response:
    """The page, or 304 where the browser has it."""
    return _reply(request, _tree().page, _PAGE_HEADERS)


@router.get("/static/{tree}/{path:path}")
def static_file(request: Request, tree: str, path: str) -> Response:
    """One file of the page. The address of another version's tree is 404: its page has to be loaded anew."""
    found = _tree().files.get(path) if tree == _tree().digest else None
    if found is None:
        raise NotFoundError("There is no such file of the studio page; load the page anew")
    return _reply(request, found, _FILE_HEADERS)


def _reply(request: Request, file: StaticFile, headers: dict[str, str]) -> Response:
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    headers = headers | {"ETag": file.etag}
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
