"""A batch of raw rows -> what the recipe's trainer reads, with a count of everything that happened to them.

`RowEncoder` can be sent to another process. What it makes of a row does not depend on the
other rows of the batch, so that batches may be made anywhere and in any number.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from forge_pipeline.data import splits
from forge_pipeline.data.chat_mask import ChatMasker, Conversation, Rendering
from forge_pipeline.data.columns import Row, rows_of
from forge_pipeline.data.examples import Example, RowError, common_prefix_length, example_of, unpaired
from forge_pipeline.data.packing import IGNORED, packing_strategy
from forge_pipeline.data.special_tokens import Ids, SpecialTokens, check_ids, without_repeats
from forge_pipeline.data.tallies import Tally
from forge_pipeline.data.task_encoding import MadeRow, question_rows, shortened, summary_rows
from forge_pipeline.data.task_rows import document_and_summary
from forge_pipeline.data.token_batches import TokenizedText, tokenize_texts
from forge_pipeline.errors import DataError
from forge_pipeline.task_inputs import summary_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig


@dataclass(frozen=True)
class EncodedRows:
    """What became of a batch.

    Attributes:
        sources, parts: For each row that was made, the number of the raw row that it comes from, and which of the
            rows made of that one it is.
        ids, labels, lengths: For sft: all tokens end to end, and how many belong to each row.
        rows: For other trainer types: TRL's columns.
        digests: Of the raw rows, where they are to be shuffled.
    """

    sources: list[int]
    parts: list[int]
    ids: Ids
    labels: Ids
    lengths: list[int]
    rows: list[Row]
    digests: list[bytes]
    tally: Tally


@dataclass(frozen=True)
class _Text:
    """A text in standard format; `prompt` is the beginning of it that is not learnt."""

    text: str
    prompt: str = ""


@dataclass(frozen=True)
class RowEncoder:
    """One tokenizer and one recipe, ready to encode rows.

    Attributes:
        document_prefix: What an encoder-decoder model sees before a document to summarize; None for other models.
    """

    config: "ForgeConfig"
    tokenizer: "PreTrainedTokenizerBase"
    conversational: bool
    special: SpecialTokens
    document_prefix: str | None = None

    @property
    def makes_tokens(self) -> bool:
        """Whether rows become token ids and labels of one length, which a `TokenSpool` holds."""
        if self.config.model.task == "extractive-question-answering" or self.document_prefix is not None:
            return False
        return self.config.training.trainer_type in ("sft", "pretraining")

    @cached_property
    def masker(self) -> ChatMasker | None:
        """None for rows in standard format."""
        return ChatMasker.of(self.tokenizer) if self.conversational else None

    def encode(self, batch: pa.RecordBatch, split: str, first: int) -> EncodedRows:
        """Encode a batch of raw rows.

        Args:
            first: The number in its split of the batch's first row.
        """
        rows = list(rows_of(pa.Table.from_batches([batch])))
        shuffles = split == "train" and self.config.data.shuffle
        tally = Tally(rows_in=len(rows))
        made = EncodedRows(
            sources=[],
            parts=[],
            ids=np.empty(0, np.int32),
            labels=np.empty(0, np.int32),
            lengths=[],
            rows=[],
            digests=[splits.row_digest(row) for row in rows] if shuffles else [],
            tally=tally,
        )
        if self.makes_tokens:
            return self._learnable(made, rows, split, first)
        if self.config.model.task == "extractive-question-answering":
            return _with(made, question_rows(self.config, self.tokenizer, rows, split, first, tally))
        if self.document_prefix is not None:
            return _with(
                made, summary_rows(self.config, self.tokenizer, rows, split, first, tally, self.document_prefix)
            )
        return self._trl_rows(made, rows, split, first)

    # -- sft: token ids and labels ---------------------------------------------------------------

    def _learnable(self, made: EncodedRows, rows: list[Row], split: str, first: int) -> EncodedRows:
        texts: list[Rendering | _Text] = []
        owners: list[int] = []
        removed: dict[int, int] = {}  # tokens of documents that were too long, by row
        for number, row in enumerate(rows, first):
            try:
                if self.config.model.task == "summarization":
                    parts, removed[number] = self._summary_texts(row)
                else:
                    parts = self._texts(example_of(row))
            except (RowError, DataError) as error:
                made.tally.skip(split, number, str(error))
                continue
            texts += parts
            owners += [number] * len(parts)
        ids: list[Ids] = []
        labels: list[Ids] = []
        for number, parts in _by_owner(owners, self._tokens(texts)):
            failed = next((part for part in parts if isinstance(part, DataError)), None)
            if failed is not None:
                made.tally.skip(split, number, str(failed))
                continue
            made.tally.added += len(parts) - 1
            for part, tokens in enumerate(parts):
                kept = self._kept(tokens, made.tally, removed.get(number, 0))
                if kept is not None:
                    ids.append(kept[0])
                    labels.append(kept[1])
                    made.sources.append(number)
                    made.parts.append(part)
        if not ids:
            return made
        made.lengths.extend(len(each) for each in ids)
        return EncodedRows(**{**vars(made), "ids": np.concatenate(ids), "labels": np.concatenate(labels)})

    def _texts(self, example: Example) -> list[Any]:
        training, columns = self.config.training, example.columns
        if self.masker is not None:
            prompt, answer = columns.get("prompt", []), columns.get("completion", [])
            conversation = Conversation(
                columns.get("messages") or [*prompt, *answer],
                learn_from=len(prompt) if training.completion_only_loss else 0,
                tools=example.tools,
                options=dict(example.template_options or {}),
            )
            return list(self.masker.renderings(conversation, assistant_only=training.assistant_only_loss))
        if "text" in columns:
            return [_Text(columns["text"])]
        prompt = columns["prompt"] if training.completion_only_loss else ""
        return [_Text(columns["prompt"] + columns["completion"], prompt)]

    def _summary_texts(self, row: Row) -> tuple[list[Any], int]:
        """A document and its summary, of which only the summary is learnt; and the tokens its document lost."""
        document, summary = document_and_summary(row)

        def texts(document: str) -> list[Any]:
            if self.masker is None:
                prompt = summary_prompt(self.tokenizer, document)
                return [_Text(prompt + summary, prompt)]
            turns = [{"role": "user", "content": document}, {"role": "assistant", "content": summary}]
            return list(self.masker.renderings(Conversation(turns, learn_from=1), assistant_only=True))

        def over(document: str) -> int:
            made = next(iter(self._tokens(texts(document))))
            if isinstance(made, DataError):
                raise made
            return len(made[0]) - self.config.model.max_length

        kept, removed = shortened(self.tokenizer, document, over)
        return texts(kept), removed

    def _tokens(self, texts: list[Any]) -> list[tuple[Ids, Ids] | DataError]:
        """Ids and labels of each text."""
        if self.masker is None:
            return self._plain_tokens(texts)
        made: list[tuple[Ids, Ids] | DataError] = []
        for tokens in self.masker.tokens(texts):
            if isinstance(tokens, DataError):
                made.append(tokens)
                continue
            ids = np.array(tokens.input_ids, dtype=np.int32)
            labels = np.full(len(ids), IGNORED, dtype=np.int32)
            for start, stop in tokens.spans:
                labels[start:stop] = ids[start:stop]
            made.append((ids, labels))
        return made

    def _plain_tokens(self, texts: list[_Text]) -> list[tuple[Ids, Ids] | DataError]:
        wholes = tokenize_texts(self.tokenizer, [each.text for each in texts], add_special_tokens=True)
        prompts = tokenize_texts(
            self.tokenizer, [each.prompt for each in texts if each.prompt], add_special_tokens=True
        )
        begins = iter(prompts)
        made: list[tuple[Ids, Ids] | DataError] = []
        for each, whole in zip(texts, wholes, strict=True):
            ids = self._with_eos(whole)
            start = common_prefix_length(next(begins).ids, ids) if each.prompt else 0
            array = np.array(ids, dtype=np.int32)
            labels = array.copy()
            labels[:start] = IGNORED
            made.append((array, labels))
        return made

    def _with_eos(self, text: TokenizedText) -> list[int]:
        eos = self.tokenizer.eos_token_id
        ids = list(text.ids)
        return [*ids, eos] if self.config.data.add_eos and ids[-1:] != [eos] else ids

    def _kept(self, tokens: tuple[Ids, Ids], tally: Tally, removed: int = 0) -> tuple[Ids, Ids] | None:
        """The row as it is trained on, or None where nothing of it would be learnt; counted either way.

        `removed` tokens of it went before.
        """
        ids, labels, repeats = without_repeats(*tokens, self._once)
        tally.repeats += repeats
        if self._unknown is not None:
            tally.unknown += int(np.count_nonzero(ids == self._unknown))
        if self.special.embedding_rows is not None:
            check_ids(ids, self.special.embedding_rows)
        tally.lengths[len(ids) + removed] += 1
        tally.truncated += removed > 0
        tally.truncated_tokens += removed
        limit = self.config.model.max_length
        if packing_strategy(self.config) in ("wrapped", "bfd_split"):
            limit = len(ids)  # long rows go on in the next packed row
        if len(ids) > limit:
            tally.truncated += 1
            tally.truncated_tokens += len(ids) - limit
            ids, labels = ids[:limit], labels[:limit]
        learnt = labels != IGNORED
        count = int(np.count_nonzero(learnt))
        if not count:
            tally.fully_masked += 1
            return None
        if self.conversational and self.config.training.assistant_only_loss:
            ends = np.flatnonzero(learnt & ~np.append(learnt[1:], False))
            tally.ends.update(ids[ends].tolist())
        tally.keep(len(ids))
        tally.trained += count
        return ids, labels

    @cached_property
    def _once(self) -> frozenset[int]:
        """Ids of tokens that never stand twice in a row."""
        found = {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id}
        if self.conversational:
            turn_ends = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|eom_id|>")
            vocabulary = self.tokenizer.get_vocab()
            found |= {vocabulary[text] for text in turn_ends if text in vocabulary}
        return frozenset(found - {None})

    @cached_property
    def _unknown(self) -> int | None:
        """The unknown token's id; None where it also means something else (GPT-2's is its end of sequence)."""
        tokenizer = self.tokenizer
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, None)
        return None if tokenizer.unk_token_id in known else int(tokenizer.unk_token_id)

    # -- other trainer types: TRL's own columns --------------------------------------------------

    def _trl_rows(self, made: EncodedRows, rows: list[Row], split: str, first: int) -> EncodedRows:
        texts: list[str] = []
        owners: list[int] = []  # position in made.rows
        for number, row in enumerate(rows, first):
            try:
                parts = [(self._trl_columns(row, each), self._measured(each)) for each in self._examples(row)]
            except (RowError, DataError) as error:
                made.tally.skip(split, number, str(error))
                continue
            made.tally.added += len(parts) - 1
            for part, (columns, measured) in enumerate(parts):
                owners += [len(made.rows)] * len(measured)
                texts += measured
                made.rows.append(columns)
                made.sources.append(number)
                made.parts.append(part)
        encoded = tokenize_texts(self.tokenizer, texts, add_special_tokens=not self.conversational)
        whole = self.config.training.trainer_type in ("reward", "rlhf")  # a score is of a whole answer
        left_out = set()
        for at, lengths in _by_owner(owners, [len(text.ids) for text in encoded]):
            length = max(lengths)
            made.rows[at]["length"] = length
            made.tally.lengths[length] += 1
            over = length - self.config.model.max_length
            if whole and over > 0:
                reason = f"is {length} tokens long; a reward model scores whole answers: raise model.max_length"
                made.tally.skip(split, made.sources[at], reason)
                left_out.add(at)
                continue
            made.tally.keep(length)
            made.tally.truncated += over > 0
            made.tally.truncated_tokens += max(over, 0)
        for at in sorted(left_out, reverse=True):
            del made.rows[at], made.sources[at], made.parts[at]
        return made

    def _examples(self, row: Row) -> Sequence[Example]:
        example = example_of(row)
        if self.config.training.trainer_type == "kto" and example.shape.dataset_type == "preference":
            return unpaired(example)
        return (example,)

    def _trl_columns(self, row: Row, example: Example) -> Row:
        """The columns that TRL's trainer reads. grpo keeps all columns: reward functions read them."""
        if self.config.training.trainer_type == "grpo":
            return {**{k: v for k, v in row.items() if k != "length"}, "prompt": example.columns["prompt"]}
        columns = dict(example.columns)
        if example.tools and self.conversational:
            columns["tools"] = json.dumps(example.tools, ensure_ascii=False)
        if example.template_options and self.conversational:
            columns["chat_template_kwargs"] = dict(example.template_options)
        return columns

    def _measured(self, example: Example) -> list[str]:
        """The texts whose longest is the row's length: prompt and answer together, or the prompt alone.

        Raises:
            DataError: The template begins the prompt in another way than the prompt with its answer, so that TRL
                would compare answers to another prompt.
        """
        columns = example.columns
        answers = [columns[name] for name in ("chosen", "rejected", "completion") if name in columns]
        if self.config.training.trainer_type == "grpo":
            answers = []
        if self.masker is None:
            # TRL ends the answers that a reward model scores.
            end = self.tokenizer.eos_token or "" if self.config.training.trainer_type in ("reward", "rlhf") else ""
            return [columns["prompt"] + answer + end for answer in answers] or [columns["prompt"]]
        template = self.masker.template
        options = (example.tools, dict(example.template_options or {}))
        prompt = template.render(columns["prompt"], *options, prompt=True)
        texts = [template.render([*columns["prompt"], *answer], *options) for answer in answers]
        if any(not text.startswith(prompt) for text in texts):
            raise DataError(
                "the chat template renders the prompt differently once an answer follows, so the answers would be "
                "compared after another prompt than the model is given; use another template (model.chat_template)"
            )
        return texts or [prompt]


def _with(made: EncodedRows, rows: list[MadeRow]) -> EncodedRows:
    """`made`, holding `rows`."""
    for row in rows:
        made.rows.append(row.columns)
        made.sources.append(row.source)
        made.parts.append(row.part)
    return made


def _by_owner(owners: Sequence[int], items: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Consecutive items of one owner together."""
    start = 0
    for at in range(1, len(owners) + 1):
        if at == len(owners) or owners[at] != owners[start]:
            yield owners[start], list(items[start:at])
            start = at
