"""An answer sent as it is made (server-sent events), or whole; given up when the client goes away.

A stream begins when its first piece is there: what goes wrong before that has its own HTTP status, what goes wrong
afterwards is an ``error`` event with the error envelope.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from forge_pipeline.server import errors
from forge_pipeline.server.playground import Answering
from forge_pipeline.server.questions import Reply

T = TypeVar("T")
Events = AsyncIterator[str | Reply]

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
"""For the OpenAPI document: what a route answers beside JSON."""

_CLOSED_REQUEST = 499  # nobody reads it; it tells this reply from others in logs
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies are to hand pieces on as they come


class _ClientGone(Exception):
    """Nobody waits for the reply any more."""


async def whole(request: Request, answering: Answering, body: Callable[[Reply], Any]) -> Any:
    """The reply as one JSON body."""
    try:
        return body(await _while_connected(request, answering.reply()))
    except _ClientGone:
        return Response(status_code=_CLOSED_REQUEST)
    finally:
        answering.abandon()


async def streamed(request: Request, answering: Answering, events: Callable[[Events], AsyncIterator[bytes]]) -> Any:
    """The reply as a stream of `events`, which turns pieces and the reply at their end into bytes."""
    try:
        first = await _while_connected(request, answering.next())
    except _ClientGone:
        answering.abandon()
        return Response(status_code=_CLOSED_REQUEST)
    except BaseException:
        answering.abandon()
        raise
    return _EventStream(request, answering, events(_from(first, answering)))


def event(data: str, name: str | None = None) -> bytes:
    """One event: `data` is JSON on one line, or OpenAI's word for the end."""
    return format_sse_event(data_str=data, event=name)


class _EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, request: Request, answering: Answering, events: AsyncIterator[bytes]) -> None:
        self._answering = answering
        super().__init__(_with_errors(request, events), headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # sent to its end, or the client has gone
            self._answering.abandon()


async def _with_errors(request: Request, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for each in events:
            yield each
    except Exception as error:  # the status line is sent: what is left is to say so in the stream
        reply = await errors.handle(request, error)
        yield event(bytes(reply.body).decode(), "error")


async def _from(first: str | Reply, answering: Answering) -> Events:
    item = first
    while isinstance(item, str):
        yield item
        item = await answering.next()
    yield item


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for `work`, but no longer than the client does."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
