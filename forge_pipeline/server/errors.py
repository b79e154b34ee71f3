"""Exception class -> HTTP status -> ``{"error", "detail", "status_code"}``: one table, one handler.

Under ``/v1`` `error` is the object that OpenAI's clients read their message from; elsewhere it is the status' name.

The nearest class in the exception's method resolution order decides, for the status and
for the headers that come with it. A status of 500 never repeats the exception's text,
which may hold row contents: the reply names the request id, and the server's log holds
the rest under that id. From every other text the absolute paths are taken out.
"""

import logging
import re
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from forge_pipeline.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    ForgeError,
    ModelError,
    OptionalDependencyError,
)
from forge_pipeline.server.findings import words_of
from forge_pipeline.server.redaction import without_paths

_log = logging.getLogger(__name__)

_OPENAI = "/v1/"


class RequestError(ForgeError, ValueError):
    """The request asks for something that is not offered, or is malformed."""


class NotFoundError(ForgeError, LookupError):
    """There is no such model, dataset or job."""


class ConflictError(ForgeError, RuntimeError):
    """The request does not fit the present state: a job is running, or none is."""


class BusyError(ConflictError):
    """The request will fit later, by itself: a training holds the slot, or the same request is being answered."""


class UnauthenticatedError(ForgeError, PermissionError):
    """No API key, or none that is known."""


class ForbiddenError(ForgeError, PermissionError):
    """The key's scope, the Host or the Origin does not allow this."""


class TooLargeError(ForgeError, ValueError):
    """The body is larger than the limit."""


class SlowBodyError(ForgeError, TimeoutError):
    """The rest of the body did not come in time."""


class UnsupportedMediaError(ForgeError, ValueError):
    """The body's Content-Type is not the one this path takes."""


class UnavailableError(ForgeError, ConnectionError):
    """Dagster cannot be reached, or is still starting."""


STATUS: dict[type[Exception], int] = {
    RequestError: 400,
    ConfigError: 400,
    DataError: 400,
    ModelError: 400,
    EvaluationError: 400,  # the playground: a prompt that the model has no room for
    OptionalDependencyError: 400,
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    SlowBodyError: 408,
    ConflictError: 409,
    TooLargeError: 413,
    UnsupportedMediaError: 415,
    UnavailableError: 503,
    Exception: 500,
}

# Seconds after which asking again may help.
_HEADERS: dict[type[Exception], dict[str, str]] = {
    UnauthenticatedError: {"WWW-Authenticate": "Bearer"},
    BusyError: {"Retry-After": "30"},
    UnavailableError: {"Retry-After": "5"},
    SlowBodyError: {"Connection": "close"},  # what is still to come of the body would be read as the next request
}


def envelope(status: int, detail: str, headers: dict[str, str] | None = None, *, path: str = "") -> JSONResponse:
    """The one shape of every error reply. Under /v1 `error` is an object: of another, OpenAI's clients show no word."""
    error = _openai_error(status, detail) if path.startswith(_OPENAI) else HTTPStatus(status).phrase
    return JSONResponse({"error": error, "detail": detail, "status_code": status}, status, headers=headers)


def _openai_error(status: int, detail: str) -> dict[str, str | None]:
    field = re.match(r"([a-z][a-z_]*(?:\.\w+)*): ", detail) if status == HTTPStatus.BAD_REQUEST else None
    return {
        "message": detail,
        "type": "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error",
        "param": field[1] if field else None,
        "code": "invalid_api_key" if status == HTTPStatus.UNAUTHORIZED else None,
    }


def refusal(error: ForgeError, path: str = "") -> JSONResponse:
    """The envelope of an error that is no fault of the server."""
    found = next((_HEADERS[kind] for kind in type(error).__mro__ if kind in _HEADERS), None)
    return envelope(status_of(error), without_paths(str(error)), found, path=path)


def failed_inside(scope: Scope, error: Exception) -> JSONResponse:
    """The envelope of everything else: which request it was, and nothing of what went wrong, which is logged."""
    request_id = scope.get("state", {}).get("request_id", "unknown")
    _log.error("request %s: %s %s", request_id, scope.get("method"), scope.get("path"), exc_info=error)
    words = f"This request failed inside the server. Its log has the reason under request id {request_id}."
    return envelope(500, words, path=scope.get("path", ""))


def status_of(error: Exception) -> int:
    """HTTP status of an exception, by its nearest class in `STATUS`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install(app: FastAPI) -> None:
    """Make every exception of `app` end as the envelope."""
    for kind in (Exception, HTTPException, RequestValidationError, *(k for k in STATUS if issubclass(k, ForgeError))):
        app.add_exception_handler(kind, handle)


async def handle(request: Request, error: Exception) -> JSONResponse:
    """Reply to `error`."""
    path = request.url.path
    if isinstance(error, HTTPException):
        return envelope(error.status_code, _words(request, error), dict(error.headers or {}), path=path)
    if isinstance(error, RequestValidationError):
        return envelope(400, words_of(error.errors()), path=path)
    if isinstance(error, ForgeError) and status_of(error) != 500:
        return refusal(error, path)
    return failed_inside(request.scope, error)


def _words(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"There is nothing at {request.url.path}. The paths are listed in /openapi.json."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.url.path} does not take {request.method}; it takes {allowed}."
    return without_paths(str(error.detail))
