"""/v1/models, /v1/models/{model} and /v1/chat/completions, in OpenAI's shapes, errors too."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from forge_pipeline.server.chat_completions import Completion, find_model, question_of, served_model, served_models
from forge_pipeline.server.chat_schemas import ChatCompletion, ChatRequest, OpenAIErrorBody, ServedModel, ServedModels
from forge_pipeline.server.event_streams import STREAM, streamed, whole

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models")
def list_served_models(request: Request) -> ServedModels:
    """Every model that can chat, newest first, and its base model."""
    return ServedModels(data=served_models(request.app.state.catalog.models()))


@router.get("/v1/models/{model}")
def get_served_model(request: Request, model: str) -> ServedModel:
    """One of them."""
    return served_model(request.app.state.catalog, model)


@router.post(
    "/v1/chat/completions", response_model=ChatCompletion, responses={**STREAM, 503: {"model": OpenAIErrorBody}}
)
async def complete_chat(request: Request, body: ChatRequest) -> Any:
    """Continue a conversation. With `stream`, chunks as server-sent events, then `data: [DONE]`."""
    state = request.app.state
    row, base = await run_in_threadpool(find_model, state.catalog, body.model)
    completion = Completion(body, row, base=base)
    answering = state.playground.ask(row, question_of(body, base=base))
    if body.stream:
        return await streamed(request, answering, completion.chunks)
    return await whole(request, answering, completion.whole)
