"""`tokenize`: rows -> token ids and labels (sft), or TRL's own columns (preference and reward training).

Supervised fine-tuning learns: of a conversation the assistant's turns, of prompt and
completion the completion, of plain text everything; the recipe's `assistant_only_loss`
and `completion_only_loss` widen that. Rows longer than `model.max_length` lose their end
and are counted; rows of which nothing would be learnt are left out and counted. Training
rows are shuffled once, by content and `training.seed`, where `data.shuffle` says so.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forge_pipeline.data import splits
from forge_pipeline.data.artifacts import (
    SUMMARY_FILE,
    RawDataset,
    SplitSummary,
    TokenizationSummary,
    TokenizedDataset,
)
from forge_pipeline.data.chat_mask import ChatMasker, Tokens
from forge_pipeline.data.columns import Row, TableBuilder, write_parquet
from forge_pipeline.data.examples import Example, common_prefix_length, example_of
from forge_pipeline.data.packing import IGNORED, pack_best_fit, pack_wrapped
from forge_pipeline.data.schemas import EXPECTED_COLUMNS, TRAINER_DATASET_TYPES
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, json_digest, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig

_REPORT_EVERY = 500  # rows
_SFT_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("length", pa.int32())])


def tokenize(
    config: "ForgeConfig",
    dataset: RawDataset,
    tokenizer: "PreTrainedTokenizerBase",
    output_dir: Path,
    *,
    progress: Report = silent,
) -> TokenizedDataset:
    """Turn a raw dataset into what the recipe's trainer reads.

    Raises:
        DataError: The dataset type does not fit the trainer type, the chat template does not fit the rows, or
            nothing is left to learn. The split and the row are named.
        FileExistsError: `output_dir` exists and is not empty.
    """
    _check_type(config, dataset)
    encoder = _Encoder.of(config, dataset, tokenizer)
    tables, summaries = _encode_splits(config, dataset, encoder, progress)
    if not len(tables["train"]):
        raise DataError(
            f"{dataset.path}: nothing is left to learn: all {summaries['train'].fully_masked} training rows are fully "
            f"masked within {config.model.max_length} tokens. Raise model.max_length, or check which turns are the "
            "assistant's"
        )
    facts = TokenizationSummary(
        dataset_digest=dataset.digest,
        tokenizer_digest=tokenizer_digest(tokenizer),
        chat_template_digest=Digest.of(encoder.masker.template.encode()) if encoder.masker else None,
        trainer_type=config.training.trainer_type,
        max_length=config.model.max_length,
        packed=_packs(config),
        splits=summaries,
    )
    with publishing(output_dir) as staging:
        for split, table in tables.items():
            if len(table):
                write_parquet(table, staging / f"{split}.parquet")
        write_report(staging / SUMMARY_FILE, facts)
    return TokenizedDataset.open(output_dir)


def _packs(config: "ForgeConfig") -> bool:
    return config.training.uses_packing and config.training.trainer_type == "sft"


def _encode_splits(
    config: "ForgeConfig", dataset: RawDataset, encoder: "_Encoder", progress: Report
) -> tuple[dict[str, pa.Table], dict[str, SplitSummary]]:
    counts = dataset.provenance.rows
    total, done = sum(counts.values()), 0
    tables, summaries = {}, {}
    for split in dataset.splits:

        def report(count: int, done: int = done, split: str = split) -> None:
            progress(Progress("tokenize", done + count, total, f"split {split}"))

        table, summary = encoder.encode(_ordered(config, dataset, split), split, report)
        if _packs(config) and len(table):
            table, summary = _packed(config, table, summary)
        tables[split], summaries[split] = table, summary
        done += counts[split]
        report(counts[split])
    return tables, summaries


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> Digest:
    """Digest of what turns text into ids: the backend's definition and the special tokens. Paths do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        definition: Any = sorted(tokenizer.get_vocab().items())
    else:
        # Truncation and padding are settings of the last call, not of the tokenizer.
        definition = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    text = json.dumps(definition, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return json_digest({"definition": Digest.of(text.encode()), "special_tokens": special})


def _check_type(config: "ForgeConfig", dataset: RawDataset) -> None:
    trainer = config.training.trainer_type
    provenance = dataset.provenance
    wanted = TRAINER_DATASET_TYPES[trainer]
    if provenance.dataset_type in wanted:
        return
    fitting = [name for name, types in TRAINER_DATASET_TYPES.items() if provenance.dataset_type in types]
    columns = ", ".join(dataset.table("train").column_names)
    raise DataError(
        f"{provenance.sources[0].name}: trainer_type {trainer!r} learns from {' or '.join(wanted)} data (columns "
        f"{'; or '.join(EXPECTED_COLUMNS[kind] for kind in wanted)}), but this is {provenance.dataset_type} data "
        f"(columns {columns}). Use other data, or training.trainer_type: {' or '.join(fitting)}"
    )


def _ordered(config: "ForgeConfig", dataset: RawDataset, split: str) -> Iterator[Row]:
    if split != "train" or not config.data.shuffle:
        return dataset.rows(split)
    rows = list(dataset.rows(split))
    order = splits.shuffled([splits.row_digest(row) for row in rows], config.training.seed)
    return (rows[i] for i in order)


@dataclass
class _Tally:
    """Counts of one split."""

    lengths: list[int] = field(default_factory=list)  # before truncation
    kept: list[int] = field(default_factory=list)  # after
    trained: int | None = None
    truncated: int = 0
    fully_masked: int = 0

    def summary(self) -> SplitSummary:
        return SplitSummary(
            rows=len(self.kept),
            tokens=sum(self.kept),
            trained_tokens=self.trained,
            truncated=self.truncated,
            fully_masked=self.fully_masked,
            max_length_seen=max(self.lengths, default=0),
            mean_length=sum(self.lengths) / len(self.lengths) if self.lengths else 0.0,
        )


@dataclass(frozen=True)
class _Encoder:
    """One tokenizer and one recipe, ready to encode splits. `masker` is None for standard-format rows."""

    config: "ForgeConfig"
    tokenizer: "PreTrainedTokenizerBase"
    masker: ChatMasker | None

    @classmethod
    def of(cls, config: "ForgeConfig", dataset: RawDataset, tokenizer: "PreTrainedTokenizerBase") -> "_Encoder":
        conversational = dataset.provenance.dataset_format == "conversational"
        if not conversational and config.data.add_eos and tokenizer.eos_token_id is None:
            raise DataError(
                "data.add_eos is on, but the tokenizer has no end-of-sequence token; set data.add_eos: false"
            )
        return cls(config, tokenizer, ChatMasker.of(tokenizer) if conversational else None)

    def encode(self, rows: Iterable[Row], split: str, report: Callable[[int], None]) -> tuple[pa.Table, SplitSummary]:
        sft = self.config.training.trainer_type == "sft"
        tally = _Tally(trained=0 if sft else None)
        builder = TableBuilder()
        for number, row in enumerate(rows):
            if number % _REPORT_EVERY == 0:
                report(number)
            try:
                example = example_of(row)
                encoded = self._learnable(example, tally) if sft else self._trl_columns(row, example, tally)
            except DataError as error:
                raise DataError(f"split {split}, row {number}: {error}") from error
            if encoded is not None:
                builder.append(encoded)
        table = builder.finish()
        if sft:
            table = table.cast(_SFT_SCHEMA) if len(table) else _SFT_SCHEMA.empty_table()
        elif "length" in table.column_names:
            at = table.schema.get_field_index("length")
            table = table.set_column(at, "length", table.column("length").cast(pa.int32()))
        return table, tally.summary()

    def _learnable(self, example: Example, tally: _Tally) -> Row | None:
        tokens = self._tokens(example)
        tally.lengths.append(len(tokens.input_ids))
        training = self.config.training
        limit = self.config.model.max_length
        if training.uses_packing and training.packing_strategy == "wrapped":
            limit = len(tokens.input_ids)  # long rows go on in the next packed row
        ids = tokens.input_ids[:limit]
        tally.truncated += len(tokens.input_ids) > limit
        labels = [i if learnt else IGNORED for i, learnt in zip(ids, tokens.mask, strict=False)]
        learnt = sum(label != IGNORED for label in labels)
        if not learnt:
            tally.fully_masked += 1
            return None
        tally.kept.append(len(ids))
        assert tally.trained is not None
        tally.trained += learnt
        return {"input_ids": ids, "labels": labels, "length": len(ids)}

    def _tokens(self, example: Example) -> Tokens:
        training, columns = self.config.training, example.columns
        if self.masker is not None:
            prompt, answer = columns.get("prompt", []), columns.get("completion", [])
            return self.masker.tokens(
                columns.get("messages") or [*prompt, *answer],
                learn_from=len(prompt) if training.completion_only_loss else 0,
                assistant_only=training.assistant_only_loss,
                tools=example.tools,
            )
        if "text" in columns:
            ids = self._with_eos(self._ids(columns["text"]))
            return Tokens(ids, [True] * len(ids))
        ids = self._with_eos(self._ids(columns["prompt"] + columns["completion"]))
        start = common_prefix_length(self._ids(columns["prompt"]), ids) if training.completion_only_loss else 0
        return Tokens(ids, [t >= start for t in range(len(ids))])

    def _trl_columns(self, row: Row, example: Example, tally: _Tally) -> Row:
        """The row in the columns that TRL's trainer reads, and its length in tokens.

        grpo keeps all columns: reward functions read them.
        """
        columns = dict(example.columns)
        if self.config.training.trainer_type == "grpo":
            columns = {**{k: v for k, v in row.items() if k != "length"}, "prompt": columns["prompt"]}
            length = self._length(columns["prompt"])
        else:
            answers = [columns[name] for name in ("chosen", "rejected", "completion") if name in columns]
            length = max(self._length(columns["prompt"], answer) for answer in answers)
        tally.lengths.append(length)
        tally.kept.append(length)
        tally.truncated += length > self.config.model.max_length
        return {**columns, "length": length}

    def _length(self, prompt: Any, answer: Any = None) -> int:
        if self.masker is None:
            return len(self._ids(prompt + (answer or "")))
        return self.masker.length([*prompt, *(answer or [])], prompt=answer is None)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def _with_eos(self, ids: list[int]) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [*ids, eos] if self.config.data.add_eos and ids[-1:] != [eos] else ids


def _packed(config: "ForgeConfig", table: pa.Table, summary: SplitSummary) -> tuple[pa.Table, SplitSummary]:
    pack = pack_wrapped if config.training.packing_strategy == "wrapped" else pack_best_fit
    packed = pack(table, config.model.max_length)
    labels = packed.column("labels").combine_chunks().flatten()
    trained = int((labels.to_numpy() != IGNORED).sum())
    return packed, replace(summary, rows=len(packed), trained_tokens=trained)
