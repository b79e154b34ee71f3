"""Exception class -> HTTP status -> ``{"error", "detail", "status_code"}``: one table, one handler.

The nearest class in the exception's method resolution order decides, for the status and
for the headers that come with it. A status of 500 never repeats the exception's text,
which may hold row contents: the reply names the request id, and the server's log holds
the rest under that id. From every other text the absolute paths are taken out.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

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
from forge_pipeline.server.redaction import without_paths

_log = logging.getLogger(__name__)

_FINDINGS = 20  # of a body that are named; the rest are counted


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


def envelope(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one shape of every error reply."""
    body = {"error": HTTPStatus(status).phrase, "detail": detail, "status_code": status}
    return JSONResponse(body, status, headers=headers)


def refusal(error: ForgeError) -> JSONResponse:
    """The envelope of an error that is no fault of the server."""
    found = next((_HEADERS[kind] for kind in type(error).__mro__ if kind in _HEADERS), None)
    return envelope(status_of(error), without_paths(str(error)), found)


def failed_inside(scope: Scope, error: Exception) -> JSONResponse:
    """The envelope of everything else: which request it was, and nothing of what went wrong, which is logged."""
    request_id = scope.get("state", {}).get("request_id", "unknown")
    _log.error("request %s: %s %s", request_id, scope.get("method"), scope.get("path"), exc_info=error)
    return envelope(
        500, f"This request failed inside the server. Its log has the reason under request id {request_id}."
    )


def status_of(error: Exception) -> int:
    """HTTP status of an exception, by its nearest class in `STATUS`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install(app: FastAPI) -> None:
    """Make every exception of `app` end as the envelope."""
    for kind in (Exception, HTTPException, RequestValidationError, *(k for k in STATUS if issubclass(k, ForgeError))):
        app.add_exception_handler(kind, handle)


async def handle(request: Request, error: Exception) -> JSONResponse:
    """Reply to `error`."""
    if isinstance(error, HTTPException):
        return envelope(error.status_code, _words(request, error), dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        return envelope(400, _findings(error.errors()))
    if isinstance(error, ForgeError) and status_of(error) != 500:
        return refusal(error)
    return failed_inside(request.scope, error)


def _words(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"There is nothing at {request.url.path}. The paths are listed in /openapi.json."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.url.path} does not take {request.method}; it takes {allowed}."
    return without_paths(str(error.detail))


def _findings(found: Sequence[Any]) -> str:
    words = "; ".join(_finding(finding) for finding in found[:_FINDINGS])
    more = len(found) - _FINDINGS
    return words if more <= 0 else f"{words}; and {more} more"


def _finding(finding: Any) -> str:
    """One validation finding in words: the field, the value found, what was expected."""
    kind, path = finding["type"], [str(part) for part in finding["loc"]]
    name = _short(".".join(path[1:]))
    if kind == "json_invalid":
        return f"The body is not valid JSON: {finding.get('ctx', {}).get('error', finding['msg'])}"
    if not name and kind == "value_error":  # a rule over several fields names them itself
        return str(finding["msg"]).removeprefix("Value error, ")
    if not name:
        return "The body must be a JSON object sent as application/json"
    if kind == "missing":
        return f"{name}: is required and missing"
    if kind == "extra_forbidden":
        return f"{name}: is not a field of this request"
    message = str(finding["msg"]).removeprefix("Value error, ")
    return f"{name}: found {_short(repr(finding.get('input')))}. {message}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
