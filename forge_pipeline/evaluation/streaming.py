"""One answer, piece by piece as it is made: for people who wait for it. Equal to what `generate` gives at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from forge_pipeline.evaluation.generation import (
    Conversation,
    _check_room,
    _evaluating,
    _settings,
    render,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_streaming(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Conversation,
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """The model's answer, up to its end of turn.

    Args:
        on_text: Called with each piece; together they are the answer. A piece ends where no later token can
            change it (after a blank, or a CJK character).

    Raises:
        EvaluationError: As `generate`.
    """
    import torch
    from transformers import TextStreamer

    pieces: list[str] = []

    class Pieces(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                pieces.append(text)
                on_text(text)

    prompt = render(tokenizer, conversation)
    batch = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    _check_room(model, [batch["input_ids"].shape[1]], max_new_tokens)
    settings = _settings(model, tokenizer, max_new_tokens, temperature, top_p)
    streamer = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), _evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model.generate(**batch.to(model.device), generation_config=settings, streamer=streamer)
    return "".join(pieces)
