"""Chat completions over the registry's models: whom a name means, and the reply in OpenAI's shape."""

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from forge_pipeline.registry import ModelRow
from forge_pipeline.server.catalog import Catalog
from forge_pipeline.server.chat_schemas import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    ServedModel,
    Usage,
)
from forge_pipeline.server.errors import NotFoundError, RequestError
from forge_pipeline.server.event_streams import Events, event
from forge_pipeline.server.questions import Question, Reply
from forge_pipeline.server.schemas import ModelSummary

if TYPE_CHECKING:
    from forge_pipeline.evaluation.continuation import FinishReason

_BASE = ":base"
_CHATS = "text-generation"


def served_models(models: Iterable[ModelSummary]) -> list[ServedModel]:
    """What can be asked, newest first, each followed by its base model: by name, or by id where that is not clear."""
    chatting = sorted((model for model in models if model.task == _CHATS), key=lambda model: -model.id)
    named = Counter(model.name for model in chatting)
    served = []
    for model in chatting:
        clear = named[model.name] == 1 and not model.name.isdigit() and not model.name.endswith(_BASE)
        name = model.name if clear else str(model.id)
        created = int(datetime.fromisoformat(model.created_at).timestamp())
        served += [ServedModel(id=name, created=created), ServedModel(id=name + _BASE, created=created)]
    return served


def served_model(catalog: Catalog, name: str) -> ServedModel:
    """What a client named, by whatever a request may name it: an id, a name, one of them with ``:base``.

    Raises:
        NotFoundError: There is none that chats.
    """
    try:
        row, _ = find_model(catalog, name)
    except RequestError as error:
        raise NotFoundError(str(error)) from error
    return ServedModel(id=name, created=int(row.created_at.timestamp()))


def find_model(catalog: Catalog, name: str) -> tuple[ModelRow, bool]:
    """The model that a client named, and whether its base model is meant.

    Raises:
        NotFoundError: There is none.
        RequestError: It does not chat.
    """
    own, base = (name.removesuffix(_BASE), True) if name.endswith(_BASE) else (name, False)
    if own.isascii() and own.isdigit() and len(own) < 20:
        row, _ = catalog.row(int(own))
    else:
        ids = [model.id for model in catalog.models() if model.name == own]
        if not ids:
            raise NotFoundError(f"There is no model {own!r}; GET /v1/models lists them")
        row, _ = catalog.row(max(ids))
    if row.task != _CHATS:
        raise RequestError(
            f"model: {name!r} was trained for {row.task}, and chat completions are for {_CHATS}; "
            "ask it with POST /api/playground/generate"
        )
    return row, base


def question_of(body: ChatRequest, *, base: bool) -> Question:
    """The request as a question to the model."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    roles = {"developer": "system"}
    return Question(
        conversation=[
            {"role": roles.get(message.role, message.role), "content": message.text} for message in body.messages
        ],
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=1.0 if body.temperature is None else float(body.temperature),
        top_p=1.0 if body.top_p is None else float(body.top_p),
        stop=tuple(stop),
        seed=body.seed,
        base=base,
        chat_only=True,
    )


class Completion:
    """One completion on its way out: the id, time and model that all its parts carry."""

    def __init__(self, body: ChatRequest, row: ModelRow, *, base: bool) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = body.model
        self._fingerprint = f"{row.uid}{_BASE if base else ''}"
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)

    def whole(self, reply: Reply) -> ChatCompletion:
        choice = Choice(message=AssistantMessage(content=reply.text), finish_reason=reply.finish_reason)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=[choice],
            usage=_usage(reply),
        )

    async def chunks(self, answer: Events) -> AsyncIterator[bytes]:
        """The role, the pieces, why it ended, the counts where they were asked for, and OpenAI's word for the end."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for item in answer:
            if isinstance(item, str):
                yield self._chunk({"content": item})
                continue
            yield self._chunk({}, finish_reason=item.finish_reason)
            if self._with_usage:
                yield self._event([], _usage(item))
        yield event("[DONE]")

    def _chunk(
        self, delta: dict[Literal["role", "content"], str], finish_reason: "FinishReason | None" = None
    ) -> bytes:
        return self._event([ChunkChoice(delta=delta, finish_reason=finish_reason)], None)

    def _event(self, choices: list[ChunkChoice], usage: Usage | None) -> bytes:
        chunk = ChatChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
        )
        return event(chunk.model_dump_json(exclude=None if self._with_usage else {"usage"}))


def _usage(reply: Reply) -> Usage:
    read = reply.prompt_tokens or 0
    return Usage(
        prompt_tokens=read, completion_tokens=reply.completion_tokens, total_tokens=read + reply.completion_tokens
    )
