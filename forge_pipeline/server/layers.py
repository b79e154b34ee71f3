"""What every request passes on its way to a route, from the outside in.

RequestIds     an id for the request; the envelope for what escapes everything else
Measured       counted and timed
CORS           for the allow-listed origins alone
Guard          Host, Origin, key, body
Idempotency    a request that was answered before gets that reply
ActLog         acts are written to the audit log, before and after
Heads          HEAD is answered as GET is
"""

import asyncio
import logging

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from forge_pipeline.server.addresses import Heads
from forge_pipeline.server.api_keys import KeyRing
from forge_pipeline.server.api_log import ActLog, ApiLog
from forge_pipeline.server.idempotency import HEADER, REPLAYED, Idempotency, Replies
from forge_pipeline.server.metrics import Measured, Metrics
from forge_pipeline.server.request_ids import HEADER as REQUEST_ID
from forge_pipeline.server.request_ids import RequestIds
from forge_pipeline.server.security import Guard
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_KEEP_EVERY = 10.0  # seconds between two notes of when keys were used


def install(app: FastAPI, settings: ServerSettings) -> None:
    """Put the layers around `app`; what they hold is on its state as `api_keys`, `replies` and `metrics`."""
    state = app.state
    state.api_keys = KeyRing(settings.api_keys, settings.data_dir, always=not settings.is_loopback)
    state.replies = Replies(settings.data_dir / "idempotency.sqlite")
    state.metrics = Metrics(state)
    # The last one added is the outermost.
    app.add_middleware(Heads)
    app.add_middleware(ActLog, log=ApiLog(settings.data_dir))
    app.add_middleware(Idempotency, replies=state.replies)
    app.add_middleware(Guard, settings=settings, keys=state.api_keys)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", HEADER, REQUEST_ID],
            expose_headers=[REQUEST_ID, REPLAYED, "Retry-After", "ETag", "Content-Disposition"],
        )
    app.add_middleware(Measured, metrics=state.metrics)
    app.add_middleware(RequestIds)


async def watch_keys(keys: KeyRing) -> None:
    """Write down now and then when keys were used."""
    while True:
        await asyncio.sleep(_KEEP_EVERY)
        await asyncio.to_thread(keep_use, keys)


def keep_use(keys: KeyRing) -> None:
    """Write down when keys were used; a full disk is no reason to stop."""
    try:
        keys.flush()
    except OSError:
        _log.exception("it could not be written down when API keys were used")
