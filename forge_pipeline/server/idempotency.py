"""`Idempotency-Key`: a request that is sent again gets the first one's reply, and is done once.

A key belongs to one caller (the API key's name), one path and one body. The reply of a request that succeeded is
kept for 24 hours on disk, before the caller sees it. A request that was refused or failed leaves nothing, so the
same key may try again. The same key with another body is a 409, and so is one whose first request is still being
answered, or was cut off by the server's end: whether that was carried out, the list of jobs says.

A body is known by its digest; of an upload it is the file's name and content, since a client that sends a
form again draws a new boundary.
"""

import asyncio
import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy import update as change
from sqlalchemy.exc import IntegrityError
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline.errors import ForgeError
from forge_pipeline.server.errors import BusyError, ConflictError, RequestError, refusal

HEADER, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
JSON_PATHS = re.compile(r"/api/(start_training|jobs|models/[^/]+/(push|export))")
KEPT = 24 * 3600.0  # seconds
_ACCEPTED = re.compile(r"[\x21-\x7e]{1,255}")

_metadata = MetaData()
_replies = Table(
    "idempotency",
    _metadata,
    Column("caller", String(64), primary_key=True),
    Column("path", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body", String(64), nullable=False, doc="SHA-256 of what was asked"),
    Column("began_at", Float, nullable=False, doc="Unix seconds"),
    Column("server", String(64), nullable=False, doc="which start of the server took it"),
    Column("status", Integer, nullable=True, doc="NULL while it is being answered"),
    Column("media_type", String(128), nullable=True),
    Column("reply", LargeBinary, nullable=True),
)


@dataclass(frozen=True)
class Reply:
    """What the first request was answered."""

    status: int
    media_type: str
    body: bytes

    def response(self) -> Response:
        return Response(self.body, self.status, {REPLAYED: "true"}, self.media_type)


@dataclass(frozen=True)
class Claim:
    """A request that brought a key, and who it came from."""

    caller: str
    path: str
    key: str

    @classmethod
    def of(cls, scope: Scope) -> "Claim | None":
        """The claim of a request; None without a key.

        Raises:
            RequestError: The key is not 1 to 255 visible ASCII characters, or there are several.
        """
        given = Headers(scope=scope).getlist(HEADER)
        if not given:
            return None
        if len(given) > 1 or not _ACCEPTED.fullmatch(given[0]):
            raise RequestError(f"{HEADER}: expected one key of 1 to 255 visible ASCII characters")
        return cls(scope.get("state", {}).get("api_key", ""), scope["path"], given[0])


class Replies:
    """Replies by claim, in a SQLite file of their own.

    Args:
        path: The file.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock, self._server = path, clock, f"{time.time_ns():x}"
        self._opening = threading.Lock()
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self._engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
        self._ready = False

    def begin(self, claim: Claim, body: bytes) -> Reply | None:
        """The reply of the same request before; None for the first, whose outcome must then be told.

        Raises:
            ConflictError: The key came with another body, or the server ended while answering it.
            BusyError: Its first request is being answered.
        """
        self._open()
        digest, moment = hashlib.sha256(body).hexdigest(), self._clock()
        values = {"body": digest, "began_at": moment, "server": self._server}
        with self._engine.begin() as connection:
            connection.execute(delete(_replies).where(_replies.c.began_at < moment - KEPT))
        try:
            with self._engine.begin() as connection:
                connection.execute(_replies.insert().values(**vars(claim), **values))
            return None
        except IntegrityError:  # it is there already
            with self._engine.connect() as connection:
                row = connection.execute(select(_replies).where(*_same(claim))).mappings().first()
        if row is None:  # refused in this very moment
            raise BusyError(f"{HEADER}: the first request with this key has just ended; send it again")
        if row["body"] != digest:
            raise ConflictError(f"{HEADER}: this key came with another body before; draw a new key for a new request")
        if row["status"] is not None:
            return Reply(row["status"], row["media_type"], row["reply"])
        if row["server"] == self._server:
            raise BusyError(f"{HEADER}: the first request with this key is still being answered")
        raise ConflictError(
            f"{HEADER}: the server ended while it answered the first request with this key. "
            "See what became of it (GET /api/jobs, GET /api/datasets); to send it again, draw a new key"
        )

    def finish(self, claim: Claim, reply: Reply) -> None:
        """Keep the reply of a request that succeeded."""
        values = {"status": reply.status, "media_type": reply.media_type, "reply": reply.body}
        with self._engine.begin() as connection:
            connection.execute(change(_replies).where(*_same(claim)).values(**values))

    def forget(self, claim: Claim) -> None:
        """Let the same key try again."""
        with self._engine.begin() as connection:
            connection.execute(delete(_replies).where(*_same(claim)))

    def close(self) -> None:
        self._engine.dispose()

    def _open(self) -> None:
        with self._opening:
            if not self._ready:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _metadata.create_all(self._engine)
                self._ready = True


async def once(replies: Replies, claim: Claim, body: bytes, work: Callable[[], BaseModel]) -> Response:
    """`work`'s result as a JSON reply, or the one that the same request got before.

    Raises:
        ConflictError, BusyError: As `Replies.begin`; and whatever `work` raises, which leaves nothing behind.
    """
    known = await asyncio.to_thread(replies.begin, claim, body)
    if known:
        return known.response()
    try:
        result = await asyncio.to_thread(work)
        reply = Reply(200, "application/json", result.model_dump_json().encode())
        await asyncio.to_thread(replies.finish, claim, reply)
    except BaseException:
        await asyncio.to_thread(replies.forget, claim)
        raise
    return Response(reply.body, reply.status, media_type=reply.media_type)


class Idempotency:
    """ASGI middleware for the JSON routes that start something; `upload_dataset` asks `Replies` itself."""

    def __init__(self, app: ASGIApp, replies: Replies) -> None:
        self._app, self._replies = app, replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not JSON_PATHS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            claim = Claim.of(scope)
            if claim is None:
                await self._app(scope, receive, send)
                return
            first = await receive()  # the guard hands such a body on whole
            known = await asyncio.to_thread(self._replies.begin, claim, first.get("body", b""))
        except ForgeError as error:
            await refusal(error)(scope, receive, send)
            return
        if known:
            await known.response()(scope, receive, send)
            return
        await self._carry_out(claim, scope, _before(first, receive), send)

    async def _carry_out(self, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the first time; the reply, which is small, goes out when it is kept."""
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        kept = False
        try:
            await self._app(scope, receive, hold)
            start, body = held[0], b"".join(message.get("body", b"") for message in held[1:])
            if 200 <= start["status"] < 300:
                media_type = Headers(raw=start["headers"]).get("content-type", "application/json")
                await asyncio.to_thread(self._replies.finish, claim, Reply(start["status"], media_type, body))
                kept = True
        finally:
            if not kept:
                await asyncio.to_thread(self._replies.forget, claim)
        for message in held:
            await send(message)


def _before(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _same(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return tuple(_replies.c[name] == value for name, value in vars(claim).items())
