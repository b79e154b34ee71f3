"""Ask a trained model, in this process, one request at a time.

What a model is asked depends on its record (`_kind`): a causal model answers a turn, one
trained to summarize gets a document, a span head a question with its context, and a reward
model scores a completion. A field that the model has no use for is refused, not ignored.

The last `capacity` models stay loaded. A model is opened by its recorded digest: if its
files have changed since it was registered, it is refused.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forge_pipeline.config import ForgeConfig, load_config
from forge_pipeline.errors import IntegrityError, StoreError
from forge_pipeline.registry import ModelRow
from forge_pipeline.server.errors import RequestError, UnavailableError
from forge_pipeline.server.schemas import Generate, Generated, Span
from forge_pipeline.server.settings import ServerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.models.directory import ModelRecord

Kind = Literal["text", "summary", "span", "reward"]

_BUSY_AFTER = 120.0  # seconds a request waits for its turn
_LEAST_DOCUMENT = 16  # tokens of a document that must have room beside its summary


@dataclass(frozen=True)
class _Loaded:
    """A model in memory. `chats`: whether a chat template rendered the rows that it learnt from."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    recipe: ForgeConfig
    kind: Kind
    chats: bool


@dataclass(frozen=True)
class _Reply:
    text: str = ""
    span: Span | None = None
    score: float | None = None


class Playground:
    """Loaded models, least recently used first."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._turn = threading.Lock()

    def generate(self, row: ModelRow, body: Generate) -> Generated:
        """One continuation of `body.prompt`: as a user's turn where a chat template rendered the rows it learnt from.

        A model of another task summarizes the prompt, answers it from `body.context`, or scores `body.completion`.

        Raises:
            RequestError: The body lacks what such a model is asked, or has what it has no use for.
            StoreError: The model's files are gone.
            IntegrityError: They were changed.
            UnavailableError: Other requests kept the model busy.
        """
        if not self._turn.acquire(timeout=_BUSY_AFTER):
            raise UnavailableError("The playground is busy with other requests; try again")
        try:
            loaded = self._get(row)
            _check_fields(body, loaded.kind)
            started = time.monotonic()
            reply = _ASK[loaded.kind](loaded, body)
            elapsed = time.monotonic() - started
        finally:
            self._turn.release()
        text = reply.text
        tokens = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
        return Generated(
            generated_text=text,
            tokens_generated=min(tokens, body.max_new_tokens),
            generation_time_ms=round(elapsed * 1000),
            span=reply.span,
            score=reply.score,
        )

    def forget(self, row: ModelRow) -> None:
        """Drop a model that was deleted."""
        with self._turn:
            self._loaded.pop(str(row.uid), None)

    def _get(self, row: ModelRow) -> "_Loaded":
        from forge_pipeline.models import ModelDirectory, load_tuned

        uid = str(row.uid)
        if uid in self._loaded and Path(row.path).is_dir():
            self._loaded.move_to_end(uid)
            return self._loaded[uid]
        self._loaded.pop(uid, None)
        try:
            directory = ModelDirectory.open(row.path)
        except OSError as error:
            raise StoreError(f"the files of model {row.id} are no longer at {row.path}: {error}") from error
        if directory.digest != row.uid:
            raise IntegrityError(f"model {row.id} at {row.path}: expected {row.uid}, found {directory.digest}")
        while len(self._loaded) >= self._settings.playground_models:
            self._loaded.popitem(last=False)
        recipe, record = self._recipe(row, directory), directory.record
        model, tokenizer = load_tuned(recipe, directory)
        kind, chats = _kind(record), record.chat_template_digest is not None
        if kind == "text" and not chats:
            tokenizer.chat_template = _plain_template(tokenizer)
        self._loaded[uid] = _Loaded(model, tokenizer, recipe, kind, chats)
        return self._loaded[uid]

    def _recipe(self, row: ModelRow, directory: "ModelDirectory") -> ForgeConfig:
        """The job's own recipe; for a model of the pipeline's lines, one that names its base model."""
        stored = self._settings.recipes_dir / f"{row.job_id}.yaml"
        if row.job_id and stored.is_file():
            return load_config(str(stored))
        base = directory.record.base_model
        return ForgeConfig(
            name=row.line,
            model={
                "name_or_path": base.name_or_path,
                "revision": base.revision_resolved,
                "task": directory.record.task,
                "load_in_4bit": False,
            },
            lora={},
            training={},
            data={"dataset_name_or_path": "(none: this recipe only loads a model)"},
        )


def _kind(record: "ModelRecord") -> Kind:
    if record.head == "question-answering":
        return "span"
    if record.head == "sequence-classification":
        return "reward"
    return "summary" if record.task == "summarization" else "text"


def _check_fields(body: Generate, kind: Kind) -> None:
    """Refuse a body that does not fit what the model does."""
    if kind == "span" and body.context is None:
        raise RequestError(
            "context: is required and missing. This model answers questions from a text: send the question as prompt "
            "and the text as context"
        )
    if kind == "reward" and body.completion is None:
        raise RequestError(
            "completion: is required and missing. This is a reward model: it writes no text, and scores how good a "
            "completion is for a prompt; send both"
        )
    if kind != "span" and body.context is not None:
        raise RequestError("context: this model does not extract answers and would ignore it; put it into prompt")
    if kind != "reward" and body.completion is not None:
        raise RequestError("completion: only reward models score completions, and this is none; leave it out")


def _continue(loaded: _Loaded, body: Generate) -> _Reply:
    from forge_pipeline.evaluation.generation import generate

    (text,) = generate(
        loaded.model,
        loaded.tokenizer,
        [[{"role": "user", "content": body.prompt}]],
        max_new_tokens=body.max_new_tokens,
        temperature=float(body.temperature),
        top_p=float(body.top_p),
        seed=secrets.randbelow(2**31),
    )
    return _Reply(text)


def _summarize(loaded: _Loaded, body: Generate) -> _Reply:
    """A document longer than the model reads loses its end, as in training."""
    from forge_pipeline.models.answering import summarize

    length = _room(loaded)
    shared = not loaded.model.config.is_encoder_decoder  # a causal model reads the document and writes into one room
    if shared and body.max_new_tokens + _LEAST_DOCUMENT > length:
        raise RequestError(
            f"max_new_tokens: found {body.max_new_tokens}, which leaves no room for the document in the {length} "
            f"tokens of this model; send at most {length - _LEAST_DOCUMENT}"
        )
    (text,) = summarize(
        loaded.model, loaded.tokenizer, [body.prompt], max_length=length, max_new_tokens=body.max_new_tokens
    )
    return _Reply(text)


def _extract(loaded: _Loaded, body: Generate) -> _Reply:
    from forge_pipeline.models.answering import answer

    training = loaded.recipe.training
    found = answer(
        loaded.model,
        loaded.tokenizer,
        body.prompt,
        body.context or "",
        max_length=_room(loaded),
        stride=training.doc_stride,
        max_answer_length=min(training.max_answer_length, body.max_new_tokens),
    )
    return _Reply(found.text, Span(start=found.start, stop=found.stop), found.score)


def _room(loaded: _Loaded) -> int:
    """The longest row that the model was trained with, in tokens, unless it takes fewer."""
    length = loaded.recipe.model.max_length
    return min(length, getattr(loaded.model.config, "max_position_embeddings", None) or length)


def _score(loaded: _Loaded, body: Generate) -> _Reply:
    from forge_pipeline.training.reward_models import scoring

    prompt, completion = body.prompt, body.completion
    pair: tuple[Any, Any] = (prompt, completion)
    if loaded.chats:
        pair = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
    (score,) = scoring(loaded.model, loaded.tokenizer)([pair[0]], [pair[1]])
    return _Reply(score=score)


_ASK: Mapping[Kind, Callable[[_Loaded, Generate], _Reply]] = {
    "text": _continue,
    "summary": _summarize,
    "span": _extract,
    "reward": _score,
}


def _plain_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The prompt as it stands, begun as this tokenizer begins plain text."""
    begins = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + "{{ messages[-1]['content'] }}"
