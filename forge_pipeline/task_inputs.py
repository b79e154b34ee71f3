"""How the texts of a task become what a model reads: the same when rows are tokenized and when questions are asked.

Summarization. A causal model with a chat template reads the document as the user's turn;
one without reads the document and a line that says a summary follows. An encoder-decoder
model reads the document after the prefix that its own configuration gives (T5's
``summarize: ``), else as it stands.

Extractive question answering. Question and context in one row; a context too long for it
becomes several windows that overlap, and an answer is looked for in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUMMARY_FOLLOWS = "\n\nSummary:\n"
_LEAST_CONTEXT = 8  # tokens a window must have for its context, or nothing can be answered from it


@dataclass(frozen=True)
class Window:
    """A part of a context together with its question.

    Attributes:
        input_ids: T token ids.
        token_type_ids: Which text each token is of, where the model asks for it; else None.
        offsets: For each token the characters [from, to) of the context that it stands for; (-1, -1) where it is
            of the question or special.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None
    offsets: list[tuple[int, int]]


def summary_prompt(tokenizer: "PreTrainedTokenizerBase", document: str) -> str:
    """What a causal model reads before it writes the summary."""
    if tokenizer.chat_template is None:
        return document + SUMMARY_FOLLOWS
    turn = [{"role": "user", "content": document}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def document_prefix(model_config: Any) -> str:
    """What an encoder-decoder model was taught to see before a document."""
    parameters = getattr(model_config, "task_specific_params", None) or {}
    return str((parameters.get("summarization") or {}).get("prefix") or "")


def question_windows(
    tokenizer: "PreTrainedTokenizerBase", question: str, context: str, *, max_length: int, stride: int
) -> list[Window]:
    """Question and context as windows of at most `max_length` tokens, in the order of the context.

    Args:
        stride: Tokens that neighbouring windows share; less where the question leaves no room for so many.

    Raises:
        DataError: The tokenizer cannot say which characters a token stands for, or the question leaves no room.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} cannot say which characters a token stands for; extractive question "
            "answering needs a tokenizer.json beside the model"
        )
    texts = _pair(tokenizer, question, context)
    empty = tokenizer(texts[0], "", add_special_tokens=True, verbose=False)["input_ids"]
    room = max_length - len(empty)
    if room < _LEAST_CONTEXT:
        raise DataError(
            f"the question takes {len(empty)} of {max_length} tokens (model.max_length) and leaves no room for its "
            "context"
        )
    encoded = tokenizer(
        *texts,
        truncation="only_second",
        max_length=max_length,
        stride=min(stride, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    types: Sequence[list[int]] | None = encoded.get("token_type_ids")
    windows = []
    for number, ids in enumerate(encoded["input_ids"]):
        sources = encoded.sequence_ids(number)
        offsets = [
            (start, stop) if source == 1 else (-1, -1)
            for source, (start, stop) in zip(sources, encoded["offset_mapping"][number], strict=True)
        ]
        windows.append(Window(list(ids), None if types is None else list(types[number]), offsets))
    return windows


def _pair(tokenizer: "PreTrainedTokenizerBase", question: str, context: str) -> tuple[str, str]:
    """Where no special token stands between two texts, an empty line does."""
    sources = tokenizer("a", "b", verbose=False).sequence_ids(0)
    separated = None in sources[sources.index(0) : sources.index(1)]
    return (question, context) if separated else (question + "\n\n", context)
