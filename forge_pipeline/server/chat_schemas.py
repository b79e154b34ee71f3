"""Bodies of ``/v1``, field for field as OpenAI's chat completions name them.

What of a request is not offered here is refused by name: a client that asked for tools must not get an answer
that never saw them. Sent with the value that asks for nothing (null, ``n: 1``, no tools), it is let pass.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StrictBool, StrictInt, model_validator

from forge_pipeline.server.schemas import Number, RequestBody, StopText

_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}
"""Fields that are not offered -> the values, beside null, that ask for nothing."""


def _alike(value: Any) -> tuple[type, ...]:
    """Types in which JSON may write the same value."""
    return (int, float) if type(value) is int else (type(value),)


class TextPart(RequestBody):
    """A part of a message. Images, audio and files are refused."""

    type: Literal["text"]
    text: str = Field(strict=True, max_length=200_000)


class ChatMessage(RequestBody):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """``developer`` is OpenAI's newer word for ``system``."""
    content: Annotated[str, Field(strict=True, max_length=200_000)] | Annotated[list[TextPart], Field(min_length=1)]
    refusal: None = None
    """This and the following come back with an assistant's message, and must be null."""
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(RequestBody):
    include_usage: StrictBool | None = None
    """Send a last chunk with the token counts."""
    include_obfuscation: Literal[False] | None = None
    """Padding against those who watch packet sizes is not offered."""


class ChatRequest(RequestBody):
    """A conversation to continue."""

    model: str = Field(strict=True, min_length=1, max_length=300)
    """A model's id in the registry, or its name, of which the newest is meant; with ``:base`` its base model."""
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1, le=4096)
    """Unset: what the model's context has left, at most 1024."""
    max_tokens: StrictInt | None = Field(default=None, ge=1, le=4096)
    """The older name of `max_completion_tokens`."""
    temperature: Number | None = Field(default=None, ge=0, le=2)
    """0 is greedy, and all below 0.0001 is 0. Unset: 1."""
    top_p: Number | None = Field(default=None, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: StrictInt | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    """The same seed gives the same text on this server. Unset: another one each time."""
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, strict=True, max_length=1000)
    """A label of the caller's; it changes nothing. The following are newer names for it."""
    safety_identifier: str | None = Field(default=None, strict=True, max_length=1000)
    prompt_cache_key: str | None = Field(default=None, strict=True, max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_left_out(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, nothing in _NOTHING.items():
            value = body.get(name)
            # False is no 0 and True no 1, whatever Python says.
            if value is not None and not any(value == each and type(value) in _alike(each) for each in nothing):
                raise ValueError(f"{name}: is not offered by this server; leave it out")
        return {name: value for name, value in body.items() if name not in _NOTHING}

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: goes with stream: true only")
        return self


class OpenAIError(BaseModel):
    message: str
    """The same as `detail`."""
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """The field that it is about."""
    code: str | None


class OpenAIErrorBody(BaseModel):
    """Every error under /v1: what OpenAI's clients read, beside the fields that errors elsewhere have."""

    error: OpenAIError
    detail: str
    status_code: int


class ServedModel(BaseModel):
    id: str
    """What to send as `model`."""
    object: Literal["model"] = "model"
    created: int
    """Unix seconds."""
    owned_by: str = "forge-pipeline"


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]


class Usage(BaseModel):
    prompt_tokens: int
    """Of the conversation as the chat template renders it."""
    completion_tokens: int
    """That the model made, its end of turn included."""
    total_tokens: int


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    """Digest of the fine-tuned model's content; with ``:base`` appended where its base model answered."""
    choices: list[Choice]
    usage: Usage


class ChunkChoice(BaseModel):
    index: int = 0
    delta: dict[Literal["role", "content"], str]
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
