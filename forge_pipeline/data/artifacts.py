"""What ingestion and tokenization leave behind: Parquet files and the small facts beside them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from forge_pipeline.config.data import Category
from forge_pipeline.data.columns import Row, rows_of
from forge_pipeline.data.schemas import DatasetFormat, DatasetType
from forge_pipeline.errors import DataError
from forge_pipeline.integrity import Digest, DirectoryArtifact, read_report

SPLITS = ("train", "validation", "test")
PROVENANCE_FILE = "provenance.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class SourceProvenance:
    """Where some of the rows came from.

    Attributes:
        name: As the recipe names it; of an absolute path the last part only.
        uri: ``file:<name>``, ``package:<distribution>==<version>/<path>`` or ``hub:<id>@<commit>``.
        revision: Commit SHA (Hub) or version (package) that was read; None for local files.
        license, origin: From the recipe, else from the package's or the Hub's metadata; None: nobody has said.
        category: As the recipe declares it; extra datasets, about which the recipe says nothing, are ``other``.
        digest: Of the file's bytes, or of the manifest of the files; None where only a commit identifies them.
        rows_read: Rows seen, broken ones included.
        rows_skipped: Broken ones among them.
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


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out: file (relative), line (from 1; in Parquet and on the Hub the row), and why."""

    source: str
    line: int
    reason: str


@dataclass(frozen=True)
class Transformation:
    """A step that left rows out or changed them: how many went in, how many came out."""

    name: str
    rows_in: int
    rows_out: int


@dataclass(frozen=True)
class DatasetProvenance:
    """What a raw dataset is made of.

    Attributes:
        reason: Why it is of this dataset type and format, as a sentence.
        rows: Rows by split.
        skipped: The first 100 broken rows, in the order of reading.
        skipped_count: All broken rows.
    """

    sources: tuple[SourceProvenance, ...]
    dataset_type: DatasetType
    dataset_format: DatasetFormat
    reason: str
    rows: dict[str, int]
    skipped: tuple[SkippedRow, ...]
    skipped_count: int
    transformations: tuple[Transformation, ...]


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
    """

    rows: int
    tokens: int
    trained_tokens: int | None
    truncated: int
    fully_masked: int
    max_length_seen: int
    mean_length: float


@dataclass(frozen=True)
class TokenizationSummary:
    """How a dataset was tokenized. `chat_template_digest` is None when no chat template was used."""

    dataset_digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest | None
    trainer_type: str
    max_length: int
    packed: bool
    splits: dict[str, SplitSummary]


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
        if split not in self.splits:
            raise DataError(f"{self.path}: there is no split {split!r}; there are {', '.join(self.splits)}")
        return pq.read_table(self.path / f"{split}.parquet")


class RawDataset(_Splits):
    """Rows as they were read, by split, with their provenance."""

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of one split as dicts. A null is left out, at any depth: it is the same as no key."""
        return rows_of(self.table(split))

    @property
    def provenance(self) -> DatasetProvenance:
        return read_report(self.path / PROVENANCE_FILE, DatasetProvenance)


class TokenizedDataset(_Splits):
    """Rows ready for the trainer, by split.

    For sft: `input_ids` list<int32>, `labels` list<int32> (-100 = ignored), `length` int32 in tokens, and
    when packed `seq_lengths` list<int32>, the lengths of the rows inside. For other trainer types TRL's
    own columns and `length`: prompt and the longest answer together, in tokens.
    """

    @property
    def summary(self) -> TokenizationSummary:
        return read_report(self.path / SUMMARY_FILE, TokenizationSummary)
