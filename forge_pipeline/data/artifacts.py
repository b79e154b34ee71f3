"""What ingestion and tokenization leave behind: Parquet files and the small facts beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.config.data import Category
from forge_pipeline.data.columns import Row, read_parquet_rows
from forge_pipeline.data.packing import CrossContamination
from forge_pipeline.data.schemas import DatasetFormat, DatasetType
from forge_pipeline.data.special_tokens import SpecialTokens
from forge_pipeline.data.splits import SPLITS
from forge_pipeline.data.tallies import UnusedRow
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, DirectoryArtifact, read_report

PROVENANCE_FILE = "provenance.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class SourceProvenance:
    """Where some of the rows came from.

    Attributes:
        name: As the recipe names it; of an absolute path the last part only, of a URL no credentials and no query.
        uri: ``file:<name>``, ``package:<distribution>==<version>/<path>``, ``hub:<id>@<commit>``, or the URL's
            scheme, bucket or host, and path.
        revision: Commit SHA (Hub), version (package) or what the object store says of it; None for local files.
        license, origin: From the recipe, else from the package's or the Hub's metadata; None: nobody has said.
        category: As the recipe declares it for this dataset.
        digest: Of the file's bytes, or of the manifest of the files; None where only a commit identifies them.
        rows_read: Rows seen, broken ones included.
        rows_skipped: Broken ones among them.
        rows_taken: Rows of it in the splits, repeats included; None in provenance from before this was counted.
        repeats: Where the mix repeats rows: how many of its rows occur 2 times, 3 times, ... in train. Repeats
            stand one after another there.
        declared_splits: Rows read by the split that the dataset itself declares; "" where it declares none.
    """

    name: str
    uri: str
    revision: str | None
    license: str | None
    origin: str | None
    category: Category
    digest: Digest | None
    rows_read: int
    rows_skipped: int
    rows_taken: int | None = None
    repeats: dict[str, int] = field(default_factory=dict)
    declared_splits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out: file (relative), line (from 1; in Parquet and on the Hub the row), and why."""

    source: str
    line: int
    reason: str


@dataclass(frozen=True)
class Transformation:
    """A step that left rows out, repeated or changed them: how many went in, how many came out.

    `rows_by_source` are those that came out, by source in the order of the provenance; empty where nobody counted.
    """

    name: str
    rows_in: int
    rows_out: int
    rows_by_source: tuple[int, ...] = ()


@dataclass(frozen=True)
class DatasetProvenance:
    """What a raw dataset is made of.

    Attributes:
        reason: Why it is of this dataset type and format, as a sentence.
        rows: Rows by split.
        skipped: The first 100 broken rows, in the order of reading.
        skipped_count: All broken rows.
        notes: What a person should know of how the rows were made and split, one sentence each.
    """

    sources: tuple[SourceProvenance, ...]
    dataset_type: DatasetType
    dataset_format: DatasetFormat
    reason: str
    rows: dict[str, int]
    skipped: tuple[SkippedRow, ...]
    skipped_count: int
    transformations: tuple[Transformation, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitSummary:
    """One tokenized split.

    Attributes:
        rows: Rows to train on; when packed, packed rows.
        tokens: Tokens in them.
        trained_tokens: Labels that are not -100; None for trainer types that label while training.
        truncated: Rows longer than `max_length`: cut (sft), or to be cut by the trainer (others).
        fully_masked: Rows left out because nothing in them would be learnt.
        max_length_seen, mean_length: Tokens a row before truncation and packing, over all rows.
        rows_in: Rows of the raw dataset.
        rows_added: Rows beyond one for each of them: turns learnt in rows of their own, pairs taken apart.
        unused: Rows left out because they could not be tokenized; `TokenizationSummary.unused` names them.
        truncated_tokens: Tokens beyond `max_length`, lost or to be lost.
        max_length_kept, mean_length_kept: Tokens a row after truncation and before packing.
        length_histogram: Pairs (tokens, rows): how many rows have at most so many tokens before truncation, and
            more than the pair before says. The bounds are powers of two.
        unknown_tokens: Tokens that the tokenizer does not know.
        repeated_special_tokens: Special tokens that stood twice in a row and were made one.
        packing_fill: Share of ``rows * max_length`` that holds tokens; the rest would be padding. None when not packed.
    """

    rows: int
    tokens: int
    trained_tokens: int | None
    truncated: int
    fully_masked: int
    max_length_seen: int
    mean_length: float
    rows_in: int = 0
    rows_added: int = 0
    unused: int = 0
    truncated_tokens: int = 0
    max_length_kept: int = 0
    mean_length_kept: float = 0.0
    length_histogram: tuple[tuple[int, int], ...] = ()
    unknown_tokens: int = 0
    repeated_special_tokens: int = 0
    packing_fill: float | None = None


@dataclass(frozen=True)
class TokenizationSummary:
    """How a dataset was tokenized. `chat_template_digest` is None when no chat template was used.

    Attributes:
        task: As `model.task` in the recipe.
        encoder_decoder: Whether rows are documents and summaries for an encoder-decoder model.
        packing_strategy: ``bfd``, ``bfd_split`` or ``wrapped``; None when not packed.
        cross_contamination: Whether rows in one packed row can see each other in training; None when not packed.
        unused: The first 100 rows that could not be tokenized, with the reason.
        unused_count: All of them.
        special_tokens: What the tokenizer and its model say; None in summaries of earlier versions.
        notes: What a person should know, one sentence each.
    """

    dataset_digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest | None
    trainer_type: str
    max_length: int
    packed: bool
    splits: dict[str, SplitSummary]
    packing_strategy: str | None = None
    cross_contamination: CrossContamination | None = None
    unused: tuple[UnusedRow, ...] = ()
    unused_count: int = 0
    special_tokens: SpecialTokens | None = None
    notes: tuple[str, ...] = ()
    task: str = "text-generation"
    encoder_decoder: bool = False


class _Splits(DirectoryArtifact):
    """A directory with one Parquet file a split."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there, train first."""
        return tuple(split for split in SPLITS if (self.path / f"{split}.parquet").is_file())

    def table(self, split: str) -> pa.Table:
        """One split as it is stored.

        Raises:
            DataError: There is no such split.
        """
        return pq.read_table(self._file(split))

    def _file(self, split: str) -> Path:
        if split not in self.splits:
            raise DataError(f"{self.path}: there is no split {split!r}; there are {', '.join(self.splits)}")
        return self.path / f"{split}.parquet"


class RawDataset(_Splits):
    """Rows as they were read, by split, with their provenance."""

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of one split as dicts, read as they are asked for: memory does not grow with the split.

        A null is left out, at any depth: it is the same as no key.

        Raises:
            DataError: There is no such split.
        """
        return read_parquet_rows(self._file(split))

    @property
    def provenance(self) -> DatasetProvenance:
        return read_report(self.path / PROVENANCE_FILE, DatasetProvenance)


class TokenizedDataset(_Splits):
    """Rows ready for the trainer, by split.

    For sft and pretraining: `input_ids` list<int32>, `labels` list<int32> (-100 = ignored), `length` int32 in
    tokens, and when packed `seq_lengths` list<int32>, the lengths of the rows inside. For other trainer types TRL's
    own columns and `length`: prompt and the longest answer together, in tokens. For summaries by an
    encoder-decoder model `labels` has a length of its own. For extractive questions one row a window:
    `input_ids`, `start_positions`, `end_positions`, `length`, and outside train also `row`, `starts` and
    `stops` (characters of the context for each token, -1 elsewhere), `context` and `answers`.
    """

    @property
    def summary(self) -> TokenizationSummary:
        return read_report(self.path / SUMMARY_FILE, TokenizationSummary)
