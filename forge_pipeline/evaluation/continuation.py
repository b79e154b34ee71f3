"""One conversation continued token by token: pieces as they are made, stop strings, exact counts.

- A piece never ends inside a character or inside what may become a stop string; together the pieces are the text.
- The text ends before the first stop string.
- Equal arguments and an equal seed give an equal text on the same machine and libraries.
- Sampling leaves the caller's random state as it was, and the model's own sampling settings do not apply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.generation import Conversation, _check_room, _evaluating, _settings, _stop_tokens, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FinishReason = Literal["stop", "length"]

_UNFINISHED = "\ufffd"  # what a decoder writes for the bytes of a character that are not all there yet


@dataclass(frozen=True)
class Continuation:
    """What the model wrote.

    Attributes:
        finish_reason: ``stop``: it ended its turn, or wrote a stop string; ``length``: it was cut off.
        prompt_tokens: Of the conversation as the template renders it.
        completion_tokens: That the model made, its end of turn and a stop string included.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def continue_conversation(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Conversation,
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int | None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> Continuation:
    """The model's next turn.

    Args:
        model: A causal language model, on whatever device it lies.
        on_text: Called with each piece, in the caller's thread.
        max_new_tokens: Longest answer; None: all that the model's context has left, at most 1024.
        temperature: 0 is greedy; above 0 samples.
        top_p: Nucleus of the sampling distribution, in (0, 1]; unused when greedy.
        stop: Strings that end the text; none of them empty.

    Raises:
        EvaluationError: There is no chat template or it refuses the conversation, or the conversation
            leaves no room for the answer.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    prompt = render(tokenizer, conversation)
    batch = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    length = int(batch["input_ids"].shape[1])
    if not length:
        raise EvaluationError("the conversation is empty once the chat template has rendered it; write a message")
    limit = _room(model, length) if max_new_tokens is None else max_new_tokens
    _check_room(model, [length], limit)
    pieces, until = TokenText(tokenizer), UntilStop(stop)
    written: list[str] = []

    def write(text: str) -> None:
        if text:
            written.append(text)
            on_text(text)

    class Reading(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            write(until.add(pieces.add(int(input_ids[0, -1]))))
            return torch.tensor([until.found], device=input_ids.device)

    settings = _settings(model, tokenizer, limit, temperature, top_p)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), _evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        output = model.generate(
            **batch.to(model.device), generation_config=settings, stopping_criteria=StoppingCriteriaList([Reading()])
        )
    write(until.add(pieces.rest()))
    write(until.rest())
    made = int(output.shape[1]) - length
    ended = until.found or int(output[0, -1]) in (_stop_tokens(model, tokenizer) or ())
    return Continuation("".join(written), "stop" if ended else "length", length, made)


class TokenText:
    """Token ids in, their text out, as soon as no later token can change it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # The text of [begin, read) is out. It is decoded again with what follows, because a token's text depends on
        # the one before: the first of a text loses its blank.
        self._begin = self._read = 0

    def add(self, token: int) -> str:
        """What this token completes; "" while a character's bytes are not all there."""
        self._ids.append(token)
        new = self._new()
        if not new or new.endswith(_UNFINISHED):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return new

    def rest(self) -> str:
        """What is left at the end; bytes that make no character show as U+FFFD."""
        new = self._new()
        self._begin, self._read = self._read, len(self._ids)
        return new

    def _new(self) -> str:
        out = self._decoded(self._ids[self._begin : self._read])
        return self._decoded(self._ids[self._begin :])[len(out) :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class UntilStop:
    """Text in, the same text out up to the first stop string. What may be the beginning of one is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What of the text so far can be shown and was not yet."""
        if self.found:
            return ""
        text = self._held + text
        ends = [text.index(stop) for stop in self._stop if stop in text]
        if ends:
            self._held, self.found = "", True
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)


def _room(model: "PreTrainedModel", length: int) -> int:
    """Tokens that an answer of no stated length may have."""
    context = getattr(model.config, "max_position_embeddings", None)
    return 1024 if context is None else max(1, min(1024, context - length))
