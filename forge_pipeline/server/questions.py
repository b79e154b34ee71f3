"""What a model is asked, and what it answers: by its kind, which its record says.

A causal model continues a conversation, one trained to summarize gets a document, a span head a question with its
context, and a reward model scores a completion. A field that the model has no use for is refused, not ignored.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.server.errors import RequestError
from forge_pipeline.server.loaded_models import Kind, Loaded
from forge_pipeline.server.schemas import Generate, Span

if TYPE_CHECKING:
    from forge_pipeline.evaluation.continuation import FinishReason

_LEAST_DOCUMENT = 16  # tokens of a document that must have room beside its summary
_SEEDS = 2**31
_COLDEST = 1e-4  # a division by less takes the logits out of the range of a float32, and samples as greedily


@dataclass(frozen=True)
class Question:
    """One request to one model.

    Attributes:
        conversation: Messages; the last one is what models of other kinds than ``text`` are asked.
        max_new_tokens: None lets the context decide; only of a conversation.
        base: Ask the base model.
        chat_only: Refuse models that do not chat.
    """

    conversation: list[dict[str, str]]
    max_new_tokens: int | None
    temperature: float
    top_p: float
    context: str | None = None
    completion: str | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    base: bool = False
    chat_only: bool = False

    @property
    def prompt(self) -> str:
        return self.conversation[-1]["content"]

    @property
    def limit(self) -> int:
        return self.max_new_tokens or 1


@dataclass(frozen=True)
class Reply:
    """An answer. Tokens are those that the model read and made; None where it makes none."""

    text: str = ""
    span: Span | None = None
    score: float | None = None
    finish_reason: "FinishReason" = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    milliseconds: int = 0


def question_of(body: Generate) -> Question:
    """The body of a playground request as a question."""
    system = [{"role": "system", "content": body.system}] if body.system is not None else []
    return Question(
        conversation=[*system, {"role": "user", "content": body.prompt}],
        max_new_tokens=body.max_new_tokens,
        temperature=float(body.temperature),
        top_p=float(body.top_p),
        context=body.context,
        completion=body.completion,
        stop=tuple(body.stop),
        seed=body.seed,
        base=body.base,
    )


def answer(loaded: Loaded, question: Question, on_text: Callable[[str], None]) -> Reply:
    """Ask the model. A text comes in pieces, everything else as one piece.

    Raises:
        RequestError: The question lacks what such a model is asked, or has what it has no use for.
        EvaluationError: The conversation does not fit the chat template or the context.
    """
    _check(question, loaded.kind)
    return _ASK[loaded.kind](loaded, question, on_text)


def _check(question: Question, kind: Kind) -> None:
    """Refuse a question that does not fit what the model does."""
    if question.chat_only and kind != "text":
        raise RequestError(
            f"model: this one is no chat model ({_DOES[kind]}); ask it with POST /api/playground/generate"
        )
    if kind == "span" and question.context is None:
        raise RequestError(
            "context: is required and missing. This model answers questions from a text: send the question as prompt "
            "and the text as context"
        )
    if kind == "reward" and question.completion is None:
        raise RequestError(
            "completion: is required and missing. This is a reward model: it writes no text, and scores how good a "
            "completion is for a prompt; send both"
        )
    if kind != "span" and question.context is not None:
        raise RequestError("context: this model does not extract answers and would ignore it; put it into prompt")
    if kind != "reward" and question.completion is not None:
        raise RequestError("completion: only reward models score completions, and this is none; leave it out")
    for name, given in _only_for_text(question).items():
        if given and kind != "text":
            raise RequestError(f"{name}: this model {_DOES[kind]} and would ignore it; leave it out")
    if question.base and kind in ("span", "reward"):
        raise RequestError(f"base: this model {_DOES[kind]}, which its base model never learnt; leave it out")


def _only_for_text(question: Question) -> dict[str, bool]:
    system = any(message["role"] == "system" for message in question.conversation)
    return {"system": system, "stop": bool(question.stop), "seed": question.seed is not None}


def _continue(loaded: Loaded, question: Question, on_text: Callable[[str], None]) -> Reply:
    from forge_pipeline.evaluation.continuation import continue_conversation

    found = continue_conversation(
        loaded.model,
        loaded.tokenizer,
        question.conversation,
        on_text,
        max_new_tokens=question.max_new_tokens,
        temperature=question.temperature if question.temperature >= _COLDEST else 0.0,
        top_p=question.top_p,
        seed=secrets.randbelow(_SEEDS) if question.seed is None else question.seed,
        stop=question.stop,
    )
    return Reply(
        found.text,
        finish_reason=found.finish_reason,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
    )


def _summarize(loaded: Loaded, question: Question, on_text: Callable[[str], None]) -> Reply:
    """A document longer than the model reads loses its end, as in training."""
    from forge_pipeline.models.answering import summarize

    length = _length(loaded)
    shared = not loaded.model.config.is_encoder_decoder  # a causal model reads the document and writes into one room
    if shared and question.limit + _LEAST_DOCUMENT > length:
        raise RequestError(
            f"max_new_tokens: found {question.limit}, which leaves no room for the document in the {length} "
            f"tokens of this model; send at most {length - _LEAST_DOCUMENT}"
        )
    (text,) = summarize(
        loaded.model, loaded.tokenizer, [question.prompt], max_length=length, max_new_tokens=question.limit
    )
    on_text(text)
    return Reply(text, completion_tokens=_tokens(loaded, text, question.limit))


def _extract(loaded: Loaded, question: Question, on_text: Callable[[str], None]) -> Reply:
    from forge_pipeline.models.answering import answer as extract

    training = loaded.recipe.training
    found = extract(
        loaded.model,
        loaded.tokenizer,
        question.prompt,
        question.context or "",
        max_length=_length(loaded),
        stride=training.doc_stride,
        max_answer_length=min(training.max_answer_length, question.limit),
    )
    on_text(found.text)
    tokens = _tokens(loaded, found.text, question.limit)
    return Reply(found.text, Span(start=found.start, stop=found.stop), found.score, completion_tokens=tokens)


def _score(loaded: Loaded, question: Question, on_text: Callable[[str], None]) -> Reply:
    from forge_pipeline.training.reward_models import scoring

    prompt, completion = question.prompt, question.completion
    pair: tuple[Any, Any] = (prompt, completion)
    if loaded.chats:
        pair = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
    (score,) = scoring(loaded.model, loaded.tokenizer)([pair[0]], [pair[1]])
    return Reply(score=score)


def _length(loaded: Loaded) -> int:
    """The longest row that the model was trained with, in tokens, unless it takes fewer."""
    length = loaded.recipe.model.max_length
    return min(length, getattr(loaded.model.config, "max_position_embeddings", None) or length)


def _tokens(loaded: Loaded, text: str, limit: int) -> int:
    return min(limit, len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])) if text else 0


_DOES: Mapping[Kind, str] = {
    "text": "writes text",
    "summary": "summarizes",
    "span": "extracts answers",
    "reward": "scores completions",
}

_ASK: Mapping[Kind, Callable[[Loaded, Question, Callable[[str], None]], Reply]] = {
    "text": _continue,
    "summary": _summarize,
    "span": _extract,
    "reward": _score,
}
