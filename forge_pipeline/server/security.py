"""What every request must pass before a route sees it.

In order: the Host is one of ours (no DNS rebinding), the Origin is ours (no page of
another site acts for the user), the API key and its scope, the body's type and size.
Refusals have the one error envelope. Every reply carries ``X-Request-ID``.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline.errors import ForgeError
from forge_pipeline.server.errors import (
    ForbiddenError,
    TooLargeError,
    UnauthenticatedError,
    UnsupportedMediaError,
    envelope,
    status_of,
)
from forge_pipeline.server.settings import Scope as KeyScope
from forge_pipeline.server.settings import ServerSettings

UPLOAD_PATH = "/api/upload_dataset"
APPROVALS_PATH = "/api/approvals/"
_ROLLBACK = "/rollback"
WEBSOCKET_PROTOCOL = "forge"
_KEY_PROTOCOL = "forge-key."  # a browser cannot set headers on a WebSocket, so the key comes as a second subprotocol
_INCLUDES: dict[KeyScope, frozenset[KeyScope]] = {
    "read": frozenset({"read"}),
    "train": frozenset({"read", "train"}),
    "approve": frozenset({"read", "approve"}),
    "admin": frozenset({"read", "train", "admin"}),
}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PUBLIC = ("/", "/static")  # the page itself; what it shows needs a key
_DRAIN = 64 * 2**20  # bytes of a refused body that are read, so that the client gets to see the refusal


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = {name.lower() for name in (*_LOOPBACK, own, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        headers = Headers(scope=scope)

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                replied = MutableHeaders(raw=message["headers"])
                replied["X-Request-ID"] = request_id
                replied["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            self._check_addresses(headers)
            self._check_key(scope, headers)
            if scope["type"] == "http":
                receive = await self._check_body(scope, headers, receive)
        except ForgeError as error:
            await _refuse(error, scope, receive, tagged)
            return
        await self._app(scope, receive, tagged)

    def _check_addresses(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _without_port(host).lower() not in self._hosts:
            raise ForbiddenError("This server is not addressed by that Host; name it in FORGE_ALLOWED_HOSTS if it is")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}", *self._settings.allowed_origins):
            raise ForbiddenError(
                "Pages of that Origin may not call this server; name it in FORGE_ALLOWED_ORIGINS if they may"
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._settings.api_keys or _is_public(scope["path"]) or scope.get("method") == "OPTIONS":
            return
        presented = _presented(headers)
        if presented is None:
            raise UnauthenticatedError("This server needs an API key: send 'Authorization: Bearer <key>'")
        digest = hashlib.sha256(presented.encode()).hexdigest()
        # Every key is compared, in constant time, so that timing does not tell them apart.
        granted = [key for key in self._settings.api_keys if hmac.compare_digest(key.sha256, digest)]
        if not granted:
            raise UnauthenticatedError("This API key is not known here")
        needed = _needed_scope(scope)
        fitting = [key for key in granted if needed in _INCLUDES[key.scope]]
        if not fitting:
            found = granted[0].scope
            raise ForbiddenError(f"This needs a key with the scope {needed!r}; this key's scope is {found!r}")
        scope["state"]["api_key"] = fitting[0].name

    async def _check_body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Refuse a body of the wrong type or size; small bodies are handed on whole, uploads as they come."""
        length = headers.get("content-length")
        has_body = length not in (None, "0") or "transfer-encoding" in headers
        if not has_body or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        if scope["path"] == UPLOAD_PATH:
            return receive  # counted against its own limit while it streams to disk
        body = await _read(receive, self._settings.json_limit_bytes)
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaError(f"Send the body as application/json; found {media_type or 'no Content-Type'!r}")
        return _replay(body, receive)


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= limit + _DRAIN:
        message = await receive()
        if message["type"] != "http.request":
            break
        more = message.get("more_body", False)
        size += len(message.get("body", b""))
        if size <= limit:
            chunks.append(message.get("body", b""))
    if size > limit:
        raise TooLargeError(f"The body is larger than {limit} bytes, the limit of this path")
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(error: ForgeError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
        return
    await envelope(status_of(error), str(error))(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith("/static/")


def _presented(headers: Headers) -> str | None:
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key:
        return key.strip()
    for protocol in _split(headers.getlist("sec-websocket-protocol")):
        if protocol.startswith(_KEY_PROTOCOL):
            return protocol.removeprefix(_KEY_PROTOCOL)
    return None


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",")]


def _needed_scope(scope: Scope) -> KeyScope:
    if scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return "read"
    path = scope["path"]
    if path.startswith(APPROVALS_PATH):
        return "approve"
    return "admin" if scope["method"] == "DELETE" or path.endswith(_ROLLBACK) else "train"
