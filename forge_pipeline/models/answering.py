"""Asking a model of a task: `answer` for extractive questions, `summarize` for documents.

Texts reach the model as they did in training (`task_inputs`). Everything is greedy, so equal
questions have equal answers on one machine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.task_inputs import document_prefix, question_windows, summary_prompt

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BEST = 20  # beginnings and ends of answers that are tried with each other, in a window


@dataclass(frozen=True)
class ExtractedAnswer:
    """A part of a context.

    Attributes:
        text: As it stands there; "" where the model finds no answer in it.
        start, stop: Its characters [start, stop) of the context; both 0 where there is none.
        score: How much likelier the model finds it than no answer: a difference of logits.
    """

    text: str
    start: int
    stop: int
    score: float


def answer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    context: str,
    *,
    max_length: int,
    stride: int = 128,
    max_answer_length: int = 30,
    may_be_unanswerable: bool = True,
) -> ExtractedAnswer:
    """The part of `context` that answers `question`.

    Args:
        model: With a span head (`heads.HEADS`: question-answering).
        max_length, stride, max_answer_length: In tokens; those of the recipe that the model was trained with.
        may_be_unanswerable: Whether "" may come back where the model prefers no answer (SQuAD 2.0).

    Raises:
        DataError: The question leaves no room for its context.
    """
    import torch

    windows = question_windows(tokenizer, question, context, max_length=max_length, stride=stride)
    starts, ends = [], []
    with _evaluating(model):
        for window in windows:
            inputs: dict[str, Any] = {"input_ids": torch.tensor([window.input_ids], device=model.device)}
            if window.token_type_ids is not None:
                inputs["token_type_ids"] = torch.tensor([window.token_type_ids], device=model.device)
            output = model(**inputs)
            starts.append(output.start_logits[0].float().cpu().numpy())
            ends.append(output.end_logits[0].float().cpu().numpy())
    spans = [window.offsets for window in windows]
    return best_answer(
        context, spans, starts, ends, max_answer_length=max_answer_length, may_be_unanswerable=may_be_unanswerable
    )


def best_answer(
    context: str,
    offsets: Sequence[Sequence[tuple[int, int]]],
    start_logits: "Sequence[np.ndarray[Any, Any]]",
    end_logits: "Sequence[np.ndarray[Any, Any]]",
    *,
    max_answer_length: int,
    may_be_unanswerable: bool = True,
) -> ExtractedAnswer:
    """The likeliest span over all windows of one question, unless no answer is likelier still.

    Args:
        offsets: Of each window, as in `Window.offsets`; (-1, -1) cannot be answered with.
        start_logits, end_logits: (T,) for each window, longer ones padded.
    """
    import numpy as np

    best, none = None, np.inf
    for spans, starts, ends in zip(offsets, start_logits, end_logits, strict=True):
        none = min(none, float(starts[0] + ends[0]))
        inside = np.array([start >= 0 for start, _ in spans])
        starts, ends = (np.where(inside, logits[: len(spans)], -np.inf) for logits in (starts, ends))
        for first in np.argsort(-starts, kind="stable")[:_BEST].tolist():
            if not inside[first]:
                break
            until = min(first + max_answer_length, len(spans))
            last = first + int(np.argmax(ends[first:until]))
            score = float(starts[first] + ends[last])
            if inside[last] and (best is None or score > best[0]):
                best = (score, spans[first][0], spans[last][1])
    if best is None or (may_be_unanswerable and none >= best[0]):
        return ExtractedAnswer("", 0, 0, 0.0 if best is None else best[0] - none)
    score, start, stop = best
    return ExtractedAnswer(context[start:stop], start, stop, score - none)


def summarize(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    documents: Sequence[str],
    *,
    max_length: int,
    max_new_tokens: int = 128,
    batch_size: int = 4,
) -> list[str]:
    """A summary of each document, in order, by an encoder-decoder or a causal model.

    Args:
        max_length: Tokens of a document that are read; a longer one loses its end.
        max_new_tokens: Longest summary, in tokens.
    """
    if model.config.is_encoder_decoder:
        prefix = document_prefix(model.config)
        prompts = [
            list(tokenizer(prefix + text, truncation=True, max_length=max_length, verbose=False)["input_ids"])
            for text in documents
        ]
    else:
        prompts = [_prompt(tokenizer, text, max_length - max_new_tokens) for text in documents]
    return continued(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)


def continued(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 4,
) -> list[str]:
    """What the model writes after each prompt of token ids (or, with an encoder, about it), without special tokens."""
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    texts: list[str] = []
    with _evaluating(model):
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            width = max(len(ids) for ids in batch)
            ids = torch.tensor([[pad] * (width - len(each)) + list(each) for each in batch], device=model.device)
            mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in batch], device=model.device)
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=_ends(model, tokenizer),
            )
            skip = 0 if model.config.is_encoder_decoder else width
            texts += tokenizer.batch_decode(made[:, skip:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Every token that ends a text: the model's own and the tokenizer's."""
    own = model.generation_config.eos_token_id
    ids = [own] if isinstance(own, int) else list(own or ())
    return sorted({*ids, tokenizer.eos_token_id} - {None})


def _prompt(tokenizer: "PreTrainedTokenizerBase", document: str, limit: int) -> list[int]:
    """The prompt's ids; of a document that is too long, its beginning."""
    templated = tokenizer.chat_template is not None
    while True:
        text = summary_prompt(tokenizer, document)
        ids = list(tokenizer(text, add_special_tokens=not templated, verbose=False)["input_ids"])
        over = len(ids) - limit
        if over <= 0 or not document:
            return ids
        words = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        document = document[: min(len(tokenizer.decode(words[: max(0, len(words) - over)])), len(document) - 1)]


@contextmanager
def _evaluating(model: "PreTrainedModel") -> Iterator[None]:
    """Evaluation mode and no gradients; the model comes back as it was."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
