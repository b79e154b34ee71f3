"""POST /api/playground/generate."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from forge_pipeline.server.event_streams import STREAM, Events, event, streamed, whole
from forge_pipeline.server.questions import Reply, question_of
from forge_pipeline.server.schemas import ErrorBody, Generate, Generated, Piece

router = APIRouter(tags=["Playground"])


@router.post("/api/playground/generate", response_model=Generated, responses={**STREAM, 503: {"model": ErrorBody}})
async def generate(request: Request, body: Generate) -> Any:
    """Let a trained model answer a prompt, or its base model.

    With `stream`, server-sent events: `data: {"text": "<piece>"}` as the text is made, then `event: done` with what
    is answered without it. An error after the first piece is `event: error` with the error's body.
    """
    state = request.app.state
    row, _ = await run_in_threadpool(state.catalog.row, body.model_id)
    answering = state.playground.ask(row, question_of(body))
    return await (streamed(request, answering, _events) if body.stream else whole(request, answering, _generated))


async def _events(answer: Events) -> AsyncIterator[bytes]:
    async for item in answer:
        if isinstance(item, str):
            yield event(Piece(text=item).model_dump_json())
        else:
            yield event(_generated(item).model_dump_json(), "done")


def _generated(reply: Reply) -> Generated:
    return Generated(
        generated_text=reply.text,
        tokens_generated=reply.completion_tokens,
        generation_time_ms=reply.milliseconds,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        span=reply.span,
        score=reply.score,
    )
