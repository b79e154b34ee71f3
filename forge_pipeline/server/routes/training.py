"""POST /api/start_training, POST /api/stop_training, GET /api/training_status, WS /ws/training."""

import asyncio
import contextlib

from fastapi import APIRouter, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from forge_pipeline.server.schemas import Started, StartTraining, Stopped, TrainingStatus
from forge_pipeline.server.security import WEBSOCKET_PROTOCOL

router = APIRouter(tags=["Training"])


@router.post("/api/start_training")
def start_training(request: Request, body: StartTraining) -> Started:
    """Start a training job. One runs at a time."""
    job, warnings = request.app.state.control.start(body)
    return Started(job_id=job.id, message=f"Training started as Dagster run {job.run_id}", warnings=warnings)


@router.get("/api/training_status")
def training_status(request: Request) -> TrainingStatus:
    """How far the present job is, or how the last one ended."""
    status: TrainingStatus = request.app.state.control.status()
    return status


@router.post("/api/stop_training")
def stop_training(request: Request) -> Stopped:
    """Stop the present job; returns when its process is gone."""
    job = request.app.state.control.stop()
    return Stopped(message=f"Job {job.id} was stopped; it adds no model", job_id=job.id)


@router.websocket("/ws/training")
async def watch_training(socket: WebSocket) -> None:
    """The status on connecting, then at every change, as JSON text. What a client sends is ignored."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=WEBSOCKET_PROTOCOL if WEBSOCKET_PROTOCOL in offered else None)
    audience = socket.app.state.audience
    queue = audience.join()
    listening = asyncio.create_task(_until_gone(socket))
    try:
        status = await asyncio.to_thread(socket.app.state.control.status)
        await socket.send_text(status.model_dump_json())
        while not listening.done():
            waiting = asyncio.create_task(queue.get())
            await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                break
            await socket.send_text(waiting.result())
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client went away while a message was on its way
    finally:
        audience.leave(queue)
        listening.cancel()


async def _until_gone(socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
