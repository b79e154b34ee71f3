"""`tokenize`: rows -> token ids and labels (sft), or TRL's own columns (preference and reward training).

Supervised fine-tuning learns: of a conversation the assistant's turns, of prompt and
completion the completion, of plain text everything; the recipe's `assistant_only_loss`
and `completion_only_loss` widen that. Rows longer than `model.max_length` lose their end
and are counted; rows of which nothing would be learnt are left out and counted; rows that
the chat template cannot render are left out and named, and more than a tenth of those is
an error. Training rows are shuffled once, by content and `training.seed`, where
`data.shuffle` says so.

Rows are encoded in batches of one size, in this process or in several: the result is the
same, byte for byte. Memory holds one batch a process and the rows' lengths; of trainer
types other than sft it holds the rows, as Arrow.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forge_pipeline.data import splits
from forge_pipeline.data.artifacts import (
    SUMMARY_FILE,
    RawDataset,
    SplitSummary,
    TokenizationSummary,
    TokenizedDataset,
)
from forge_pipeline.data.chat_template import DATE
from forge_pipeline.data.columns import TableBuilder, json_columns, write_parquet
from forge_pipeline.data.encoding_workers import encoded_batches
from forge_pipeline.data.packing import IGNORED, Piece, best_fit, best_fit_split, packing_strategy, wrapped
from forge_pipeline.data.row_encoding import EncodedRows, RowEncoder
from forge_pipeline.data.schemas import EXPECTED_COLUMNS, TRAINER_DATASET_TYPES
from forge_pipeline.data.special_tokens import special_tokens
from forge_pipeline.data.tallies import MOST_NAMED, Tally
from forge_pipeline.data.task_encoding import model_config, prefix_of
from forge_pipeline.data.task_rows import QUESTION_COLUMNS, has_columns_of
from forge_pipeline.data.token_spool import TokenSpool
from forge_pipeline.data.tokenization_cache import TokenizationCache, tokenization_key
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, json_digest, write_report
from forge_pipeline.integrity.atomic import publishing
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.config import ForgeConfig

_MOST_SKIPPED = 0.1  # of all rows, as in ingestion
_ARROW_CALLS = "prompt", "completion", "chosen", "rejected"


def tokenize(
    config: "ForgeConfig",
    dataset: RawDataset,
    tokenizer: "PreTrainedTokenizerBase",
    output_dir: Path,
    *,
    workers: int = 1,
    cache_dir: Path | None = None,
    progress: Report = silent,
) -> TokenizedDataset:
    """Turn a raw dataset into what the recipe's trainer reads.

    Args:
        workers: Processes that render and encode; the tokenizers library uses all cores even with one.
        cache_dir: Where results are kept by what they follow from, and taken from; None keeps nothing.

    Raises:
        DataError: The dataset type does not fit the trainer type, the chat template does not fit more than a tenth
            of the rows, or nothing is left to learn. The split and the row are named.
        IntegrityError: What lies in the cache was changed.
        FileExistsError: `output_dir` exists and is not empty.
    """
    _check_type(config, dataset)
    encoder = _encoder(config, dataset, tokenizer)
    template = encoder.masker.template.digest if encoder.masker else None
    if cache_dir is not None:
        key = tokenization_key(config, dataset.digest, tokenizer_digest(tokenizer), template)
        cache = TokenizationCache(cache_dir)
        if not cache.holds(key):
            with tempfile.TemporaryDirectory(prefix="forge-tokenize-") as folder:
                cache.keep(key, _tokenize(config, dataset, encoder, Path(folder, "made"), template, workers, progress))
        return cache.copy(key, output_dir)
    return _tokenize(config, dataset, encoder, output_dir, template, workers, progress)


def _tokenize(
    config: "ForgeConfig",
    dataset: RawDataset,
    encoder: RowEncoder,
    output_dir: Path,
    template: Digest | None,
    workers: int,
    progress: Report,
) -> TokenizedDataset:
    with publishing(output_dir) as staging:
        summaries: dict[str, SplitSummary] = {}
        counted = _Counted(sum(dataset.provenance.rows.values()), progress)
        for split in dataset.splits:
            counted.split = split
            batches = counted.watching(encoded_batches(encoder, dataset.path / f"{split}.parquet", split, workers))
            write = _write_sft if encoder.makes_tokens else _write_trl_rows
            summaries[split] = write(config, batches, split, staging)
        counted.check_skipped(at_the_end=True)
        _check_something_is_left(config, dataset, summaries["train"])
        write_report(staging / SUMMARY_FILE, _summary(config, dataset, encoder, template, summaries, counted.all))
    return TokenizedDataset.open(output_dir)


def _encoder(config: "ForgeConfig", dataset: RawDataset, tokenizer: "PreTrainedTokenizerBase") -> RowEncoder:
    task = config.model.task
    conversational = dataset.provenance.dataset_format == "conversational" and task == "text-generation"
    prefix = None
    if task == "summarization":
        encoder_decoder, found = prefix_of(model_config(config, tokenizer))
        prefix = found if encoder_decoder else None
        conversational = not encoder_decoder and tokenizer.chat_template is not None
    ends = config.data.add_eos or prefix is not None
    if not conversational and ends and tokenizer.eos_token_id is None and task != "extractive-question-answering":
        raise DataError("data.add_eos is on, but the tokenizer has no end-of-sequence token; set data.add_eos: false")
    encoder = RowEncoder(config, tokenizer, conversational, special_tokens(tokenizer), prefix)
    assert (encoder.masker is not None) == conversational  # a conversation without a template fails here, not in row 0
    return encoder


def _check_something_is_left(config: "ForgeConfig", dataset: RawDataset, train: SplitSummary) -> None:
    if not train.rows:
        raise DataError(
            f"{dataset.path}: nothing is left to learn: all {train.fully_masked} training rows are fully "
            f"masked within {config.model.max_length} tokens. Raise model.max_length, or check which turns are the "
            "assistant's"
        )


def _summary(
    config: "ForgeConfig",
    dataset: RawDataset,
    encoder: RowEncoder,
    template: Digest | None,
    summaries: dict[str, SplitSummary],
    counted: Tally,
) -> TokenizationSummary:
    strategy = packing_strategy(config)
    ends = {i: text for text, i in encoder.masker.end_tokens.items()} if encoder.masker else {}
    found = tuple(ends[i] for i, _ in sorted(counted.ends.items(), key=lambda item: (-item[1], item[0])) if i in ends)
    special = replace(encoder.special, end_of_turn=found)
    return TokenizationSummary(
        dataset_digest=dataset.digest,
        tokenizer_digest=tokenizer_digest(encoder.tokenizer),
        chat_template_digest=template,
        trainer_type=config.training.trainer_type,
        task=config.model.task,
        encoder_decoder=encoder.document_prefix is not None,
        max_length=config.model.max_length,
        packed=strategy is not None,
        splits=summaries,
        packing_strategy=strategy,
        cross_contamination="none" if strategy else None,
        unused=tuple(counted.unused[:MOST_NAMED]),
        unused_count=counted.skipped,
        special_tokens=special,
        notes=tuple(_notes(config, encoder, special.notes(), summaries, counted)),
    )


def _notes(
    config: "ForgeConfig",
    encoder: RowEncoder,
    notes: list[str],
    summaries: dict[str, SplitSummary],
    counted: Tally,
) -> Iterator[str]:
    yield from notes
    if encoder.masker and encoder.masker.template.asks_for_the_date:
        yield f"the chat template writes the current date; here always {DATE:%d %B %Y}, so that rows stay the same"
    if config.model.task == "extractive-question-answering":
        yield f"{counted.added} windows were added for contexts that are too long for one row"
    elif counted.added and config.training.trainer_type == "sft":
        yield (
            f"{counted.added} turns are learnt in rows of their own, because the chat template renders them "
            "differently once the conversation goes on"
        )
    if counted.added and config.training.trainer_type == "kto":
        yield f"{counted.added} pairs were taken apart into a good and a bad answer each"
    if counted.repeats:
        yield f"{counted.repeats} special tokens stood twice in a row and were made one"
    if counted.unknown:
        share = counted.unknown / max(1, sum(split.tokens for split in summaries.values()))
        yield f"{counted.unknown} tokens ({share:.2%}) are unknown to the tokenizer"
    if counted.truncated:
        verb = "lost" if config.training.trainer_type in ("sft", "pretraining") else "will lose"
        yield (
            f"{counted.truncated} rows are longer than {config.model.max_length} tokens and {verb} "
            f"{counted.truncated_tokens} tokens"
        )


@dataclass
class _Counted:
    """All batches so far: for progress, and to stop early where too many rows cannot be used."""

    total: int
    progress: Report
    split: str = ""
    all: Tally = field(default_factory=Tally)

    def watching(self, batches: Iterable[EncodedRows]) -> Iterator[EncodedRows]:
        self._report()
        for batch in batches:
            self.all.add(batch.tally)
            self.check_skipped()
            self._report()
            yield batch

    def _report(self) -> None:
        self.progress(Progress("tokenize", self.all.rows_in, self.total, f"split {self.split}"))

    def check_skipped(self, *, at_the_end: bool = False) -> None:
        """Raises DataError as soon as more than a tenth of all rows cannot be used."""
        if self.all.skipped <= _MOST_SKIPPED * self.total:
            return
        first = [f"split {each.split}, row {each.row}: {each.reason}" for each in self.all.unused[:3]]
        seen = "" if at_the_end else f" (stopped after {self.all.rows_in})"
        raise DataError(
            f"{self.all.skipped} of {self.total} rows cannot be tokenized{seen}, more than a tenth; for example "
            + "; ".join(dict.fromkeys(first))
        )


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> Digest:
    """Digest of what turns text into ids: the backend's definition and the special tokens. Paths do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        text = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False, separators=(",", ":"))
    else:
        # Truncation and padding, which come first, are settings of the last call, not of the tokenizer.
        text = backend.to_str()
        text = text[text.index('"added_tokens":') :]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return json_digest({"definition": Digest.of(text.encode()), "special_tokens": special})


def _check_type(config: "ForgeConfig", dataset: RawDataset) -> None:
    trainer = config.training.trainer_type
    provenance = dataset.provenance
    found = provenance.dataset_type
    wanted = TRAINER_DATASET_TYPES[trainer]
    if found in wanted:
        _check_fits(config, dataset)
        return
    fitting = [name for name, types in TRAINER_DATASET_TYPES.items() if found in types]
    columns = ", ".join(dataset.table("train").column_names)
    why = ""
    if found == "unpaired preference" and wanted == ("preference",):
        why = (
            " Answers with a label are not paired here: which of a prompt's good and bad answers to hold against each "
            "other is a decision about the data."
        )
    advice = f"training.trainer_type: {' or '.join(fitting)}" if fitting else "none: no trainer type learns from it yet"
    raise DataError(
        f"{provenance.sources[0].name}: trainer_type {trainer!r} learns from {' or '.join(wanted)} data (columns "
        f"{'; or '.join(EXPECTED_COLUMNS[kind] for kind in wanted)}), but this is {found} data "
        f"(columns {columns}).{why} Use other data, or {advice}"
    )


def _check_fits(config: "ForgeConfig", dataset: RawDataset) -> None:
    """What the dataset type alone does not say: plain text for pretraining, the task's columns."""
    provenance, columns = dataset.provenance, dataset.table("train").column_names
    name = provenance.sources[0].name
    if config.training.trainer_type == "pretraining" and provenance.dataset_format != "standard":
        raise DataError(
            f"{name}: trainer_type 'pretraining' learns all of a plain text (column text), but this is "
            f"{provenance.dataset_format} data (columns {', '.join(columns)}). Use training.trainer_type: sft, which "
            "goes through the chat template, or write each text into a column text"
        )
    if not has_columns_of(config.model.task, columns):
        raise DataError(
            f"{name}: model.task {config.model.task} learns from rows with {', '.join(QUESTION_COLUMNS)}, but these "
            f"have the columns {', '.join(columns)}. Use other data, or another model.task"
        )


def _order(
    config: "ForgeConfig", split: str, sources: Sequence[int], parts: Sequence[int], digests: list[bytes]
) -> list[int]:
    """Positions of the rows in the order to train in."""
    if split != "train" or not config.data.shuffle:
        return list(range(len(sources)))
    # What was made of one row, and rows that a mix repeats, would else stand side by side.
    seen: Counter[bytes] = Counter()
    times = {}
    for source in dict.fromkeys(sources):
        times[source] = seen[digests[source]]
        seen[digests[source]] += 1
    keys = [
        hashlib.sha256(digests[source] + b"%d %d" % (times[source], part)).digest()
        if times[source] or part
        else digests[source]
        for source, part in zip(sources, parts, strict=True)
    ]
    return splits.shuffled(keys, config.training.seed)


def _write_sft(config: "ForgeConfig", batches: Iterable[EncodedRows], split: str, directory: Path) -> SplitSummary:
    tally, sources, parts, digests = Tally(), [], [], []
    with (
        tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as place,
        TokenSpool(Path(place)) as spool,
    ):
        for batch in batches:
            tally.add(batch.tally)
            spool.append(batch.ids, batch.labels, batch.lengths)
            sources += batch.sources
            parts += batch.parts
            digests += batch.digests
        summary = _split_summary(tally, trained=tally.trained)
        if not tally.kept_rows:
            return summary
        order = _order(config, split, sources, parts, digests)
        strategy = packing_strategy(config)
        rows, trained = 0, 0
        file = directory / f"{split}.parquet"
        for table in _written(spool.tables(_pieces(config, spool, order), packed=strategy is not None), file):
            rows += len(table)
            trained += pc.sum(pc.not_equal(table.column("labels").combine_chunks().flatten(), IGNORED)).as_py() or 0
    fill = tally.kept_tokens / (rows * config.model.max_length) if strategy else None
    return replace(summary, rows=rows, trained_tokens=trained, packing_fill=fill)


def _pieces(config: "ForgeConfig", spool: TokenSpool, order: list[int]) -> Iterator[list[Piece]]:
    """What each row to train on is put together from."""
    strategy = packing_strategy(config)
    lengths = [spool.lengths[row] for row in order]
    if strategy is None:
        return ([Piece(row, 0, length)] for row, length in zip(order, lengths, strict=True))
    pack = {"wrapped": wrapped, "bfd_split": best_fit_split}.get(strategy, best_fit)
    return ([replace(piece, row=order[piece.row]) for piece in row] for row in pack(lengths, config.model.max_length))


def _written(tables: Iterable[pa.Table], file: Path) -> Iterator[pa.Table]:
    """The tables, each written to `file` as a row group before it is handed on."""
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", compression_level=3)
            writer.write_table(table)
            yield table
    finally:
        if writer is not None:
            writer.close()


def _write_trl_rows(config: "ForgeConfig", batches: Iterable[EncodedRows], split: str, directory: Path) -> SplitSummary:
    tally, sources, parts, digests = Tally(), [], [], []
    builder = TableBuilder()
    for batch in batches:
        tally.add(batch.tally)
        for row in batch.rows:
            builder.append(row)
        sources += batch.sources
        parts += batch.parts
        digests += batch.digests
    table = builder.finish()
    if len(table):
        _check_columns(table)
        at = table.schema.get_field_index("length")
        table = table.set_column(at, "length", table.column("length").cast(pa.int32()))
        write_parquet(table.take(_order(config, split, sources, parts, digests)), directory / f"{split}.parquet")
    return _split_summary(tally, trained=None)


def _check_columns(table: pa.Table) -> None:
    """Refuse what Arrow cannot hand to TRL as it was.

    Raises:
        DataError: Messages, or the arguments of their calls, are of more kinds than one column can hold.
    """
    lost = [name for name in json_columns(table.schema) if name in _ARROW_CALLS]
    for name in _ARROW_CALLS:
        if (
            name in table.column_names
            and name not in lost
            and _has_null_argument(table.schema.field(name).type, table, name)
        ):
            lost.append(name)
    if "chat_template_kwargs" in table.column_names and table.column("chat_template_kwargs").null_count:
        lost.append("chat_template_kwargs")
    if lost:
        raise DataError(
            f"columns {', '.join(lost)} hold values of different kinds (tool calls with different arguments, or "
            "template options in some rows only), which would reach the trainer changed. Give every call the same "
            "arguments, or train with sft"
        )


def _has_null_argument(kind: pa.DataType, table: pa.Table, name: str) -> bool:
    """Whether a call has lost or gained an argument by sharing a type with other calls."""
    if "tool_calls" not in str(kind):
        return False
    calls = (
        call.get("function") or {}
        for messages in table.column(name).to_pylist()
        for message in messages or ()
        for call in message.get("tool_calls") or ()
    )
    return any(None in arguments.values() for call in calls if isinstance(arguments := call.get("arguments"), dict))


def _split_summary(tally: Tally, *, trained: int | None) -> SplitSummary:
    return SplitSummary(
        rows=tally.kept_rows,
        tokens=tally.kept_tokens,
        trained_tokens=trained,
        truncated=tally.truncated,
        fully_masked=tally.fully_masked,
        max_length_seen=tally.longest,
        mean_length=tally.mean_length,
        rows_in=tally.rows_in,
        rows_added=tally.added,
        unused=tally.skipped,
        truncated_tokens=tally.truncated_tokens,
        max_length_kept=tally.longest_kept,
        mean_length_kept=tally.kept_tokens / tally.kept_rows if tally.kept_rows else 0.0,
        length_histogram=tally.histogram(),
        unknown_tokens=tally.unknown,
        repeated_special_tokens=tally.repeats,
    )
