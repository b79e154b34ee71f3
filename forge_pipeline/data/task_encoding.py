"""Rows of the tasks that no language-model head learns -> what their trainers read.

Summaries for encoder-decoder models: `input_ids` (the document) and `labels` (the summary).
Extractive questions: one row a window, with the tokens where the answer begins and ends;
(0, 0) where it stands in another window or nowhere. Windows of a held-out split carry what
exact match and F1 are computed from.

`shortened` serves causal models: what a document is too long for goes from its end, never
from the summary that follows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_pipeline.data.columns import Row
from forge_pipeline.data.messages import RowError
from forge_pipeline.data.tallies import Tally
from forge_pipeline.data.task_rows import Answer, document_and_summary, question_of
from forge_pipeline.errors import DataError
from forge_pipeline.task_inputs import Window, document_prefix, question_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig


@dataclass(frozen=True)
class MadeRow:
    """A row to train on, the raw row that it comes from, and which of the rows made of that one it is."""

    source: int
    part: int
    columns: Row


def model_config(config: "ForgeConfig", tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The configuration of the model that a tokenizer lies with.

    Raises:
        DataError: It cannot be read.
    """
    from transformers import AutoConfig

    name = str(tokenizer.name_or_path)
    try:
        return AutoConfig.from_pretrained(
            name, revision=config.model.revision, trust_remote_code=config.model.trust_remote_code,
            local_files_only=config.model.offline,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: the model's configuration cannot be read: {error}") from error


def summary_rows(
    config: "ForgeConfig",
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row],
    split: str,
    first: int,
    tally: Tally,
    prefix: str,
) -> list[MadeRow]:
    """Documents and summaries for an encoder-decoder model."""
    pairs, numbers = [], []
    for number, row in enumerate(rows, first):
        try:
            pairs.append(document_and_summary(row))
            numbers.append(number)
        except RowError as error:
            tally.skip(split, number, str(error))
    if not pairs:
        return []
    limit, longest = config.model.max_length, config.training.summary_max_length
    documents = tokenizer([prefix + document for document, _ in pairs], verbose=False)["input_ids"]
    summaries = tokenizer(text_target=[summary for _, summary in pairs], verbose=False)["input_ids"]
    made = []
    for number, document, summary in zip(numbers, documents, summaries, strict=True):
        lost = max(0, len(document) - limit) + max(0, len(summary) - longest)
        tally.lengths[len(document)] += 1
        tally.truncated += lost > 0
        tally.truncated_tokens += lost
        ids = _ended(tokenizer, document, limit, close=False)
        labels = _ended(tokenizer, summary, longest, close=True)
        tally.keep(len(ids))
        made.append(MadeRow(number, 0, {"input_ids": ids, "labels": labels, "length": len(ids) + len(labels)}))
    return made


def question_rows(
    config: "ForgeConfig",
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row],
    split: str,
    first: int,
    tally: Tally,
) -> list[MadeRow]:
    """Windows of questions and their contexts, with the place of the answer in each."""
    made: list[MadeRow] = []
    for number, row in enumerate(rows, first):
        try:
            question = question_of(row)
            windows = question_windows(
                tokenizer,
                question.question,
                question.context,
                max_length=config.model.max_length,
                stride=config.training.doc_stride,
            )
        except (RowError, DataError) as error:
            tally.skip(split, number, str(error))
            continue
        tally.added += len(windows) - 1
        answer = question.answers[0] if question.answers else None
        for part, window in enumerate(windows):
            start, stop = answer_tokens(window, answer)
            columns: Row = {"input_ids": window.input_ids, "start_positions": start, "end_positions": stop}
            if window.token_type_ids is not None:
                columns["token_type_ids"] = window.token_type_ids
            columns["length"] = len(window.input_ids)
            if split != "train":
                columns |= {
                    "row": number,
                    "starts": [begin for begin, _ in window.offsets],
                    "stops": [end for _, end in window.offsets],
                    "context": question.context,
                    "answers": [each.text for each in question.answers],
                }
            tally.lengths[len(window.input_ids)] += 1
            tally.keep(len(window.input_ids))
            made.append(MadeRow(number, part, columns))
    return made


def answer_tokens(window: Window, answer: Answer | None) -> tuple[int, int]:
    """The first and last token of the answer; (0, 0) where the window does not hold all of it."""
    if answer is None:
        return 0, 0
    inside = [token for token, (start, _) in enumerate(window.offsets) if start >= 0]
    if not inside or window.offsets[inside[0]][0] > answer.start or window.offsets[inside[-1]][1] < answer.stop:
        return 0, 0
    first = [token for token in inside if window.offsets[token][1] > answer.start]
    last = [token for token in inside if window.offsets[token][0] < answer.stop]
    return first[0], last[-1]


def shortened(tokenizer: "PreTrainedTokenizerBase", document: str, over: Callable[[str], int]) -> tuple[str, int]:
    """As much of a document's beginning as fits, and the tokens that went.

    Args:
        over: How many tokens too many a row with this document has.

    Raises:
        RowError: Nothing of the document is left: the summary alone is too long.
    """
    removed = 0
    while (beyond := over(document)) > 0:
        tokens = tokenizer(document, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
        ids = tokens["input_ids"]
        keep = len(ids) - beyond
        if keep < 1:
            raise RowError("its summary alone is longer than model.max_length; raise it, or shorten the summary")
        at = tokens["offset_mapping"][keep - 1][1] if tokenizer.is_fast else len(tokenizer.decode(ids[:keep]))
        removed += beyond
        document = document[: min(at, len(document) - 1)]
    return document, removed


def prefix_of(found: Any) -> tuple[bool, str]:
    """Whether a model's configuration is an encoder-decoder's, and what it sees before a document."""
    return bool(found.is_encoder_decoder), document_prefix(found)


def _ended(tokenizer: "PreTrainedTokenizerBase", ids: list[int], limit: int, *, close: bool) -> list[int]:
    """At most `limit` ids; what is cut keeps the special token at its end, and `close` sees to an end of sequence."""
    if close and ids[-1:] != [tokenizer.eos_token_id]:
        return [*ids[: limit - 1], tokenizer.eos_token_id]
    if len(ids) <= limit:
        return ids
    ends = ids[-1:] if ids[-1] in tokenizer.all_special_ids else []
    return [*ids[: limit - len(ends)], *ends]
