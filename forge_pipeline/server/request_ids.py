"""One id for each request: in its reply, in every log line written while it is answered, in the audit log.

The outermost middleware. A caller may bring an id of its own (`X-Request-ID`, 1 to 128 letters, digits and
``._:-``), so that a line here is found from a line there; anything else is replaced, because it would be
written into logs as it is. What escapes every handler below ends here as the 500 of the envelope.
"""

import logging
import re
import secrets
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline.server.errors import failed_inside

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_present: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIds:
    """ASGI middleware around all the others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        brought = Headers(scope=scope).get(HEADER, "")
        request_id = brought if _ACCEPTED.fullmatch(brought) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began = False

        async def tagged(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                _complete(MutableHeaders(raw=message["headers"]), request_id)
            await send(message)

        token = _present.set(request_id)
        try:
            await self._app(scope, receive, tagged)
        except Exception as error:  # whatever it is, the caller gets the envelope and the log the traceback
            if began or scope["type"] != "http":
                raise
            await failed_inside(scope, error)(scope, receive, tagged)
        finally:
            _present.reset(token)


class RequestIdFilter(logging.Filter):
    """Gives each record `request_id`: that of the request being answered, ``-`` outside of one."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = _present.get()
        return True


def _complete(headers: MutableHeaders, request_id: str) -> None:
    headers[HEADER] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if headers.get("content-type", "").startswith("application/json"):
        headers.setdefault("Cache-Control", "no-store")
