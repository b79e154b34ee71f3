"""What every request must pass before a route sees it.

In order:

1. one Host, and one of ours: a name that an attacker's DNS points here (rebinding) is none;
2. the Origin is ours, or the browser says that no page of another site asks (Fetch Metadata);
3. the API key and its scope;
4. no NUL in the address, which no database and no file name takes;
5. the body: its type, its size, counted as it comes, and within the time it may take; then that it is strict JSON:
   no NaN, no half of a surrogate pair, no key twice in an object, not nested deeper than 64 levels.

Refusals have the one error envelope.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline.errors import ConfigError, ForgeError
from forge_pipeline.server.api_keys import KeyRing
from forge_pipeline.server.errors import (
    ForbiddenError,
    RequestError,
    SlowBodyError,
    TooLargeError,
    UnauthenticatedError,
    UnsupportedMediaError,
    refusal,
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
# The page itself, the API's description, and what a supervisor of processes asks; all else needs a key.
_PUBLIC = ("/", "/static", "/docs", "/openapi.json", "/api/live", "/api/ready")
_DEPTH = 64  # levels of a JSON body
_BODY_WITHIN = 30.0  # seconds for a whole JSON body, and for each part of an upload
_DRAIN = 64 * 2**20  # bytes of a refused body that are read, so that the client gets to see the refusal


class Guard:
    """ASGI middleware around the whole application.

    Args:
        settings: Hosts, origins and limits.
        keys: The API keys that are accepted.
        body_within: Seconds for a whole JSON body, and for each part of an upload.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, keys: KeyRing, body_within: float = _BODY_WITHIN
    ) -> None:
        self._app, self._settings, self._keys, self._within = app, settings, keys, body_within
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = {name.lower() for name in (*_LOOPBACK, own, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        headers = Headers(scope=scope)
        try:
            self._check_addresses(scope, headers)
            self._check_key(scope, headers)
            if b"%00" in scope.get("query_string", b"") or "\0" in scope["path"]:
                raise RequestError("The address holds a NUL character")
            if scope["type"] == "http":
                receive = await self._check_body(scope, headers, receive)
        except ForgeError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_addresses(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _without_port(hosts[0]).lower() not in self._hosts:
            raise ForbiddenError("This server is not addressed by that Host; name it in FORGE_ALLOWED_HOSTS if it is")
        origins = headers.getlist("origin")
        own = (f"http://{hosts[0]}", f"https://{hosts[0]}", *self._settings.allowed_origins)
        if any(origin not in own for origin in origins):
            raise ForbiddenError(
                "Pages of that Origin may not call this server; name it in FORGE_ALLOWED_ORIGINS if they may"
            )
        if not origins and _asked_by_another_site(scope, headers):
            raise ForbiddenError("A page of another site asked for this; only links that a person follows may do that")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if is_public(scope["path"]) or scope.get("method") == "OPTIONS" or not self._keys.needed():
            return
        presented = _presented(headers)
        if presented is None:
            raise UnauthenticatedError("This server needs an API key: send 'Authorization: Bearer <key>'")
        try:
            granted = self._keys.granted(presented)
        except ConfigError as error:
            raise RuntimeError("nobody is let in, because the file of API keys cannot be read") from error
        if not granted:
            raise UnauthenticatedError("This API key is not known here, or is no longer accepted")
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
            return _impatient(receive, self._within)  # counted against its own limit while it streams to disk
        body = await _read(_impatient(receive, self._within, in_all=True), self._settings.json_limit_bytes)
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaError(f"Send the body as application/json; found {media_type or 'no Content-Type'!r}")
        _check_json(body)
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


def _impatient(receive: Receive, seconds: float, *, in_all: bool = False) -> Receive:
    """`receive` that waits at most `seconds`, each time or in all, while the body is still coming."""
    deadline, complete = time.monotonic() + seconds, False

    async def received() -> Message:
        nonlocal complete
        if complete:  # what follows is the client's going, which may take as long as it likes
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic() if in_all else seconds)
        except TimeoutError as error:
            raise SlowBodyError(f"The rest of the body did not come within {seconds:.0f} s") from error
        complete = not message.get("more_body", False)
        return message

    return received


def _check_json(body: bytes) -> None:
    """Raises RequestError for what is not strict JSON."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {error}") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEPTH):
        inside = (part for each in level for part in (each.values() if isinstance(each, dict) else each))
        level = [part for part in inside if isinstance(part, dict | list)]
    if level:
        raise RequestError(f"The body is nested deeper than {_DEPTH} levels")
    json.loads(body, object_pairs_hook=_without_repeats, parse_int=str)  # no integer is too long for a string


def _without_repeats(pairs: list[tuple[str, Any]]) -> None:
    keys = Counter(key for key, _ in pairs)
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise RequestError(f"The body is ambiguous: an object has the key {twice[0][:80]!r} more than once")


def _asked_by_another_site(scope: Scope, headers: Headers) -> bool:
    """Whether the browser says so (Fetch Metadata), and it is not a person who follows a link to here."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    follows = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (follows and scope.get("method") == "GET")


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
    await refusal(error, scope["path"])(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def is_public(path: str) -> bool:
    """Whether no key is asked for there."""
    return path in _PUBLIC or path.startswith(("/static/", "/docs/"))


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
